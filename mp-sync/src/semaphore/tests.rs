//! Semaphores within one process. Between processes they are tested in `tests/sem.rs` of the workspace, under the same ids.

use std::mem::ManuallyDrop;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mp_core::futex::Ordering::Relaxed;
use mp_core::liveness::ProcessId;
use mp_core::message::Message;
use proptest::prelude::*;

use super::permit::{acquire_timeout, release, try_acquire};
use super::permits::{CEILING, Permits};
use super::table::Table;
use super::*;
use crate::error::Error;
use crate::holder::Holder;

const LONG: Duration = Duration::from_secs(60);

/// SEM-01, SEM-03
#[test]
fn sem_01_03_counting_down_and_up() {
    let semaphore = Semaphore::new(2).unwrap();
    assert_eq!(semaphore.get_value(), 2);
    let first = semaphore.acquire().unwrap();
    assert_eq!(semaphore.get_value(), 1);
    semaphore.acquire().unwrap().forget();
    assert!(semaphore.locked());
    assert!(matches!(semaphore.try_acquire(), Err(Error::WouldBlock { what: "semaphore" })));
    drop(first);
    assert_eq!(semaphore.get_value(), 1);
    semaphore.release().unwrap();
    assert_eq!((semaphore.get_value(), semaphore.locked()), (2, false));
    // SEM-02
    semaphore.release().unwrap();
    semaphore.release().unwrap();
    assert_eq!(format!("{semaphore:?}"), "<Semaphore(value=4)>");
}

#[test]
fn sem_04_time_limits() {
    let semaphore = BoundedSemaphore::new(0).unwrap();
    let start = Instant::now();
    assert!(matches!(semaphore.try_acquire(), Err(Error::WouldBlock { .. })));
    assert!(matches!(semaphore.acquire_timeout(Duration::ZERO), Err(Error::Timeout { .. })));
    assert!(start.elapsed() < Duration::from_millis(200));
    for limit in [100, 300].map(Duration::from_millis) {
        let start = Instant::now();
        assert!(matches!(
            semaphore.acquire_timeout(limit),
            Err(Error::Timeout { what: "bounded semaphore" })
        ));
        assert!(start.elapsed() >= limit);
    }
    assert!(matches!(semaphore.release(), Err(Error::OverRelease { limit: 0, .. })));
}

#[test]
fn values_have_a_ceiling() {
    assert!(matches!(Semaphore::new(CEILING + 1), Err(Error::Invalid { .. })));
    assert!(matches!(BoundedSemaphore::new(u32::MAX), Err(Error::Invalid { .. })));
    let semaphore = Semaphore::new(CEILING - 1).unwrap();
    semaphore.release().unwrap();
    assert_eq!(semaphore.get_value(), CEILING);
    assert!(matches!(semaphore.release(), Err(Error::OverRelease { limit: CEILING, .. })));
    let permit = semaphore.acquire().unwrap();
    assert!(semaphore.release().is_err(), "the guard will give it back");
    permit.forget();
    semaphore.release().unwrap();
    assert_eq!(semaphore.get_value(), CEILING);
    let bounded = BoundedSemaphore::new(CEILING).unwrap();
    assert!(matches!(bounded.release(), Err(Error::OverRelease { limit: CEILING, .. })));
    assert_eq!(bounded.max_value(), CEILING);
}

#[test]
fn more_permits_than_words_are_held_and_come_back() {
    let semaphore = Semaphore::new(0).unwrap();
    (0..200).for_each(|_| semaphore.release().unwrap());
    let permits: Vec<_> = (0..200).map(|_| semaphore.try_acquire().unwrap()).collect();
    assert!(semaphore.try_acquire().is_err());
    assert!(permits.iter().filter(|permit| permit.taken.word().is_none()).count() >= 100);
    permits.into_iter().enumerate().for_each(|(number, permit)| match number % 2 {
        0 => drop(permit),
        _ => permit.forget(),
    });
    assert_eq!(semaphore.get_value(), 100);

    let bounded = BoundedSemaphore::new(65_600).unwrap();
    let permits: Vec<_> = (0..65_600).map(|_| bounded.try_acquire().unwrap()).collect();
    assert!(bounded.try_acquire().is_err() && bounded.release().is_err());
    permits.into_iter().rev().take(2).for_each(Permit::forget);
    assert_eq!(bounded.get_value(), 65_598);
    bounded.release().unwrap();
    bounded.release().unwrap();
    assert!(bounded.release().is_err());
    assert_eq!(bounded.get_value(), 65_600);
}

#[test]
fn travels_and_stays_the_same() {
    let semaphore = Semaphore::new(1).unwrap();
    let same: Semaphore = Message::encode(&semaphore).unwrap().decode().unwrap();
    assert!(same == semaphore && same != Semaphore::new(1).unwrap());
    let _permit = same.acquire().unwrap();
    assert!(semaphore.locked());
    let large = BoundedSemaphore::new(1000).unwrap();
    let same: BoundedSemaphore = Message::encode(&large).unwrap().decode().unwrap();
    assert_eq!((same.get_value(), same.max_value()), (1000, 1000));
    // Other shared memory of zeros is a semaphore without words; a lie about their number is found out.
    let lie = Semaphore::new(1).unwrap();
    lie.table.permits().head.len.store(60_000, Relaxed);
    let refused = Message::encode(&lie).unwrap().decode::<Semaphore>().unwrap_err().to_string();
    assert!(refused.contains("cannot hold a semaphore of 60000 words"), "{refused}");
}

