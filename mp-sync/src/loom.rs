//! What the models share: threads that are processes, which may be killed between any two steps.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering::*};
use loom::thread;

use crate::holder::Holder;
use crate::patience;
use crate::raw_lock::{Hold, RawLock};

/// All interleavings with up to `preemptions` switches that nothing forces.
pub(crate) fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Runs `life` as process number `pid`.
pub(crate) fn process<R: 'static>(pid: u32, life: impl FnOnce() -> R + 'static) -> thread::JoinHandle<R> {
    thread::spawn(move || {
        Holder::become_process(pid);
        life()
    })
}

/// A lock and what it guards: loom complains about two at a time.
#[derive(Default)]
struct Guarded {
    lock: RawLock,
    inside: AtomicU32,
    rounds: AtomicU32,
}

impl Guarded {
    fn enter(&self) {
        assert_eq!(self.inside.swap(1, Relaxed), 0, "two at a time");
        // Not atomic as a whole: lost if two are inside.
        self.rounds.store(self.rounds.load(Relaxed) + 1, Relaxed);
        self.inside.store(0, Relaxed);
    }

    fn round(&self, hold: Hold) {
        let acquired = self.lock.acquire(hold, None).unwrap();
        assert!(acquired.owner_died().is_none());
        self.enter();
        match hold {
            Hold::Guarded => self.lock.release_guarded(&acquired),
            Hold::Open => self.lock.release().unwrap(),
        }
    }
}

#[test]
fn one_at_a_time_and_nobody_sleeps_for_ever() {
    explore(3, || {
        let guarded = Arc::new(Guarded::default());
        let others: Vec<_> = [2, 3]
            .map(|pid| {
                let guarded = guarded.clone();
                process(pid, move || guarded.round(Hold::Guarded))
            })
            .into();
        guarded.round(Hold::Open);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(guarded.rounds.load(Relaxed), 3);
        assert!(!guarded.lock.is_locked());
    });
}

#[test]
fn a_dying_holder_is_replaced_by_one_who_is_told() {
    explore(3, || {
        patience::model::expect_deaths();
        let guarded = Arc::new(Guarded::default());
        let victim = process(2, {
            let guarded = guarded.clone();
            move || {
                guarded.lock.acquire(Hold::Guarded, None).unwrap();
                Holder::die();
            }
        });
        let acquired = guarded.lock.acquire(Hold::Guarded, None).unwrap();
        guarded.enter();
        guarded.lock.release_guarded(&acquired);
        victim.join().unwrap();
        // The victim may have been the last one to get it.
        let last = guarded.lock.try_acquire(Hold::Open).unwrap();
        assert!(acquired.owner_died().is_some() != last.owner_died().is_some(), "exactly one is told");
    });
}

#[test]
fn only_one_takes_the_place_of_the_dead() {
    explore(3, || {
        patience::model::expect_deaths();
        let guarded = Arc::new(Guarded::default());
        let die = |guarded: Arc<Guarded>| {
            guarded.lock.acquire(Hold::Guarded, None).unwrap();
            Holder::die();
        };
        let victim = guarded.clone();
        process(2, move || die(victim)).join().unwrap();
        let survive = |guarded: &Guarded| {
            let acquired = guarded.lock.try_acquire(Hold::Guarded)?;
            guarded.enter();
            guarded.lock.release_guarded(&acquired);
            acquired.owner_died()
        };
        let other = process(3, {
            let guarded = guarded.clone();
            move || survive(&guarded)
        });
        let told = survive(&guarded);
        assert!(told.is_some() != other.join().unwrap().is_some());
        assert!(!guarded.lock.is_locked());
    });
}

#[test]
fn one_who_dies_asleep_or_awake_is_not_missed() {
    explore(2, || {
        patience::model::expect_deaths();
        let guarded = Arc::new(Guarded::default());
        // A wake-up that this one gets is lost with it.
        let victim = process(2, {
            let guarded = guarded.clone();
            move || {
                let turn = guarded.lock.announce();
                if let Some(turn) = turn {
                    mp_core::futex::wait(guarded.lock.turn(), turn, Some(mp_core::deadline::Deadline::FAR));
                }
                Holder::die();
            }
        });
        let other = process(3, {
            let guarded = guarded.clone();
            move || guarded.round(Hold::Guarded)
        });
        guarded.round(Hold::Guarded);
        other.join().unwrap();
        victim.join().unwrap();
        assert_eq!(guarded.rounds.load(Relaxed), 2);
    });
}

