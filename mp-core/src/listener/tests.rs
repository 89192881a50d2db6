//! Listeners within one process. Between processes: `tests/list.rs` and `tests/auth.rs` of the workspace.

use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Instant;

use super::*;
use crate::auth::AuthKey;
use crate::wait::wait_ready;

const LONG: Duration = Duration::from_secs(60);

/// A folder that is removed with everything in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("mp-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn key() -> AuthKey {
    AuthKey::new(b"secret".as_slice())
}

fn keyed() -> ListenerBuilder {
    Listener::builder().authkey(key())
}

/// One of each family.
fn families(test: impl Fn(Address)) {
    let scratch = Scratch::new(&format!("families-{:?}", thread::current().id()));
    test(Address::Unix(scratch.0.join("socket")));
    test(Address::Abstract(
        format!("mp-test-{}-{:?}", std::process::id(), thread::current().id()).into_bytes(),
    ));
    test("127.0.0.1:0".parse().unwrap());
    test(Address::try_from(("localhost", 0)).unwrap());
    // Where there is IPv6.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        test("[::1]:0".parse().unwrap());
    }
}

fn kind(error: Error) -> ErrorKind {
    match error {
        Error::Io { source, .. } => source.kind(),
        error => panic!("{error}"),
    }
}

#[test]
fn list_01_address_in_use() {
    families(|address| {
        let listener = Listener::bind(&address).unwrap();
        let bound = listener.address().unwrap().clone();
        assert_eq!(kind(Listener::bind(&bound).unwrap_err()), ErrorKind::AddrInUse, "{bound}");
        let client = connect(&bound, None).unwrap();
        client.send(&1).unwrap();
        assert_eq!(listener.accept().unwrap().recv::<i32>().unwrap(), 1);
    });
}

/// LIST-02, LIST-04
#[test]
fn list_02_04_closed_listeners() {
    families(|address| {
        let listener = Listener::bind(&address).unwrap();
        assert!(listener.last_accepted().is_none());
        let bound = listener.address().unwrap().clone();
        {
            let client = connect(&bound, None).unwrap();
            let accepted = listener.accept().unwrap();
            client.send(&1729).unwrap();
            assert_eq!(accepted.recv::<i32>().unwrap(), 1729);
        }
        match listener.last_accepted().unwrap() {
            Peer::Unix { pid, uid } => {
                assert_eq!((pid, uid), (Some(std::process::id()), rustix::process::geteuid().as_raw()))
            }
            Peer::Tcp(from) => assert!(from.ip().is_loopback()),
        }
        let waiting = connect(&bound, None).unwrap();
        for _ in 0..2 {
            listener.close();
            assert!(listener.is_closed());
            assert!(matches!(listener.accept(), Err(Error::Closed { what: "listener" })));
            assert!(matches!(listener.address(), Err(Error::Closed { what: "listener" })));
        }
        assert!(waiting.recv::<i32>().is_err());
        let expected = if matches!(bound, Address::Unix(_)) {
            ErrorKind::NotFound
        } else {
            ErrorKind::ConnectionRefused
        };
        assert_eq!(kind(connect(&bound, None).unwrap_err()), expected);
        // The address is free again.
        Listener::bind(&bound).unwrap();
    });
}

#[test]
fn closing_wakes_whoever_accepts() {
    let listener = keyed().bind_fresh().unwrap();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| listener.accept())).collect();
        let future = scope.spawn(|| block_on(listener.accept_async()));
        // Some of them will be asleep by now; for the others it is as good.
        assert!(matches!(listener.accept_timeout(Duration::from_millis(50)), Err(Error::Timeout { .. })));
        listener.close();
        for result in threads.into_iter().chain([future]).map(|thread| thread.join().unwrap()) {
            assert!(matches!(result, Err(Error::Closed { .. })));
        }
    });
}

#[test]
fn list_06_connecting_to_nobody() {
    let scratch = Scratch::new("nobody");
    let path = scratch.0.join("socket");
    assert_eq!(kind(connect(path.as_path(), None).unwrap_err()), ErrorKind::NotFound);
    // A stale file, as a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(kind(connect(path.as_path(), None).unwrap_err()), ErrorKind::ConnectionRefused);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(kind(connect(port, None).unwrap_err()), ErrorKind::ConnectionRefused);
    assert_eq!(kind(connect_timeout(port, None, LONG).unwrap_err()), ErrorKind::ConnectionRefused);
    let nobody = Address::Abstract(b"mp-test-nobody".to_vec());
    assert_eq!(kind(connect(nobody, None).unwrap_err()), ErrorKind::ConnectionRefused);
}

