//! Events and barriers.

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::Instant;

use super::*;
use crate::{Barrier, BrokenReason, Error, Event, Result};

#[test]
fn whoever_waits_when_an_event_is_set_sees_it_though_it_is_cleared() {
    let event = Event::new().unwrap();
    let mut tasks = Tasks::new((0..100).map(|_| event.wait_async()));
    tasks.turn();
    let mut late = Box::pin(event.wait_async());
    event.set();
    event.clear();
    assert!(poll_once(late.as_mut()).is_pending(), "it begins to wait when it is polled");
    assert!(tasks.run().into_iter().all(|outcome| outcome.is_ok()));
    event.set();
    block_on(late).unwrap();
    block_on(event.wait_async()).unwrap();
}

#[test]
fn an_event_wakes_futures_and_threads_at_once() {
    let round = |_| {
        let event = Event::new().unwrap();
        let times = thread::scope(|scope| {
            let waiting = [
                scope.spawn(|| {
                    block_on(event.wait_async()).unwrap();
                    Instant::now()
                }),
                scope.spawn(|| {
                    event.wait();
                    Instant::now()
                }),
            ];
            thread::sleep(SETTLED);
            let set = Instant::now();
            event.set();
            waiting.map(|thread| thread.join().unwrap().duration_since(set))
        });
        times.into_iter().max().unwrap()
    };
    let median = median((0..9).map(round).collect());
    assert!(median < PROMPT, "{median:?}");
}

#[test]
fn futures_and_threads_are_parties_round_after_round() {
    const ROUNDS: u32 = 50;
    let (barrier, arrived) = (Barrier::new(6).unwrap(), AtomicU32::new(0));
    let check = |round: u32, index: Result<u32>| {
        assert!(index.unwrap() < 6);
        assert!(arrived.load(SeqCst) >= (round + 1) * 6, "it passed before all were there");
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    arrived.fetch_add(1, SeqCst);
                    check(round, barrier.wait());
                }
            });
        }
        let task = |_| async {
            for round in 0..ROUNDS {
                arrived.fetch_add(1, SeqCst);
                check(round, barrier.wait_async().await);
            }
        };
        Tasks::new((0..4).map(task)).run();
    });
    assert!(barrier.n_waiting() == 0 && !barrier.broken());
}

#[test]
fn the_last_future_to_arrive_runs_the_action() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let barrier = Barrier::new(3).unwrap().with_action(|| {
        RUNS.fetch_add(1, SeqCst);
    });
    let mut indices = Tasks::new((0..3).map(|_| barrier.wait_async())).run();
    assert_eq!(RUNS.load(SeqCst), 1);
    indices.sort_by_key(|index| *index.as_ref().unwrap());
    assert_eq!(indices.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn more_futures_than_parties_pass_in_turn() {
    let barrier = Barrier::new(2).unwrap();
    let passed = Tasks::new((0..40).map(|_| barrier.wait_async())).run();
    assert!(passed.iter().all(Result::is_ok) && barrier.n_waiting() == 0);
}

#[test]
fn a_dropped_party_breaks_the_barrier_for_the_others() {
    let barrier = Barrier::new(3).unwrap();
    // Not yet a party.
    drop(barrier.wait_async());
    let mut leaver = Box::pin(barrier.wait_async());
    assert!(poll_once(leaver.as_mut()).is_pending());
    thread::scope(|scope| {
        let thread = scope.spawn(|| barrier.wait());
        while barrier.n_waiting() < 2 {
            thread::yield_now();
        }
        drop(leaver);
        let broken = thread.join().unwrap();
        assert!(
            matches!(broken, Err(Error::BrokenBarrier { reason: BrokenReason::TimedOut, .. })),
            "{broken:?}"
        );
    });
    assert!(matches!(block_on(barrier.wait_async()), Err(Error::BrokenBarrier { .. })));
    barrier.reset();
    assert_eq!(barrier.n_waiting(), 0);
}

#[test]
fn a_party_that_is_dropped_when_all_were_there_breaks_nothing() {
    let barrier = Barrier::new(2).unwrap();
    let mut leaver = Box::pin(barrier.wait_async());
    assert!(poll_once(leaver.as_mut()).is_pending());
    assert_eq!(barrier.wait().unwrap(), 1);
    drop(leaver);
    assert!(!barrier.broken());
    assert_eq!(Tasks::new((0..2).map(|_| barrier.wait_async())).run().len(), 2);
}

#[test]
fn futures_are_told_of_resets_aborts_and_time_limits() {
    let reason = |barrier: &Barrier, end: fn(&Barrier)| {
        let mut tasks = Tasks::new([barrier.wait_async()]);
        tasks.turn();
        end(barrier);
        match tasks.run().pop() {
            Some(Err(Error::BrokenBarrier { reason, .. })) => reason,
            other => panic!("{other:?}"),
        }
    };
    let barrier = Barrier::new(2).unwrap();
    assert_eq!(reason(&barrier, Barrier::reset), BrokenReason::Reset);
    assert_eq!(reason(&barrier, Barrier::abort), BrokenReason::Aborted);
    barrier.reset();
    let limited = barrier.clone().with_timeout(Duration::from_millis(10));
    let start = Instant::now();
    assert_eq!(reason(&limited, |_| ()), BrokenReason::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(10));
}
