//! Conditions: who is told, and what becomes of it when its future is dropped.

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::Instant;

use super::*;
use crate::{Condition, Error, Lock};

fn plain() -> Condition {
    Condition::with_lock(&Lock::new().unwrap()).unwrap()
}

async fn wait(condition: &Condition) {
    let mut guard = condition.lock_async().await.unwrap();
    condition.wait_async(&mut guard).await.unwrap();
    assert!(condition.locked());
}

fn notify(condition: &Condition, n: usize) -> usize {
    let _guard = condition.lock().unwrap();
    condition.notify(n).unwrap()
}

fn wait_for_waiters(condition: &Condition, n: usize) {
    let start = Instant::now();
    while condition.waiters() != n {
        assert!(start.elapsed() < LONG, "{} wait, not {n}", condition.waiters());
        thread::yield_now();
    }
}

#[test]
fn a_notification_lets_exactly_one_future_go() {
    let condition = plain();
    let mut tasks = Tasks::new((0..10).map(|_| wait(&condition)));
    tasks.turn();
    assert_eq!(condition.waiters(), 10);
    for done in 1..=3 {
        assert_eq!(notify(&condition, 1), 1);
        tasks.run_until(done);
        tasks.run_for(Duration::from_millis(60));
        assert_eq!((tasks.done.len(), condition.waiters()), (done, 10 - done));
    }
    assert_eq!(notify(&condition, usize::MAX), 7);
    tasks.run_until(10);
    assert!(condition.waiters() == 0 && notify(&condition, 1) == 0 && !condition.locked());
}

#[test]
fn more_futures_than_the_table_has_room_for() {
    let condition = plain();
    let mut tasks = Tasks::new((0..200).map(|_| wait(&condition)));
    tasks.turn();
    assert_eq!(condition.waiters(), 200);
    drop(Tasks::new(tasks.running.split_off(100).into_iter().map(|(task, _)| task)));
    assert_eq!(condition.waiters(), 100);
    assert_eq!(notify(&condition, usize::MAX), 100);
    tasks.run_until(100);
    assert!(condition.waiters() == 0 && !condition.locked());
}

#[test]
fn all_levels_are_given_up_and_come_back() {
    let condition = Condition::new().unwrap();
    let mut guard = block_on(condition.lock_async()).unwrap();
    let further = [(); 2].map(|()| condition.lock().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for_waiters(&condition, 1);
            assert_eq!(notify(&condition, 1), 1);
        });
        block_on(condition.wait_async(&mut guard)).unwrap();
    });
    let levels = |n: usize| format!("{condition:?}").contains(&format!(", {n})>, 0)>"));
    assert!(levels(3), "{condition:?}");
    drop(further);
    assert!(levels(1), "{condition:?}");
    drop(guard);
    assert!(!condition.locked());
}

#[test]
fn one_waits_until_something_is_so() {
    let (condition, stock) = (plain(), AtomicU32::new(0));
    thread::scope(|scope| {
        let customer = |n| {
            let (condition, stock) = (&condition, &stock);
            async move {
                let mut guard = condition.lock_async().await.unwrap();
                condition.wait_for_async(&mut guard, || stock.load(Relaxed) >= n).await.unwrap();
                stock.fetch_sub(n, Relaxed);
            }
        };
        scope.spawn(|| {
            for _ in 0..60 {
                let _guard = condition.lock().unwrap();
                stock.fetch_add(1, Relaxed);
                condition.notify_all().unwrap();
            }
        });
        Tasks::new([1, 2, 3].into_iter().cycle().take(30).map(customer)).run();
    });
    assert_eq!(stock.into_inner(), 0);
}

#[test]
fn a_guard_is_void_after_a_dropped_wait() {
    for condition in [plain(), Condition::new().unwrap()] {
        let mut guard = condition.lock().unwrap();
        assert!(drop_after(condition.wait_async(&mut guard), 1).is_none());
        assert!(!condition.locked() && condition.waiters() == 0);
        let late = condition.wait_timeout(&mut guard, LONG);
        assert!(matches!(late, Err(Error::NotHeld { .. })), "{late:?}");
        assert!(block_on(condition.wait_for_async(&mut guard, || true)).is_err());
        // It releases nothing that somebody else has.
        let new = condition.lock().unwrap();
        drop(guard);
        assert!(condition.locked() && condition.notify_one().unwrap() == 0);
        drop(new);
        assert!(!condition.locked());
    }
}