/// LIST-06: the system may give the client the very port that nobody listens at, and connect it to itself.
#[test]
fn list_06_nobody_meets_itself() {
    // Clients get even ports first.
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (40_000..50_000).step_by(2).find(free).unwrap();
    let address = Address::from((std::net::Ipv4Addr::LOCALHOST, port));
    let refused = |met: Result<Connection>| assert_eq!(kind(met.unwrap_err()), ErrorKind::ConnectionRefused);
    // Each of them has its turn.
    for _ in 0..20_000 {
        refused(connect(&address, None));
    }
    for _ in 0..20_000 {
        refused(block_on(connect_async(&address, None)));
    }
}

/// CON-12, CON-14: a fresh place, for this user alone, that goes with the listener.
#[test]
fn fresh_places_are_private_and_go() {
    let listener = Listener::new().unwrap();
    let Address::Unix(path) = listener.address().unwrap().clone() else { panic!("not a path") };
    let folder = path.parent().unwrap().to_owned();
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(Listener::new().unwrap().address().unwrap(), listener.address().unwrap());
    drop(listener);
    assert!(!folder.exists());
}

#[test]
fn what_others_put_in_the_place_stays() {
    let scratch = Scratch::new("place");
    let path = scratch.0.join("socket");
    let first = Listener::builder().allow_any_uid().bind(path.as_path()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    std::fs::remove_file(&path).unwrap();
    let second = Listener::bind(path.as_path()).unwrap();
    drop(first);
    assert!(path.exists());
    let client = connect(path.as_path(), None).unwrap();
    second.accept().unwrap().send(&1).unwrap();
    assert_eq!(client.recv::<i32>().unwrap(), 1);
    drop(second);
    assert!(!path.exists());
}

/// NA-35
#[test]
fn long_paths_work() {
    let scratch = Scratch::new("long");
    let folder = scratch.0.join("x".repeat(120)).join("y".repeat(200));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    let listener = keyed().bind(path.as_path()).unwrap();
    assert_eq!(*listener.address().unwrap(), Address::Unix(path.clone()));
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(path.as_path(), Some(&key())).unwrap().send(&1729).unwrap());
        assert_eq!(listener.accept().unwrap().recv::<i32>().unwrap(), 1729);
        client.join().unwrap();
    });
    assert_eq!(kind(Listener::bind(path.as_path()).unwrap_err()), ErrorKind::AddrInUse);
    drop(listener);
    assert!(!path.exists());
    let name = Path::new(&folder).join("z".repeat(200));
    assert!(Listener::bind(name.as_path()).is_err());
    assert!(Listener::bind(Path::new("/")).is_err());
}

