//! LIST: listeners and their clients in other processes. Within one process: `mp-core/src/listener/tests.rs`.

mod common;

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use multiprocess::core::Error;
use multiprocess::core::wait::wait_ready;
use multiprocess::{
    Address, Connection, Context, Handle, Listener, Peer, StartMethod, connect, connect_timeout, pipe,
};
use rustix::process::{Pid, Signal, kill_process};

use common::{Belongings, Mark, SOON, Scratch, alone, for_each_method, for_methods, wait_until};

/// An address of each family; of IPv6 too where there is that.
fn addresses(scratch: &Scratch) -> Vec<Address> {
    let name = format!("mp-test-{}", Mark::new().value());
    let six = std::net::TcpListener::bind("[::1]:0").is_ok().then_some("[::1]:0");
    let tcp = std::iter::once("127.0.0.1:0").chain(six).map(|text| text.parse().expect("an address"));
    [scratch.file("socket").into(), Address::Abstract(name.into_bytes())].into_iter().chain(tcp).collect()
}

fn kind(result: Result<Connection, Error>) -> ErrorKind {
    match result {
        Err(Error::Io { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    }
}

/// LIST-01: an address that another process listens at.
#[test]
fn list_01_address_in_use() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        for address in addresses(&scratch) {
            let listener = Listener::bind(address).expect("a listener");
            let bound = listener.address().expect("an address").clone();
            let child = |bound: Address| {
                let error = Listener::bind(&bound).expect_err("there is one already");
                assert!(
                    matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::AddrInUse),
                    "{error}"
                );
                assert!(error.to_string().contains(&bound.to_string()), "{error}");
                connect(&bound, None).expect("the first still listens").send("hello").expect("sent");
            };
            let child = context.process(child, (bound,)).start().expect("a child");
            assert_eq!(listener.accept().expect("a client").recv::<String>().expect("a word"), "hello");
            child.join().expect("an orderly end");
        }
    });
}

/// LIST-03, LIST-02
#[test]
fn list_02_03_a_child_connects_and_sends() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        let fresh = Listener::new().expect("a listener");
        let addresses = addresses(&scratch).into_iter();
        let others = addresses.map(|address| Listener::bind(address).expect("a listener"));
        for listener in others.chain([fresh]) {
            let address = listener.address().expect("an address").clone();
            let child = |address: Address| {
                let client = connect(address, None).expect("a connection");
                client.send("hello").expect("sent");
                client.send(&1729).expect("sent");
            };
            let child = context.process(child, (address.clone(),)).start().expect("a child");
            let accepted = listener.accept_timeout(SOON).expect("a client");
            match listener.last_accepted().expect("a client") {
                Peer::Unix { pid, .. } => assert_eq!(pid, Some(child.pid())),
                Peer::Tcp(from) => assert!(from.ip().is_loopback()),
                other => panic!("{other}"),
            }
            assert_eq!(accepted.recv::<String>().expect("a word"), "hello");
            assert_eq!(accepted.recv::<i32>().expect("a number"), 1729);
            child.join().expect("an orderly end");
            listener.close();
            assert!(matches!(listener.accept(), Err(Error::Closed { what: "listener" })));
            assert!(connect(&address, None).is_err());
        }
    });
}

