//! The stack of foreign frees in all its interleavings; a thread that stops early stands for a killed process.

use std::sync::Arc;

use loom::thread;

use super::stack::{push, take_all};
use crate::futex::AtomicU32;

#[test]
fn every_block_is_taken_exactly_once() {
    loom::model(|| {
        let shared = Arc::new((AtomicU32::new(0), [(); 3].map(|()| AtomicU32::new(0))));
        let pushers = [0..1, 1..3].map(|blocks| {
            let shared = shared.clone();
            thread::spawn(move || blocks.for_each(|index| push(&shared.0, &shared.1, index)))
        });
        let mut taken = Vec::new();
        let mut take = || {
            take_all(&shared.0, &shared.1, |index| {
                taken.push(index);
                true
            });
        };
        take();
        for pusher in pushers {
            pusher.join().unwrap();
        }
        take();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2]);
    });
}

#[test]
fn a_block_may_come_again_while_another_is_pushed() {
    loom::model(|| {
        let shared = Arc::new((AtomicU32::new(0), [(); 2].map(|()| AtomicU32::new(0))));
        push(&shared.0, &shared.1, 0);
        let pusher = thread::spawn({
            let shared = shared.clone();
            move || push(&shared.0, &shared.1, 1)
        });
        let mut taken = [0; 2];
        let mut take = || {
            take_all(&shared.0, &shared.1, |index| {
                taken[index as usize] += 1;
                true
            });
        };
        take();
        // The owner handed block 0 out again, and it came back: the head may look as before.
        push(&shared.0, &shared.1, 0);
        pusher.join().unwrap();
        take();
        assert_eq!(taken, [2, 1]);
    });
}
