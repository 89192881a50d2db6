//! Connections between processes in async code and in halves (CONN, LIST, WAIT). Between threads:
//! `mp-core/src/connection/tests_async.rs`.

mod common;

use std::fs::File;
use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use multiprocess::core::Error;
use multiprocess::{
    Address, AuthKey, Connection, Context, Handle, Listener, connect, connect_async, pipe, wait_ready_async,
};

use common::{SOON, alone, block_on, for_each_method};

/// Child processes whose waits for others are those of an executor. Not forked, as the thread behind the waits stays.
fn contexts() -> [Context; 2] {
    [Context::spawn(), Context::forkserver()]
}

/// More than any socket buffers.
const LARGE: usize = 8 << 20;

/// CON-10: each half goes to a process of its own.
#[test]
fn halves_in_two_processes() {
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let (receiver, sender) = there.split().expect("two halves");
        let receive = |half: Connection| {
            assert!(half.readable() && !half.writable());
            assert!(matches!(half.send(&1), Err(Error::Direction { operation: "send", .. })));
            std::iter::from_fn(|| half.recv::<(u64, Vec<u8>)>().ok()).map(|(number, _)| number).sum::<u64>()
        };
        let send = |half: Connection| {
            assert!(!half.readable() && half.writable());
            assert!(matches!(half.recv::<u64>(), Err(Error::Direction { operation: "receive", .. })));
            (0..20_u64).for_each(|number| half.send(&(number, vec![number as u8; 1 << 19])).expect("sent"));
            half.end_sending().expect("ended");
            assert!(matches!(half.send(&1), Err(Error::Closed { .. })));
        };
        let receiving = context.process(receive, (receiver,)).start().expect("a child");
        let sending = context.process(send, (sender,)).start().expect("a child");
        // Both directions at once, far more than their sockets hold: each half waits for its own direction alone.
        for expected in 0..20_u64 {
            here.send(&(expected, vec![0_u8; 1 << 19])).expect("sent");
            let (number, content) = here.recv::<(u64, Vec<u8>)>().expect("a message");
            assert!(number == expected && content == vec![number as u8; 1 << 19]);
        }
        assert!(matches!(here.recv::<(u64, Vec<u8>)>(), Err(Error::EndOfFile { .. })));
        here.end_sending().expect("ended");
        assert_eq!(receiving.join().expect("a sum"), 190);
        sending.join().expect("an orderly end");
    });
}

/// CONN-01, CONN-05, CONN-06 and XFER-04 by futures on both sides, on an executor that knows nothing of sockets.
#[test]
fn messages_by_futures() {
    alone(|| {
        for context in contexts() {
            let (here, there) = pipe().expect("a pipe");
            let echo = |there: Connection| {
                block_on(async {
                    while let Ok(message) = there.recv_message_async().await {
                        there.send_message_async(message).await.expect("sent");
                    }
                });
            };
            let child = context.process(echo, (there,)).start().expect("a child");
            block_on(async {
                for number in 0..200_u32 {
                    here.send_async(&(number, "text")).await.expect("sent");
                    let answer: (u32, String) = here.recv_async().await.expect("an answer");
                    assert_eq!(answer, (number, "text".into()));
                }
                for length in [0, 1, 65_536, LARGE] {
                    here.send_bytes_async(&vec![7; length]).await.expect("sent");
                    here.poll_async().await.expect("an answer");
                    assert!(here.recv_bytes_async().await.expect("an answer") == vec![7; length]);
                }
                here.send_async(&Handle(File::open("/dev/null").expect("a file"))).await.expect("sent");
                here.recv_async::<Handle<File>>().await.expect("a file");
            });
            // A killed peer ends the wait of a future as that of a call.
            let waiting = std::thread::spawn(move || {
                let end = block_on(here.recv_async::<u32>());
                (end, block_on(here.send_bytes_async(&vec![0; LARGE])))
            });
            child.kill().expect("killed");
            child.join().expect_err("it was killed");
            let (received, sent) = waiting.join().expect("no panic");
            assert!(matches!(received, Err(Error::EndOfFile { .. })), "{received:?}");
            assert!(matches!(&sent, Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe));
        }
    });
}

