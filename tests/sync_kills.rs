//! Every primitive while random ones of those who use it are killed at random moments: nobody hangs, and no state is wrong
//! (NA-3, NA-4). `MP_TEST_KILLS` is the number of kills a primitive, `MP_TEST_SEED` chooses them.

mod common;
#[path = "sync_kills/referee.rs"]
mod referee;

use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::{SOON, is_running};
use mp_sync::{Barrier, BrokenReason, DeadOwner, Error, Lock, RLock};
use multiprocess::core::arena::Shared;
use referee::{Board, Worker, kills};

/// What a lock guards: who is inside, and two numbers that are the same except in the middle of a change.
fn change_what_is_guarded<T>(worker: &mut Worker<T>, died: Option<DeadOwner>) {
    let board = worker.board.clone();
    let [inside, one, other, ..] = &board.words;
    let before = inside.swap(std::process::id().into(), SeqCst);
    if before != 0 {
        assert!(!is_running(before as u32), "process {before} is inside as well");
        assert!(died.is_some(), "nobody was told that process {before} died inside");
    }
    if let Some(dead) = died {
        assert!(!is_running(dead.pid()), "process {} is said to be dead", dead.pid());
        one.store(other.load(SeqCst), SeqCst);
    }
    let number = one.load(SeqCst);
    assert_eq!(number, other.load(SeqCst), "the change of one who is not said to be dead is not whole");
    one.store(number + 1, SeqCst);
    worker.dawdle();
    assert_eq!(one.load(SeqCst), number + 1, "two are inside");
    other.store(number + 1, SeqCst);
    assert_eq!(inside.swap(0, SeqCst), std::process::id().into(), "two are inside");
}

#[test]
fn na_03_a_lock() {
    let lock = Lock::new().expect("a lock");
    let life = |mut worker: Worker<Lock>| {
        let lock = worker.thing.clone();
        while worker.goes_on() {
            let guard = worker.wait(|_| lock.lock()).expect("the lock");
            change_what_is_guarded(&mut worker, guard.owner_died());
            drop(guard);
            worker.dawdle();
        }
    };
    let board = kills("lock", &lock, 4, life, |_| ());
    let guard = lock.lock_timeout(SOON).expect("the lock");
    assert!(guard.owner_died().is_none() && board.words[1].load(SeqCst) == board.words[2].load(SeqCst));
}

#[test]
fn na_03_a_recursive_lock() {
    let lock = RLock::new().expect("a lock");
    let life = |mut worker: Worker<RLock>| {
        let lock = worker.thing.clone();
        while worker.goes_on() {
            let outer = worker.wait(|_| lock.lock()).expect("the lock");
            let inner = worker.wait(|_| lock.lock()).expect("the lock again");
            assert!(inner.owner_died().is_none());
            change_what_is_guarded(&mut worker, outer.owner_died());
            drop((outer, inner));
            assert!(!lock.is_mine());
            worker.dawdle();
        }
    };
    kills("recursive lock", &lock, 4, life, |_| ());
    let guard = lock.lock_timeout(SOON).expect("the lock");
    assert!(guard.owner_died().is_none());
}

/// The board of this worker process, for the action.
static BOARD: OnceLock<Shared<Board>> = OnceLock::new();

#[test]
fn na_04_a_barrier_with_an_action() {
    let barrier = Barrier::new(3).expect("a barrier").with_action(|| {
        BOARD.get().map(|board| board.words[0].fetch_add(1, SeqCst));
    });
    let life = |mut worker: Worker<Barrier>| {
        let acted = &BOARD.get_or_init(|| worker.board.clone()).words[0];
        while worker.goes_on() {
            let before = acted.load(SeqCst);
            let result = worker.wait(Barrier::wait);
            assert!(result.is_err() || acted.load(SeqCst) > before, "passed before the action");
            look_at(&worker, result);
            worker.dawdle();
        }
    };
    kills("barrier with an action", &barrier, 3, life, Barrier::abort);
    all_pass(&barrier);
}

#[test]
fn na_04_a_barrier_for_more_than_its_parties() {
    let barrier = Barrier::new(3).expect("a barrier");
    let life = |mut worker: Worker<Barrier>| {
        while worker.goes_on() {
            let result = match worker.random.below(50) {
                0 => {
                    let limit = Duration::from_micros(worker.random.below(500));
                    worker.wait(|barrier| barrier.wait_timeout(limit))
                }
                1 => {
                    worker.thing.reset();
                    continue;
                }
                _ => worker.wait(Barrier::wait),
            };
            look_at(&worker, result);
            worker.dawdle();
        }
    };
    kills("barrier", &barrier, 5, life, Barrier::abort);
    all_pass(&barrier);
}

/// Whether a result is one that may be; after a break everybody resets.
fn look_at(worker: &Worker<Barrier>, result: mp_sync::Result<u32>) {
    let reason = match result {
        Ok(index) => return assert!(index < worker.thing.parties()),
        // No round was open in time.
        Err(Error::Timeout { .. }) => return,
        Err(Error::BrokenBarrier { reason, .. }) => reason,
        Err(error) => panic!("{error:#}"),
    };
    match reason {
        BrokenReason::Reset => {}
        BrokenReason::TimedOut => worker.thing.reset(),
        BrokenReason::PartyDied { pid } => {
            assert!(!is_running(pid), "process {pid} is said to be dead");
            worker.thing.reset();
        }
        BrokenReason::Aborted => assert!(!worker.goes_on(), "it was aborted by nobody"),
        reason => panic!("{reason}"),
    }
}

/// A barrier that has been through all that is like a new one.
fn all_pass(barrier: &Barrier) {
    barrier.reset();
    assert_eq!((barrier.n_waiting(), barrier.broken()), (0, false));
    for _ in 0..100 {
        let mut indices: Vec<u32> = std::thread::scope(|scope| {
            let wait = || scope.spawn(|| barrier.wait_timeout(SOON).expect("passed"));
            let parties: Vec<_> = (0..barrier.parties()).map(|_| wait()).collect();
            parties.into_iter().map(|party| party.join().expect("an index")).collect()
        });
        indices.sort();
        assert_eq!(indices, (0..barrier.parties()).collect::<Vec<_>>());
    }
}
