//! The steps of a link in all their interleavings.
//!
//! A thread that stops early stands for a process that was killed between two steps.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::control::{ResultControl, TaskControl};
use crate::futex::{AtomicU32, Ordering::*, wait, wake};

/// All interleavings with up to three switches that nothing forces: enough for any two-sided race, done in seconds.
fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// Slots that complain when both sides touch one at the same time.
struct Slots(Vec<UnsafeCell<u32>>);

// SAFETY: loom checks every access.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    fn new(count: usize) -> Slots {
        Slots((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    fn write(&self, number: u32, value: u32) {
        // SAFETY: loom checks that nobody else is here.
        self.0[number as usize % self.0.len()].with_mut(|slot| unsafe { *slot = value });
    }

    fn read(&self, number: u32) -> u32 {
        // SAFETY: loom checks that nobody writes.
        self.0[number as usize % self.0.len()].with(|slot| unsafe { *slot })
    }
}

#[test]
fn every_task_is_claimed_or_revoked_exactly_once() {
    model(|| {
        let control = Arc::new(TaskControl::default());
        let slots = Arc::new(Slots::new(2));
        let worker = thread::spawn({
            let (control, slots) = (control.clone(), slots.clone());
            // Three attempts; it may stop with tasks left over, or without ever seeing one.
            move || {
                (0..3).filter_map(|_| control.claim()).map(|number| slots.read(number)).collect::<Vec<_>>()
            }
        });
        slots.write(0, 10);
        slots.write(1, 11);
        control.publish(2);
        let before = control.revoke();
        let mut tasks: Vec<u32> = (before.head..before.tail).map(|number| slots.read(number)).collect();
        // The slot of a revoked task is free again: another task with the same number.
        if before.len() > 0 {
            slots.write(before.head, 12);
            control.publish(1);
        }
        tasks.extend(worker.join().unwrap());
        let left = control.revoke();
        tasks.extend((left.head..left.tail).map(|number| slots.read(number)));
        tasks.sort_unstable();
        assert_eq!(tasks, if before.len() > 0 { vec![10, 11, 12] } else { vec![10, 11] });
    });
}

#[test]
fn the_worker_is_woken() {
    model(|| {
        let control = Arc::new(TaskControl::default());
        let slots = Arc::new(Slots::new(2));
        let worker = thread::spawn({
            let (control, slots) = (control.clone(), slots.clone());
            move || {
                for expected in 0..2 {
                    let number = loop {
                        match control.claim() {
                            Some(number) => break number,
                            None => assert!(control.sleep(None)),
                        }
                    };
                    assert_eq!(slots.read(number), expected);
                }
            }
        });
        for number in 0..2 {
            slots.write(number, number);
            control.publish(1);
        }
        worker.join().unwrap();
    });
}

#[test]
fn the_worker_is_woken_after_a_revoke() {
    model(|| {
        let control = Arc::new(TaskControl::default());
        let worker = thread::spawn({
            let control = control.clone();
            move || while control.claim().is_none() && control.sleep(None) {}
        });
        control.publish(1);
        if control.revoke().len() > 0 {
            control.publish(1);
        }
        worker.join().unwrap();
    });
}

/// What the parent's epoll and eventfd do.
#[derive(Default)]
struct Bell(AtomicU32);

impl Bell {
    fn ring(&self) {
        self.0.swap(1, Release);
        wake(&self.0, 1);
    }

    fn sleep(&self) {
        while self.0.swap(0, Acquire) == 0 {
            wait(&self.0, 0, None);
        }
    }
}

#[test]
fn the_parent_hears_the_bell() {
    model(|| {
        let control = Arc::new(ResultControl::default());
        let (slots, bell) = (Arc::new(Slots::new(2)), Arc::new(Bell::default()));
        let worker = thread::spawn({
            let (control, slots, bell) = (control.clone(), slots.clone(), bell.clone());
            move || {
                for number in 0..2 {
                    slots.write(number, number);
                    if control.publish(number + 1) {
                        bell.ring();
                    }
                }
            }
        });
        let mut head = 0;
        while head < 2 {
            if control.tail() != head {
                assert_eq!(slots.read(head), head);
                head += 1;
                control.consume(head);
            } else if control.prepare_sleep(head) {
                bell.sleep();
                control.cancel_sleep();
            }
        }
        worker.join().unwrap();
    });
}

#[test]
fn the_worker_is_woken_when_there_is_room() {
    model(|| {
        let control = Arc::new(ResultControl::default());
        let worker = thread::spawn({
            let control = control.clone();
            move || {
                let _ = control.publish(1);
                while control.head() == 0 {
                    assert!(control.sleep_for_room(0, None));
                }
            }
        });
        let mut head = 0;
        // What the contract asks for: receive until there is none.
        loop {
            if control.tail() != head {
                head += 1;
                control.consume(head);
            } else {
                control.drained();
                if head == 1 {
                    break;
                }
                thread::yield_now();
            }
        }
        worker.join().unwrap();
    });
}

#[test]
fn a_worker_that_stops_anywhere_leaves_an_exact_account() {
    model(|| {
        let tasks = Arc::new(TaskControl::default());
        let results = Arc::new(ResultControl::default());
        let slots = Arc::new(Slots::new(2));
        let steps_to_live = Arc::new(AtomicU32::new(0));
        let worker = thread::spawn({
            let (tasks, results, slots) = (tasks.clone(), results.clone(), slots.clone());
            let steps_to_live = steps_to_live.clone();
            move || {
                let mut steps = 0;
                let mut sent = 0;
                loop {
                    // The parent kills it while it runs: seen late or at once, as loom likes.
                    if steps_to_live.load(Relaxed) == 1 || tasks.claim().is_none() {
                        return (steps, sent);
                    }
                    steps += 1;
                    slots.write(sent, 100 + sent);
                    if steps_to_live.load(Relaxed) == 1 {
                        return (steps, sent);
                    }
                    sent += 1;
                    let _ = results.publish(sent);
                }
            }
        });
        tasks.publish(2);
        steps_to_live.store(1, Relaxed);
        let (claimed, sent) = worker.join().unwrap();
        // What the parent does after a death: results first, then the rest.
        let tail = results.tail();
        for number in 0..tail {
            assert_eq!(slots.read(number), 100 + number);
        }
        let before = tasks.revoke();
        assert_eq!((before.head, before.tail, tail), (claimed, 2, sent));
        assert!(claimed - sent <= 1, "at most one task dies with the worker");
    });
}