/// Also if somebody else than the holder releases it: before, between or behind its steps.
#[test]
fn one_who_sleeps_on_until_the_release_is_not_missed() {
    explore(3, || {
        let guarded = Arc::new(Guarded::default());
        let word = Arc::new(mp_core::futex::AtomicU32::new(0));
        guarded.lock.acquire(Hold::Open, None).unwrap();
        let sleeper = process(2, {
            let (guarded, word) = (guarded.clone(), word.clone());
            move || {
                mp_core::futex::wait(&word, 0, None);
                guarded.lock.acquire_awoken(Hold::Open).unwrap();
                guarded.enter();
                guarded.lock.release().unwrap();
            }
        });
        let stranger = process(3, {
            let guarded = guarded.clone();
            move || guarded.lock.release().unwrap()
        });
        word.store(1, Release);
        guarded.lock.wake_on_release(&word, 1);
        sleeper.join().unwrap();
        stranger.join().unwrap();
        assert!(!guarded.lock.is_locked());
    });
}

#[test]
fn what_is_handed_over_outlives_its_process() {
    explore(2, || {
        patience::model::expect_deaths();
        let guarded = Arc::new(Guarded::default());
        let giver = process(2, {
            let guarded = guarded.clone();
            move || {
                let acquired = guarded.lock.acquire(Hold::Guarded, None).unwrap();
                guarded.lock.hand_over(&acquired);
                Holder::die();
            }
        });
        giver.join().unwrap();
        let waiter = process(3, {
            let guarded = guarded.clone();
            move || guarded.round(Hold::Guarded)
        });
        assert!(guarded.lock.try_acquire(Hold::Guarded).is_none() || guarded.rounds.load(Relaxed) == 0);
        assert_eq!(guarded.rounds.load(Relaxed), 0);
        guarded.lock.release().unwrap();
        waiter.join().unwrap();
        assert_eq!(guarded.rounds.load(Relaxed), 1);
    });
}

#[test]
fn a_death_that_is_passed_on_is_told_to_the_next_one() {
    explore(2, || {
        patience::model::expect_deaths();
        let guarded = Arc::new(Guarded::default());
        let victim = guarded.clone();
        let die = move || {
            victim.lock.acquire(Hold::Guarded, None).unwrap();
            Holder::die();
        };
        process(2, die).join().unwrap();
        // One does not make good what the dead one left, the other one does; whoever comes first.
        let other = process(3, {
            let guarded = guarded.clone();
            move || {
                let acquired = guarded.lock.acquire(Hold::Guarded, None).unwrap();
                guarded.enter();
                guarded.lock.pass_on(&acquired);
                acquired.owner_died().is_some()
            }
        });
        let acquired = guarded.lock.acquire(Hold::Guarded, None).unwrap();
        guarded.enter();
        guarded.lock.release_guarded(&acquired);
        assert_eq!(acquired.owner_died().map(|dead| dead.pid()), Some(2));
        let passed_on = other.join().unwrap();
        assert!(!guarded.lock.is_locked());
        assert_eq!(guarded.rounds.load(Relaxed), 2, "passed on: {passed_on}");
    });
}

/// The copies that a child of a fork has of its parent's guards, while it has one of its own.
#[test]
fn the_copy_of_a_guard_in_a_child_has_no_effect() {
    explore(2, || {
        let guarded = Arc::new(Guarded::default());
        let parents = guarded.lock.acquire(Hold::Guarded, None).unwrap();
        let child = process(2, {
            let guarded = guarded.clone();
            move || {
                guarded.lock.release_guarded(&parents);
                guarded.lock.hand_over(&parents);
                let own = guarded.lock.acquire(Hold::Guarded, None).unwrap();
                guarded.lock.release_guarded(&parents);
                guarded.lock.pass_on(&parents);
                guarded.lock.hand_over(&parents);
                guarded.enter();
                assert!(guarded.lock.is_guarded());
                guarded.lock.release_guarded(&own);
            }
        });
        guarded.enter();
        guarded.lock.release_guarded(&parents);
        guarded.round(Hold::Guarded);
        child.join().unwrap();
        assert_eq!(guarded.rounds.load(Relaxed), 3);
        assert!(!guarded.lock.is_locked());
    });
}
