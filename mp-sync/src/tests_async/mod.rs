//! Scenarios of the async forms within one process; those between processes are in the tests of the workspace.

mod condition;
mod locks;
mod rest;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
/// Well before the slice of a sleeper ends that has slept for [`SETTLED`].
const PROMPT: Duration = Duration::from_millis(8);
/// After this time slices are as long as they get.
const SETTLED: Duration = Duration::from_millis(80);

struct Flag {
    thread: Thread,
    raised: AtomicBool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.raised.store(true, SeqCst);
        self.thread.unpark();
    }
}

fn flag() -> Arc<Flag> {
    Arc::new(Flag { thread: thread::current(), raised: AtomicBool::new(true) })
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(flag());
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(LONG),
        }
    }
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

type Task<'a, R> = Pin<Box<dyn Future<Output = R> + 'a>>;

/// Futures that one thread runs, each polled when it was woken.
struct Tasks<'a, R> {
    running: Vec<(Task<'a, R>, Arc<Flag>)>,
    done: Vec<R>,
}

impl<'a, R> Tasks<'a, R> {
    fn new<F: Future<Output = R> + 'a>(futures: impl IntoIterator<Item = F>) -> Tasks<'a, R> {
        let running = futures.into_iter().map(|future| (Box::pin(future) as Task<'a, R>, flag())).collect();
        Tasks { running, done: Vec::new() }
    }

    /// Polls those that were woken, once.
    fn turn(&mut self) {
        let done = &mut self.done;
        self.running.retain_mut(|(task, flag)| {
            if !flag.raised.swap(false, SeqCst) {
                return true;
            }
            let outcome = task.as_mut().poll(&mut Context::from_waker(&Waker::from(flag.clone())));
            match outcome {
                Poll::Ready(output) => done.push(output),
                Poll::Pending => return true,
            }
            false
        });
    }

    /// Until so many are done.
    fn run_until(&mut self, done: usize) {
        let start = Instant::now();
        while self.done.len() < done {
            assert!(start.elapsed() < LONG, "{} of {done} are done", self.done.len());
            self.turn();
            if self.done.len() < done {
                thread::park_timeout(Duration::from_millis(10));
            }
        }
    }

    /// For as long as nothing should happen.
    fn run_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.turn();
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn run(mut self) -> Vec<R> {
        self.run_until(self.running.len());
        self.done
    }
}

/// Lets the others of its executor have their turn.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A number like no other.
fn random() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(1);
    let mut n = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
    n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// Some hundreds of microseconds at most.
fn pause() {
    let (start, time) = (Instant::now(), Duration::from_micros(random() % 300));
    while start.elapsed() < time {
        thread::yield_now();
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Polls `future` and drops it when `polls` are used up; whether it was done before.
fn drop_after<F: Future>(future: F, polls: u64) -> Option<F::Output> {
    let mut future = pin!(future);
    let flag = flag();
    for _ in 0..polls {
        let outcome = future.as_mut().poll(&mut Context::from_waker(&Waker::from(flag.clone())));
        if let Poll::Ready(output) = outcome {
            return Some(output);
        }
        thread::park_timeout(Duration::from_micros(random() % 2000));
    }
    None
}
