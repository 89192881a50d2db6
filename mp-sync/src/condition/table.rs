//! Who waits on a condition, as it lies in shared memory.
//!
//! A waiter that is killed is passed over, and what it was told before it could return goes to another one. A notifier
//! that is killed has told those it came to.
//!
//! # Design
//!
//! | state     | who writes                                                                              |
//! |-----------|-----------------------------------------------------------------------------------------|
//! | `state`   | the waiter when it comes and goes, the notifier; with the lock of the condition, but for who leaves early |
//! | `ticket`  | whoever writes `state` next                                                             |
//! | `word`    | counted up by the notifier, and by who leaves early, before it wakes                    |
//! | `used`    | raised by a waiter before it takes a slot from there on                                 |
//! | `crowd`   | counted up by the notifier that calls those without a slot, before it wakes             |
//! | `crowded` | those without a slot as they come and go; 0 by the notifier that calls them             |
//!
//! A waiter takes a slot while it holds the lock, sleeps on the slot's own `word` without it, and takes the lock again
//! before it looks what became of its slot and gives it back. So no two processes ever change the table at the same time,
//! and a waiter whose time is over either was told before or is not there any more.
//!
//! `state` names the process that waits, and says whether it was `TOLD`. Telling is one exchange: a death lies before it,
//! and nobody was told, or after it, and the waiter finds out by itself at the end of its slice, if nobody wakes it. The
//! notifier tells those who have waited longest, by their tickets, and wakes exactly these; threads among them when it
//! releases the lock: until then they sleep on, moved to those who sleep for the lock. Where there was nobody to wake,
//! the waiter is about to sleep, about to leave, or dead; the dead are removed and the next one is told instead.
//!
//! Whoever is told and killed before it had the lock again leaves a slot that says `TOLD` and names a dead process. Waiters
//! look for those at the ends of their slices, and one takes the call over. A slot that is told therefore gets a new ticket,
//! which says until when one had to come to be called; later ones do not take it over.
//!
//! A future that is dropped leaves without the lock, by one exchange that competes with the notifier's. If it was told before,
//! its slot goes on to say so, but names nobody, as if it had been killed; those who may take the call over are woken to look.
//!
//! Those for whom no slot is left sleep on `crowd` together, and move into a slot when they find one. They are called all at
//! once, when nobody in a slot is left to be told.
//!
//! Programs that use the table without the lock, as is possible with an unguarded one, may confuse who is called; that is
//! why changes are exchanges all the same.

use std::array;

use mp_core::arena::InSharedMemory;
use mp_core::deadline::Deadline;
use mp_core::futex::{AtomicU32, AtomicU64, Ordering::*, fence, wait, wake, wake_all};

use crate::holder::Holder;
use crate::patience::Patience;
use crate::raw_lock::RawLock;

#[cfg(all(test, loom))]
mod loom;

/// It may go, once it has the lock.
const TOLD: u64 = 1 << 63;
/// It waits as a thread, which can sleep on until the lock is released.
const THREAD: u64 = 1 << 62;

/// As many as fit into 2 KiB.
#[cfg(not(loom))]
pub(super) const SLOTS: usize = 127;
#[cfg(loom)]
pub(super) const SLOTS: usize = 2;

/// See the module; all zero has no waiters.
#[repr(C)]
pub(super) struct Table {
    next: AtomicU32,
    used: AtomicU32,
    crowd: AtomicU32,
    crowded: AtomicU32,
    slots: [Slot; SLOTS],
}

// SAFETY: atomics only.
unsafe impl InSharedMemory for Table {}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Table>() == 2048);

#[derive(Default)]
#[repr(C)]
struct Slot {
    /// 0 is free.
    state: AtomicU64,
    ticket: AtomicU32,
    word: AtomicU32,
}

impl Slot {
    /// Whether one waits here, untold, who came before that ticket.
    fn waits_since_before(&self, ticket: u32) -> bool {
        let state = self.state.load(Relaxed);
        state != 0 && state & TOLD == 0 && is_before(self.ticket.load(Relaxed), ticket)
    }
}

impl Default for Table {
    fn default() -> Table {
        Table {
            next: AtomicU32::default(),
            used: AtomicU32::default(),
            crowd: AtomicU32::default(),
            crowded: AtomicU32::default(),
            slots: array::from_fn(|_| Slot::default()),
        }
    }
}

/// How one waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sleeps {
    /// As a thread.
    Here,
    /// As a future.
    Elsewhere,
}

/// Where one waits.
#[derive(Debug)]
pub(super) struct Place {
    /// None in the crowd.
    slot: Option<usize>,
    sleeps: Sleeps,
    ticket: u32,
    /// `crowd` when it came.
    crowd: u32,
}

/// What the table needs of the lock that guards it.
pub(super) trait Relock {
    /// Gives it up, for a while.
    fn suspend(&mut self);
    /// Has it again, as before; perhaps woken as one who sleeps for it.
    fn resume(&mut self);
}