/// LIST-03 and AUTH by futures on both sides; WAIT-01 as well.
#[test]
fn listeners_and_clients_by_futures() {
    alone(|| {
        for context in contexts() {
            for address in ["127.0.0.1:0".to_owned(), format!("@mp-test-{}", common::Mark::new().value())] {
                let key = || AuthKey::new(b"secret".as_slice());
                let listener = Listener::builder().authkey(key()).bind(address).expect("a listener");
                let client = |address: Address| {
                    let key = || AuthKey::new(b"secret".as_slice());
                    block_on(async {
                        let wrong = AuthKey::new(b"guess".as_slice());
                        let refused = connect_async(&address, Some(&wrong)).await;
                        assert!(matches!(refused, Err(Error::Authentication { .. })), "{refused:?}");
                        let client = connect_async(&address, Some(&key())).await.expect("a connection");
                        client.send_async(&std::process::id()).await.expect("sent");
                        client.recv_async::<()>().await.expect("leave to go");
                    });
                };
                let address = listener.address().expect("an address").clone();
                let children =
                    [(); 2].map(|()| context.process(client, (address.clone(),)).start().expect("a child"));
                let (mut accepted, mut refused) = (Vec::new(), 0);
                while accepted.len() + refused < 4 {
                    match block_on(listener.accept_async()) {
                        Ok(connection) => accepted.push(connection),
                        Err(Error::Authentication { .. }) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(refused, 2);
                let mut pids = Vec::new();
                while !accepted.is_empty() {
                    let ready = block_on(wait_ready_async(&accepted)).expect("a wait");
                    for position in ready.into_iter().rev() {
                        let connection = accepted.swap_remove(position);
                        pids.push(connection.recv::<u32>().expect("a pid"));
                        connection.send(&()).expect("sent");
                    }
                }
                pids.sort();
                let mut expected = children.each_ref().map(|child| child.pid());
                expected.sort();
                assert_eq!(pids, expected);
                children.iter().for_each(|child| child.join().expect("an orderly end"));
            }
        }
    });
}

/// EINT, CONN-16: a process whose SIGPIPE has its default again, as programs for shells have it, is not killed by it.
#[test]
fn conn_16_a_process_that_does_not_ignore_sigpipe() {
    for_each_method(|context| {
        let child = |gone: Connection, address: Address| {
            // SAFETY: sets the default disposition; no handler is installed.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
            let broken = |sent: Result<(), Error>| match sent {
                Err(Error::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::BrokenPipe),
                other => panic!("{other:?}"),
            };
            broken(gone.send(&1));
            broken(gone.send_bytes(&vec![0; 1 << 20]));
            broken(gone.send_timeout(&1, SOON));
            let files: Vec<_> = (0..300).map(|_| Handle(File::open("/dev/null").expect("a file"))).collect();
            broken(gone.send(&files));
            // A listener that hangs up before it has our proof, and clients that have left before they got ours.
            let key = AuthKey::new(b"secret".as_slice());
            connect(address, Some(&key)).expect_err("it hangs up");
            let listener = Listener::builder().authkey(key).bind_fresh().expect("a listener");
            let Address::Unix(path) = listener.address().expect("an address").clone() else {
                panic!("not a path")
            };
            for _ in 0..20 {
                drop(std::os::unix::net::UnixStream::connect(&path).expect("a connection"));
                let failed = listener.accept_timeout(SOON);
                assert!(matches!(failed, Err(Error::Authentication { .. })), "{failed:?}");
            }
        };
        let (gone, far) = pipe().expect("a pipe");
        drop(far);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = Address::from(listener.local_addr().expect("an address"));
        let child = context.process(child, (gone, address)).start().expect("a child");
        drop(listener.accept().expect("a client"));
        child.join().expect("an orderly end");
        assert_eq!(child.exit_code(), Some(0));
    });
}

/// A future that waits for a peer that says nothing takes no CPU, and one that is dropped has taken nothing.
#[test]
fn a_future_that_is_dropped_takes_nothing() {
    alone(|| {
        for context in contexts() {
            let (here, there) = pipe().expect("a pipe");
            let child = |there: Connection| {
                there.recv::<()>().expect("leave to send");
                there.send(&vec![7_u8; LARGE]).expect("sent");
            };
            let child = context.process(child, (there,)).start().expect("a child");
            let mut waiting = Box::pin(here.recv_async::<Vec<u8>>());
            let mut look = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waiting.as_mut().poll(&mut look).is_pending());
            here.send(&()).expect("sent");
            assert!(here.poll(SOON).expect("a poll"));
            // Half of it is received by now, or nothing; or all, if the child was as fast as this process.
            let polled = waiting.as_mut().poll(&mut look);
            drop(waiting);
            let message = match polled {
                Poll::Ready(received) => received,
                Poll::Pending => here.recv_timeout(SOON),
            };
            let message = message.expect("the whole message");
            assert!(message == vec![7; LARGE]);
            child.join().expect("an orderly end");
            assert!(matches!(here.recv_timeout::<()>(Duration::ZERO), Err(Error::EndOfFile { .. })));
        }
    });
}