#[test]
fn list_04_an_abstract_name() {
    for_each_method(|context| {
        let name = format!("mp-test-{}", Mark::new().value());
        let listener = Listener::bind(format!("\0{name}")).expect("a listener");
        assert_eq!(*listener.address().expect("an address"), Address::Abstract(name.clone().into_bytes()));
        let child = |name: String| {
            let client = connect(format!("@{name}"), None).expect("a connection");
            let number: i32 = client.recv().expect("a number");
            client.send(&number).expect("sent");
        };
        let child = context.process(child, (name.clone(),)).start().expect("a child");
        let accepted = listener.accept().expect("a client");
        accepted.send(&1729).expect("sent");
        assert_eq!(accepted.recv::<i32>().expect("a number"), 1729);
        child.join().expect("an orderly end");
        assert!(!Path::new(&name).exists() && !Path::new(&format!("@{name}")).exists());
        listener.close();
        assert!(matches!(listener.accept(), Err(Error::Closed { .. })));
        assert_eq!(kind(connect(format!("@{name}"), None)), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn list_05_an_unusable_family() {
    alone(|| {
        let before = Belongings::now();
        let error = Listener::bind(r"\\.\pipe\test").expect_err("no pipes of Windows here");
        assert!(matches!(error, Error::Invalid { what: "address", .. }), "{error}");
        let error = connect(r"\\.\pipe\test", None).expect_err("no pipes of Windows here");
        assert!(matches!(error, Error::Invalid { what: "address", .. }), "{error}");
        before.assert_same();
    });
}

/// LIST-06: nobody there, also because the listening process was killed.
#[test]
fn list_06_connecting_to_nobody() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        for address in addresses(&scratch) {
            let child = |there: Connection, address: Address| {
                let listener = Listener::bind(address).expect("a listener");
                there.send(listener.address().expect("an address")).expect("sent");
                common::sleep_for_ever();
            };
            let (here, there) = pipe().expect("a pipe");
            let child = context.process(child, (there, address)).start().expect("a child");
            let bound: Address = here.recv().expect("an address");
            // In the queue, accepted by nobody.
            let waiting = connect(&bound, None).expect("a connection");
            child.kill().expect("killed");
            child.join().expect_err("it was killed");
            assert!(waiting.recv::<()>().is_err());
            // A stale file stays, if it is one.
            assert_eq!(kind(connect(&bound, None)), ErrorKind::ConnectionRefused);
            assert_eq!(kind(connect_timeout(&bound, None, SOON)), ErrorKind::ConnectionRefused);
        }
        assert_eq!(kind(connect(scratch.file("missing"), None)), ErrorKind::NotFound);
    });
}

/// LIST-07: over a socket; whoever comes first waits for the other.
#[test]
fn list_07_either_order() {
    for_each_method(|context| {
        let server = |path: PathBuf| {
            let accepted = Listener::bind(path).expect("a listener").accept().expect("a client");
            accepted.send("hello").expect("sent");
            let answer: (String, Vec<(String, i32)>) = accepted.recv().expect("an answer");
            assert_eq!(answer, ("got it".into(), vec![("one".into(), 1)]));
        };
        let client = |path: PathBuf, there: Connection| {
            let mut failed = connect(path.as_path(), None);
            there.send(&failed.is_err()).expect("sent");
            wait_until("the server listens", || {
                if failed.is_err() {
                    failed = connect(path.as_path(), None);
                }
                failed.is_ok()
            });
            let connection = failed.expect("a connection");
            assert_eq!(connection.recv::<String>().expect("a word"), "hello");
            connection.send(&("got it", [("one", 1)].to_vec())).expect("sent");
        };
        for client_first in [true, false] {
            let scratch = Scratch::new();
            let path = scratch.file("socket");
            let (here, there) = pipe().expect("a pipe");
            let start_server = || context.process(server, (path.clone(),)).start().expect("a child");
            let start_client = || context.process(client, (path.clone(), there)).start().expect("a child");
            let (server, client) = if client_first {
                let client = start_client();
                assert!(here.recv::<bool>().expect("a word"), "there was no server yet");
                (start_server(), client)
            } else {
                let server = start_server();
                wait_until("the server listens", || path.exists());
                (server, start_client())
            };
            client.join().expect("an orderly end");
            server.join().expect("an orderly end");
        }
    });
}

/// An accepted connection is like any other: it can be handed to another process, and carry descriptors there.
#[test]
fn accepted_connections_travel() {
    for_each_method(|context| {
        let key = multiprocess::current_process().authkey().clone();
        let listener = Listener::builder().authkey(key).bind_fresh().expect("a listener");
        let worker = |there: Connection| {
            let client: Connection = there.recv().expect("a connection");
            let socket: Handle<UnixStream> = client.recv().expect("a socket");
            let socket = Connection::from_fd(socket.into_inner().into()).expect("a connection");
            socket.send("served").expect("sent");
        };
        let client = |address: Address| {
            let key = multiprocess::current_process().authkey().clone();
            let connection = connect(address, Some(&key)).expect("a connection");
            let (near, far) = UnixStream::pair().expect("a socket pair");
            connection.send(&Handle(far)).expect("sent");
            let near = Connection::from_fd(near.into()).expect("a connection");
            near.recv::<String>().expect("an answer")
        };
        let (here, there) = pipe().expect("a pipe");
        let worker = context.process(worker, (there,)).start().expect("a child");
        let address = listener.address().expect("an address").clone();
        let client = context.process(client, (address,)).start().expect("a child");
        here.send(&listener.accept().expect("a client")).expect("sent");
        assert_eq!(client.join().expect("an answer"), "served");
        worker.join().expect("an orderly end");
    });
}

/// A listener among other things that are waited for.
#[test]
fn listeners_can_be_waited_for() {
    for_each_method(|context| {
        let listener = Listener::new().expect("a listener");
        let address = listener.address().expect("an address").clone();
        let child = |address: Address| {
            connect(address, None).expect("a connection").recv::<()>().expect("a word");
        };
        let child = context.process(child, (address,)).start().expect("a child");
        let all = [child.sentinel(), std::os::fd::AsFd::as_fd(&listener)];
        assert_eq!(wait_ready(&all, Some(SOON)).expect("a wait"), [1]);
        let accepted = listener.try_accept().expect("no error").expect("a client");
        assert_eq!(wait_ready(&all, Some(Duration::ZERO)).expect("a wait"), []);
        accepted.send(&()).expect("sent");
        child.join().expect("an orderly end");
    });
}

/// What a killed process left in the folder for temporary files is taken away by the next that needs a place there.
#[test]
fn fresh_places_of_killed_processes_are_swept() {
    for_each_method(|context| {
        let child = |there: Connection| {
            let listener = Listener::new().expect("a listener");
            there.send(listener.address().expect("an address")).expect("sent");
            common::sleep_for_ever();
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        let Address::Unix(path) = here.recv().expect("an address") else { panic!("not a path") };
        let _next = Listener::new().expect("a listener");
        assert!(path.exists(), "its process lives");
        kill_process(Pid::from_raw(child.pid() as i32).expect("a pid"), Signal::KILL).expect("a signal sent");
        child.join().expect_err("it was killed");
        let _next = Listener::new().expect("a listener");
        assert!(!path.exists() && !path.parent().expect("a folder").exists());
    });
}

/// NA-35: a folder for temporary files with a path that no socket can have.
#[test]
fn na_35_a_long_tmpdir() {
    for_methods(&[StartMethod::Spawn, StartMethod::ForkServer], |context| {
        let scratch = Scratch::new();
        let long = scratch.file(&"x".repeat(120));
        std::fs::create_dir(&long).expect("a folder");
        let child = |there: Connection| {
            assert!(std::env::temp_dir().as_os_str().len() > 120);
            let listener = Listener::new().expect("a listener");
            there.send(listener.address().expect("an address")).expect("sent");
            listener.accept().expect("a client").send("served").expect("sent");
            drop(listener);
            // And where a path has to be long.
            let listener = Listener::bind(std::env::temp_dir().join("socket")).expect("a listener");
            there.send(listener.address().expect("an address")).expect("sent");
            listener.accept().expect("a client").send("served").expect("sent");
        };
        let (here, there) = pipe().expect("a pipe");
        let child =
            context.process(child, (there,)).env("TMPDIR", long.as_os_str()).start().expect("a child");
        for _ in 0..2 {
            let address: Address = here.recv().expect("an address");
            let client = connect_timeout(&address, None, SOON).expect("a connection");
            assert_eq!(client.recv::<String>().expect("an answer"), "served");
        }
        child.join().expect("an orderly end");
        assert_eq!(std::fs::read_dir(&long).expect("the folder").count(), 0);
    });
}

/// A fork has a copy of its parent's listener: it can do no harm with it, and leaves the file where it is.
#[test]
fn a_fork_cannot_accept_for_its_parent() {
    alone(|| {
        let listener = Listener::new().expect("a listener");
        let address = listener.address().expect("an address").clone();
        // Safe code that forks: the closure owns a copy of everything.
        let copy = std::sync::Arc::new(listener);
        let theirs = copy.clone();
        let child = Context::fork().fork_with(move || {
            let error = theirs.accept().expect_err("it is not its own");
            assert!(matches!(error, Error::Invalid { what: "listener", .. }), "{error}");
            theirs.close();
        });
        child.expect("a child").join().expect("an orderly end");
        let client = connect(&address, None).expect("a connection");
        copy.accept().expect("a client").send(&1).expect("sent");
        assert_eq!(client.recv::<i32>().expect("a number"), 1);
    });
}