impl Table {
    /// Waits to be told, until the deadline; whether it was. With the lock, which is given up meanwhile.
    pub(super) fn wait(&self, lock: &mut impl Relock, deadline: Option<Deadline>) -> bool {
        let mut place = self.register(Sleeps::Here);
        let mut patience = Patience::new(deadline);
        loop {
            lock.suspend();
            self.sleep(&place, &mut patience);
            lock.resume();
            if let Some(told) = self.settle(&mut place, patience.is_over()) {
                return told;
            }
        }
    }

    /// With the lock: from now on one waits here.
    pub(super) fn register(&self, sleeps: Sleeps) -> Place {
        let ticket = self.next.fetch_add(1, Relaxed);
        let slot = self.take_slot(ticket, sleeps).or_else(|| {
            self.sweep();
            self.take_slot(ticket, sleeps)
        });
        if slot.is_none() {
            self.crowded.fetch_add(1, Relaxed);
        }
        Place { slot, sleeps, ticket, crowd: self.crowd.load(Relaxed) }
    }

    fn take_slot(&self, ticket: u32, sleeps: Sleeps) -> Option<usize> {
        let me = Holder::current().bits() | if sleeps == Sleeps::Here { THREAD } else { 0 };
        self.slots.iter().enumerate().position(|(index, slot)| {
            if slot.state.load(Relaxed) != 0 {
                return false;
            }
            self.used.fetch_max(index as u32 + 1, Relaxed);
            slot.ticket.store(ticket, Relaxed);
            slot.state.compare_exchange(0, me, Release, Relaxed).is_ok()
        })
    }

    /// Without the lock: sleeps until [`settle`](Self::settle) may have something to say.
    fn sleep(&self, place: &Place, patience: &mut Patience) {
        while let Some((word, value)) = self.watch(place) {
            if patience.is_over() {
                return;
            }
            wait(word, value, patience.next());
            if self.watch(place).is_none() || self.should_look(place) {
                return;
            }
        }
    }

    /// The word that changes when one is told, and its value; none if one has been told.
    ///
    /// A change may be missed if processes are killed: look at [`should_look`](Self::should_look) now and then.
    pub(super) fn watch(&self, place: &Place) -> Option<(&AtomicU32, u32)> {
        match place.slot {
            None => (self.crowd.load(Acquire) == place.crowd).then_some((&self.crowd, place.crowd)),
            Some(index) => {
                let slot = &self.slots[index];
                // Before the state: a call that is not seen there must be seen here.
                let value = slot.word.load(Acquire);
                (slot.state.load(Acquire) & TOLD == 0).then_some((&slot.word, value))
            }
        }
    }

    /// The word that [`watch`](Self::watch) is about.
    pub(super) fn word(&self, place: &Place) -> &AtomicU32 {
        place.slot.map_or(&self.crowd, |index| &self.slots[index].word)
    }

    /// Whether it is time to take the lock and settle, though nobody said so.
    pub(super) fn should_look(&self, place: &Place) -> bool {
        let has_room = || self.slots.iter().any(|slot| slot.state.load(Relaxed) == 0);
        place.slot.is_none() && has_room() || self.left_behind(place.ticket).is_some()
    }

    /// With the lock: whether one was told, and has left; or none if one has to go on waiting.
    pub(super) fn settle(&self, place: &mut Place, is_over: bool) -> Option<bool> {
        let mut told = self.watch(place).is_none();
        if !told && let Some(dead) = self.left_behind(place.ticket) {
            // Killed in here we take it along, as if we had been killed on return: we have the lock.
            self.slots[dead].state.store(0, Relaxed);
            told = true;
        }
        if told || is_over {
            match place.slot {
                Some(index) => self.slots[index].state.store(0, Relaxed),
                None if self.crowd.load(Relaxed) == place.crowd => self.leave_crowd(),
                None => {}
            }
            return Some(told);
        }
        if place.slot.is_none() {
            place.slot = self.take_slot(place.ticket, place.sleeps);
            if place.slot.is_some() {
                self.leave_crowd();
            }
        }
        None
    }

    /// Without the lock: gives up waiting. What one was told already, another one is told instead.
    pub(super) fn leave(&self, place: &Place, lock: &RawLock) {
        let Some(index) = place.slot else { return self.leave_crowd_early(place, lock) };
        let state = &self.slots[index].state;
        let mut seen = state.load(Relaxed);
        // Not in a child of a fork, which has but a copy.
        while Holder::in_word(seen) == Holder::current() {
            let next = if seen & TOLD == 0 { 0 } else { TOLD | Holder::NOBODY.bits() };
            match state.compare_exchange(seen, next, AcqRel, Relaxed) {
                Ok(_) => return self.hand_on(),
                Err(now) => seen = now,
            }
        }
    }

