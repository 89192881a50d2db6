//! What a barrier promises within one process.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use mp_core::liveness::ProcessId;
use mp_core::message::Message;

use super::*;
use crate::holder::Holder;

const SOON: Duration = Duration::from_secs(30);

fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "waited in vain");
        thread::yield_now();
    }
}

fn reason(result: Result<u32>) -> BrokenReason {
    match result {
        Err(Error::BrokenBarrier { reason, .. }) => reason,
        other => panic!("not broken: {other:?}"),
    }
}

#[test]
fn numbers_of_parties_that_make_no_sense_are_refused() {
    for parties in [0, MOST_PARTIES + 1, u32::MAX] {
        let error = Barrier::new(parties).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(&parties.to_string()), "{error}");
    }
    let large = Barrier::new(100_000).unwrap();
    assert_eq!(reason(large.wait_timeout(Duration::ZERO)), BrokenReason::TimedOut);
    assert!(large.broken());
}

#[test]
fn arrives_as_the_same_barrier() {
    let barrier = Barrier::new(2).unwrap().with_timeout(SOON).with_action(|| Err("refused"));
    let other = Message::encode(&barrier).unwrap().decode::<Barrier>().unwrap();
    assert_eq!(other, barrier);
    assert_eq!((other.parties(), other.timeout), (2, Some(SOON)));
    assert_ne!(other, Barrier::new(2).unwrap());
    thread::scope(|scope| {
        let first = scope.spawn(|| barrier.wait());
        until(|| other.n_waiting() == 1);
        assert_eq!(format!("{other:?}"), "<Barrier(waiters=1/2)>");
        let error = other.wait().unwrap_err();
        assert!(matches!(&error, Error::Action { reason } if reason == "refused"), "{error}");
        assert_eq!(reason(first.join().unwrap()), BrokenReason::ActionFailed);
    });
    assert_eq!(format!("{barrier:?}"), "<Barrier(broken)>");
    // A message that says more parties than there is memory for.
    let lie = Message::encode(&(&barrier.memory, 1000u32, None::<Duration>, None::<Action>)).unwrap();
    assert!(lie.decode::<Barrier>().is_err());
}

#[test]
fn more_threads_than_parties_pass_in_groups() {
    for with_action in [false, true] {
        let barrier = Barrier::new(3).unwrap();
        let barrier = if with_action { barrier.with_action(|| ()) } else { barrier };
        let counts: [AtomicU32; 3] = Default::default();
        let rounds = 3000;
        // Together, so that in the end no few are left who wait for each other.
        let waits = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..9 {
                scope.spawn(|| {
                    while waits.fetch_add(1, SeqCst) < 3 * rounds {
                        counts[barrier.wait_timeout(SOON).unwrap() as usize].fetch_add(1, SeqCst);
                    }
                });
            }
        });
        assert_eq!(counts.map(AtomicU32::into_inner), [rounds; 3]);
        assert_eq!((barrier.n_waiting(), barrier.broken()), (0, false));
        assert!(barrier.table().slots.iter().all(Slot::is_free), "a slot was lost");
    }
}

