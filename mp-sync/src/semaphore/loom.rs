//! The steps of permits in all their interleavings.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

use super::hint;
use super::permits::{ABSENT, CEILING, FREE, Head, MOVING, Permits, Taken};
use crate::holder::Holder;
use crate::loom::{explore, process};
use crate::patience;
use crate::raw_lock::Hold;

/// A semaphore, and how many are inside of what it guards.
struct Shared {
    head: Head,
    words: Vec<AtomicU64>,
    inside: AtomicU32,
    rounds: AtomicU32,
}

impl Shared {
    /// With so many words, of which the first `value` are permits, and so many permits beside them.
    fn new(words: usize, value: u32, limit: u32, spare: u64) -> Arc<Shared> {
        let shared = Shared {
            head: Head::default(),
            words: (0..words)
                .map(|index| AtomicU64::new(if index < value as usize { FREE } else { ABSENT }))
                .collect(),
            inside: AtomicU32::new(0),
            rounds: AtomicU32::new(0),
        };
        shared.head.limit.store(limit, Relaxed);
        shared.head.spare.store(spare, Relaxed);
        Arc::new(shared)
    }

    fn bounded(value: u32) -> Arc<Shared> {
        Shared::new(value as usize, value, value, 0)
    }

    fn permits(&self) -> Permits<'_> {
        Permits { head: &self.head, words: &self.words }
    }

    fn acquire(&self) -> Taken {
        self.permits().acquire(None).unwrap()
    }

    fn enter(&self, most: u32) {
        assert!(self.inside.fetch_add(1, Relaxed) < most, "more than {most} inside");
        self.inside.fetch_sub(1, Relaxed);
        self.rounds.fetch_add(1, Relaxed);
    }

    fn round(&self, most: u32) {
        let taken = self.acquire();
        assert_eq!(taken.died(), None);
        self.enter(most);
        self.permits().give_back(&taken);
    }
}

/// Runs `life` as process number `pid`, with the semaphore.
fn with<R: 'static>(
    pid: u32,
    shared: &Arc<Shared>,
    life: impl FnOnce(&Shared) -> R + 'static,
) -> loom::thread::JoinHandle<R> {
    let shared = shared.clone();
    process(pid, move || life(&shared))
}

#[test]
fn one_at_a_time_and_nobody_sleeps_for_ever() {
    explore(2, || {
        let shared = Shared::bounded(1);
        let others = [2, 3].map(|pid| with(pid, &shared, |shared| shared.round(1)));
        shared.round(1);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.rounds.load(Relaxed), 3);
        assert_eq!(shared.permits().value(), 1);
    });
}

#[test]
fn two_at_a_time_and_nobody_sleeps_for_ever() {
    explore(2, || {
        let shared = Shared::bounded(2);
        let others = [2, 3].map(|pid| with(pid, &shared, |shared| shared.round(2)));
        shared.round(2);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.rounds.load(Relaxed), 3);
        assert_eq!(shared.permits().value(), 2);
    });
}

#[test]
fn two_permits_wake_two_who_keep_them() {
    explore(3, || {
        let shared = Shared::new(2, 0, CEILING, 0);
        // They keep what they get: no release of theirs wakes the other.
        let sleepers =
            [2, 3].map(|pid| with(pid, &shared, |shared| assert_eq!(shared.acquire().died(), None)));
        assert!(shared.permits().release());
        assert!(shared.permits().release());
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    });
}

#[test]
fn two_who_release_at_the_same_time_wake_two() {
    explore(2, || {
        let shared = Shared::new(2, 0, CEILING, 0);
        let other = with(2, &shared, |shared| assert!(shared.permits().release()));
        let sleeper = with(3, &shared, |shared| assert_eq!(shared.acquire().died(), None));
        assert!(shared.permits().release());
        assert_eq!(shared.acquire().died(), None);
        other.join().unwrap();
        sleeper.join().unwrap();
    });
}

#[test]
fn a_reserved_permit_is_not_stuck() {
    explore(3, || {
        let shared = Shared::bounded(1);
        let other = with(2, &shared, |shared| {
            shared.round(1);
            shared.round(1);
        });
        shared.round(1);
        other.join().unwrap();
        assert!(shared.permits().try_acquire().is_ok());
    });
}

#[test]
fn a_dying_holder_is_replaced_by_one_who_is_told() {
    explore(2, || {
        patience::model::expect_deaths();
        let shared = Shared::bounded(1);
        let victim = with(2, &shared, |shared| {
            shared.acquire();
            Holder::die();
        });
        let taken = shared.acquire();
        shared.enter(1);
        shared.permits().give_back(&taken);
        victim.join().unwrap();
        // The victim may have been the last one to get it.
        let last = shared.permits().try_acquire().unwrap();
        assert!(taken.died().is_some() != last.died().is_some(), "exactly one is told");
    });
}

