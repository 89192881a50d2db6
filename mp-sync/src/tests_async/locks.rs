//! Locks and semaphores: who holds one, who gets it next, and what a dropped future leaves behind.

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::Instant;

use super::*;
use crate::{BoundedSemaphore, Lock, RLock, Semaphore};

/// Counts in two steps, which get mixed up unless one is alone.
fn count(number: &AtomicU32) {
    let seen = number.load(Relaxed);
    std::hint::spin_loop();
    number.store(seen + 1, Relaxed);
}

#[test]
fn hundreds_of_futures_and_some_threads_share_a_lock() {
    const TASKS: u32 = 300;
    const THREADS: u32 = 3;
    const ROUNDS: u32 = 20;
    let (lock, number) = (Lock::new().unwrap(), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS * 50 {
                    let _guard = lock.lock().unwrap();
                    count(&number);
                }
            });
        }
        let task = |_| async {
            for _ in 0..ROUNDS {
                let guard = lock.lock_async().await.unwrap();
                let seen = number.load(Relaxed);
                if seen.is_multiple_of(4) {
                    yield_now().await;
                }
                number.store(seen + 1, Relaxed);
                drop(guard);
            }
        };
        Tasks::new((0..TASKS).map(task)).run();
    });
    assert_eq!(number.into_inner(), TASKS * ROUNDS + THREADS * ROUNDS * 50);
    assert!(!lock.locked());
}

#[test]
fn futures_move_between_threads() {
    fn is_send(_: &(impl Send + ?Sized)) {}
    let (lock, semaphore) = (Lock::new().unwrap(), Semaphore::new(1).unwrap());
    let (event, barrier) = (crate::Event::new().unwrap(), crate::Barrier::new(2).unwrap());
    is_send(&lock.lock_async());
    is_send(&semaphore.acquire_async());
    is_send(&event.wait_async());
    is_send(&barrier.wait_async());
    let guard = lock.lock().unwrap();
    let mut future = Box::pin(lock.lock_async());
    assert!(poll_once(future.as_mut()).is_pending());
    thread::scope(|scope| {
        let other = scope.spawn(move || drop(block_on(future).unwrap()));
        drop(guard);
        other.join().unwrap();
    });
}

#[test]
fn a_lock_without_a_guard_is_released_by_whoever_likes() {
    let lock = Lock::new().unwrap();
    assert!(block_on(lock.acquire_async()).unwrap().owner_died().is_none());
    thread::scope(|scope| {
        let next = scope.spawn(|| block_on(lock.acquire_async()).unwrap());
        lock.release().unwrap();
        next.join().unwrap();
    });
    lock.release().unwrap();
}

#[test]
fn the_thread_that_has_a_recursive_lock_gets_it_again() {
    let lock = RLock::new().unwrap();
    let guards = [(); 3].map(|()| block_on(lock.lock_async()).unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let lock = &lock;
    thread::scope(|scope| {
        let other = scope.spawn(move || {
            let mut future = Box::pin(lock.lock_async());
            assert!(poll_once(future.as_mut()).is_pending());
            tell.send(()).unwrap();
            drop(block_on(future).unwrap());
            assert!(!lock.is_mine());
        });
        told.recv().unwrap();
        drop(guards);
        other.join().unwrap();
    });
    assert!(!lock.locked());
}

#[test]
fn so_many_futures_and_threads_as_there_are_permits() {
    const ROUNDS: usize = 20;
    let semaphore = BoundedSemaphore::new(3).unwrap();
    let (inside, rounds) = (AtomicU32::new(0), AtomicU32::new(0));
    let enter = || assert!(inside.fetch_add(1, SeqCst) < 3, "more than three");
    let leave = || {
        inside.fetch_sub(1, SeqCst);
        rounds.fetch_add(1, Relaxed);
    };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..ROUNDS * 20 {
                    let _permit = semaphore.acquire().unwrap();
                    enter();
                    leave();
                }
            });
        }
        let task = |_| async {
            for _ in 0..ROUNDS {
                let _permit = semaphore.acquire_async().await.unwrap();
                enter();
                yield_now().await;
                leave();
            }
        };
        Tasks::new((0..200).map(task)).run();
    });
    assert_eq!(rounds.into_inner() as usize, 200 * ROUNDS + 3 * ROUNDS * 20);
    assert_eq!(semaphore.get_value(), 3);
}

/// Somebody holds it, futures and at last a thread wait. When it is free, the futures are dropped, told or not: how long it is
/// until the thread has it.
fn after_futures_are_dropped<G>(
    hold: impl Fn() -> G,
    wait: impl Fn() + Sync,
    future: impl Fn() -> Task<'static, ()>,
) {
    let round = |_| {
        let held = hold();
        let mut futures: Vec<_> = (0..3).map(|_| future()).collect();
        futures.iter_mut().for_each(|future| assert!(poll_once(future.as_mut()).is_pending()));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                wait();
                Instant::now()
            });
            thread::sleep(SETTLED);
            let released = Instant::now();
            drop(held);
            pause();
            drop(futures);
            waiter.join().unwrap().duration_since(released)
        })
    };
    let median = median((0..15).map(round).collect());
    assert!(median < PROMPT, "{median:?}: it was found at the end of a slice");
}

#[test]
fn a_dropped_future_takes_no_lock_and_no_wake_up_along() {
    let lock: &'static Lock = Box::leak(Box::new(Lock::new().unwrap()));
    after_futures_are_dropped(
        || lock.lock().unwrap(),
        || drop(lock.lock().unwrap()),
        || Box::pin(async { drop(lock.lock_async().await.unwrap()) }),
    );
    assert!(!lock.locked());
}

