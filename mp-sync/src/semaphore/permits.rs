//! Permits themselves, as they lie in shared memory: a word for each, which says who has it.
//!
//! When a process dies, the permits that it held go to the next who want them, within 100 ms, and these learn who died. When
//! a waiter dies nobody notices.
//!
//! # Design
//!
//! | state                      | who writes                                                                          |
//! |----------------------------|-------------------------------------------------------------------------------------|
//! | a word: [`FREE`] to holder | whoever takes the permit                                                            |
//! | holder to `FREE`           | that process; to another holder: whoever finds it dead                              |
//! | holder to [`ABSENT`]       | that process, when it gives up the ownership: there is no permit here               |
//! | `ABSENT` to `FREE`         | whoever releases                                                                    |
//! | `turn`                     | flags by waiters; cleared and counted up at once by who brings a permit, which wakes |
//! | `spare`                    | permits that have no word: see [`spare`](super::spare)                              |
//!
//! There is no counter that could come to contradict the words. Every change of a permit is one exchange, so a death lies before
//! it or after it, and the permit belongs to the dead process or to nobody.
//!
//! A waiter sets [`WAITERS`] in `turn`, then looks at all words, then sleeps while `turn` is as it was. Who brings a permit
//! exchanges the word, then looks at `turn`. As neither may look before it has written (see [`order`]), one of them sees the
//! other: the waiter is woken, or does not fall asleep, or finds the permit. Who wakes clears the flags, so that others need not
//! wake in vain while the woken one is on its way; that one sets them again before it looks, and if it finds more than it
//! needs, wakes the next. So each permit is announced to one sleeper or seen by it. If the one who wakes or the one who is woken
//! is killed, the others find out at the end of their slice.
//!
//! Looking at one word after the other may miss a permit that moves against the direction of the look. A waiter is woken
//! then. One who does not want to wait sets [`WATCHED`], and trusts its look only if nobody brought a permit meanwhile.
//!
//! Newcomers may overtake sleepers. One that was overtaken for a while sets [`STARVING`]; the next permit is then brought as
//! [`RESERVED`], which only those take who have slept, and becomes `FREE` if nobody was there to be woken.

use std::collections::HashSet;
use std::time::Instant;

use mp_core::deadline::Deadline;
#[cfg(loom)]
use mp_core::futex::fence;
#[cfg(not(loom))]
use mp_core::futex::spin_loop;
use mp_core::futex::{AtomicU32, AtomicU64, Ordering::*, WaitResult, wait, wake};

use super::hint;
use crate::glance;
use crate::holder::{DeadOwner, Holder};
use crate::patience::Patience;
use crate::raw_lock::{RawLock, is_hungry};

/// No permit here. Any other word without a flag names the holder of the permit.
pub(super) const ABSENT: u64 = 0;
/// A permit that anybody may take.
pub(super) const FREE: u64 = 1 << 63;
/// A permit for one who has slept.
pub(super) const RESERVED: u64 = 1 << 62;
/// A permit may be on its way here from the spare ones; only the holder of the lock looks further.
pub(super) const MOVING: u64 = 1 << 61;
const FLAGS: u64 = !Holder::MASK;

/// Somebody may sleep on `turn`.
pub(super) const WAITERS: u32 = 1;
/// Somebody slept in vain: the next permit is for sleepers.
pub(super) const STARVING: u32 = 2;
/// Somebody looks through the words and wants to know of permits that it may have missed.
const WATCHED: u32 = 4;
const CALLS: u32 = WAITERS | STARVING | WATCHED;
/// `turn` counts from here on.
const TURN: u32 = 8;

/// The highest value, that of POSIX semaphores.
pub(super) const CEILING: u32 = i32::MAX as u32;

/// Looks before a sleep, with twice the pause before each next one; some microseconds in all.
#[cfg(not(loom))]
const SPINS: u32 = 7;
/// Words through which a look takes as long as the spin should.
#[cfg(not(loom))]
const MANY: usize = 1024;

