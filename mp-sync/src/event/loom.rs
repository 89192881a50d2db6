//! Events in all interleavings, with setters that are killed.

use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use mp_core::deadline::Deadline;
use mp_core::futex::{Ordering::*, WaitResult, wait, wake};

use super::{SET, Word};
use crate::holder::Holder;
use crate::loom::{explore, process};
use crate::patience;

/// An event, and something that was done before it was set.
#[derive(Default)]
struct News {
    word: Word,
    data: AtomicU32,
}

impl News {
    fn assert_seen(&self) {
        assert_eq!(self.data.load(Relaxed), 1, "what came before the set is not seen");
    }
}

#[test]
fn all_who_wait_return_when_it_is_set() {
    explore(3, || {
        let news = Arc::new(News::default());
        let waiters = [2, 3].map(|pid| {
            let news = news.clone();
            process(pid, move || {
                assert!(news.word.wait(None));
                news.assert_seen();
            })
        });
        news.data.store(1, Relaxed);
        news.word.set();
        news.word.set();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

#[test]
fn a_future_that_is_dropped_takes_no_wake_up_along() {
    explore(2, || {
        let news = Arc::new(News::default());
        // Dropped before it is told; the thread that watches the word for it may get the wake-up, and hands it back.
        let dropped = process(2, {
            let news = news.clone();
            move || {
                let Some(seen) = news.word.announce() else { return };
                if wait(&news.word.0, seen, None) == WaitResult::Woken {
                    wake(&news.word.0, 1);
                }
            }
        });
        let waiter = process(3, {
            let news = news.clone();
            move || {
                assert!(news.word.wait(None));
                news.assert_seen();
            }
        });
        news.data.store(1, Relaxed);
        news.word.set();
        dropped.join().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn who_waits_when_it_is_set_returns_though_it_is_cleared() {
    explore(3, || {
        let news = Arc::new(News::default());
        let seen = news.word.announce().unwrap();
        let setter = process(2, {
            let news = news.clone();
            move || {
                news.data.store(1, Relaxed);
                news.word.set();
            }
        });
        // Of several that clear, one does: also between the set and its wake-up.
        let clearer = process(3, {
            let news = news.clone();
            move || {
                news.word.clear();
                news.word.clear();
            }
        });
        assert!(news.word.wait_for_change(seen, None));
        news.assert_seen();
        setter.join().unwrap();
        clearer.join().unwrap();
    });
}

#[test]
fn a_later_waiter_is_not_lost_when_the_event_was_cleared() {
    explore(3, || {
        let news = Arc::new(News::default());
        let waiter = process(2, {
            let news = news.clone();
            move || assert!(news.word.wait(None))
        });
        news.word.set();
        news.word.clear();
        news.word.set();
        waiter.join().unwrap();
        assert!(news.word.is_set());
    });
}

#[test]
fn one_whose_time_is_over_is_told_the_truth() {
    explore(3, || {
        let news = Arc::new(News::default());
        let setter = process(2, {
            let news = news.clone();
            move || {
                news.data.store(1, Relaxed);
                news.word.set();
            }
        });
        if news.word.wait(Some(Deadline::now())) {
            news.assert_seen();
        }
        setter.join().unwrap();
        assert!(news.word.is_set());
    });
}

#[test]
fn a_setter_that_dies_before_it_wakes_harms_nobody() {
    explore(3, || {
        patience::model::expect_deaths();
        let news = Arc::new(News::default());
        let seen = news.word.announce().unwrap();
        let victim = process(2, {
            let news = news.clone();
            move || {
                news.data.store(1, Relaxed);
                news.word.0.fetch_or(SET, Release);
                Holder::die();
            }
        });
        let clearer = process(3, {
            let news = news.clone();
            move || news.word.clear()
        });
        assert!(news.word.wait_for_change(seen, None));
        news.assert_seen();
        victim.join().unwrap();
        clearer.join().unwrap();
    });
}
