//! Scenarios of waiting within one process.

use std::future::Future;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::*;
use crate::connection::pipe;
use crate::deadline::Deadline;
use crate::futex::{AtomicU32, Ordering, WaitResult, wait, wake, wake_all};
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

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
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

/// Words in an `Arc`, one of which is waited for.
fn changed(words: &Arc<Vec<AtomicU32>>, at: usize, expected: u32) -> WordChanged {
    word_changed(words.clone(), |words| &words[at], expected)
}

fn words(count: usize) -> Arc<Vec<AtomicU32>> {
    Arc::new((0..count).map(|_| AtomicU32::new(0)).collect())
}

/// Waits until the word is `wanted`, as every user of `word_changed` does; how often it looked.
fn block_until(words: &Arc<Vec<AtomicU32>>, at: usize, wanted: u32) -> u32 {
    block_on(async {
        let mut looks = 0;
        loop {
            match words[at].load(Ordering::Acquire) {
                seen if seen == wanted => return looks,
                seen => changed(words, at, seen).await.unwrap(),
            }
            looks += 1;
        }
    })
}

fn poll_once(future: &mut WordChanged) -> Poll<Result<()>> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_word_that_is_otherwise_already_needs_no_wait() {
    let words = words(1);
    block_on(changed(&words, 0, 1)).unwrap();
    assert_eq!(Arc::strong_count(&words), 1);
}

#[test]
fn a_word_that_never_changes_is_looked_at_again_and_again() {
    let words = words(1);
    let start = Instant::now();
    // Over after its slice, though nobody does anything.
    block_on(changed(&words, 0, 0)).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(49));
}

#[test]
fn two_threads_play_ping_pong_over_a_word() {
    const ROUNDS: u32 = 500;
    let words = words(1);
    let start = Instant::now();
    thread::scope(|scope| {
        for side in 0..2 {
            let words = &words;
            scope.spawn(move || {
                for turn in (side..ROUNDS).step_by(2) {
                    block_until(words, 0, turn);
                    words[0].store(turn + 1, Ordering::Release);
                    wake_all(&words[0]);
                }
            });
        }
    });
    assert_eq!(words[0].load(Ordering::Acquire), ROUNDS);
    // Woken, not left to the slices.
    assert!(start.elapsed() < Duration::from_millis(50) * ROUNDS / 4, "{:?}", start.elapsed());
}

#[test]
fn more_words_than_the_kernel_takes() {
    let words = words(400);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..400)
            .map(|at| {
                let words = &words;
                thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn_scoped(scope, move || block_until(words, at, 1))
            })
            .collect();
        for word in words.iter().rev() {
            word.store(1, Ordering::Release);
            wake_all(word);
        }
        waiting.into_iter().for_each(|waiting| {
            waiting.unwrap().join().unwrap();
        });
    });
}

#[test]
fn many_wait_for_one_word() {
    let words = words(1);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..50).map(|_| scope.spawn(|| block_until(&words, 0, 1))).collect();
        words[0].store(1, Ordering::Release);
        wake_all(&words[0]);
        waiting.into_iter().for_each(|waiting| {
            waiting.join().unwrap();
        });
    });
}

/// Starts a thread that sleeps on the word, and returns once it does.
fn sleeper(words: &Arc<Vec<AtomicU32>>) -> thread::JoinHandle<WaitResult> {
    let (tell, told) = std::sync::mpsc::channel();
    let words = words.clone();
    let sleeper = thread::spawn(move || {
        tell.send(rustix::thread::gettid()).unwrap();
        wait(&words[0], 0, Some(Deadline::after(LONG)))
    });
    let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
    while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
        thread::yield_now();
    }
    sleeper
}

#[test]
fn a_wake_up_for_a_dropped_future_goes_to_the_next_sleeper() {
    for _ in 0..100 {
        let words = words(1);
        let mut future = changed(&words, 0, 0);
        assert!(poll_once(&mut future).is_pending());
        let sleeper = sleeper(&words);
        // The only wake-up there is: for whoever came first, mostly the future, which makes no use of it.
        assert_eq!(wake(&words[0], 1), 1);
        drop(future);
        assert_eq!(sleeper.join().unwrap(), WaitResult::Woken);
    }
}

#[test]
fn a_wake_up_for_a_dropped_future_goes_to_another_future() {
    let words = words(1);
    let (told_first, told_second) = (Arc::new(Flag::default()), Arc::new(Flag::default()));
    let wakers = [Waker::from(told_first.clone()), Waker::from(told_second.clone())];
    let late = Deadline::after(LONG);
    // Its slice may end the first wait before the wake-up does: then once more.
    let first = loop {
        assert!(!late.has_passed());
        told_first.0.store(false, Ordering::SeqCst);
        let mut first = changed(&words, 0, 0);
        assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&wakers[0])).is_pending());
        let mut woken = 0;
        while !told_first.0.load(Ordering::SeqCst) {
            if woken == 0 {
                woken = wake(&words[0], 1);
            }
            thread::yield_now();
        }
        if woken == 1 {
            break first;
        }
    };
    let mut second = changed(&words, 0, 0);
    assert!(Pin::new(&mut second).poll(&mut Context::from_waker(&wakers[1])).is_pending());
    drop(first);
    assert!(told_second.0.load(Ordering::SeqCst));
    assert!(poll_once(&mut second).is_ready());
}

#[test]
fn dropping_a_wait_for_a_word_lets_its_owner_go() {
    let words = words(1);
    let mut future = changed(&words, 0, 0);
    assert!(poll_once(&mut future).is_pending());
    drop(future);
    // The thread lets go as soon as it was told.
    let late = Deadline::after(LONG);
    while Arc::strong_count(&words) > 1 {
        assert!(!late.has_passed());
        thread::yield_now();
    }
}

#[test]
fn several_descriptors_in_async_code() {
    let (a, b) = pipe().unwrap();
    let (c, d) = pipe().unwrap();
    let fds = [&a, &c, &a];
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        b.send(&1).unwrap();
        b
    });
    assert_eq!(block_on(wait_ready_async(&fds)).unwrap(), [0, 2]);
    let b = sender.join().unwrap();
    assert_eq!(a.recv::<i32>().unwrap(), 1);
    drop(d);
    assert_eq!(block_on(wait_ready_async(&fds)).unwrap(), [1]);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(block_on(wait_ready_async(&[a.as_fd(), file.as_fd()])).unwrap(), [1]);
    assert!(block_on(wait_ready_async::<OwnedFd>(&[])).unwrap().is_empty());
    drop(b);
}
