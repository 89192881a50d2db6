//! Every primitive while random ones of those who use it are killed at random moments: nobody hangs, and no state is wrong
//! (NA-3, NA-4). `MP_TEST_KILLS` is the number of kills a primitive, `MP_TEST_SEED` chooses them.

mod common;
#[path = "sync_kills/referee.rs"]
mod referee;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::{SOON, is_running};
use mp_sync::{Barrier, BrokenReason, Condition, DeadOwner, Error, Event, Lock, RLock, Semaphore};
use multiprocess::core::arena::Shared;
use multiprocess::{Array, Value};
use referee::{Board, Worker, kills};

/// A primitive, unless something else is asked for.
const KILLS: u64 = 500;

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

/// Numbers that lie beside their lock, changed through its guard.
#[test]
fn na_03_a_value_and_an_array() {
    type Both = (Value<[u64; 2]>, Array<u64>);
    /// Makes good what a dead one left, then changes the two numbers, one after the other.
    fn change(worker: &mut Worker<Both>, numbers: &mut [u64], died: Option<DeadOwner>) {
        if let Some(dead) = died {
            assert!(!is_running(dead.pid()), "process {} is said to be dead", dead.pid());
            numbers[1] = numbers[0];
        }
        assert_eq!(numbers[0], numbers[1], "the change of one who is not said to be dead is not whole");
        numbers[0] += 1;
        worker.dawdle();
        numbers[1] += 1;
    }
    let both = (Value::new([0; 2]).expect("a value"), Array::zeroed(2).expect("an array"));
    let life = |mut worker: Worker<Both>| {
        let (value, array) = worker.thing.clone();
        while worker.goes_on() {
            let mut guard = worker.wait(|_| value.lock()).expect("the lock");
            let died = guard.owner_died();
            change(&mut worker, &mut *guard, died);
            drop(guard);
            let mut guard = worker.wait(|_| array.lock()).expect("the lock");
            let died = guard.owner_died();
            change(&mut worker, &mut guard, died);
            drop(guard);
            // Not whole, perhaps, but never torn: whoever writes has the lock.
            let [one, other] = worker.wait(|_| value.get()).expect("numbers");
            assert!(one == other || one == other + 1, "{one} and {other}");
        }
    };
    kills("value and array", &both, 4, life, |_| ());
    // Perhaps nobody has had one of them since its last holder was killed.
    let settle = |numbers: &[u64], died: Option<DeadOwner>| {
        assert!(died.is_some() || numbers[0] == numbers[1], "{numbers:?}");
        assert!(numbers[0] > 0);
    };
    let (value, array) = both;
    let guard = value.lock_timeout(SOON).expect("the lock");
    settle(&*guard, guard.owner_died());
    drop(guard);
    let guard = array.lock_timeout(SOON).expect("the lock");
    settle(&guard, guard.owner_died());
    drop(guard);
    assert!(value.lock().expect("the lock").owner_died().is_none(), "told once");
    assert!(array.lock().expect("the lock").owner_died().is_none(), "told once");
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

#[test]
fn na_03_a_semaphore() {
    const PERMITS: usize = 3;
    let semaphore = Semaphore::new(PERMITS as u32).expect("a semaphore");
    let life = |mut worker: Worker<Semaphore>| {
        let (semaphore, board) = (worker.thing.clone(), worker.board.clone());
        let seats = &board.words[..PERMITS];
        let me = u64::from(std::process::id());
        while worker.goes_on() {
            let permit = worker.wait(|_| semaphore.acquire()).expect("a permit");
            if let Some(dead) = permit.owner_died() {
                assert!(!is_running(dead.pid()), "process {} is said to be dead", dead.pid());
            }
            // As many seats as permits: one is free, or left by a dead one.
            let sit = |seat: &AtomicU64| {
                let before = seat.load(SeqCst);
                (before == 0 || !is_running(before as u32))
                    && seat.compare_exchange(before, me, SeqCst, SeqCst).is_ok()
            };
            // Others that sit down meanwhile may be in the way more than once.
            let seat = (0..100).find_map(|_| seats.iter().find(|seat| sit(seat))).expect("a seat");
            worker.dawdle();
            assert_eq!(seat.swap(0, SeqCst), me, "somebody else has this permit, too");
            drop(permit);
            worker.dawdle();
        }
    };
    kills("semaphore", &semaphore, 6, life, |_| ());
    let permits: Vec<_> = (0..PERMITS).map(|_| semaphore.acquire_timeout(SOON).expect("a permit")).collect();
    assert!(semaphore.try_acquire().is_err(), "there is one too many");
    drop(permits);
    assert_eq!(semaphore.get_value(), PERMITS as u32);
}

#[test]
fn na_04_a_condition() {
    const MOST: u64 = 10;
    let condition = Condition::new().expect("a condition");
    let life = |mut worker: Worker<Condition>| {
        let (condition, board) = (worker.thing.clone(), worker.board.clone());
        let tokens = &board.words[8];
        while worker.goes_on() {
            let mut guard = worker.wait(|_| condition.lock()).expect("the lock");
            if worker.number < 2 {
                // Told each time, as one who was told may have been killed before it took its token.
                change_what_is_guarded(&mut worker, guard.owner_died());
                tokens.store((tokens.load(SeqCst) + 1).min(MOST), SeqCst);
                assert!(condition.notify(1).expect("notified") <= 1);
            } else {
                let ready = || tokens.load(SeqCst) > 0 || board.has_stopped();
                worker.wait(|_| condition.wait_for(&mut guard, ready)).expect("told");
                change_what_is_guarded(&mut worker, guard.owner_died());
                tokens.store(tokens.load(SeqCst).saturating_sub(1), SeqCst);
            }
            drop(guard);
            worker.dawdle();
        }
    };
    let wake = |condition: &Condition| {
        let _guard = condition.lock_timeout(SOON).expect("the lock");
        condition.notify_all().expect("notified");
    };
    kills("condition", &condition, 6, life, wake);
    let _guard = condition.lock_timeout(SOON).expect("the lock");
    assert_eq!(condition.notify_all().expect("notified"), 0, "a dead one still waits");
}

#[test]
fn na_04_an_event() {
    let event = Event::new().expect("an event");
    let life = |mut worker: Worker<Event>| {
        while worker.goes_on() {
            if worker.number < 2 {
                worker.thing.set();
                worker.thing.clear();
            } else {
                worker.wait(Event::wait);
            }
            worker.dawdle();
        }
    };
    kills("event", &event, 6, life, Event::set);
    event.clear();
    assert!(!event.wait_timeout(Duration::from_millis(1)));
    event.set();
    assert!(event.wait_timeout(SOON));
}
