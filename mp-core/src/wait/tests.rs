//! Scenarios of waiting within one process.

use std::future::Future;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::*;
use crate::connection::pipe;
use crate::message::SharedFd;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn wait_04_time_limit() {
    let (a, b) = pipe().unwrap();
    let (c, _d) = pipe().unwrap();
    let start = Instant::now();
    assert_eq!(wait_ready(&[&a, &c], Some(Duration::from_millis(200))).unwrap(), []);
    assert!(start.elapsed() >= Duration::from_millis(199));
    b.send(&1).unwrap();
    assert_eq!(wait_ready(&[&a, &c], Some(LONG)).unwrap(), [0]);
    drop(b);
    a.recv::<i32>().unwrap();
    assert_eq!(wait_ready(&[&c, &a, &a], None).unwrap(), [1, 2]);
}

#[test]
fn wait_05_no_time_and_nothing_to_wait_for() {
    let (a, _b) = pipe().unwrap();
    assert_eq!(wait_ready(&[&a], Some(Duration::ZERO)).unwrap(), []);
    assert_eq!(wait_ready::<&OwnedFd>(&[], None).unwrap(), []);
}

#[test]
fn wait_06_different_kinds() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (a, b) = pipe().unwrap();
    let (c, _d) = pipe().unwrap();
    b.send(&1).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let fds: [&dyn AsFd; 3] = [&listener, &c, &a];
    poll_until(&mut [PollFd::new(&listener, PollFlags::IN)], deadline(LONG)).unwrap();
    assert_eq!(wait_ready(&fds, Some(LONG)).unwrap(), [0, 2]);
}

#[test]
fn more_than_1024_entries() {
    let (a, _b) = pipe().unwrap();
    let (c, d) = pipe().unwrap();
    d.send(&1).unwrap();
    let mut fds = vec![&a; 3000];
    fds.push(&c);
    assert_eq!(wait_ready(&fds, Some(LONG)).unwrap(), [3000]);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(LONG),
        }
    }
}

fn shared(fd: impl AsFd) -> SharedFd {
    Arc::new(fd.as_fd().try_clone_to_owned().unwrap())
}

#[test]
fn awaiting_wakes_up() {
    let (a, b) = pipe().unwrap();
    let fd = shared(&a);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| block_on(readable(fd.clone())));
        b.send(&1).unwrap();
        waiting.join().unwrap().unwrap();
        assert_eq!(a.recv::<i32>().unwrap(), 1);
        // Two at once on one descriptor, and end of file.
        let waiting =
            [scope.spawn(|| block_on(readable(fd.clone()))), scope.spawn(|| block_on(readable(fd.clone())))];
        drop(b);
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap().unwrap());
    });
}

#[test]
fn dropping_the_future_forgets_the_waker() {
    struct Flag(AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (a, b) = pipe().unwrap();
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(flag.clone());
    let fd = shared(&a);
    let mut future = Box::pin(readable(fd.clone()));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(future);
    drop(waker);
    assert_eq!((Arc::strong_count(&flag), Arc::strong_count(&fd)), (1, 1));
    b.send(&1).unwrap();
    block_on(readable(fd)).unwrap();
    assert!(!flag.0.load(Ordering::SeqCst));
}

#[test]
fn many_wait_at_once() {
    let pipes: Vec<_> = (0..50).map(|_| pipe().unwrap()).collect();
    thread::scope(|scope| {
        let waiting: Vec<_> =
            pipes.iter().map(|(a, _)| scope.spawn(move || block_on(readable(shared(a))))).collect();
        pipes.iter().rev().for_each(|(_, b)| b.send(&1).unwrap());
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap().unwrap());
    });
}

#[test]
fn files_are_always_readable() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    block_on(readable(shared(&file))).unwrap();
}