#[test]
fn the_guard_of_another_condition_is_refused() {
    let (one, other) = (plain(), plain());
    let mut guard = one.lock().unwrap();
    assert!(matches!(block_on(other.wait_async(&mut guard)), Err(Error::Invalid { .. })));
    assert!(one.locked());
}

/// A future that waits longest is told and dropped: how long it is until `heir` has returned in another thread.
fn after_one_who_was_told_is_dropped(heir: impl Fn(&Condition) + Sync) {
    let condition = plain();
    let round = |n: u32| {
        let mut told: Vec<_> = (0..2).map(|_| Box::pin(wait(&condition))).collect();
        told.iter_mut().for_each(|future| assert!(poll_once(future.as_mut()).is_pending()));
        thread::scope(|scope| {
            let heir = scope.spawn(|| {
                heir(&condition);
                Instant::now()
            });
            wait_for_waiters(&condition, 3);
            thread::sleep(SETTLED);
            let guard = condition.lock().unwrap();
            assert_eq!(condition.notify(1).unwrap(), 1);
            let start = Instant::now();
            if n.is_multiple_of(2) {
                drop(guard);
                pause();
                drop(told);
            } else {
                // The second first: it may be the one that the first would hand on to.
                told.reverse();
                drop(told);
                drop(guard);
            }
            heir.join().unwrap().duration_since(start)
        })
    };
    let median = median((0..15).map(round).collect());
    assert!(median < PROMPT, "{median:?}: it was found at the end of a slice");
    assert!(condition.waiters() == 0 && notify(&condition, 1) == 0);
}

#[test]
fn what_a_dropped_future_was_told_a_thread_is_told() {
    after_one_who_was_told_is_dropped(|condition| {
        let mut guard = condition.lock().unwrap();
        assert!(condition.wait_timeout(&mut guard, LONG).unwrap());
    });
}

#[test]
fn what_a_dropped_future_was_told_another_future_is_told() {
    after_one_who_was_told_is_dropped(|condition| block_on(wait(condition)));
}

#[test]
fn who_comes_later_is_not_told_what_a_dropped_future_was() {
    let condition = plain();
    let mut early = Box::pin(wait(&condition));
    assert!(poll_once(early.as_mut()).is_pending());
    assert_eq!(notify(&condition, 1), 1);
    let mut late = Tasks::new([wait(&condition)]);
    late.turn();
    drop(early);
    late.run_for(SETTLED);
    assert_eq!(late.done.len(), 0);
    assert_eq!(notify(&condition, 1), 1);
    late.run_until(1);
}

#[test]
fn futures_are_dropped_at_any_moment_and_no_item_is_left() {
    const ITEMS: u32 = 300;
    let (condition, stock, taken) = (plain(), AtomicU32::new(0), AtomicU32::new(0));
    let take = || {
        stock.fetch_sub(1, Relaxed);
        taken.fetch_add(1, SeqCst);
    };
    let median = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while taken.load(SeqCst) < ITEMS {
                    let fickle = async {
                        let mut guard = condition.lock_async().await.unwrap();
                        condition.wait_for_async(&mut guard, || stock.load(Relaxed) > 0).await.unwrap();
                        take();
                    };
                    let _ = drop_after(fickle, random() % 6);
                }
            });
        }
        scope.spawn(|| {
            while taken.load(SeqCst) < ITEMS {
                let mut guard = condition.lock().unwrap();
                let is_there = || stock.load(Relaxed) > 0;
                if condition.wait_for_timeout(&mut guard, Duration::from_secs(1), is_there).unwrap() {
                    take();
                }
            }
        });
        let offer = |n| {
            let start = Instant::now();
            let guard = condition.lock().unwrap();
            stock.fetch_add(1, Relaxed);
            condition.notify_one().unwrap();
            drop(guard);
            while taken.load(SeqCst) <= n {
                assert!(start.elapsed() < LONG);
                thread::yield_now();
            }
            start.elapsed()
        };
        median((0..ITEMS).map(offer).collect())
    });
    assert!(median < PROMPT, "{median:?}");
    assert!(condition.waiters() == 0 && !condition.locked());
}