#[test]
fn a_permit_wakes_a_sleeper_and_may_be_dropped_elsewhere() {
    let semaphore = Semaphore::new(1).unwrap();
    let permit = semaphore.acquire().unwrap();
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| semaphore.acquire_timeout(LONG).map(drop));
        let waits = || semaphore.table.permits().head.turn.load(Relaxed) & super::permits::WAITERS != 0;
        while !waits() {
            thread::yield_now();
        }
        scope.spawn(move || drop(permit));
        sleeper.join().unwrap().unwrap();
    });
    assert_eq!(semaphore.get_value(), 1);
}

#[test]
fn a_waiter_is_not_starved() {
    let semaphore = Semaphore::new(1).unwrap();
    let (stop, stopped) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let semaphore = &semaphore;
        scope.spawn(move || {
            // Free for some nanoseconds at a time only.
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let _permit = semaphore.acquire().unwrap();
                (0..1000).for_each(|_| std::hint::spin_loop());
            }
        });
        for _ in 0..20 {
            drop(semaphore.acquire_timeout(LONG).unwrap());
        }
        drop(stop);
    });
}

#[test]
fn many_threads_keep_the_count() {
    for (value, threads) in [(1, 4), (2, 4), (3, 3)] {
        let semaphore = BoundedSemaphore::new(value).unwrap();
        let inside = std::sync::atomic::AtomicU32::new(0);
        thread::scope(|scope| {
            for number in 0..threads {
                let (semaphore, inside) = (&semaphore, &inside);
                scope.spawn(move || {
                    for round in 0..3000 {
                        let permit = match (round + number) % 3 {
                            0 => semaphore.acquire_timeout(LONG).ok(),
                            1 => semaphore.acquire().ok(),
                            _ => semaphore.try_acquire().ok(),
                        };
                        let Some(permit) = permit else { continue };
                        assert!(inside.fetch_add(1, Relaxed) < value);
                        inside.fetch_sub(1, Relaxed);
                        if round % 5 == 0 {
                            permit.forget();
                            semaphore.release().unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(semaphore.get_value(), value);
        assert!(semaphore.release().is_err());
    }
}

/// A process that is dead, by a number of its own.
fn dead(number: u32) -> Holder {
    let me = ProcessId::current();
    Holder::of(ProcessId::from_parts(me.pid(), me.start_time() - 1 - u64::from(number)))
}

/// Puts a dead process in the place of this one.
fn die_with(permit: Permit<'_>, number: u32) -> bool {
    let permit = ManuallyDrop::new(permit);
    let permits: Permits<'_> = permit.table.permits();
    let Some(word) = permit.taken.word() else { return false };
    permits.words[word].store(dead(number).bits(), Relaxed);
    true
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire,
    Drop(usize),
    Forget(usize),
    Release,
    Die(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Acquire),
        1 => any::<usize>().prop_map(Step::Drop),
        1 => any::<usize>().prop_map(Step::Forget),
        2 => Just(Step::Release),
        1 => any::<usize>().prop_map(Step::Die),
    ];
    prop::collection::vec(step, 0..100)
}

/// Does the steps with a semaphore and with plain numbers.
fn same_as_numbers(value: u32, limit: u32, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let table = Table::new("tested", value, limit).unwrap();
    let mut held = Vec::new();
    let (mut free, mut dead, mut deaths) = (value, 0, 0);
    for step in steps {
        match step {
            Step::Acquire => {
                // An attempt looks for the dead now and then only.
                let permit = match dead {
                    0 => try_acquire(&table, "tested").ok(),
                    _ => acquire_timeout(&table, "tested", LONG).ok(),
                };
                prop_assert_eq!(permit.is_some(), free + dead > 0);
                let Some(permit) = permit else { continue };
                prop_assert_eq!(permit.owner_died().is_some(), free == 0, "the dead come last");
                if free > 0 {
                    free -= 1
                } else {
                    dead -= 1
                }
                held.push(permit);
            }
            Step::Release => {
                let refused = free + dead + held.len() as u32 >= limit;
                prop_assert_eq!(release(&table, "tested").is_err(), refused);
                free += u32::from(!refused);
            }
            Step::Drop(which) | Step::Forget(which) | Step::Die(which) if !held.is_empty() => {
                let permit = held.swap_remove(which % held.len());
                match step {
                    Step::Forget(_) => permit.forget(),
                    Step::Die(_) if permit.taken.word().is_some() => {
                        deaths += 1;
                        dead += 1;
                        prop_assert!(die_with(permit, deaths));
                    }
                    _ => {
                        drop(permit);
                        free += 1;
                    }
                }
            }
            _ => {}
        }
        prop_assert_eq!(table.permits().value(), free + dead);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_semaphore_counts_like_a_number(value in 0..5_u32, steps in steps()) {
        same_as_numbers(value, CEILING, steps)?;
    }

    #[test]
    fn near_the_end_of_the_words(value in 55..65_u32, steps in steps()) {
        same_as_numbers(value, CEILING, steps)?;
    }

    #[test]
    fn a_bounded_semaphore_counts_like_a_number(value in 0..5_u32, steps in steps()) {
        same_as_numbers(value, value, steps)?;
    }
}
