//! Waiters and notifiers in all interleavings, some of them killed.

use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use mp_core::deadline::Deadline;
use mp_core::futex::{Ordering::*, WaitResult, wait, wake};

use super::{Place, Relock, Sleeps, TOLD, Table};
use crate::holder::Holder;
use crate::loom::{explore, process};
use crate::patience;
use crate::raw_lock::{Hold, RawLock};

/// A condition for something to take, and how often waits were told.
#[derive(Default)]
struct Shop {
    lock: RawLock,
    table: Table,
    stock: AtomicU32,
    told: AtomicU32,
}

impl Relock for &Shop {
    fn suspend(&mut self) {
        self.lock.release().unwrap();
    }

    fn resume(&mut self) {
        self.lock.acquire_awoken(Hold::Open).unwrap();
    }
}

impl Shop {
    fn with_lock<R>(&self, act: impl FnOnce() -> R) -> R {
        self.lock.acquire(Hold::Open, None).unwrap();
        let result = act();
        self.lock.release().unwrap();
        result
    }

    fn add(&self, atomic: &AtomicU32, n: u32) {
        atomic.store(atomic.load(Relaxed) + n, Relaxed);
    }

    fn notify(&self, stock: u32, n: usize) -> u32 {
        self.with_lock(|| {
            self.add(&self.stock, stock);
            self.table.notify(n, &self.lock) as u32
        })
    }

    fn wait(&self, deadline: Option<Deadline>) -> bool {
        let told = self.table.wait(&mut { self }, deadline);
        self.add(&self.told, told.into());
        told
    }

    fn take(&self) {
        self.with_lock(|| {
            while self.stock.load(Relaxed) == 0 {
                self.wait(None);
            }
            self.stock.store(self.stock.load(Relaxed) - 1, Relaxed);
        })
    }

    /// What one does at the end of a slice; whether it was told.
    fn look(&self, place: &mut Place) -> bool {
        (self.table.watch(place).is_none() || self.table.should_look(place))
            && self.with_lock(|| self.table.settle(place, false)) == Some(true)
    }

    /// Looks while the others run, and once more when nothing can happen any more: then it must have been told.
    fn wait_among(&self, place: &mut Place, others: [loom::thread::JoinHandle<()>; 2]) {
        let told = self.look(place);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(told || self.look(place), "it is lost what one was told");
    }

    fn assert_clean(&self) {
        assert!(self.table.slots.iter().all(|slot| slot.state.load(Relaxed) == 0), "somebody is recorded");
        assert_eq!(self.table.crowded.load(Relaxed), 0);
        assert!(!self.lock.is_locked());
    }
}

fn run(shop: &Arc<Shop>, pid: u32, life: impl FnOnce(&Shop) + 'static) -> loom::thread::JoinHandle<()> {
    let shop = shop.clone();
    process(pid, move || life(&shop))
}

#[test]
fn each_notification_lets_exactly_one_go() {
    explore(2, || {
        let shop = Arc::new(Shop::default());
        let waiters = [2, 3].map(|pid| run(&shop, pid, Shop::take));
        let told = shop.notify(1, 1) + shop.notify(1, 1);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(shop.told.load(Relaxed), told);
        shop.assert_clean();
    });
}

#[test]
fn all_go_and_nobody_sleeps_for_ever() {
    explore(3, || {
        let shop = Arc::new(Shop::default());
        let waiters = [2, 3].map(|pid| run(&shop, pid, Shop::take));
        let told = shop.notify(2, usize::MAX);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(shop.told.load(Relaxed), told);
        shop.assert_clean();
    });
}

#[test]
fn what_one_is_told_who_leaves_another_one_is_told() {
    explore(2, || {
        let shop = Arc::new(Shop::default());
        let leaver = run(&shop, 2, |shop| {
            let place = shop.with_lock(|| shop.table.register(Sleeps::Elsewhere));
            shop.table.leave(&place, &shop.lock);
        });
        // Nobody looks around in this model: it must be woken.
        let waiter = run(&shop, 3, Shop::take);
        shop.notify(1, 1);
        leaver.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(shop.stock.load(Relaxed), 0);
        shop.assert_clean();
    });
}

/// Also if it leaves while it waits for the lock, woken or not.
#[test]
fn one_who_leaves_on_its_way_back_takes_neither_call_nor_lock_along() {
    explore(2, || {
        let shop = Arc::new(Shop::default());
        let place = shop.with_lock(|| shop.table.register(Sleeps::Elsewhere));
        let waiter = run(&shop, 3, Shop::take);
        let leaver = run(&shop, 1, move |shop| {
            if shop.table.watch(&place).is_none()
                && let Some(turn) = shop.lock.announce()
                && wait(shop.lock.turn(), turn, None) == WaitResult::Woken
            {
                wake(shop.lock.turn(), 1);
            }
            shop.table.leave(&place, &shop.lock);
        });
        shop.notify(1, 1);
        leaver.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(shop.stock.load(Relaxed), 0);
        shop.assert_clean();
    });
}

