//! CONN: connections between processes. Those between threads are tested in `mp-core/src/connection/tests.rs`, under the
//! same ids.

mod common;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use multiprocess::core::Error;
use multiprocess::core::connection::{Connection, pipe, simplex_pipe};
use multiprocess::core::handle::Handle;
use multiprocess::{Context, Process, StartMethod};

use common::{SOON, for_each_method, for_methods, wait_until};

const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

const QUIT: &[u8] = b"quit";

/// Sends back every message of bytes, and ends with [`QUIT`].
fn echo(there: Connection) {
    loop {
        let message = there.recv_bytes().expect("a message");
        there.send_bytes(&message).expect("sent");
        if message == QUIT {
            return;
        }
    }
}

fn echo_child(context: Context) -> (Process<()>, Connection) {
    let (here, there) = pipe().expect("a pipe");
    (context.process(echo, (there,)).start().expect("a child"), here)
}

fn quit(child: &Process<()>, here: &Connection) {
    here.send_bytes(QUIT).expect("sent");
    assert_eq!(here.recv_bytes().expect("a last answer"), QUIT);
    child.join().expect("an orderly end");
}

/// Bytes that repeat only after a long time.
fn pattern(length: usize) -> Vec<u8> {
    (0..length.div_ceil(8) as u64)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes())
        .take(length)
        .collect()
}

#[test]
fn conn_01_object_round_trip() {
    for_each_method(|context| {
        let echo_value = |there: Connection| {
            let value: Vec<Option<f64>> = there.recv().expect("a value");
            there.send(&value).expect("sent");
            let value: (i32, f64, Option<u8>) = there.recv().expect("a value");
            there.send(&value).expect("sent");
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(echo_value, (there,)).start().expect("a child");
        let sequence = vec![Some(1.0), Some(2.25), None];
        here.send(&sequence).expect("sent");
        assert_eq!(here.recv::<Vec<Option<f64>>>().expect("a value"), sequence);
        here.send(&(1, 2.25, None::<u8>)).expect("sent");
        assert_eq!(here.recv::<(i32, f64, Option<u8>)>().expect("a value"), (1, 2.25, None));
        assert!(here.as_fd().as_raw_fd() > 2);
        child.join().expect("an orderly end");
    });
}

#[test]
fn conn_02_03_06_bytes_and_buffers_and_nothing() {
    for_each_method(|context| {
        let (child, here) = echo_child(context);
        here.send_bytes(b"hello world").expect("sent");
        assert_eq!(here.recv_bytes().expect("bytes"), b"hello world");

        let numbers: Vec<u8> = (0..4_u32).flat_map(u32::to_ne_bytes).collect();
        here.send_bytes(&numbers).expect("sent");
        let mut buffer = [0; 40];
        assert_eq!(here.recv_bytes_into(&mut buffer).expect("bytes"), 16);
        assert_eq!(buffer[..16], numbers);
        assert_eq!(buffer[16..], [0; 24]);

        // A message that does not fit comes with the error, and the next is the next.
        here.send_bytes(ALPHABET).expect("sent");
        match here.recv_bytes_into(&mut [0; 25]) {
            Err(Error::BufferTooShort { message, room: 25 }) => assert_eq!(message, ALPHABET),
            other => panic!("{other:?}"),
        }

        for message in [&b"before"[..], b"", b"after"] {
            here.send_bytes(message).expect("sent");
        }
        for message in [&b"before"[..], b"", b"after"] {
            assert_eq!(here.recv_bytes().expect("bytes"), message);
        }
        quit(&child, &here);
    });
}

#[test]
fn conn_04_poll_without_data() {
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let child = |there: Connection| {
            there.recv::<()>().expect("leave to send");
            there.send(&"late").expect("sent");
            there.recv::<()>().expect("leave to go");
        };
        let child = context.process(child, (there,)).start().expect("a child");
        assert!(!here.poll(Duration::ZERO).expect("a poll"));
        let start = Instant::now();
        assert!(!here.poll(Duration::from_millis(100)).expect("a poll"));
        assert!(start.elapsed() >= Duration::from_millis(100));
        here.send(&()).expect("sent");
        assert!(here.poll(SOON).expect("a poll"));
        assert!(here.poll(Duration::ZERO).expect("a poll"));
        assert_eq!(here.recv::<String>().expect("a word"), "late");
        assert!(!here.poll(Duration::ZERO).expect("a poll"));
        here.send(&()).expect("sent");
        child.join().expect("an orderly end");
    });
}

