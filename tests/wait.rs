//! WAIT: waiting for many objects of several processes. Within one process: `mp-core/src/wait/tests.rs`.

mod common;

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess::core::Error;
use multiprocess::core::connection::{Connection, pipe, simplex_pipe};
use multiprocess::core::wait::wait_ready;

use common::{SOON, for_each_method};

#[test]
fn wait_01_four_writers() {
    for_each_method(|context| {
        let child = |writer: Connection| {
            for number in 0..10_u32 {
                writer.send(&(number, std::process::id())).expect("sent");
            }
        };
        let (mut readers, mut children) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (reader, writer) = simplex_pipe().expect("a pipe");
            readers.push(reader);
            children.push(context.process(child, (writer,)).start().expect("a child"));
        }
        let mut pairs = Vec::new();
        while !readers.is_empty() {
            let ready = wait_ready(&readers, Some(SOON)).expect("a wait");
            assert!(!ready.is_empty(), "nothing is ready, {} readers are left", readers.len());
            for position in ready.into_iter().rev() {
                match readers[position].recv::<(u32, u32)>() {
                    Ok(pair) => pairs.push(pair),
                    Err(Error::EndOfFile { .. }) => drop(readers.remove(position)),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let expected = children.iter().flat_map(|child| (0..10).map(|number| (number, child.pid())));
        assert_eq!(pairs.len(), 40);
        assert_eq!(pairs.into_iter().collect::<BTreeSet<_>>(), expected.collect());
        children.iter().for_each(|child| child.join().expect("an orderly end"));
    });
}

#[test]
fn wait_06_a_listener_a_connection_and_a_sentinel() {
    for_each_method(|context| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let (here, there) = pipe().expect("a pipe");
        let child = |there: Connection| {
            let port: u16 = there.recv().expect("a port");
            let _stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
            there.recv::<()>().expect("leave to speak");
            there.send(&()).expect("sent");
            there.recv::<()>().expect("leave to go");
        };
        let child = context.process(child, (there,)).start().expect("a child");
        let all = [child.sentinel(), here.as_fd(), listener.as_fd(), here.as_fd()];
        let ready = |limit| wait_ready(&all, Some(limit)).expect("a wait");
        assert_eq!(ready(Duration::ZERO), []);
        here.send(&listener.local_addr().expect("an address").port()).expect("sent");
        assert_eq!(ready(SOON), [2]);
        listener.accept().expect("a client");
        here.send(&()).expect("sent");
        assert_eq!(ready(SOON), [1, 3]);
        here.recv::<()>().expect("a word of the child");
        here.send(&()).expect("sent");
        child.join().expect("an orderly end");
        // Its sentinel, and the end of file.
        assert_eq!(ready(SOON), [0, 1, 3]);
        TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        assert_eq!(ready(SOON), [0, 1, 2, 3]);
    });
}
