//! Scenarios of connections between threads; those between processes stand in the workspace's tests.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use super::*;
use crate::handle::Handle;
use crate::segment::Segment;

const LONG: Duration = Duration::from_secs(60);
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// Sends back every byte message until an empty one comes.
fn echo(connection: &Connection) {
    loop {
        let message = connection.recv_bytes().unwrap();
        connection.send_bytes(&message).unwrap();
        if message.is_empty() {
            return;
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn conn_01_02_round_trip() {
    let (a, b) = pipe().unwrap();
    a.send(&(1, 2.25, None::<u8>)).unwrap();
    assert_eq!(b.recv::<(i32, f64, Option<u8>)>().unwrap(), (1, 2.25, None));
    b.send_bytes(b"hello world").unwrap();
    assert_eq!(a.recv_bytes().unwrap(), b"hello world");
    assert!(format!("{a:?}").contains("readable: true"));
}

#[test]
fn conn_03_into_buffer() {
    let (a, b) = pipe().unwrap();
    let numbers: Vec<u8> = (0..4_u32).flat_map(u32::to_ne_bytes).collect();
    a.send_bytes(&numbers).unwrap();
    let mut buffer = [0_u32; 10];
    assert_eq!(b.recv_bytes_into(bytemuck::cast_slice_mut(&mut buffer)).unwrap(), 16);
    assert_eq!(buffer, [0, 1, 2, 3, 0, 0, 0, 0, 0, 0]);
    a.send_bytes(ALPHABET).unwrap();
    a.send_bytes(b"next").unwrap();
    match b.recv_bytes_into(&mut [0; 25]) {
        Err(Error::BufferTooShort { message, room: 25 }) => assert_eq!(message, ALPHABET),
        other => panic!("{other:?}"),
    }
    assert_eq!(b.recv_bytes_into(&mut [0; 4]).unwrap(), 4);
}

#[test]
fn conn_04_poll_without_data() {
    let (a, b) = pipe().unwrap();
    assert!(!a.poll(Duration::ZERO).unwrap());
    let start = Instant::now();
    assert!(!a.poll(Duration::from_millis(100)).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(99));
    b.send(&7).unwrap();
    assert!(a.poll(LONG).unwrap());
    a.poll_forever().unwrap();
    assert_eq!(a.recv::<i32>().unwrap(), 7);
    assert!(matches!(a.recv_timeout::<i32>(Duration::from_millis(20)), Err(Error::Timeout { .. })));
}

#[test]
fn conn_05_14_lengths() {
    let (a, b) = pipe().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| echo(&b));
        for length in [1, 16_383, 16_384, 16_385, 65_536, 212_992, (1 << 20) - 1, (1 << 20) + 1, 16 << 20] {
            let message = pattern(length);
            a.send_bytes(&message).unwrap();
            assert!(a.recv_bytes().unwrap() == message, "{length}");
        }
        a.send_bytes(b"").unwrap();
        assert_eq!(a.recv_bytes().unwrap(), b"");
    });
}

#[test]
fn conn_05_longer_than_64_mib() {
    let (a, b) = pipe().unwrap();
    let numbers: Vec<u64> = (0..9_000_000).collect();
    thread::scope(|scope| {
        scope.spawn(|| a.send(&("numbers", &numbers)).unwrap());
        let (_, received): (String, Vec<u64>) = b.recv().unwrap();
        assert!(received == numbers);
    });
}

/// The body is never touched by its sender, and thrown away by a reader who knows only sockets.
#[test]
fn conn_05_longer_than_4_gib() {
    let (mut raw, end) = UnixStream::pair().unwrap();
    let end = Connection::from_fd(end.into()).unwrap();
    let length = (4_usize << 30) + 1;
    thread::scope(|scope| {
        scope.spawn(move || {
            end.send_bytes(&vec![0; length]).unwrap();
            end.send_bytes(b"next").unwrap();
        });
        let mut header = [0; 16];
        raw.read_exact(&mut header).unwrap();
        assert_eq!(header[..12], raw_header(length as u64, 0)[..12]);
        std::io::copy(&mut (&raw).take(length as u64), &mut std::io::sink()).unwrap();
        raw.read_exact(&mut header).unwrap();
        assert_eq!(header[..12], raw_header(4, 0)[..12]);
    });
}