/// CONN-05, CONN-14
#[test]
fn conn_05_14_lengths() {
    for_each_method(|context| {
        let (child, here) = echo_child(context);
        // The last but two is what a socket buffers by default, which leaves no room for anything else.
        for length in
            [1, 255, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 212_992, (1 << 20) + 1, 16 << 20]
        {
            let message = pattern(length);
            // Whoever sends this much to an echo has to let it read: it answers only when it has everything.
            here.send_bytes(&message).expect("sent");
            assert!(here.recv_bytes().expect("bytes") == message, "{length} bytes came back differently");
        }
        here.send_bytes(&vec![b'x'; 16 << 20]).expect("sent");
        let message = here.recv_bytes().expect("bytes");
        assert_eq!(message.len(), 16 << 20);
        assert!(message.iter().all(|byte| *byte == b'x'));
        quit(&child, &here);
    });
}

#[test]
fn conn_07_end_of_file() {
    for_each_method(|context| {
        let (child, here) = echo_child(context);
        quit(&child, &here);
        for _ in 0..2 {
            assert!(matches!(here.recv::<i32>(), Err(Error::EndOfFile { .. })));
            assert!(matches!(here.recv_bytes(), Err(Error::EndOfFile { .. })));
            assert!(here.poll(Duration::ZERO).expect("a poll"));
        }
        assert!(here.readable() && here.writable() && !here.is_closed());
    });
}

#[test]
fn conn_08_one_way() {
    for_each_method(|context| {
        let (reader, writer) = simplex_pipe().expect("a pipe");
        let child = |writer: Connection| {
            assert!(!writer.readable() && writer.writable());
            assert!(matches!(writer.recv::<i32>(), Err(Error::Direction { operation: "receive", .. })));
            assert!(matches!(writer.recv_bytes(), Err(Error::Direction { operation: "receive", .. })));
            assert!(matches!(writer.poll(Duration::ZERO), Err(Error::Direction { operation: "poll", .. })));
            writer.send(&1).expect("sent");
        };
        let child = context.process(child, (writer,)).start().expect("a child");
        assert!(reader.readable() && !reader.writable());
        assert!(matches!(reader.send(&2), Err(Error::Direction { operation: "send", .. })));
        assert!(matches!(reader.send_bytes(b"x"), Err(Error::Direction { operation: "send", .. })));
        assert_eq!(reader.recv::<i32>().expect("a number"), 1);
        child.join().expect("an orderly end");
        assert!(matches!(reader.recv::<i32>(), Err(Error::EndOfFile { .. })));
    });
}

/// CONN-09, CONN-10
#[test]
fn conn_09_10_ranges() {
    for_each_method(|context| {
        let (child, here) = echo_child(context);
        let outside =
            [(27, None), (22, Some(5)), (26, Some(1)), (usize::MAX, Some(2)), (4, Some(usize::MAX))];
        for (offset, size) in outside {
            let refused = here.send_bytes_range(ALPHABET, offset, size);
            assert!(matches!(refused, Err(Error::Invalid { what: "byte range", .. })), "{refused:?}");
        }
        for (offset, size) in [(0, None), (5, None), (7, Some(8)), (26, None), (26, Some(0))] {
            here.send_bytes_range(ALPHABET, offset, size).expect("sent");
        }
        // The first answer belongs to the first good range: the others wrote nothing.
        for range in [ALPHABET, &ALPHABET[5..], &ALPHABET[7..15], b"", b""] {
            assert_eq!(here.recv_bytes().expect("bytes"), range);
        }
        quit(&child, &here);
    });
}

