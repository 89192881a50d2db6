//! The stack of foreign frees and the tallies in all their interleavings; a thread that stops early stands for a killed
//! process.

use std::sync::Arc;

use loom::thread;

use super::ledger::{bury, claim, give_back, note, strike};
use super::stack::{push, take_all};
use crate::futex::{AtomicU32, AtomicU64, Ordering::*};

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

const DEAD: u64 = 1;
const OTHER: u64 = 2;
const OWNER: u64 = 3;

/// One slot and one block.
struct Account {
    slots: [AtomicU64; 1],
    tally: AtomicU32,
    count: AtomicU32,
    /// How often the last handle went.
    freed: AtomicU32,
}

impl Account {
    fn new(slot: u64, tally: u32, count: u32) -> Arc<Account> {
        let [tally, count, freed] = [tally, count, 0].map(AtomicU32::new);
        Arc::new(Account { slots: [AtomicU64::new(slot)], tally, count, freed })
    }

    fn settle(&self) {
        if give_back(&self.tally, &self.count) {
            self.freed.fetch_add(1, Relaxed);
        }
    }

    fn release(&self) {
        if self.count.fetch_sub(1, AcqRel) == 1 {
            self.freed.fetch_add(1, Relaxed);
        }
    }
}

#[test]
fn a_dead_process_gives_back_once_whoever_does_it() {
    loom::model(|| {
        // Two handles of the dead process, and one of somebody else.
        let account = Account::new(DEAD, 2, 3);
        let dead = |process| process == DEAD;
        let other = thread::spawn({
            let account = account.clone();
            move || {
                // A handle in a message, which arrives here.
                account.count.fetch_add(1, Relaxed);
                let slot = claim(&account.slots, OTHER, |process| !dead(process), |_| account.settle());
                if slot.is_some() {
                    note(&account.tally);
                }
                slot.is_some()
            }
        });
        let dropping = thread::spawn({
            let account = account.clone();
            move || account.release()
        });
        bury(&account.slots, OWNER, |process| !dead(process), |_| account.settle());
        let has_slot = other.join().unwrap();
        dropping.join().unwrap();
        assert_eq!(account.slots[0].load(Relaxed), if has_slot { OTHER } else { 0 });
        assert_eq!(account.tally.load(Relaxed), u32::from(has_slot));
        // The last but one goes while the message is not counted yet, or not.
        let freed = account.freed.load(Relaxed);
        assert_eq!(account.count.load(Relaxed), 1);
        assert!(freed <= 1);
    });
}

#[test]
fn a_process_that_dies_anywhere_leaves_at_most_one_count_too_many() {
    for steps in 0..=6 {
        loom::model(move || {
            // One of the owner; the process takes two, and gives one back, as far as it gets.
            let account = Account::new(DEAD, 0, 1);
            let all: [fn(&Account); 6] = [
                |account| _ = account.count.fetch_add(1, Relaxed),
                |account| note(&account.tally),
                |account| _ = account.count.fetch_add(1, Relaxed),
                |account| note(&account.tally),
                |account| strike(&account.tally),
                |account| account.release(),
            ];
            let process = thread::spawn({
                let account = account.clone();
                move || all.iter().take(steps).for_each(|step| step(&account))
            });
            process.join().unwrap();
            bury(&account.slots, OWNER, |_| false, |_| account.settle());
            let lost = u32::from(matches!(steps, 1 | 3 | 5));
            assert_eq!(account.count.load(Relaxed), 1 + lost);
            assert_eq!((account.freed.load(Relaxed), account.slots[0].load(Relaxed)), (0, 0));
        });
    }
}

#[test]
fn what_a_dead_process_had_taken_over_is_still_owed() {
    loom::model(|| {
        let account = Account::new(DEAD, 2, 3);
        let heir = thread::spawn({
            let account = account.clone();
            // It dies before it has given back anything.
            move || claim(&account.slots, OTHER, |_| false, |_| {})
        });
        bury(&account.slots, OWNER, |_| false, |_| account.settle());
        heir.join().unwrap();
        bury(&account.slots, OWNER, |_| false, |_| account.settle());
        assert_eq!((account.count.load(Relaxed), account.tally.load(Relaxed)), (1, 0));
    });
}