#[test]
fn conn_06_poll_01_02_03_boundaries_and_empty_messages() {
    let (a, b) = pipe().unwrap();
    let texts: [&[u8]; 8] = [b"hello", b"", b"a", b"b", b"", b"bye", b"", b"lop"];
    assert!(!b.poll(Duration::ZERO).unwrap());
    texts.iter().for_each(|text| a.send_bytes(text).unwrap());
    drop(a);
    for text in texts {
        assert!(b.poll(Duration::ZERO).unwrap());
        assert!(b.poll(Duration::ZERO).unwrap());
        assert_eq!(b.recv_bytes().unwrap(), text);
    }
    assert!(matches!(b.recv_bytes(), Err(Error::EndOfFile { .. })));
}

#[test]
fn conn_07_end_of_file() {
    let (a, b) = pipe().unwrap();
    drop(b);
    assert!(a.poll(Duration::ZERO).unwrap());
    assert!(matches!(a.recv::<i32>(), Err(Error::EndOfFile { .. })));
    assert!(matches!(a.recv_bytes(), Err(Error::EndOfFile { .. })));
    assert!(a.readable() && a.writable() && !a.is_closed());
}

#[test]
fn conn_08_one_way() {
    let (reader, writer) = simplex_pipe().unwrap();
    writer.send(&1).unwrap();
    assert_eq!(reader.recv::<i32>().unwrap(), 1);
    assert!(reader.readable() && !reader.writable() && !writer.readable() && writer.writable());
    assert!(matches!(reader.send(&2), Err(Error::Direction { operation: "send", .. })));
    assert!(matches!(writer.recv::<i32>(), Err(Error::Direction { operation: "receive", .. })));
    assert!(matches!(writer.poll(LONG), Err(Error::Direction { operation: "poll", .. })));
}

#[test]
fn conn_09_10_ranges() {
    let (a, b) = pipe().unwrap();
    for (offset, size) in
        [(27, None), (22, Some(5)), (26, Some(1)), (usize::MAX, Some(2)), (4, Some(usize::MAX))]
    {
        assert!(matches!(a.send_bytes_range(ALPHABET, offset, size), Err(Error::Invalid { .. })));
    }
    assert!(!b.poll(Duration::ZERO).unwrap());
    for (offset, size) in [(0, None), (5, None), (7, Some(8)), (26, None), (26, Some(0))] {
        a.send_bytes_range(ALPHABET, offset, size).unwrap();
    }
    let expected: [&[u8]; 5] = [ALPHABET, &ALPHABET[5..], &ALPHABET[7..15], b"", b""];
    for range in expected {
        assert_eq!(b.recv_bytes().unwrap(), range);
    }
}

#[test]
fn conn_11_closed() {
    let (a, b) = pipe().unwrap();
    a.send(&1729).unwrap();
    assert_eq!(b.recv::<i32>().unwrap(), 1729);
    a.close().unwrap();
    a.close().unwrap();
    assert!(a.is_closed());
    assert!(matches!(a.recv::<i32>(), Err(Error::Closed { .. })));
    assert!(matches!(a.send(&1), Err(Error::Closed { .. })));
    assert!(matches!(a.poll(LONG), Err(Error::Closed { .. })));
    assert!(matches!(Message::encode(&a), Err(Error::Encode { .. })));
    assert!(matches!(b.recv::<i32>(), Err(Error::EndOfFile { .. })));
}

#[test]
fn conn_12_invalid_descriptors() {
    let error = Connection::from_fd(File::open("/dev/null").unwrap().into()).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert!(matches!(Connection::from_fd(datagram.into()), Err(Error::Invalid { .. })));
}

#[test]
fn conn_13_maximum_length() {
    let (a, b) = pipe().unwrap();
    a.send_bytes(&[1; 10]).unwrap();
    a.send_bytes(&[1; 11]).unwrap();
    assert_eq!(b.recv_bytes_max(10).unwrap().len(), 10);
    assert!(matches!(b.recv_bytes_max(10), Err(Error::TooLong { length: 11, limit: 10, .. })));
    assert!(matches!(b.recv_bytes(), Err(Error::Closed { .. })));
    b.send(&1).unwrap();
    assert_eq!(a.recv::<i32>().unwrap(), 1);
    let (reader, writer) = simplex_pipe().unwrap();
    writer.send_bytes(&[1; 11]).unwrap();
    assert!(matches!(reader.recv_bytes_max(10), Err(Error::TooLong { .. })));
    assert!(reader.is_closed());
}

