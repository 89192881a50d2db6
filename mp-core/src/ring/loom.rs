//! What one side of a ring publishes, in all interleavings. A thread that stops early is a process that was killed.

use std::sync::Arc;

use loom::thread;

use super::published::{Progress, Published};
use crate::futex::{Ordering::*, wait};

fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn progress(items: u64) -> Progress {
    Progress { items, place: items * 10 }
}

#[test]
fn readers_see_whole_records_in_order() {
    explore(3, || {
        let side = Arc::new(Published::default());
        let owner = thread::spawn({
            let side = side.clone();
            move || {
                for items in 1..=3 {
                    side.publish(progress(items), 1);
                }
            }
        });
        let mut last = 0;
        for _ in 0..2 {
            let (seen, _) = side.read();
            assert_eq!(seen, progress(seen.items), "torn");
            assert!(seen.items >= last);
            last = seen.items;
        }
        owner.join().unwrap();
        assert_eq!(side.read_own(), progress(3));
    });
}

#[test]
fn a_sleeper_is_woken() {
    explore(2, || {
        let side = Arc::new(Published::default());
        let sleepers: Vec<_> = (0..2)
            .map(|_| {
                let side = side.clone();
                thread::spawn(move || {
                    loop {
                        let turn = side.now();
                        let (seen, word) = side.read();
                        if seen.items == 2 {
                            return;
                        }
                        if side.announce(word) && wait(side.turn(), turn, None) == super::WaitResult::Woken {
                            side.awake(word);
                        }
                    }
                })
            })
            .collect();
        side.publish(progress(1), 2);
        side.publish(progress(2), 2);
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    });
}

#[test]
fn one_item_each_for_two_sleepers() {
    use crate::futex::AtomicU32;
    explore(2, || {
        let (side, taken) = (Arc::new(Published::default()), Arc::new(AtomicU32::new(0)));
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let (side, taken) = (side.clone(), taken.clone());
                thread::spawn(move || {
                    loop {
                        let turn = side.now();
                        let (seen, word) = side.read();
                        let got = taken.load(Acquire);
                        if u64::from(got) < seen.items {
                            if taken.compare_exchange(got, got + 1, AcqRel, Acquire).is_ok() {
                                return;
                            }
                            continue;
                        }
                        if side.announce(word) && wait(side.turn(), turn, None) == super::WaitResult::Woken {
                            side.awake(word);
                        }
                    }
                })
            })
            .collect();
        // Each wakes one only.
        side.publish(progress(1), 1);
        side.publish(progress(2), 1);
        takers.into_iter().for_each(|taker| taker.join().unwrap());
    });
}