#[test]
fn of_two_who_leave_neither_takes_a_call_along() {
    explore(2, || {
        let shop = Arc::new(Shop::default());
        // The one who waited longest is told, and the next one may be woken for it.
        let mut places = [0, 1].map(|_| shop.with_lock(|| shop.table.register(Sleeps::Elsewhere)));
        shop.notify(0, 1);
        let leavers = places.each_mut().map(|place| {
            let place = Place { ..*place };
            run(&shop, 1, move |shop| shop.table.leave(&place, &shop.lock))
        });
        leavers.into_iter().for_each(|leaver| leaver.join().unwrap());
        // Nobody is left who could take it over, so it must be gone.
        shop.assert_clean();
    });
}

#[test]
fn one_whose_time_is_over_was_told_or_is_gone() {
    explore(2, || {
        let shop = Arc::new(Shop::default());
        let hasty = run(&shop, 2, |shop| {
            shop.with_lock(|| shop.wait(Some(Deadline::now())));
        });
        let patient = run(&shop, 3, Shop::take);
        let told = shop.notify(0, 1);
        hasty.join().unwrap();
        let told = told + shop.notify(1, 1);
        patient.join().unwrap();
        assert_eq!(shop.told.load(Relaxed), told);
        shop.assert_clean();
    });
}

#[test]
fn what_one_is_told_who_dies_another_one_is_told() {
    explore(2, || {
        let shop = Arc::new(Shop::default());
        let victim = run(&shop, 2, |shop| {
            let place = shop.with_lock(|| shop.table.register(Sleeps::Here));
            // Told by now, or later.
            shop.table.watch(&place);
            Holder::die();
        });
        let mut place = shop.with_lock(|| shop.table.register(Sleeps::Here));
        let notifier = run(&shop, 3, |shop| assert_eq!(shop.notify(0, 1), 1));
        shop.wait_among(&mut place, [victim, notifier]);
        // What the victim left is found by those who need its place.
        shop.with_lock(|| {
            shop.table.sweep();
            assert_eq!(shop.table.waiters(), 0);
        });
        shop.assert_clean();
    });
}

#[test]
fn what_one_is_told_who_dies_with_the_lock_another_one_is_told() {
    explore(3, || {
        patience::model::expect_deaths();
        let shop = Arc::new(Shop::default());
        run(&shop, 2, |shop| _ = shop.with_lock(|| shop.table.register(Sleeps::Here))).join().unwrap();
        let mut place = shop.with_lock(|| shop.table.register(Sleeps::Here));
        // The other thread of the victim does what it had to do next.
        let victim = run(&shop, 2, |shop| {
            shop.lock.acquire(Hold::Open, None).unwrap();
            Holder::die();
        });
        assert_eq!(shop.notify(0, 1), 1);
        victim.join().unwrap();
        assert!(shop.look(&mut place), "it is lost what one was told");
        shop.assert_clean();
    });
}

/// What one does who finds no slot: room is made of all that nobody comes back for.
#[test]
fn a_sweep_takes_from_the_dead_what_nobody_takes_over() {
    const LIVES: u64 = 1;
    const DIED: u64 = 2;
    const LEFT: u64 = TOLD | Holder::NOBODY.bits();
    // State and ticket of each slot, and whether it stays.
    let cases: [[(u64, u32, bool); 2]; 9] = [
        // Who lives stays, told or not; who is dead goes.
        [(LIVES, 1, true), (DIED, 2, false)],
        [(LIVES | TOLD, 1, true), (DIED, 2, false)],
        // What was told the dead stays for who waited already, and for nobody else.
        [(LIVES, 1, true), (DIED | TOLD, 2, true)],
        [(LIVES, 3, true), (DIED | TOLD, 2, false)],
        [(LIVES, 1, true), (LEFT, 2, true)],
        [(LIVES, 3, true), (LEFT, 2, false)],
        // Neither the dead nor who was told takes anything over.
        [(DIED | TOLD, 2, false), (DIED, 1, false)],
        [(DIED, 1, false), (DIED | TOLD, 2, false)],
        [(LIVES | TOLD, 1, true), (DIED | TOLD, 2, false)],
    ];
    for (case, slots) in cases.into_iter().enumerate() {
        explore(0, move || {
            let shop = Arc::new(Shop::default());
            run(&shop, 2, |_| Holder::die()).join().unwrap();
            for (slot, (state, ticket, _)) in shop.table.slots.iter().zip(slots) {
                slot.ticket.store(ticket, Relaxed);
                slot.state.store(state, Relaxed);
            }
            shop.with_lock(|| shop.table.sweep());
            for (slot, (state, _, stays)) in shop.table.slots.iter().zip(slots) {
                assert_eq!(slot.state.load(Relaxed), if stays { state } else { 0 }, "case {case}");
            }
        });
    }
}