    /// Wakes those who may take over what one was told that has left.
    fn hand_on(&self) {
        // Those of several who leave that come last here see what the others left, and who has gone.
        fence(SeqCst);
        let left = |slot: &&Slot| slot.state.load(Relaxed) == TOLD | Holder::NOBODY.bits();
        for call in self.used().iter().filter(left) {
            let until = call.ticket.load(Relaxed);
            let mut heirs = self.used().iter().filter(|slot| slot.waits_since_before(until)).peekable();
            if heirs.peek().is_none() && self.crowded.load(Relaxed) == 0 {
                // There will be none.
                let _ = call.state.compare_exchange(TOLD | Holder::NOBODY.bits(), 0, Relaxed, Relaxed);
            }
            for heir in heirs {
                heir.word.fetch_add(1, Release);
                wake(&heir.word, 1);
            }
        }
    }

    /// If somebody else has the lock, one too many is counted until the crowd is called.
    fn leave_crowd_early(&self, place: &Place, lock: &RawLock) {
        let Some(guard) = lock.try_guard() else { return };
        if self.crowd.load(Relaxed) == place.crowd {
            self.leave_crowd();
        }
        lock.clear_thread();
        guard.pass_on();
    }

    fn leave_crowd(&self) {
        self.crowded.store(self.crowded.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// A slot whose waiter was told, when the one with `ticket` waited already, and is dead.
    fn left_behind(&self, ticket: u32) -> Option<usize> {
        self.used().iter().position(|slot| {
            let state = slot.state.load(Acquire);
            state & TOLD != 0 && is_before(ticket, slot.ticket.load(Relaxed)) && is_gone(state)
        })
    }

    /// With `lock`, the lock: tells up to `n`, who have waited longest; how many.
    pub(super) fn notify(&self, n: usize, lock: &RawLock) -> usize {
        let mut told = 0;
        if n > 0 && self.used.load(Relaxed) > 0 {
            let mut queue = [(0, 0); SLOTS];
            for &(_, index) in self.queue(&mut queue) {
                if told == n {
                    break;
                }
                told += usize::from(self.tell(&self.slots[index], lock));
            }
        }
        let crowded = self.crowded.load(Relaxed) as usize;
        if told < n && crowded > 0 {
            self.crowd.fetch_add(1, Release);
            self.crowded.store(0, Relaxed);
            wake_all(&self.crowd);
            told += crowded.min(n - told);
        }
        told
    }

    /// Those who wait, the longest first.
    fn queue<'a>(&self, queue: &'a mut [(u32, usize); SLOTS]) -> &'a [(u32, usize)] {
        let next = self.next.load(Relaxed);
        let mut count = 0;
        for (index, slot) in self.used().iter().enumerate() {
            let state = slot.state.load(Relaxed);
            if state != 0 && state & TOLD == 0 {
                queue[count] = (u32::MAX - next.wrapping_sub(slot.ticket.load(Relaxed)), index);
                count += 1;
            }
        }
        let queue = &mut queue[..count];
        queue.sort_unstable();
        queue
    }

    /// Tells the one in this slot; whether somebody was there to hear it.
    fn tell(&self, slot: &Slot, lock: &RawLock) -> bool {
        let state = slot.state.load(Relaxed);
        slot.ticket.store(self.next.load(Relaxed), Relaxed);
        if state == 0 || slot.state.compare_exchange(state, state | TOLD, Release, Relaxed).is_err() {
            return false;
        }
        let word = slot.word.fetch_add(1, Release).wrapping_add(1);
        // It wants the lock, which we have: to wake it before the release would cost it a second sleep.
        let asleep =
            if state & THREAD != 0 { lock.wake_on_release(&slot.word, word) } else { wake(&slot.word, 1) };
        // Whoever was asleep was alive. If it is killed now, another waiter takes it over.
        if asleep == 0 && Holder::in_word(state).has_died() {
            slot.state.store(0, Relaxed);
            return false;
        }
        true
    }

    /// With the lock: frees the slots of the dead, but for calls that somebody may take over.
    fn sweep(&self) {
        let dead = |slot: &&Slot| is_gone(slot.state.load(Relaxed));
        let was_told = |slot: &&Slot| slot.state.load(Relaxed) & TOLD != 0;
        for slot in self.slots.iter().filter(|slot| !was_told(slot)).filter(dead) {
            slot.state.store(0, Relaxed);
        }
        for slot in self.slots.iter().filter(was_told).filter(dead) {
            let until = slot.ticket.load(Relaxed);
            if !self.slots.iter().any(|other| other.waits_since_before(until)) {
                slot.state.store(0, Relaxed);
            }
        }
    }

    /// How many wait, the dead left out as far as they are known.
    pub(super) fn waiters(&self) -> usize {
        let waits = |slot: &&Slot| {
            let state = slot.state.load(Relaxed);
            state != 0 && state & TOLD == 0 && !Holder::in_word(state).has_died()
        };
        self.used().iter().filter(waits).count() + self.crowded.load(Relaxed) as usize
    }

    /// The slots that were ever in use.
    fn used(&self) -> &[Slot] {
        &self.slots[..SLOTS.min(self.used.load(Relaxed) as usize)]
    }
}

/// Whether its waiter will not come back: it is dead, or left after it was told.
fn is_gone(state: u64) -> bool {
    let holder = Holder::in_word(state);
    holder == Holder::NOBODY || holder.has_died()
}

/// Tickets go round.
fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}