/// What precedes the words.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Head {
    pub turn: AtomicU32,
    /// How many words there are; never changes.
    pub len: AtomicU32,
    /// How many permits there may be in all, in whoever's hands; never changes.
    pub limit: AtomicU32,
    /// Where a permit was brought last; a hint.
    pub brought: AtomicU32,
    pub spare: AtomicU64,
    /// For permits that move between `spare` and the words, and for releases that may be refused.
    pub lock: RawLock,
}

/// A view of the permits of one semaphore.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permits<'a> {
    pub head: &'a Head,
    pub words: &'a [AtomicU64],
}

/// A permit that was taken, and what became of the one who had it before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub holder: Holder,
    /// All zero if nobody died.
    died: Holder,
    place: u32,
}

impl Taken {
    /// The place of a permit without a word: all words were taken.
    pub const NOWHERE: u32 = u32::MAX;

    pub fn at(place: u32, holder: Holder) -> Taken {
        Taken { holder, died: Holder::in_word(0), place }
    }

    /// Index of the word that says who has it.
    pub fn word(&self) -> Option<usize> {
        (self.place != Taken::NOWHERE).then_some(self.place as usize)
    }

    pub fn died(&self) -> Option<DeadOwner> {
        self.died.process().map(DeadOwner::new)
    }
}

/// Why there was no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    NotInTime,
    /// More are held at a time than can be counted.
    TooMany,
}

/// Between a write and a look at what others wrote, which must not happen first.
///
/// Both are sequentially consistent, which is all it takes, and free of charge where an exchange is a full barrier. The model
/// checker knows the order of fences only.
#[inline]
fn order() {
    #[cfg(loom)]
    fence(SeqCst);
}