#[test]
fn only_who_waited_already_takes_over_what_a_dead_one_was_told() {
    explore(3, || {
        let shop = Arc::new(Shop::default());
        run(&shop, 2, |shop| {
            shop.with_lock(|| shop.table.register(Sleeps::Here));
            assert_eq!(shop.notify(0, 1), 1);
            Holder::die();
        })
        .join()
        .unwrap();
        // It came too late, whoever looks when.
        let late = run(&shop, 3, |shop| {
            let told = shop.with_lock(|| shop.wait(Some(Deadline::now())));
            assert!(!told);
        });
        shop.with_lock(|| shop.table.sweep());
        late.join().unwrap();
        shop.assert_clean();
    });
}

#[test]
fn of_two_who_wait_one_takes_over() {
    explore(3, || {
        let shop = Arc::new(Shop::default());
        run(&shop, 2, |shop| {
            shop.with_lock(|| shop.table.register(Sleeps::Here));
            Holder::die();
        })
        .join()
        .unwrap();
        let mut place = shop.with_lock(|| shop.table.register(Sleeps::Here));
        // Told, by one who took it for alive.
        shop.with_lock(|| {
            let slot = &shop.table.slots[0];
            slot.ticket.store(shop.table.next.load(Relaxed) + 1, Relaxed);
            slot.state.fetch_or(TOLD, Relaxed);
        });
        let other = run(&shop, 3, |shop| {
            let told = shop.with_lock(|| {
                let mut place = Place { slot: None, sleeps: Sleeps::Here, ticket: 1, crowd: 0 };
                shop.table.crowded.fetch_add(1, Relaxed);
                shop.table.settle(&mut place, true)
            });
            shop.add(&shop.told, (told == Some(true)).into());
        });
        let told = shop.with_lock(|| shop.table.settle(&mut place, true));
        other.join().unwrap();
        assert_eq!(shop.told.load(Relaxed) + u32::from(told == Some(true)), 1);
        shop.assert_clean();
    });
}

#[test]
fn a_notifier_that_dies_before_it_wakes_has_told() {
    explore(3, || {
        patience::model::expect_deaths();
        let shop = Arc::new(Shop::default());
        let mut place = shop.with_lock(|| shop.table.register(Sleeps::Here));
        let victim = run(&shop, 2, |shop| {
            shop.lock.acquire(Hold::Open, None).unwrap();
            shop.table.slots[0].ticket.store(shop.table.next.load(Relaxed), Relaxed);
            shop.table.slots[0].state.fetch_or(TOLD, Release);
            Holder::die();
        });
        let other = run(&shop, 3, |shop| shop.with_lock(|| {}));
        shop.wait_among(&mut place, [victim, other]);
        shop.assert_clean();
    });
}

#[test]
fn those_without_a_slot_are_called_when_nobody_else_is() {
    explore(3, || {
        let shop = Arc::new(Shop::default());
        let places =
            shop.with_lock(|| [shop.table.register(Sleeps::Here), shop.table.register(Sleeps::Here)]);
        assert!(places.iter().all(|place| place.slot.is_some()));
        let waiter = run(&shop, 2, Shop::take);
        let told = shop.notify(1, usize::MAX);
        for mut place in places {
            shop.with_lock(|| assert_eq!(shop.table.settle(&mut place, false), Some(true)));
        }
        waiter.join().unwrap();
        assert_eq!(shop.told.load(Relaxed) + 2, told);
        shop.assert_clean();
    });
}

#[test]
fn those_without_a_slot_move_into_one() {
    explore(3, || {
        patience::model::expect_deaths();
        let shop = Arc::new(Shop::default());
        let places =
            shop.with_lock(|| [shop.table.register(Sleeps::Here), shop.table.register(Sleeps::Here)]);
        let waiter = run(&shop, 2, Shop::take);
        for mut place in places {
            shop.with_lock(|| assert_eq!(shop.table.settle(&mut place, true), Some(false)));
        }
        let told = shop.notify(1, 1);
        waiter.join().unwrap();
        assert_eq!(shop.told.load(Relaxed), told);
        shop.assert_clean();
    });
}