/// Not with fork, whose child has a copy of both ends for as long as it lives.
#[test]
fn conn_11_the_end_of_a_scope_closes() {
    for_methods(&[StartMethod::Spawn, StartMethod::ForkServer], |context| {
        let (here, there) = pipe().expect("a pipe");
        let (leave, wait) = pipe().expect("a pipe");
        let child = |there: Connection, wait: Connection| {
            {
                let inside = there;
                inside.send(&1729).expect("sent");
            }
            wait.recv::<()>().expect("leave to go");
        };
        let child = context.process(child, (there, wait)).start().expect("a child");
        assert_eq!(here.recv::<i32>().expect("a number"), 1729);
        assert!(matches!(here.recv::<i32>(), Err(Error::EndOfFile { .. })));
        assert!(child.is_alive());
        here.close().expect("closed");
        assert!(here.is_closed());
        assert!(matches!(here.recv::<i32>(), Err(Error::Closed { .. })));
        assert!(matches!(here.send(&1), Err(Error::Closed { .. })));
        leave.send(&()).expect("sent");
        child.join().expect("an orderly end");
    });
}

#[test]
fn conn_12_what_is_no_socket_is_no_connection() {
    for_each_method(|context| {
        let child = |file: Handle<OwnedFd>| {
            let error = Connection::from_fd(file.into_inner()).expect_err("not a socket");
            assert!(matches!(error, Error::Invalid { what: "connection", .. }), "{error}");
        };
        let file = OwnedFd::from(File::open("/dev/null").expect("a file"));
        context.process(child, (Handle(file),)).start().expect("a child").join().expect("an orderly end");
    });
}

#[test]
fn conn_13_maximum_length() {
    for_each_method(|context| {
        let (child, here) = echo_child(context);
        here.send_bytes(&[1; 10]).expect("sent");
        here.send_bytes(&[1; 11]).expect("sent");
        assert_eq!(here.recv_bytes_max(10).expect("bytes").len(), 10);
        assert!(matches!(here.recv_bytes_max(10), Err(Error::TooLong { length: 11, limit: 10, .. })));
        assert!(matches!(here.recv_bytes(), Err(Error::Closed { .. })));
        // It can still send.
        here.send_bytes(QUIT).expect("sent");
        child.join().expect("an orderly end");

        let (reader, writer) = simplex_pipe().expect("a pipe");
        let child = |writer: Connection| writer.send_bytes(&[1; 11]).expect("sent");
        let child = context.process(child, (writer,)).start().expect("a child");
        assert!(matches!(reader.recv_bytes_max(10), Err(Error::TooLong { length: 11, .. })));
        assert!(reader.is_closed());
        child.join().expect("an orderly end");
    });
}

#[test]
fn conn_15_small_messages_over_tcp() {
    for_each_method(|context| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let there = listener.accept().expect("a client").0;
        let child = |there: Handle<TcpStream>| {
            echo(Connection::from_fd(there.into_inner().into()).expect("a connection"));
        };
        let child = context.process(child, (Handle(there),)).start().expect("a child");
        let here = Connection::from_fd(stream.into()).expect("a connection");
        here.send_bytes(b"").expect("sent");
        here.recv_bytes().expect("a first answer");
        let hundred = || {
            let start = Instant::now();
            for _ in 0..100 {
                here.send_bytes(&[7; 10]).expect("sent");
                assert_eq!(here.recv_bytes().expect("bytes"), [7; 10]);
            }
            start.elapsed()
        };
        // Delayed acknowledgements of 40 ms would make all of them far longer; a busy machine makes one.
        let took = [(); 3].map(|()| hundred());
        assert!(took.iter().any(|took| *took < Duration::from_secs(1)), "100 answers took {took:?}");
        let message = pattern(3 << 20);
        here.send_bytes(&message).expect("sent");
        assert!(here.recv_bytes().expect("bytes") == message);
        quit(&child, &here);
    });
}

