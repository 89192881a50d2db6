//! Futures that are dropped, as the executor and the thread that watches words treat them: a wake-up that one got goes back to
//! the word.

use std::sync::Arc;

use mp_core::futex::{AtomicU64, Ordering::*, WaitResult, wait, wake};

use super::super::permits::{FREE, Head, Permits};
use super::Waiter;
use crate::loom::{explore, process};
use crate::patience::Look;

struct One {
    head: Head,
    words: [AtomicU64; 1],
}

impl One {
    fn permits(&self) -> Permits<'_> {
        Permits { head: &self.head, words: &self.words }
    }

    fn round(&self) {
        let taken = self.permits().acquire(None).unwrap();
        self.permits().give_back(&taken);
    }

    /// A future that is polled up to `polls` times, and dropped when it was woken for the last time.
    fn dropped(&self, polls: usize) {
        let permits = self.permits();
        let mut waiter = Waiter { permits, asleep_since: None, look: Look::default(), starving: false };
        for poll in 1..=polls {
            match waiter.attempt().unwrap() {
                Ok(taken) => return permits.give_back(&taken),
                Err(turn) => {
                    let woken = wait(&self.head.turn, turn, None) == WaitResult::Woken;
                    if woken && poll == polls {
                        wake(&self.head.turn, 1);
                    }
                }
            }
        }
    }
}

/// Nobody looks around in these models: who waits must be woken.
fn others_are_not_missed(preemptions: usize, polls: usize) {
    explore(preemptions, move || {
        let one = Arc::new(One { head: Head::default(), words: [AtomicU64::new(FREE)] });
        one.head.limit.store(1, Relaxed);
        let [dropped, other] = [one.clone(), one.clone()];
        let dropped = process(2, move || dropped.dropped(polls));
        let other = process(3, move || other.round());
        one.round();
        dropped.join().unwrap();
        other.join().unwrap();
        assert_eq!(one.words[0].load(Relaxed), FREE, "it is held or reserved");
    });
}

#[test]
fn a_future_that_is_dropped_hands_on_its_wake_up() {
    others_are_not_missed(2, 1);
}

#[test]
fn a_starving_future_that_is_dropped_leaves_no_reservation() {
    others_are_not_missed(2, 2);
}
