//! Listeners, connections and waits at their limits: no descriptor left, strangers who say nothing, thousands of clients, peers that
//! are stopped (LIST, WAIT and XFER; NA-17, NA-25, NA-30).

mod common;

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use multiprocess::core::Error;
use multiprocess::{
    Address, AuthKey, Connection, Context, Handle, Listener, connect, connect_timeout, pipe, wait_ready,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use common::{Belongings, SOON, alone, cpu_ticks, for_each_method, state_of, wait_until};

fn key() -> AuthKey {
    AuthKey::new(b"secret".as_slice())
}

fn allow_files(most: u64) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).expect("a limit");
}

fn no_descriptor_left(result: Result<Connection, Error>) {
    match result {
        Err(Error::Io { source, what }) => {
            assert!(
                source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()),
                "{what}: {source}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// NA-17: without a descriptor for the next client, accepting is an error, and neither a loop around it nor one around a wait
/// for the listener is busy; once there are descriptors, the client is served.
#[test]
fn na_17_a_listener_without_descriptors_left() {
    alone(|| {
        for keyed in [false, true] {
            let builder = if keyed { Listener::builder().authkey(key()) } else { Listener::builder() };
            let listener = builder.bind_fresh().expect("a listener");
            let child = |address: Address, keyed: bool| {
                let key = key();
                let client = connect(address, keyed.then_some(&key)).expect("a connection");
                client.recv::<u32>().expect("a number")
            };
            let address = listener.address().expect("an address").clone();
            let child = Context::spawn().process(child, (address, keyed)).start().expect("a child");
            // What comes has no number below the limit.
            let highest = Belongings::now().fds().keys().max().copied().expect("a descriptor");
            wait_until("a client", || !wait_ready(&[&listener], Some(SOON)).expect("a wait").is_empty());
            let before = getrlimit(Resource::Nofile).current.expect("a limit");
            let full: Vec<_> = (0..)
                .map_while(|_| {
                    allow_files(highest as u64 + 1);
                    std::fs::File::open("/dev/null").ok()
                })
                .collect();
            let (began, ticks) = (Instant::now(), cpu_ticks(std::process::id()));
            let mut errors = 0;
            while began.elapsed() < Duration::from_millis(500) {
                no_descriptor_left(listener.accept());
                errors += 1;
            }
            // 20 a second, and CPU for those alone.
            assert!((2..=12).contains(&errors), "{errors} errors");
            let mut wakes = 0;
            while began.elapsed() < Duration::from_secs(1) {
                wakes += wait_ready(&[&listener], Some(Duration::from_millis(500))).expect("a wait").len();
                match listener.try_accept() {
                    Ok(accepted) => assert!(accepted.is_none()),
                    Err(error) => no_descriptor_left(Err(error)),
                }
            }
            assert!(wakes <= 30, "{wakes} wake-ups");
            let used = cpu_ticks(std::process::id()) - ticks;
            assert!(used < 20, "{used} ticks of 10 ms");
            drop(full);
            allow_files(before);
            let accepted = (0..9).find_map(|_| listener.accept().ok()).expect("the client waits still");
            accepted.send(&1729_u32).expect("sent");
            assert_eq!(child.join().expect("a number"), 1729);
        }
    });
}

/// NA-25: hundreds of strangers who begin and say nothing more cost no more than a few descriptors, and delay nobody who
/// proves itself.
#[test]
fn na_25_hundreds_of_slow_strangers() {
    for_each_method(|context| {
        allow_files(getrlimit(Resource::Nofile).maximum.unwrap_or(8192).min(8192));
        let listener = Listener::builder().authkey(key()).backlog(4096).bind_fresh().expect("a listener");
        let address = listener.address().expect("an address").clone();
        let strangers = |address: Address, there: Connection| {
            let Address::Unix(path) = address else { panic!("not a path") };
            allow_files(getrlimit(Resource::Nofile).maximum.unwrap_or(8192).min(8192));
            let mut streams = Vec::new();
            for _ in 0..600 {
                let mut stream = UnixStream::connect(&path).expect("a connection");
                // May be hung up on already.
                let _ = stream.write_all(&[0]);
                streams.push(stream);
            }
            there.send(&()).expect("sent");
            there.recv::<()>().expect("leave to go");
        };
        let honest = |address: Address| {
            let client = connect_timeout(address, Some(&key()), SOON).expect("a connection");
            client.recv::<u32>().expect("a number")
        };
        let (here, there) = pipe().expect("a pipe");
        let strangers = context.process(strangers, (address.clone(), there)).start().expect("a child");
        here.recv::<()>().expect("they are there");
        let honest = context.process(honest, (address,)).start().expect("a child");
        let mut refused = 0;
        let accepted = loop {
            match listener.accept_timeout(SOON) {
                Ok(accepted) => break accepted,
                Err(Error::Authentication { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        };
        accepted.send(&7_u32).expect("sent");
        assert_eq!(honest.join().expect("a number"), 7);
        // Those that are not refused yet are held, 128 at most.
        assert!(refused >= 600 - 128, "{refused}");
        let open = Belongings::now().fds().len();
        assert!(open < 200, "{open} descriptors");
        here.send(&()).expect("sent");
        strangers.join().expect("an orderly end");
    });
}

const MANY: u32 = 2000;

/// Thousands of clients at a time, each in a wait for all of them.
#[test]
fn two_thousand_connections() {
    alone(|| {
        let most = getrlimit(Resource::Nofile).maximum.unwrap_or(8192).min(8192);
        assert!(most > u64::from(MANY) + 100, "this system allows {most} descriptors");
        allow_files(most);
        let listener =
            Listener::builder().authkey(key()).backlog(4096).bind("127.0.0.1:0").expect("a listener");
        let child = |address: Address| {
            allow_files(getrlimit(Resource::Nofile).maximum.unwrap_or(8192).min(8192));
            let clients: Vec<Connection> = (0..MANY)
                .map(|number| {
                    let client = connect(&address, Some(&key())).expect("a connection");
                    client.send(&number).expect("sent");
                    client
                })
                .collect();
            clients.iter().map(|client| client.recv::<u64>().expect("a number")).sum::<u64>()
        };
        let address = listener.address().expect("an address").clone();
        let child = Context::spawn().process(child, (address,)).start().expect("a child");
        let connections: Vec<Connection> =
            (0..MANY).map(|_| listener.accept_timeout(SOON).expect("a client")).collect();
        let mut open: Vec<&Connection> = connections.iter().collect();
        while !open.is_empty() {
            let ready = wait_ready(&open, Some(SOON)).expect("a wait");
            assert!(!ready.is_empty(), "{} are left", open.len());
            for position in ready.into_iter().rev() {
                let connection = open.swap_remove(position);
                let number: u32 = connection.recv().expect("a number");
                connection.send(&u64::from(number)).expect("sent");
            }
        }
        assert_eq!(child.join().expect("a sum"), u64::from(MANY) * u64::from(MANY - 1) / 2);
        // All of them see the end of the child.
        assert_eq!(wait_ready(&connections, Some(SOON)).expect("a wait").len(), MANY as usize);
        assert!(matches!(connections[0].recv::<u32>(), Err(Error::EndOfFile { .. })));
    });
}

/// Connections that come through connections that came through connections; and ends that nobody can ever receive.
#[test]
fn connections_inside_connections() {
    for_each_method(|context| {
        let child = |first: Connection| {
            let mut current = first;
            for depth in 0.. {
                match current.recv::<Option<Connection>>().expect("a connection, or the last") {
                    Some(next) => current = next,
                    None => {
                        current.send(&depth).expect("sent");
                        return;
                    }
                }
            }
        };
        let (first, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        let mut ends = vec![first];
        for _ in 0..100 {
            let (here, far) = pipe().expect("a pipe");
            ends.last().expect("an end").send(&Some(far)).expect("sent");
            ends.push(here);
        }
        let last = ends.last().expect("an end");
        last.send(&None::<Connection>).expect("sent");
        assert_eq!(last.recv_timeout::<u32>(SOON).expect("a depth"), 100);
        child.join().expect("an orderly end");

        // Each end waits in the other: nobody can ever receive them.
        let before = Belongings::now();
        for _ in 0..50 {
            let (a, b) = pipe().expect("a pipe");
            a.send(&Handle(a.as_fd().try_clone_to_owned().expect("a copy"))).expect("sent");
            b.send(&Handle(b.as_fd().try_clone_to_owned().expect("a copy"))).expect("sent");
        }
        before.assert_same();
    });
}

/// NA-30: a peer that is stopped (not dead) holds up who has no time limit, and no other; it goes on where it was.
#[test]
fn na_30_a_stopped_peer() {
    for_each_method(|context| {
        let child = |there: Connection, address: Address| {
            let listener = Listener::builder().authkey(key()).bind(address).expect("a listener");
            there.send(listener.address().expect("an address")).expect("sent");
            // Behind the one who gave up meanwhile.
            let accepted = listener.incoming().next().expect("not closed").expect("a client");
            accepted.send("served").expect("sent");
            let message: Vec<u8> = there.recv().expect("a large message");
            there.send(&message.len()).expect("sent");
        };
        let (here, there) = pipe().expect("a pipe");
        let name = format!("@mp-test-{}", common::Mark::new().value());
        let address: Address = name.parse().expect("an address");
        let child = context.process(child, (there, address)).start().expect("a child");
        let address: Address = here.recv().expect("an address");
        let signal = |signal| {
            kill_process(Pid::from_raw(child.pid() as i32).expect("a pid"), signal).expect("a signal sent");
        };
        signal(Signal::STOP);
        wait_until("it is stopped", || state_of(child.pid()) == Some('T'));
        let limit = Duration::from_millis(100);
        let late = connect_timeout(&address, Some(&key()), limit);
        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
        assert!(matches!(here.recv_timeout::<()>(limit), Err(Error::Timeout { .. })));
        assert_eq!(wait_ready(&[&here], Some(limit)).expect("a wait"), []);
        let (aside, _far) = pipe().expect("a pipe");
        let late = aside.send_timeout(&vec![1_u8; 8 << 20], limit);
        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
        std::thread::scope(|scope| {
            let client = scope.spawn(|| connect(&address, Some(&key()))?.recv::<String>());
            let sender = scope.spawn(|| here.send(&vec![7_u8; 8 << 20]));
            std::thread::sleep(limit);
            assert!(!client.is_finished() && !sender.is_finished());
            signal(Signal::CONT);
            match client.join().expect("no panic") {
                Ok(text) => assert_eq!(text, "served"),
                Err(error) => panic!("{error}"),
            }
            sender.join().expect("no panic").expect("sent");
        });
        assert_eq!(here.recv::<usize>().expect("a length"), 8 << 20);
        child.join().expect("an orderly end");
    });
}

/// Half-closed peers, in both directions, and a listener's queue that is full of clients who left again.
#[test]
fn half_closed_and_departed_peers() {
    for_each_method(|context| {
        let child = |there: Connection| {
            there.end_sending().expect("ended");
            assert!(matches!(there.send(&1), Err(Error::Closed { .. })));
            let sum: u64 = std::iter::from_fn(|| there.recv::<u64>().ok()).sum();
            assert!(matches!(there.recv::<u64>(), Err(Error::EndOfFile { .. })));
            sum
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        assert!(matches!(here.recv::<u64>(), Err(Error::EndOfFile { .. })));
        (1..=10).for_each(|number: u64| here.send(&number).expect("sent"));
        here.end_sending().expect("ended");
        assert_eq!(child.join().expect("a sum"), 55);
        let broken = match here.send(&1) {
            Err(Error::Io { source, .. }) => source.kind() == ErrorKind::BrokenPipe,
            Err(Error::Closed { .. }) => true,
            _ => false,
        };
        assert!(broken);

        let listener = Listener::builder().authkey(key()).bind_fresh().expect("a listener");
        let Address::Unix(path) = listener.address().expect("an address").clone() else {
            panic!("not a path")
        };
        (0..50).for_each(|_| drop(UnixStream::connect(&path).expect("a connection")));
        let honest = |path: std::path::PathBuf| {
            connect_timeout(path, Some(&key()), SOON).expect("a connection").send(&1).expect("sent");
        };
        let honest = context.process(honest, (path,)).start().expect("a child");
        let accepted = listener.incoming().next().expect("not closed").expect("a client");
        assert_eq!(accepted.recv::<i32>().expect("a number"), 1);
        honest.join().expect("an orderly end");
    });
}