#[test]
fn nobody_is_let_in_while_the_action_runs() {
    static RUNNING: AtomicU32 = AtomicU32::new(0);
    static GO_ON: AtomicU32 = AtomicU32::new(0);
    let barrier = Barrier::new(1).unwrap().with_action(|| {
        RUNNING.fetch_add(1, SeqCst);
        until(|| GO_ON.load(SeqCst) == 1);
    });
    thread::scope(|scope| {
        let actor = scope.spawn(|| barrier.wait());
        until(|| RUNNING.load(SeqCst) == 1);
        assert_eq!(barrier.n_waiting(), 0);
        let error = barrier.wait_timeout(Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        let next = scope.spawn(|| barrier.wait());
        GO_ON.store(1, SeqCst);
        assert_eq!((actor.join().unwrap().unwrap(), next.join().unwrap().unwrap()), (0, 0));
    });
    assert_eq!(RUNNING.load(SeqCst), 2);
}

#[test]
fn whoever_runs_the_action_is_sent_away_if_the_round_broke_meanwhile() {
    static RUNNING: AtomicU32 = AtomicU32::new(0);
    static GO_ON: AtomicU32 = AtomicU32::new(0);
    let barrier = Barrier::new(2).unwrap().with_action(|| {
        let number = RUNNING.fetch_add(1, SeqCst) + 1;
        until(|| GO_ON.load(SeqCst) >= number);
    });
    type Breaker = fn(&Barrier);
    let breakers: [(Breaker, BrokenReason, Duration); 3] = [
        (Barrier::abort, BrokenReason::Aborted, SOON),
        (Barrier::reset, BrokenReason::Reset, SOON),
        (|_| (), BrokenReason::TimedOut, Duration::from_millis(30)),
    ];
    for (number, (breaker, why, limit)) in (1..).zip(breakers) {
        thread::scope(|scope| {
            let waiter = scope.spawn(|| barrier.wait_timeout(limit));
            until(|| barrier.n_waiting() == 1);
            let actor = scope.spawn(|| barrier.wait());
            until(|| RUNNING.load(SeqCst) == number);
            breaker(&barrier);
            assert_eq!(reason(waiter.join().unwrap()), why);
            GO_ON.store(number, SeqCst);
            assert_eq!(reason(actor.join().unwrap()), why);
        });
        barrier.reset();
        assert!(!barrier.broken());
    }
}

#[test]
fn a_panic_in_the_action_goes_to_the_party_that_ran_it() {
    let barrier = Barrier::new(2).unwrap().with_action(|| -> () { panic!("out of paper") });
    thread::scope(|scope| {
        let both = [scope.spawn(|| barrier.wait()), scope.spawn(|| barrier.wait())];
        let (panicked, others): (Vec<_>, Vec<_>) =
            both.into_iter().map(|party| party.join()).partition(|result| result.is_err());
        assert_eq!((panicked.len(), others.len()), (1, 1));
        assert_eq!(reason(others.into_iter().flatten().next().unwrap()), BrokenReason::ActionFailed);
    });
}

#[test]
fn every_round_has_each_index_once() {
    let barrier = Barrier::new(4).unwrap();
    let rounds = 200;
    let indices: Vec<Vec<u32>> = thread::scope(|scope| {
        let party = || (0..rounds).map(|_| barrier.wait().unwrap()).collect();
        let parties: Vec<_> = (0..4).map(|_| scope.spawn(party)).collect();
        parties.into_iter().map(|party| party.join().unwrap()).collect()
    });
    for round in 0..rounds {
        let set: BTreeSet<u32> = indices.iter().map(|indices| indices[round]).collect();
        assert_eq!(set, (0..4).collect());
    }
}

#[test]
fn one_who_died_alone_is_not_counted_later() {
    let barrier = Barrier::new(2).unwrap();
    // Another process with our pid, before us.
    let me = ProcessId::current();
    let dead = Holder::of(ProcessId::from_parts(me.pid(), me.start_time() - 1));
    let Arrival::Waiting(party) = barrier.table().try_arrive(false) else { panic!("not waiting") };
    barrier.table().slots.iter().find(|slot| !slot.is_free()).unwrap().give_to(dead);
    std::mem::forget(party);
    assert_eq!(reason(barrier.wait()), BrokenReason::PartyDied { pid: me.pid() });
    assert!(barrier.table().slots.iter().all(Slot::is_free));
    barrier.reset();
    assert_eq!(reason(barrier.wait_timeout(Duration::ZERO)), BrokenReason::TimedOut);
}

#[test]
fn a_party_that_sleeps_through_later_rounds_gets_its_own_answer() {
    let barrier = Barrier::new(2).unwrap();
    let table = barrier.table();
    let arrive = || match table.try_arrive(false) {
        Arrival::Waiting(party) => party,
        other => panic!("{other:?}"),
    };
    let (passed, broken) = (arrive(), {
        assert!(matches!(table.try_arrive(false), Arrival::Passed(1)));
        let party = arrive();
        barrier.abort();
        party
    });
    barrier.reset();
    let reset = arrive();
    barrier.reset();
    // All slots but these three change hands a few times.
    for _ in 0..10 {
        let party = arrive();
        assert!(matches!(table.try_arrive(false), Arrival::Passed(1)));
        assert_eq!(party.outcome(), Some(Ok(())));
    }
    assert_eq!(passed.outcome(), Some(Ok(())));
    assert_eq!(broken.outcome(), Some(Err(BrokenReason::Aborted)));
    assert_eq!(reset.outcome(), Some(Err(BrokenReason::Reset)));
    drop((passed, broken, reset));
    drop(arrive());
    assert_eq!(table.broken(), Some(BrokenReason::TimedOut), "one who leaves early breaks the round");
}

#[test]
fn without_a_free_slot_one_waits_for_it() {
    let barrier = Barrier::new(2).unwrap();
    let table = barrier.table();
    // Parties that have passed and do not leave.
    let mut lingering = Vec::new();
    while lingering.len() < table.slots.len() {
        match table.try_arrive(false) {
            Arrival::Waiting(party) => lingering.push(party),
            Arrival::Passed(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(table.try_arrive(false), Arrival::Passed(1)), "the last one needs none");
    assert!(matches!(table.try_arrive(false), Arrival::Full(_)));
    let error = barrier.wait_timeout(Duration::from_millis(5)).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && !barrier.broken(), "{error}");
    thread::scope(|scope| {
        let party = scope.spawn(|| barrier.wait());
        lingering.pop();
        until(|| barrier.n_waiting() == 1);
        assert_eq!(barrier.wait().unwrap(), 1);
        assert_eq!(party.join().unwrap().unwrap(), 0);
    });
}
