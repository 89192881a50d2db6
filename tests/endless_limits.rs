//! Time limits beyond all time are as good as none: of queues, connections, listeners and waits (CON-7, CON-11, CON-13, QUE-2, QUE-3,
//! QUE-16).

mod common;

use std::thread::{Scope, sleep};
use std::time::Duration;

use mp_queue::Error;
use multiprocess::{AuthKey, JoinableQueue, Listener, Queue, connect_timeout, pipe, wait_ready};

use common::{alone, watchdog};

/// From some that the system can count to one that nobody can.
const LIMITS: [Duration; 5] = [
    Duration::from_secs(300 * 365 * 24 * 3600),
    Duration::from_secs(1 << 40),
    Duration::from_secs(1 << 62),
    Duration::from_secs(i64::MAX as u64),
    Duration::MAX,
];

/// Does it a while after those who wait for it have begun to.
fn later<'a>(scope: &'a Scope<'a, '_>, act: impl FnOnce() + Send + 'a) {
    scope.spawn(|| {
        sleep(Duration::from_millis(30));
        act();
    });
}

#[test]
fn queues() {
    let _watchdog = watchdog();
    for limit in LIMITS {
        let queue = Queue::<u32>::bounded(1).expect("a queue");
        std::thread::scope(|scope| {
            later(scope, || queue.put(1).expect("put"));
            assert_eq!(queue.get_timeout(limit).expect("an item"), 1);
            later(scope, || queue.put(2).expect("put"));
            assert_eq!(queue.get_many_timeout(5, limit).expect("an item"), [2]);
            queue.put_timeout(3, limit).expect("put");
            later(scope, || assert_eq!(queue.get().expect("an item"), 3));
            assert_eq!(queue.put_many_timeout([4], limit).expect("put"), 1);
            later(scope, || queue.close().expect("closed"));
            assert!(matches!(queue.put_timeout(5, limit), Err(Error::Closed)));
        });
        let queue = JoinableQueue::<u32>::unbounded().expect("a queue");
        queue.put(1).and_then(|()| queue.get()).expect("an item");
        std::thread::scope(|scope| {
            later(scope, || queue.task_done().expect("one item"));
            queue.join_timeout(limit).expect("all are done");
        });
    }
}

#[test]
fn connections_and_waits() {
    let _watchdog = watchdog();
    for limit in LIMITS {
        let (a, b) = pipe().expect("a pipe");
        std::thread::scope(|scope| {
            later(scope, || a.send(&1).expect("sent"));
            assert!(b.poll(limit).expect("a poll"));
            assert_eq!(b.recv_timeout::<i32>(limit).expect("a number"), 1);
            later(scope, || a.send_bytes(b"x").expect("sent"));
            assert_eq!(wait_ready(&[&b], Some(limit)).expect("a wait"), [0]);
            assert_eq!(b.recv_bytes_timeout(limit).expect("a byte"), b"x");
            // More than the sockets hold.
            later(scope, || assert_eq!(b.recv_bytes_timeout(limit).expect("bytes").len(), 8 << 20));
            a.send_bytes_timeout(&vec![0; 8 << 20], limit).expect("sent");
            // Another thread is at it.
            later(scope, || drop(a.send(&2)));
            scope.spawn(|| b.recv_timeout::<i32>(limit));
            a.end_sending_timeout(limit).expect("ended");
        });
    }
}

#[test]
fn listeners_and_clients() {
    alone(|| {
        for limit in LIMITS {
            for address in ["127.0.0.1:0".to_owned(), format!("@mp-test-{}", common::Mark::new().value())] {
                let key = AuthKey::random();
                let builder = Listener::builder().authkey(key.clone()).handshake_timeout(limit);
                let listener = builder.bind(address).expect("a listener");
                std::thread::scope(|scope| {
                    later(scope, || {
                        let address = listener.address().expect("an address");
                        let client = connect_timeout(address, Some(&key), limit).expect("a connection");
                        client.send_timeout(&1729, limit).expect("sent");
                    });
                    let accepted = listener.accept_timeout(limit).expect("a client");
                    assert_eq!(accepted.recv_timeout::<i32>(limit).expect("a number"), 1729);
                });
            }
        }
    });
}
