//! POLL: polling and the boundaries of messages, between processes. Between threads: `conn_06_poll_01_02_03_..` in
//! `mp-core/src/connection/tests.rs`.

mod common;

use std::time::Duration;

use multiprocess::core::Error;
use multiprocess::core::connection::{Connection, pipe, simplex_pipe};

use common::{SOON, for_each_method};

#[test]
fn poll_01_an_empty_message_is_seen() {
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let child = |there: Connection| {
            there.recv::<()>().expect("leave to send");
            there.send_bytes(b"").expect("sent");
            there.recv::<()>().expect("leave to go");
        };
        let child = context.process(child, (there,)).start().expect("a child");
        assert!(!here.poll(Duration::ZERO).expect("a poll"));
        here.send(&()).expect("sent");
        assert!(here.poll(SOON).expect("a poll"));
        // Looking does not take it away.
        assert!(here.poll(Duration::ZERO).expect("a poll"));
        assert_eq!(here.recv_bytes().expect("bytes"), b"");
        assert!(!here.poll(Duration::ZERO).expect("a poll"));
        here.send(&()).expect("sent");
        child.join().expect("an orderly end");
    });
}

#[test]
fn poll_02_a_sequence_with_empty_messages() {
    const TEXTS: [&[u8]; 8] = [b"hello", b"", b"a", b"b", b"", b"bye", b"", b"lop"];
    for_each_method(|context| {
        let (reader, writer) = simplex_pipe().expect("a pipe");
        let child = |writer: Connection| {
            for text in TEXTS {
                std::thread::sleep(Duration::from_millis(30));
                writer.send_bytes(text).expect("sent");
            }
        };
        let child = context.process(child, (writer,)).start().expect("a child");
        for text in TEXTS {
            let steps = SOON.as_millis() / 10;
            let ready = (0..steps).any(|_| reader.poll(Duration::from_millis(10)).expect("a poll"));
            assert!(ready, "{text:?} did not come");
            assert_eq!(reader.recv_bytes().expect("bytes"), text);
        }
        child.join().expect("an orderly end");
        assert!(matches!(reader.recv_bytes(), Err(Error::EndOfFile { .. })));
    });
}

#[test]
fn poll_03_messages_are_not_merged() {
    for_each_method(|context| {
        let (reader, writer) = simplex_pipe().expect("a pipe");
        let child = |writer: Connection| {
            for text in [&b"a"[..], b"b", b"cd"] {
                writer.send_bytes(text).expect("sent");
            }
        };
        let child = context.process(child, (writer,)).start().expect("a child");
        for text in [&b"a"[..], b"b", b"cd"] {
            assert!(reader.poll(SOON).expect("a poll"));
            assert!((0..10).all(|_| reader.poll(Duration::ZERO).expect("a poll")));
            assert_eq!(reader.recv_bytes().expect("bytes"), text);
        }
        child.join().expect("an orderly end");
        assert!(matches!(reader.recv_bytes(), Err(Error::EndOfFile { .. })));
    });
}
