//! Futures that are dropped, as the executor and the thread that watches words treat them: a wake-up that one got goes back to
//! the word.

use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use mp_core::futex::{Ordering::*, WaitResult, wait, wake};

use super::super::{Hold, RawLock, WAITERS};
use super::Waiter;
use crate::loom::{explore, process};
use crate::patience::Look;

/// A lock, and how often somebody had it.
#[derive(Default)]
struct Counted {
    lock: RawLock,
    rounds: AtomicU32,
}

impl Counted {
    fn round(&self) {
        let acquired = self.lock.acquire(Hold::Guarded, None).unwrap();
        self.rounds.store(self.rounds.load(Relaxed) + 1, Relaxed);
        self.lock.release_guarded(&acquired);
    }

    /// A future that is polled up to `polls` times, and dropped when it was woken for the last time.
    fn dropped(&self, polls: usize) {
        let mut waiter =
            Waiter { lock: &self.lock, asleep_since: None, look: Look::default(), starving: false };
        for poll in 1..=polls {
            match waiter.attempt(Hold::Guarded) {
                Ok(acquired) => return self.lock.release_guarded(&acquired),
                Err(turn) => {
                    let woken = wait(self.lock.turn(), turn, None) == WaitResult::Woken;
                    if woken && poll == polls {
                        wake(self.lock.turn(), 1);
                    }
                }
            }
        }
    }
}

/// Nobody looks around in these models: who waits must be woken.
fn others_are_not_missed(preemptions: usize, polls: usize) {
    explore(preemptions, move || {
        let counted = Arc::new(Counted::default());
        let [dropped, other] = [counted.clone(), counted.clone()];
        let dropped = process(2, move || dropped.dropped(polls));
        let other = process(3, move || other.round());
        counted.round();
        dropped.join().unwrap();
        other.join().unwrap();
        assert_eq!(counted.rounds.load(Relaxed), 2);
        assert_eq!(counted.lock.owner.load(Relaxed) & !WAITERS, 0, "it is held or reserved");
    });
}

#[test]
fn a_future_that_is_dropped_hands_on_its_wake_up() {
    others_are_not_missed(3, 1);
}

#[test]
fn a_starving_future_that_is_dropped_leaves_no_reservation() {
    others_are_not_missed(2, 2);
}
