//! Futures while a peer has a lock and does not go on.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::*;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The result of a future, and the least time that one of its first polls took.
fn run<F: Future>(future: F, polls: usize, mut then: impl FnMut()) -> (F::Output, Duration) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    let mut least = Duration::MAX;
    for poll in 1.. {
        let began = Instant::now();
        let result = future.as_mut().poll(&mut Context::from_waker(&waker));
        if poll <= polls {
            least = least.min(began.elapsed());
        }
        if poll == polls {
            then();
        }
        match result {
            Poll::Ready(result) => return (result, least),
            Poll::Pending if poll < polls => thread::sleep(Duration::from_millis(5)),
            Poll::Pending => thread::park(),
        }
    }
    unreachable!("the loop has no end")
}

/// As if the holder were stopped: the thread of the executor does not wait for it, and nothing is missed when it goes on.
#[test]
fn a_held_lock_blocks_no_thread() {
    let queue = Queue::bounded(2).unwrap();
    let ring = queue.channel().ring();
    queue.put(1).unwrap();

    let mut held = ring.get_lock().try_guard();
    assert!(held.is_some());
    let (item, least) = run(queue.get_async(), 5, || drop(held.take()));
    assert_eq!(item.unwrap(), 1);
    assert!(least < Duration::from_millis(10), "{least:?}");

    let mut held = ring.put_lock().try_guard();
    let (put, least) = run(queue.put_async(2), 5, || drop(held.take()));
    put.unwrap();
    assert!(least < Duration::from_millis(10), "{least:?}");

    let mut held = ring.put_lock().try_guard();
    let (put, least) = run(queue.put_many_async([3]), 5, || drop(held.take()));
    put.unwrap();
    assert!(least < Duration::from_millis(10), "{least:?}");
    assert_eq!(queue.get_many(9).unwrap(), [2, 3]);
}

#[test]
fn join_while_the_lock_is_held() {
    let queue = JoinableQueue::unbounded().unwrap();
    queue.put(1).unwrap();
    assert_eq!(queue.get().unwrap(), 1);
    let ring = queue.queue().channel().ring();
    let mut held = ring.get_lock().try_guard();
    // Nobody needs the lock to be done.
    let (joined, least) = run(queue.join_async(), 5, || queue.task_done().unwrap());
    joined.unwrap();
    assert!(least < Duration::from_millis(10), "{least:?}");
    drop(held.take());
    let (joined, _) = run(queue.join_async(), 1, || {});
    joined.unwrap();
}

#[test]
fn futures_can_go_to_other_threads() {
    fn is_send(_: &impl Send) {}
    let queue = Queue::<Vec<String>>::unbounded().unwrap();
    is_send(&queue.put_async(vec![]));
    is_send(&queue.put_many_async(vec![vec![]]));
    is_send(&queue.get_async());
    is_send(&queue.get_many_async(2));
    let queue = JoinableQueue::<Vec<String>>::unbounded().unwrap();
    is_send(&queue.put_async(vec![]));
    is_send(&queue.get_async());
    is_send(&queue.join_async());
}

/// A batch that is longer than the queue, of items with and without descriptors.
#[test]
fn many_at_once() {
    let queue = Queue::bounded(3).unwrap();
    let getter = {
        let queue = queue.clone();
        thread::spawn(move || {
            let mut all = Vec::new();
            while all.len() < 100 {
                let (items, _) = run(queue.get_many_async(7), 1, || {});
                all.extend(items.unwrap().into_iter().map(|(item, _): (u32, Option<Queue<u8>>)| item));
            }
            all
        })
    };
    let inner = Queue::unbounded().unwrap();
    let items = (0..100).map(|item| (item, (item % 3 == 0).then(|| inner.clone())));
    run(queue.put_many_async(items), 1, || {}).0.unwrap();
    assert_eq!(getter.join().unwrap(), (0..100).collect::<Vec<_>>());
}