#[test]
fn conn_16_peer_gone_while_sending() {
    for_each_method(|context| {
        let broken = |sent: Result<(), Error>| match sent {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::BrokenPipe),
            other => panic!("{other:?}"),
        };
        let (reader, writer) = simplex_pipe().expect("a pipe");
        let child = context.process(|reader: Connection| drop(reader), (reader,)).start().expect("a child");
        child.join().expect("an orderly end");
        for length in [1, 1 << 20] {
            broken(writer.send_bytes(&vec![0; length]));
        }
        // And one that dies while there is far more to come than it has read.
        let (here, there) = pipe().expect("a pipe");
        let child = |there: Connection| {
            there.send(&()).expect("sent");
            there.poll_forever().expect("the beginning of a message");
            die();
        };
        let child = context.process(child, (there,)).start().expect("a child");
        here.recv::<()>().expect("a word of the child");
        broken(here.send_bytes(&vec![0; 64 << 20]));
        child.join().expect_err("it was killed");
    });
}

/// Kills this process.
fn die() {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        .expect("a signal sent");
}

/// One frame, as a connection writes it.
fn frame(body: &[u8]) -> Vec<u8> {
    let (mut raw, end) = UnixStream::pair().expect("a socket pair");
    Connection::from_fd(end.into()).expect("a connection").send_bytes(body).expect("sent");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut raw, &mut bytes).expect("a frame");
    bytes
}

/// NA-30: a peer that has written half a message delays nobody beyond the time limit, and the message is not lost.
#[test]
fn na_30_time_limits_hold_within_a_message() {
    for_each_method(|context| {
        let child = |raw: Handle<UnixStream>, orders: Connection| {
            let mut raw = raw.into_inner();
            let bytes = frame(ALPHABET);
            let mut written = 0;
            while written < bytes.len() {
                let part: usize = orders.recv().expect("an order");
                let part = part.min(bytes.len() - written);
                std::io::Write::write_all(&mut raw, &bytes[written..written + part]).expect("written");
                written += part;
                orders.send(&written).expect("sent");
            }
        };
        let (near, far) = UnixStream::pair().expect("a socket pair");
        let (orders, there) = pipe().expect("a pipe");
        let child = context.process(child, (Handle(far), there)).start().expect("a child");
        let here = Connection::from_fd(near.into()).expect("a connection");
        let limit = Duration::from_millis(50);
        // Within the header, at its end, within the body.
        for part in [3, 9, 4, 10, 15] {
            orders.send::<usize>(&part).expect("sent");
            orders.recv::<usize>().expect("a word of the child");
            let start = Instant::now();
            assert!(matches!(here.recv_bytes_timeout(limit), Err(Error::Timeout { .. })));
            assert!(matches!(here.recv_timeout::<String>(limit), Err(Error::Timeout { .. })));
            let took = start.elapsed();
            assert!(took >= 2 * limit && took < 2 * limit + Duration::from_secs(1), "{took:?}");
        }
        orders.send::<usize>(&1000).expect("sent");
        assert_eq!(here.recv_bytes_timeout(SOON).expect("bytes"), ALPHABET);
        child.join().expect("an orderly end");
        wait_until("the end of file", || {
            matches!(here.recv_bytes_timeout(limit), Err(Error::EndOfFile { .. }))
        });
    });
}

/// As above, but the peer is killed, and stays half a message behind.
#[test]
fn na_30_a_peer_killed_within_a_message() {
    for_each_method(|context| {
        let child = |raw: Handle<UnixStream>, length: usize| {
            std::io::Write::write_all(&mut raw.into_inner(), &frame(ALPHABET)[..length]).expect("written");
            die();
        };
        let whole = frame(ALPHABET).len();
        for length in [0, 1, 15, 16, 17, whole - 1, whole] {
            let (near, far) = UnixStream::pair().expect("a socket pair");
            let child = context.process(child, (Handle(far), length)).start().expect("a child");
            let here = Connection::from_fd(near.into()).expect("a connection");
            let received = here.recv_bytes();
            match length {
                0 => assert!(matches!(received, Err(Error::EndOfFile { .. })), "{received:?}"),
                length if length == whole => assert_eq!(received.expect("bytes"), ALPHABET),
                _ => assert!(matches!(received, Err(Error::Truncated { .. })), "{received:?}"),
            }
            assert!(matches!(here.recv_bytes(), Err(Error::EndOfFile { .. })));
            child.join().expect_err("it was killed");
        }
    });
}