impl Permits<'_> {
    /// Takes a permit as soon as there is one, or one whose holder is dead.
    ///
    /// A deadline that has passed means one attempt.
    pub fn acquire(self, deadline: Option<Deadline>) -> Result<Taken, Denied> {
        self.take_first().map_or_else(|| self.acquire_slow(Holder::current(), deadline), Ok)
    }

    /// Takes a permit if there is one, or one whose holder is found dead; holders are looked at every few milliseconds.
    pub fn try_acquire(self) -> Result<Taken, Denied> {
        self.take_first().map_or_else(|| self.try_slow(Holder::current()), Ok)
    }

    /// Takes a permit if there is one at the first look.
    #[inline]
    pub fn take_first(self) -> Option<Taken> {
        self.take_at(hint::get(self.head, self.words.len()), FREE, Holder::current())
    }

    #[inline]
    pub fn take_at(self, index: usize, from: u64, me: Holder) -> Option<Taken> {
        self.words.get(index)?.compare_exchange(from, me.bits(), Acquire, Relaxed).ok()?;
        Some(Taken::at(index as u32, me))
    }

    #[cold]
    fn acquire_slow(self, me: Holder, deadline: Option<Deadline>) -> Result<Taken, Denied> {
        if let Some(taken) = self.spin(me) {
            return Ok(taken);
        }
        let mut patience = Patience::new(deadline);
        let mut asleep_since = None;
        loop {
            let starving = asleep_since.is_some_and(is_hungry);
            let seen = self.announce(WAITERS | if starving { STARVING } else { 0 });
            if let Some(taken) = self.look(me, asleep_since.is_some())? {
                if asleep_since.is_some() {
                    self.pass_on();
                }
                return Ok(taken);
            }
            if patience.is_over() {
                return self.try_slow(me);
            }
            asleep_since.get_or_insert_with(Instant::now);
            if wait(&self.head.turn, seen, patience.next()) != WaitResult::TimedOut {
                hint::set(self.head, self.head.brought.load(Relaxed) as usize);
            } else if let Some(taken) = self.recover(me) {
                return Ok(taken);
            }
        }
    }

    #[cold]
    fn try_slow(self, me: Holder) -> Result<Taken, Denied> {
        loop {
            let seen = self.announce(WATCHED);
            if let Some(taken) = self.look(me, true)? {
                return Ok(taken);
            }
            // The flags may change, too, but only one who brings a permit counts.
            if (self.head.turn.load(SeqCst) ^ seen) / TURN == 0 {
                break;
            }
        }
        let recovered = if glance::is_due(self.head) { self.recover(me) } else { None };
        recovered.ok_or(Denied::NotInTime)
    }

    /// Announces that somebody looks for a permit from now on; `turn`, which changes when one is brought.
    ///
    /// Who wants to watch `turn` without sleeping here announces [`WAITERS`], then looks, then watches.
    pub fn announce(self, calls: u32) -> u32 {
        let mut turn = self.head.turn.load(SeqCst);
        while turn & calls != calls {
            match self.head.turn.compare_exchange(turn, turn | calls, SeqCst, SeqCst) {
                Ok(_) => turn |= calls,
                Err(now) => turn = now,
            }
        }
        order();
        turn
    }

    /// A few looks before the sleep, ever further apart: each one takes the words from the holders' caches.
    #[cfg(not(loom))]
    fn spin(self, me: Holder) -> Option<Taken> {
        let looks = if self.words.len() > MANY || self.has_spare() { 1 } else { SPINS };
        (0..looks).find_map(|round| {
            let found = self.find(me, false);
            if found.is_none() {
                (0..1 << round).for_each(|_| spin_loop());
            }
            found
        })
    }

    #[cfg(loom)]
    fn spin(self, _: Holder) -> Option<Taken> {
        None
    }

    /// Takes a permit wherever there is one.
    pub fn look(self, me: Holder, reserved: bool) -> Result<Option<Taken>, Denied> {
        match self.find(me, reserved) {
            None if self.has_spare() => self.take_spare(me),
            found => Ok(found),
        }
    }

    /// Takes a permit that has a word.
    fn find(self, me: Holder, reserved: bool) -> Option<Taken> {
        self.indices().find_map(|index| {
            let word = self.words[index].load(SeqCst);
            if word != FREE && !(word == RESERVED && reserved) {
                return None;
            }
            let taken = self.take_at(index, word, me)?;
            hint::set(self.head, index);
            Some(taken)
        })
    }

    /// All of them, from where there is likely to be one.
    fn indices(self) -> impl Iterator<Item = usize> {
        let start = hint::get(self.head, self.words.len());
        (start..self.words.len()).chain(0..start)
    }

    /// Takes a permit from a dead holder.
    pub fn recover(self, me: Holder) -> Option<Taken> {
        let mut alive = HashSet::from([me.bits()]);
        for (index, word) in self.words.iter().enumerate() {
            let seen = word.load(Relaxed);
            if !is_held(seen) || alive.contains(&seen) {
                continue;
            }
            let holder = Holder::in_word(seen);
            if !holder.has_died() {
                alive.insert(seen);
            } else if let Some(taken) = self.take_at(index, seen, me) {
                return Some(Taken { died: holder, ..taken });
            }
        }
        None
    }

    /// Gives a permit back. Does nothing in a child of a fork, which has but a copy.
    #[inline]
    pub fn give_back(self, taken: &Taken) {
        if !taken.holder.is_current() {
            return;
        }
        let Some(index) = taken.word() else { return self.give_back_nowhere() };
        if self.exchange(index, taken.holder.bits(), FREE) {
            self.brought(index);
        }
    }

    #[cold]
    fn give_back_nowhere(self) {
        self.return_spare();
        self.notify();
    }

    /// Changes a word where a permit is brought, if it is `from`; whether it was. [`brought`](Self::brought) comes next.
    #[inline]
    pub fn exchange(self, index: usize, from: u64, to: u64) -> bool {
        self.words[index].compare_exchange(from, to, SeqCst, Relaxed).is_ok()
    }

    /// After a word became `FREE` or `RESERVED`: wakes one who sleeps.
    #[inline]
    pub fn brought(self, index: usize) {
        order();
        let turn = self.head.turn.load(SeqCst);
        if turn & CALLS != 0 {
            self.brought_slow(index, turn);
        }
    }

    #[cold]
    fn brought_slow(self, index: usize, turn: u32) {
        self.head.brought.store(index as u32, Relaxed);
        if turn & STARVING != 0 {
            // A newcomer may have been faster.
            self.exchange(index, FREE, RESERVED);
        }
        if !self.notify() && self.exchange(index, RESERVED, FREE) {
            self.notify();
        }
    }

    /// Wakes one who sleeps, after a permit was brought; whether there was one.
    pub fn notify(self) -> bool {
        order();
        let mut turn = self.head.turn.load(SeqCst);
        while turn & CALLS != 0 {
            let next = (turn & !CALLS).wrapping_add(TURN);
            match self.head.turn.compare_exchange(turn, next, SeqCst, SeqCst) {
                Ok(_) => return turn & WAITERS != 0 && wake(&self.head.turn, 1) != 0,
                Err(now) => turn = now,
            }
        }
        false
    }

    /// For one who slept, and announced itself since: if there is more than it took, somebody else may sleep beside it.
    pub fn pass_on(self) {
        let is_there = |index: &usize| [FREE, RESERVED].contains(&self.words[*index].load(SeqCst));
        match self.indices().find(is_there) {
            Some(index) => self.brought(index),
            None if self.has_spare() => _ = self.notify(),
            None => {}
        }
    }

    /// Makes what the caller holds a permit of nobody: gone until somebody [`release`](Self::release)s one.
    pub fn forget(self, taken: &Taken) {
        if !taken.holder.is_current() {
            return;
        }
        let Some(index) = taken.word() else { return self.forget_spare() };
        // It is not ours only if somebody took us for dead: then it is not ours to give up.
        let _ = self.words[index].compare_exchange(taken.holder.bits(), ABSENT, Release, Relaxed);
    }

    /// Brings a permit of nobody; `false` if there are as many as there may be, in whoever's hands.
    pub fn release(self) -> bool {
        // Only one who has the lock can be sure that none is absent: otherwise others might fill one gap while we
        // look at the next.
        let refusable = self.limit() != CEILING;
        if !refusable && (self.fill_gap() || self.add_spare()) {
            return true;
        }
        self.with_lock(None, || self.fill_gap() || self.add_spare()).unwrap_or(false)
    }

    /// Brings a permit where there is none.
    fn fill_gap(self) -> bool {
        let start = hint::get(self.head, self.words.len());
        let filled = (start..self.words.len())
            .chain(0..start)
            .find(|index| self.words[*index].load(Relaxed) == ABSENT && self.exchange(*index, ABSENT, FREE));
        if let Some(index) = filled {
            self.brought(index);
        }
        filled.is_some()
    }

    /// How many permits there may be.
    pub fn limit(self) -> u32 {
        self.head.limit.load(Relaxed)
    }

    /// How many permits somebody could take now, those of dead holders among them.
    pub fn value(self) -> u32 {
        let mut alive = HashSet::from([Holder::current().bits()]);
        let is_there = |word: &&AtomicU64| {
            let word = word.load(Relaxed);
            if !is_held(word) {
                return word == FREE || word == RESERVED;
            }
            if alive.contains(&word) {
                return false;
            }
            let died = Holder::in_word(word).has_died();
            if !died {
                alive.insert(word);
            }
            died
        };
        self.words.iter().filter(is_there).count() as u32 + self.spare_count()
    }
}

/// Whether a process has it.
pub(super) fn is_held(word: u64) -> bool {
    word & FLAGS == 0 && word != ABSENT
}