#[test]
fn a_dropped_future_takes_no_permit_and_no_wake_up_along() {
    let semaphore: &'static Semaphore = Box::leak(Box::new(Semaphore::new(1).unwrap()));
    after_futures_are_dropped(
        || semaphore.acquire().unwrap(),
        || drop(semaphore.acquire().unwrap()),
        || Box::pin(async { drop(semaphore.acquire_async().await.unwrap()) }),
    );
    assert_eq!(semaphore.get_value(), 1);
}

/// Somebody holds all there is, a future waits, and at last a thread. The wake-up is the future's: how long it is until the
/// thread has what the future does not keep.
fn after_a_future_was_served<H, G>(
    hold: impl Fn() -> H,
    wait: impl Fn() + Sync,
    future: impl Fn() -> Task<'static, G>,
    keeps: bool,
) {
    let round = |_| {
        let held = hold();
        let mut tasks = Tasks::new([future()]);
        tasks.turn();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                wait();
                Instant::now()
            });
            tasks.run_for(SETTLED);
            let released = Instant::now();
            drop(held);
            tasks.run_until(1);
            if !keeps {
                tasks.done.clear();
            }
            waiter.join().unwrap().duration_since(released)
        })
    };
    let median = median((0..15).map(round).collect());
    assert!(median < PROMPT, "{median:?}: it was found at the end of a slice");
}

#[test]
fn a_future_that_was_woken_has_others_woken() {
    let lock: &'static Lock = Box::leak(Box::new(Lock::new().unwrap()));
    after_a_future_was_served(
        || lock.lock().unwrap(),
        || drop(lock.lock().unwrap()),
        || Box::pin(async { lock.lock_async().await.unwrap() }),
        false,
    );
    // Two permits come back at the same time, and the first one wakes.
    let semaphore: &'static Semaphore = Box::leak(Box::new(Semaphore::new(2).unwrap()));
    after_a_future_was_served(
        || [(); 2].map(|()| semaphore.acquire().unwrap()),
        || drop(semaphore.acquire().unwrap()),
        || Box::pin(async { semaphore.acquire_async().await.unwrap() }),
        true,
    );
}

/// A future that was overtaken for long, and is dropped: how long it is until a newcomer has what is free.
fn after_a_starving_future_is_dropped<G>(hold: impl Fn() -> G, future: impl Fn() -> Task<'static, ()>) {
    let round = |n: u32| {
        let held = hold();
        let mut tasks = Tasks::new([future()]);
        tasks.run_for(SETTLED);
        // Before or after it was reserved.
        if n.is_multiple_of(2) {
            drop(tasks);
            drop(held);
        } else {
            drop(held);
            drop(tasks);
        }
        let start = Instant::now();
        drop(hold());
        start.elapsed()
    };
    let times: Vec<_> = (0..14).map(round).collect();
    for first in [0, 1] {
        let median = median(times.iter().copied().skip(first).step_by(2).collect());
        assert!(median < Duration::from_millis(3), "{median:?}: it was reserved for nobody");
    }
}

#[test]
fn nothing_stays_reserved_for_a_dropped_future() {
    let lock: &'static Lock = Box::leak(Box::new(Lock::new().unwrap()));
    let semaphore: &'static Semaphore = Box::leak(Box::new(Semaphore::new(1).unwrap()));
    after_a_starving_future_is_dropped(
        || lock.lock().unwrap(),
        || Box::pin(async { drop(lock.lock_async().await.unwrap()) }),
    );
    after_a_starving_future_is_dropped(
        || semaphore.acquire().unwrap(),
        || Box::pin(async { drop(semaphore.acquire_async().await.unwrap()) }),
    );
}

#[test]
fn a_future_is_not_overtaken_for_ever() {
    let (lock, done) = (Lock::new().unwrap(), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while done.load(Relaxed) == 0 {
                    let _guard = lock.lock().unwrap();
                    (0..100).for_each(|_| std::hint::spin_loop());
                }
            });
        }
        block_on(async {
            for _ in 0..50 {
                drop(lock.lock_async().await.unwrap());
            }
        });
        done.store(1, Relaxed);
    });
}

#[test]
fn futures_are_dropped_at_any_moment() {
    let (lock, semaphore) = (Lock::new().unwrap(), Semaphore::new(2).unwrap());
    let number = AtomicU32::new(0);
    let start = Instant::now();
    let counted: u32 = thread::scope(|scope| {
        let fickle = |_| {
            scope.spawn(|| {
                let mut counted = 0;
                for _ in 0..300 {
                    if let Some(guard) = drop_after(lock.lock_async(), random() % 4) {
                        let _guard = guard.unwrap();
                        count(&number);
                        counted += 1;
                    }
                    drop(drop_after(semaphore.acquire_async(), random() % 4));
                }
                counted
            })
        };
        let steady = |_| {
            scope.spawn(|| {
                for _ in 0..300 {
                    let _permit = semaphore.acquire().unwrap();
                    let _guard = lock.lock().unwrap();
                    count(&number);
                    thread::yield_now();
                }
                300
            })
        };
        let threads: Vec<_> = (0..3).map(fickle).chain((0..2).map(steady)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(number.into_inner(), counted);
    assert!(!lock.locked() && semaphore.get_value() == 2);
    assert!(start.elapsed() < LONG);
}