/// NA-25: peers that say nothing, or nonsense, or one byte at a time; others are served meanwhile, in one thread.
#[test]
fn na_25_bad_clients_delay_nobody() {
    let limit = Duration::from_secs(2);
    let listener = keyed().handshake_timeout(limit).bind("127.0.0.1:0").unwrap();
    let address = listener.address().unwrap();
    let Address::Tcp(endpoint) = *address else { panic!("not TCP") };
    let start = Instant::now();
    let silent: Vec<_> = (0..10).map(|_| TcpStream::connect(endpoint).unwrap()).collect();
    let mut huge = TcpStream::connect(endpoint).unwrap();
    huge.write_all(&(1_u64 << 62).to_le_bytes()).unwrap();
    huge.write_all(&[0; 8]).unwrap();
    drop(TcpStream::connect(endpoint).unwrap());
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(address, Some(&key())).unwrap().send("served").unwrap());
        let (mut failures, mut served) = (0, 0);
        while served + failures < 13 {
            match listener.accept_timeout(LONG) {
                Ok(connection) => {
                    assert_eq!(connection.recv::<String>().unwrap(), "served");
                    served += 1;
                    assert!(failures <= 2, "it waited for the silent ones");
                }
                Err(Error::Authentication { peer, reason }) => {
                    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
                    failures += 1;
                    if failures > 2 {
                        assert!(reason.contains("did not come in time"), "{reason}");
                        assert!(start.elapsed() >= limit);
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(served, 1);
        client.join().unwrap();
    });
    // They were told, and hung up on.
    for mut stream in silent {
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        assert_eq!(said.len(), 48 + 16);
    }
    assert!(listener.try_accept().unwrap().is_none());
}

/// A client whose bytes come one at a time is still a client, and one that never ends has no more time than others.
#[test]
fn na_25_slow_clients() {
    let limit = Duration::from_millis(500);
    let listener = keyed().handshake_timeout(limit).bind_fresh().unwrap();
    let Address::Unix(path) = listener.address().unwrap().clone() else { panic!("not a path") };
    let start = Instant::now();
    let drip = thread::spawn(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        // A valid header first.
        let hello = crate::auth::Exchange::new(crate::auth::Role::Client, key()).unwrap().hello();
        for byte in hello.iter().cycle() {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let error = listener.accept_timeout(LONG).unwrap_err();
    assert!(matches!(error, Error::Authentication { .. }), "{error}");
    assert!(start.elapsed() >= limit);
    drip.join().unwrap();
}

#[test]
fn more_strangers_than_are_held() {
    let listener = keyed().backlog(1000).bind_fresh().unwrap();
    let Address::Unix(path) = listener.address().unwrap().clone() else { panic!("not a path") };
    let strangers: Vec<_> = (0..MOST + 5).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for _ in 0..5 {
        let error = listener.accept_timeout(LONG).unwrap_err();
        assert!(error.to_string().contains("came later"), "{error}");
    }
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(path.as_path(), Some(&key())).unwrap());
        let error = listener.accept_timeout(LONG).unwrap_err();
        assert!(error.to_string().contains("came later"), "{error}");
        listener.accept_timeout(LONG).unwrap();
        client.join().unwrap();
    });
    drop(strangers);
    for _ in 0..MOST - 1 {
        let error = listener.accept_timeout(LONG).unwrap_err();
        assert!(error.to_string().contains("the peer left before its challenge"), "{error}");
    }
    assert!(listener.try_accept().unwrap().is_none());
}

#[test]
fn each_side_learns_that_only_one_has_a_key() {
    // The listener has one: the client goes on without, and is told.
    let listener = keyed().bind_fresh().unwrap();
    let address = listener.address().unwrap();
    let client = connect(address, None).unwrap();
    client.send(&1).unwrap();
    let error = listener.accept().unwrap_err();
    assert!(error.to_string().contains("the client has no key"), "{error}");
    let error = client.recv::<i32>().unwrap_err();
    assert!(error.to_string().contains("this end was made without one"), "{error}");
    assert!(matches!(error, Error::Authentication { .. }));

    // The client has one.
    let listener = Listener::new().unwrap();
    let address = listener.address().unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(address, Some(&key())));
        let accepted = listener.accept().unwrap();
        let error = accepted.recv::<i32>().unwrap_err();
        assert!(matches!(error, Error::Authentication { .. }), "{error}");
        accepted.send(&1).unwrap();
        let error = client.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("the listener has no key"), "{error}");
    });
}

#[test]
fn time_limits() {
    let listener = keyed().backlog(0).bind_fresh().unwrap();
    let address = listener.address().unwrap();
    let limit = Duration::from_millis(50);
    let timely = |result: Result<Connection>| {
        assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
    };
    let start = Instant::now();
    timely(listener.accept_timeout(limit));
    assert!(start.elapsed() >= limit);
    assert!(listener.try_accept().unwrap().is_none());
    // Nobody accepts: first the proof does not come, then there is no place in the queue.
    timely(connect_timeout(address, Some(&key()), limit));
    let _waiting: Vec<_> = (0..2).map(|_| connect_timeout(address, None, limit)).collect();
    timely(connect_timeout(address, None, limit));
    timely(connect_timeout(address, None, Duration::ZERO));
}