#[test]
fn conn_15_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = Connection::from_fd(listener.accept().unwrap().0.into()).unwrap();
    let client = Connection::from_fd(client.into()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| echo(&server));
        for _ in 0..100 {
            client.send_bytes(&[7; 10]).unwrap();
            assert_eq!(client.recv_bytes().unwrap(), [7; 10]);
        }
        let message = pattern(5 << 20);
        client.send_bytes(&message).unwrap();
        assert!(client.recv_bytes().unwrap() == message);
        client.send_bytes(b"").unwrap();
        client.recv_bytes().unwrap();
    });
    let error = client.send(&Handle(File::open("/dev/null").unwrap())).unwrap_err();
    assert!(matches!(error, Error::Encode { .. }), "{error}");
    client.send(&1).unwrap();
    assert_eq!(server.recv::<i32>().unwrap(), 1);
}

#[test]
fn conn_16_peer_gone_while_sending() {
    let (reader, writer) = simplex_pipe().unwrap();
    drop(reader);
    for length in [1, 1 << 20] {
        match writer.send_bytes(&vec![0; length]) {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::BrokenPipe),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn conn_16_peer_dies_within_a_message() {
    let (a, b) = pipe().unwrap();
    thread::scope(|scope| {
        let sender = scope.spawn(move || a.send_bytes(&vec![0; 8 << 20]));
        b.poll_forever().unwrap();
        drop(b);
        match sender.join().unwrap() {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::BrokenPipe),
            other => panic!("{other:?}"),
        }
    });
    let (mut raw, end) = UnixStream::pair().unwrap();
    let end = Connection::from_fd(end.into()).unwrap();
    let mut bytes = 100_u64.to_le_bytes().to_vec();
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(b"mp\x01\n");
    bytes.extend([5; 30]);
    raw.write_all(&bytes).unwrap();
    drop(raw);
    assert!(matches!(end.recv_bytes(), Err(Error::Truncated { got: 30, expected: 100, .. })));
    assert!(matches!(end.recv_bytes(), Err(Error::EndOfFile { .. })));
}

/// A header as a peer would write it, perhaps a hostile one.
fn raw_header(length: u64, fds: u32) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(fds.to_le_bytes());
    bytes.extend(b"mp\x01\n");
    bytes
}

#[test]
fn na_30_deadline_within_a_message_keeps_the_half() {
    let (mut raw, end) = UnixStream::pair().unwrap();
    let end = Connection::from_fd(end.into()).unwrap();
    let mut bytes = raw_header(26, 0);
    bytes.extend(ALPHABET);
    let mut rest = &bytes[..];
    for part in [3, 5, 10, 11] {
        raw.write_all(&rest[..part]).unwrap();
        rest = &rest[part..];
        assert!(matches!(end.recv_bytes_timeout(Duration::from_millis(10)), Err(Error::Timeout { .. })));
        assert!(matches!(Message::encode(&end), Err(Error::Encode { .. })));
    }
    raw.write_all(rest).unwrap();
    assert_eq!(end.recv_bytes_timeout(LONG).unwrap(), ALPHABET);
    raw.write_all(&bytes[..20]).unwrap();
    assert!(matches!(end.recv_bytes_timeout(Duration::from_millis(10)), Err(Error::Timeout { .. })));
    raw.write_all(&bytes[20..]).unwrap();
    let mut buffer = [0; 30];
    assert_eq!(end.recv_bytes_into(&mut buffer).unwrap(), 26);
    assert_eq!(&buffer[..26], ALPHABET);
}

#[test]
fn na_30_deadline_while_another_thread_reads() {
    let (a, b) = pipe().unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| b.recv::<i32>());
        // Whether or not the reader is inside already: nothing comes in time.
        assert!(matches!(b.recv_timeout::<i32>(Duration::from_millis(50)), Err(Error::Timeout { .. })));
        a.send(&3).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 3);
    });
}

#[test]
fn announced_lengths_are_not_trusted() {
    let (mut raw, end) = UnixStream::pair().unwrap();
    let end = Connection::from_fd(end.into()).unwrap();
    raw.write_all(&raw_header(1 << 62, 0)).unwrap();
    raw.write_all(&[1; 100]).unwrap();
    assert!(matches!(end.recv_bytes_timeout(Duration::from_millis(10)), Err(Error::Timeout { .. })));
    drop(raw);
    assert!(matches!(end.recv_bytes(), Err(Error::Truncated { got: 100, .. })));
    let (mut raw, end) = UnixStream::pair().unwrap();
    let end = Connection::from_fd(end.into()).unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(matches!(end.recv_bytes(), Err(Error::Decode { .. })));
    assert!(matches!(end.recv_bytes(), Err(Error::Closed { .. })));
}

