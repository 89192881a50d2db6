//! What one learned of a death with the lock, and has not looked at when it waits, the next one to get the lock learns.

use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use mp_core::futex::Ordering::*;

use super::super::table::Table;
use super::Interrupted;
use crate::holder::Holder;
use crate::loom::{explore, process};
use crate::patience;
use crate::raw_lock::{Hold, RawLock};

#[derive(Default)]
struct Shop {
    lock: RawLock,
    table: Table,
    stock: AtomicU32,
}

impl Shop {
    /// As `wait_for` does; the pids of those of whose deaths it has learned, when it got the lock and when it returned.
    fn wait_for_stock(&self, hold: Hold) -> [Option<u32>; 2] {
        let acquired = self.lock.acquire(hold, None).unwrap();
        let first = acquired.owner_died();
        let mut last = first;
        while self.stock.load(Relaxed) == 0 {
            let mut interrupted = Interrupted::of(&self.lock, false, last);
            assert!(self.table.wait(&mut interrupted, None));
            last = interrupted.died;
        }
        match hold {
            Hold::Guarded => self.lock.release_guarded(&acquired),
            Hold::Open => self.lock.release().unwrap(),
        }
        [first, last].map(|died| died.map(|dead| dead.pid()))
    }

    fn fill(&self) -> Option<u32> {
        let acquired = self.lock.acquire(Hold::Guarded, None).unwrap();
        self.stock.store(1, Relaxed);
        self.table.notify(usize::MAX, &self.lock);
        self.lock.release_guarded(&acquired);
        acquired.owner_died().map(|dead| dead.pid())
    }
}

fn news_reach_who_comes_next(hold: Hold) {
    explore(2, move || {
        patience::model::expect_deaths();
        let shop = Arc::new(Shop::default());
        let victim = shop.clone();
        let die = move || {
            victim.lock.acquire(Hold::Guarded, None).unwrap();
            Holder::die();
        };
        process(2, die).join().unwrap();
        let waiter = process(3, {
            let shop = shop.clone();
            move || shop.wait_for_stock(hold)
        });
        // Whoever of both comes first: one that waits keeps no news to itself.
        assert_eq!(shop.fill(), Some(2));
        assert_eq!(waiter.join().unwrap()[1], None);
        assert!(!shop.lock.is_locked());
    });
}

#[test]
fn one_who_waits_with_a_guard_passes_on_the_news_of_a_death() {
    news_reach_who_comes_next(Hold::Guarded);
}

#[test]
fn one_who_waits_without_a_guard_passes_on_the_news_of_a_death() {
    news_reach_who_comes_next(Hold::Open);
}