#[test]
fn waiting_for_several_listeners() {
    let (a, b) = (Listener::new().unwrap(), Listener::bind("127.0.0.1:0").unwrap());
    assert_eq!(wait_ready(&[&a, &b], Some(Duration::ZERO)).unwrap(), []);
    let _client = connect(b.address().unwrap(), None).unwrap();
    assert_eq!(wait_ready(&[&a, &b], Some(LONG)).unwrap(), [1]);
    assert!(b.try_accept().unwrap().is_some());
    assert_eq!(wait_ready(&[&a, &b], Some(Duration::ZERO)).unwrap(), []);
}

#[test]
fn many_clients_and_threads() {
    let listener = keyed().bind_fresh().unwrap();
    let address = listener.address().unwrap();
    let sum: u64 = thread::scope(|scope| {
        let accepting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    listener.incoming().map(|client| client.unwrap().recv::<u64>().unwrap()).sum::<u64>()
                })
            })
            .collect();
        let clients: Vec<_> = (0..4_u64)
            .map(|thread| {
                scope.spawn(move || {
                    for number in 0..25 {
                        let client = connect(address, Some(&key())).unwrap();
                        client.send(&(thread * 25 + number)).unwrap();
                        // Until it was received: closing the listener hangs up on those who wait.
                        assert!(client.recv::<()>().is_err());
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        listener.close();
        accepting.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(sum, (0..100).sum());
}

/// Runs a future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn accepting_on_any_executor() {
    let limit = Duration::from_millis(1500);
    let listener = keyed().handshake_timeout(limit).bind_fresh().unwrap();
    let address = listener.address().unwrap().clone();
    let Address::Unix(path) = &address else { panic!("not a path") };
    thread::scope(|scope| {
        let _silent = UnixStream::connect(path).unwrap();
        let client = scope.spawn(|| connect(&address, Some(&key())).unwrap());
        let accepted = block_on(listener.accept_async()).unwrap();
        client.join().unwrap().send(&1729).unwrap();
        assert_eq!(accepted.recv::<i32>().unwrap(), 1729);
        // Deadlines of handshakes wake the task, too.
        let error = block_on(listener.accept_async()).unwrap_err();
        assert!(matches!(error, Error::Authentication { .. }), "{error}");
    });
}

#[test]
fn connecting_on_any_executor() {
    families(|address| {
        let listener = keyed().backlog(0).bind(&address).unwrap();
        let address = listener.address().unwrap();
        thread::scope(|scope| {
            // More than the queue takes.
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| block_on(connect_async(address, Some(&key()))).unwrap().recv::<i32>())
                })
                .collect();
            for _ in 0..4 {
                listener.accept_timeout(LONG).unwrap().send(&1729).unwrap();
            }
            clients.into_iter().for_each(|client| assert_eq!(client.join().unwrap().unwrap(), 1729));
            let stranger = scope.spawn(|| block_on(connect_async(address, Some(&AuthKey::new([])))));
            assert!(matches!(listener.accept_timeout(LONG), Err(Error::Authentication { .. })));
            assert!(matches!(stranger.join().unwrap(), Err(Error::Authentication { .. })));
        });
        let bound = address.clone();
        drop(listener);
        assert!(matches!(block_on(connect_async(&bound, None)), Err(Error::Io { .. })));
    });
}

/// NA-25: a listener that begins with its proof and does not go on. One that has not begun may be busy.
#[test]
fn na_25_listeners_that_stop_half_way() {
    let hello = crate::auth::Exchange::new(crate::auth::Role::Listener, key()).unwrap().hello();
    for said in [1, 16, 48] {
        let (here, mut there) = UnixStream::pair().unwrap();
        there.write_all(&hello[..said]).unwrap();
        let address = Address::Abstract(b"x".to_vec());
        let patience = Duration::from_millis(50);
        let start = Instant::now();
        let error = super::connect::prove(&here.into(), &key(), &address, None, patience).unwrap_err();
        assert!(matches!(&error, Error::Authentication { .. }), "{error}");
        assert!(error.to_string().contains("did not come in time"), "{error}");
        assert!(start.elapsed() >= patience);
    }
    let (here, _there) = UnixStream::pair().unwrap();
    let limit = Some(Instant::now() + Duration::from_millis(50));
    let error =
        super::connect::prove(&here.into(), &key(), &Address::Abstract(b"x".to_vec()), limit, Duration::ZERO);
    assert!(matches!(error, Err(Error::Timeout { .. })), "{error:?}");
}