#[test]
fn messages_of_several_threads_do_not_mix() {
    let (a, b) = pipe().unwrap();
    let mut counts = HashMap::new();
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            let a = &a;
            scope.spawn(move || {
                for length in 0..100 {
                    a.send_bytes(&vec![thread; 1 + length * 1000]).unwrap();
                }
            });
        }
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    (0..200)
                        .map(|_| {
                            let message = b.recv_bytes().unwrap();
                            assert!(message.iter().all(|byte| *byte == message[0]));
                            message[0]
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for reader in readers {
            for sender in reader.join().unwrap() {
                *counts.entry(sender).or_insert(0) += 1;
            }
        }
    });
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|count| *count == 100));
}

#[test]
fn xfer_01_connections_travel_with_their_direction() {
    let (a, b) = pipe().unwrap();
    let (reader, writer) = simplex_pipe().unwrap();
    a.send(&("writer", &writer)).unwrap();
    drop(writer);
    let (_, writer): (String, Connection) = b.recv().unwrap();
    assert!(writer.writable() && !writer.readable());
    writer.send("all is well").unwrap();
    assert_eq!(reader.recv::<String>().unwrap(), "all is well");
    a.send(&reader).unwrap();
    drop(reader);
    let reader: Connection = b.recv().unwrap();
    assert!(reader.readable() && !reader.writable());
    writer.send_bytes(b"foobar").unwrap();
    assert_eq!(reader.recv_bytes().unwrap(), b"foobar");
    drop(writer);
    assert!(matches!(reader.recv_bytes(), Err(Error::EndOfFile { .. })));
}

#[test]
fn xfer_04_descriptors_travel() {
    let (a, b) = pipe().unwrap();
    let file = File::from(rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    a.send(&vec![Handle(file)]).unwrap();
    let mut files: Vec<Handle<File>> = b.recv().unwrap();
    files[0].write_all(b"foo").unwrap();
    let mut text = String::new();
    files[0].rewind().unwrap();
    files[0].read_to_string(&mut text).unwrap();
    assert_eq!(text, "foo");
    assert!(rustix::io::fcntl_getfd(&files[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn xfer_04_a_thousand_descriptors_in_one_message() {
    // More than the usual soft limit are open at once.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).unwrap();
    for count in [250, 252, 1000] {
        let (a, b) = pipe().unwrap();
        let (near, far): (Vec<_>, Vec<_>) = (0..count / 2).map(|_| simplex_pipe().unwrap()).unzip();
        let message = Message::encode(&(&near, &far)).unwrap();
        drop((near, far));
        thread::scope(|scope| {
            scope.spawn(move || a.send_message(message).unwrap());
            let (near, far): (Vec<Connection>, Vec<Connection>) = b.recv().unwrap();
            assert_eq!(near.len() + far.len(), count / 2 * 2);
            for (index, (near, far)) in near.iter().zip(&far).enumerate() {
                far.send(&index).unwrap();
                assert_eq!(near.recv::<usize>().unwrap(), index);
            }
        });
    }
}

#[test]
fn xfer_05_data_without_a_descriptor() {
    let (mut raw, end) = UnixStream::pair().unwrap();
    let end = Connection::from_fd(end.into()).unwrap();
    raw.write_all(&raw_header(1, 1)).unwrap();
    raw.write_all(&[0]).unwrap();
    let error = end.recv_message().unwrap_err();
    assert!(error.to_string().contains("announced 1 descriptors, 0 came"), "{error}");
    raw.write_all(&raw_header(3, 0)).unwrap();
    raw.write_all(b"foo").unwrap();
    assert_eq!(end.recv_bytes().unwrap(), b"foo");
}

#[test]
fn undecoded_descriptors_are_closed() {
    let (a, b) = pipe().unwrap();
    let (reader, writer) = simplex_pipe().unwrap();
    a.send(&writer).unwrap();
    drop(writer);
    assert!(matches!(b.recv::<String>(), Err(Error::Decode { .. })));
    assert!(matches!(reader.recv_bytes(), Err(Error::EndOfFile { .. })));
}

#[test]
fn segments_travel_and_stay_mapped_once() {
    let (a, b) = pipe().unwrap();
    let segment = Segment::create("travels", 4096).unwrap();
    a.send(&[&segment, &segment]).unwrap();
    let message = b.recv_message().unwrap();
    assert_eq!(message.fds.len(), 1);
    let [first, second]: [Segment; 2] = message.decode().unwrap();
    assert_eq!((first.as_ptr(), second.as_ptr()), (segment.as_ptr(), segment.as_ptr()));
}