#[test]
fn only_one_gets_the_permit_of_the_dead() {
    explore(3, || {
        patience::model::expect_deaths();
        let shared = Shared::bounded(2);
        let keeper = shared.acquire();
        with(2, &shared, |shared| {
            shared.acquire();
            Holder::die();
        })
        .join()
        .unwrap();
        assert_eq!(shared.permits().value(), 1);
        let attempt = |shared: &Shared| {
            let taken = shared.permits().try_acquire().ok()?;
            shared.enter(1);
            shared.permits().give_back(&taken);
            taken.died()
        };
        let other = with(3, &shared, attempt);
        let told = attempt(&shared);
        assert!(told.is_some() != other.join().unwrap().is_some());
        shared.permits().give_back(&keeper);
        assert_eq!(shared.permits().value(), 2);
    });
}

#[test]
fn one_who_dies_asleep_or_awake_is_not_missed() {
    explore(2, || {
        patience::model::expect_deaths();
        let shared = Shared::bounded(1);
        // A wake-up that this one gets is lost with it.
        let victim = with(2, &shared, |shared| {
            let seen = shared.permits().announce(super::permits::WAITERS);
            mp_core::futex::wait(&shared.head.turn, seen, Some(mp_core::deadline::Deadline::FAR));
            Holder::die();
        });
        let other = with(3, &shared, |shared| shared.round(1));
        shared.round(1);
        other.join().unwrap();
        victim.join().unwrap();
        assert_eq!(shared.rounds.load(Relaxed), 2);
    });
}

#[test]
fn what_is_forgotten_outlives_its_process_until_another_releases_it() {
    explore(3, || {
        let shared = Shared::bounded(1);
        let giver = with(2, &shared, |shared| {
            let taken = shared.acquire();
            shared.permits().forget(&taken);
            Holder::die();
        });
        giver.join().unwrap();
        let waiter = with(3, &shared, |shared| shared.round(1));
        assert!(shared.permits().try_acquire().is_err());
        assert_eq!(shared.rounds.load(Relaxed), 0);
        assert!(shared.permits().release());
        waiter.join().unwrap();
        assert_eq!(shared.rounds.load(Relaxed), 1);
    });
}

#[test]
fn of_two_who_release_one_too_many_exactly_one_is_refused() {
    explore(3, || {
        let shared = Shared::bounded(2);
        let taken = shared.acquire();
        shared.permits().forget(&taken);
        let other = with(2, &shared, |shared| shared.permits().release());
        assert!(shared.permits().release() != other.join().unwrap());
        assert_eq!(shared.permits().value(), 2);
    });
}

#[test]
fn who_gives_back_a_permit_is_not_refused_because_others_do_the_same() {
    explore(3, || {
        let shared = Shared::bounded(2);
        let (first, second) = (shared.acquire(), shared.acquire());
        shared.permits().forget(&second);
        let other = with(2, &shared, |shared| shared.permits().release());
        shared.permits().forget(&first);
        // It looks at the second word first.
        Holder::become_process(hint::LAST);
        assert!(shared.permits().release());
        assert!(other.join().unwrap(), "one of the two was always absent");
        assert_eq!(shared.permits().value(), 2);
    });
}

#[test]
fn an_attempt_does_not_miss_a_permit_that_moves() {
    explore(3, || {
        let shared = Shared::bounded(2);
        let taken = shared.acquire();
        let other = with(2, &shared, |shared| shared.permits().try_acquire().is_ok());
        // Of two permits one is there at any time.
        shared.permits().give_back(&taken);
        let again = shared.permits().take_at(1, FREE, Holder::current());
        assert!(other.join().unwrap() || again.is_none(), "it looked at one after the other");
    });
}

#[test]
fn spare_permits_wake_and_find_a_word() {
    explore(2, || {
        let shared = Shared::new(1, 0, CEILING, 0);
        let sleepers = [2, 3].map(|pid| with(pid, &shared, |shared| shared.acquire().word()));
        assert!(shared.permits().release());
        assert!(shared.permits().release());
        let places = sleepers.map(|sleeper| sleeper.join().unwrap());
        assert!(places.contains(&Some(0)) && places.contains(&None), "{places:?}");
        assert_eq!(shared.permits().value(), 0);
    });
}

#[test]
fn a_spare_permit_is_neither_lost_nor_doubled_by_a_death_at_any_step() {
    for steps in 0..=4 {
        explore(2, move || {
            patience::model::expect_deaths();
            let shared = Shared::new(2, 0, CEILING, 1);
            with(2, &shared, move |shared| {
                shared.head.lock.acquire(Hold::Guarded, None).unwrap();
                let permits = shared.permits();
                if steps >= 1 {
                    assert_eq!(permits.claim_gap(), Some(0));
                }
                if steps >= 2 {
                    assert!(permits.move_to(0));
                }
                if steps >= 3 {
                    shared.words[0].store(Holder::current().bits(), Release);
                }
                if steps >= 4 {
                    permits.clear_note();
                }
                Holder::die();
            })
            .join()
            .unwrap();
            assert_eq!(shared.permits().value() + u32::from(steps == 2), 1, "after {steps} steps");
            let attempt = |shared: &Shared| shared.permits().try_acquire().is_ok();
            let other = with(3, &shared, attempt);
            let here = attempt(&shared);
            assert!(here != other.join().unwrap(), "after {steps} steps");
            assert_eq!(shared.permits().value(), 0);
            assert_eq!(shared.head.spare.load(Relaxed), 0, "after {steps} steps");
            assert!(shared.words.iter().all(|word| word.load(Relaxed) != MOVING));
        });
    }
}
