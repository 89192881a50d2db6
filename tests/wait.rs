//! WAIT: waiting for many objects of several processes. Within one process: `mp-core/src/wait/tests.rs`.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess::Context;
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

/// Four children that each write ten lines to a socket of a server, with or without pauses.
fn sockets(context: Context, pause: Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let child = |address: SocketAddr, pause: Duration, seed: u32| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        for number in 0..10 {
            std::thread::sleep(pause * (seed * 7 + number * 5 % 4) / 10);
            writeln!(stream, "{number}").expect("written");
        }
    };
    let start = |seed| context.process(child, (address, pause, seed)).start().expect("a child");
    let children: Vec<_> = (0..4_u32).map(start).collect();
    let mut open: Vec<(TcpStream, String)> =
        (0..4).map(|_| (listener.accept().expect("a client").0, String::new())).collect();
    let mut texts = Vec::new();
    while !open.is_empty() {
        let streams: Vec<&TcpStream> = open.iter().map(|(stream, _)| stream).collect();
        let ready = wait_ready(&streams, Some(SOON)).expect("a wait");
        assert!(!ready.is_empty(), "nothing is ready, {} sockets are left", open.len());
        for position in ready.into_iter().rev() {
            let (stream, text) = &mut open[position];
            let mut bytes = [0; 32];
            let got = stream.read(&mut bytes).expect("bytes");
            text.push_str(std::str::from_utf8(&bytes[..got]).expect("text"));
            if got == 0 {
                texts.push(open.remove(position).1);
            }
        }
    }
    assert_eq!(texts, vec!["0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"; 4]);
    children.iter().for_each(|child| child.join().expect("an orderly end"));
}

#[test]
fn wait_02_sockets() {
    for_each_method(|context| sockets(context, Duration::ZERO));
}

#[test]
fn wait_03_slow_sockets() {
    for_each_method(|context| sockets(context, Duration::from_millis(20)));
}

/// WAIT-07: processes and a thread, which shows by a pipe that it is done.
#[test]
fn wait_07_processes_and_threads_together() {
    for_each_method(|context| {
        let child = |there: Connection| there.recv::<()>().expect("leave to go");
        let start = || {
            let (here, there) = pipe().expect("a pipe");
            (context.process(child, (there,)).start().expect("a child"), here)
        };
        let ((first, let_first), (second, let_second)) = (start(), start());
        let (done, finish) = simplex_pipe().expect("a pipe");
        let (let_thread, wait) = pipe().expect("a pipe");
        let thread = std::thread::spawn(move || {
            wait.recv::<()>().expect("leave to go");
            drop(finish);
        });
        let all = [first.sentinel(), second.sentinel(), done.as_fd()];
        let ready = |limit| wait_ready(&all, Some(limit)).expect("a wait");
        assert_eq!(ready(Duration::from_millis(20)), []);
        let_first.send(&()).expect("sent");
        assert_eq!(ready(SOON), [0]);
        let_thread.send(&()).expect("sent");
        thread.join().expect("no panic");
        assert_eq!(ready(SOON), [0, 2]);
        let_second.send(&()).expect("sent");
        second.join().expect("an orderly end");
        first.join().expect("an orderly end");
        assert_eq!(ready(SOON), [0, 1, 2]);
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
