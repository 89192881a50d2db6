//! The lock itself, as it lies in shared memory; everything in this crate that is held is built on it.
//!
//! When the process that holds it dies, the next one who wants it gets it within 100 ms and learns who died. When a waiter
//! dies nobody notices.
//!
//! # Design
//!
//! | state    | who writes                                                                               |
//! |----------|------------------------------------------------------------------------------------------|
//! | `owner`  | 0 to the taker, by whoever takes it; back to 0 by whoever releases it; flags by waiters   |
//! | `thread` | the holder                                                                               |
//! | `depth`  | the holder                                                                               |
//! | `turn`   | counted up by one who released with the flag `WAITERS`, before it wakes                  |
//!
//! `owner` says in one word whether it is held, by which process, and how, so there is no moment at which it is held by
//! nobody knows whom: every change is one exchange, and a death lies before it or after it.
//!
//! A waiter reads `turn`, then sets `WAITERS` on the owner that it saw, then sleeps while `turn` is as it was. Who releases
//! after the flag was set counts `turn` up and wakes one; so either the sleeper is woken or it does not fall asleep. One who
//! slept takes the lock with `WAITERS` set, because others may sleep still. If the woken one, or the one who should wake,
//! is killed, the others find out at the end of their slice.
//!
//! A condition has those it tells sleep on, moved to `turn`, until the release: to wake them before would only have them
//! sleep again. They count as sleepers when they come.
//!
//! Whoever comes may overtake the sleepers, which keeps the lock busy. A sleeper that was overtaken for [`HUNGER`] sets
//! `STARVING`: then the lock is not free after the next release but reserved for one who slept (`STARVING` without a
//! holder). Newcomers wait one slice before they count as sleepers, so a reservation for a dead process passes.
//!
//! Whoever finds that the holder is dead puts itself in its place by one exchange, marked `RECOVERING` until `thread` says
//! who it is; only one can win, and if that one dies, the next does the same.

mod asynchronous;

use std::time::{Duration, Instant};

use mp_core::arena::InSharedMemory;
use mp_core::deadline::Deadline;
#[cfg(not(loom))]
use mp_core::futex::spin_loop;
use mp_core::futex::{AtomicU32, AtomicU64, Ordering::*, WaitResult, move_one, wait, wake};

use crate::glance;
use crate::holder::{DeadOwner, Holder};
use crate::patience::Patience;
use crate::thread;

pub(crate) use self::asynchronous::acquire as acquire_async;

/// Somebody may sleep on `turn`.
const WAITERS: u64 = 1 << 63;
/// Anybody may release it: no guard has it. So what guards do most often takes no flag.
const OPEN: u64 = 1 << 62;
/// The holder took it from a dead one and has not yet said which thread it is.
const RECOVERING: u64 = 1 << 61;
/// The next release must not let newcomers in; without a holder: only those who slept may take it.
const STARVING: u64 = 1 << 60;
/// Released by one whom a starving waiter watched.
const RESERVED: u64 = STARVING | WAITERS;

/// Looks at the word before a sleep, with twice the pause before each next one; some microseconds in all.
#[cfg(not(loom))]
const SPINS: u32 = 7;
/// How long a sleeper lets itself be overtaken.
const HUNGER: Duration = Duration::from_millis(1);

/// A lock word with its company; all zero is free. See the module.
///
/// For structures that have a lock inside their own memory; everybody else uses [`Lock`](crate::Lock).
#[derive(Debug, Default)]
#[repr(C)]
pub struct RawLock {
    owner: AtomicU64,
    thread: AtomicU64,
    turn: AtomicU32,
    depth: AtomicU32,
}

// SAFETY: atomics only.
unsafe impl InSharedMemory for RawLock {}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// By a guard, which alone may release it.
    Guarded,
    /// Until anybody calls [`RawLock::release`].
    Open,
}

impl Hold {
    #[inline]
    fn bits(self) -> u64 {
        match self {
            Hold::Guarded => 0,
            Hold::Open => OPEN,
        }
    }
}

/// The lock was taken; what became of the one who had it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// For whom it was taken: in a child of a fork that is somebody else.
    holder: Holder,
    /// All zero if nobody died.
    died: Holder,
}

impl Acquired {
    #[inline]
    pub(crate) fn by(holder: Holder) -> Acquired {
        Acquired { holder, died: Holder::in_word(0) }
    }

    /// The process that died while it held the lock, if one did: look at what the lock guards before trusting it.
    pub fn owner_died(&self) -> Option<DeadOwner> {
        self.died.process().map(DeadOwner::new)
    }

    /// Whether this process took it; not so in a child of a fork, which has but a copy of this.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.holder.is_current()
    }
}

/// Why a lock was not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody holds it.
    Free,
    /// A guard in the process with this pid has it.
    Guarded(u32),
}

impl RawLock {
    /// Takes it, as soon as it is free or its holder is dead; `None` if the deadline passes first.
    ///
    /// A deadline that has passed means one attempt.
    #[inline]
    pub fn acquire(&self, hold: Hold, deadline: Option<Deadline>) -> Option<Acquired> {
        if let taken @ Some(_) = self.acquire_at_once(hold) {
            return taken;
        }
        let me = Holder::current();
        self.spin(me, hold).or_else(|| self.acquire_slow(me, hold, deadline, None))
    }

    /// Takes it if it is free and nobody slept for it too long.
    #[inline(always)]
    pub(crate) fn acquire_at_once(&self, hold: Hold) -> Option<Acquired> {
        let me = Holder::current();
        self.owner.compare_exchange(0, me.bits() | hold.bits(), Acquire, Relaxed).ok()?;
        self.note_thread();
        Some(Acquired::by(me))
    }

    /// As [`acquire`](Self::acquire), for one that was perhaps woken as one of those who sleep here, and therefore is one.
    pub(crate) fn acquire_awoken(&self, hold: Hold) -> Option<Acquired> {
        self.acquire_slow(Holder::current(), hold, None, Some(Instant::now()))
    }

    /// Takes it if it is free, or if its holder is found dead; holders are looked at every few milliseconds.
    #[inline]
    pub fn try_acquire(&self, hold: Hold) -> Option<Acquired> {
        if let taken @ Some(_) = self.acquire_at_once(hold) {
            return taken;
        }
        self.try_slow(Holder::current(), hold)
    }

    #[cold]
    fn try_slow(&self, me: Holder, hold: Hold) -> Option<Acquired> {
        let word = self.owner.load(Relaxed);
        if word & Holder::MASK == 0 {
            return self.take(word, me, hold.bits() | (word & WAITERS));
        }
        if glance::is_due(self) { self.recover(me, hold) } else { None }
    }

    #[cold]
    fn acquire_slow(
        &self,
        me: Holder,
        hold: Hold,
        deadline: Option<Deadline>,
        mut asleep_since: Option<Instant>,
    ) -> Option<Acquired> {
        let mut patience = Patience::new(deadline);
        loop {
            // Before the owner: a release that we do not see there must be seen here.
            let turn = self.turn.load(Acquire);
            let word = self.owner.load(Relaxed);
            if word & Holder::MASK == 0
                && (word & STARVING == 0 || asleep_since.is_some() || patience.is_over())
            {
                let waiters = if asleep_since.is_some() { WAITERS } else { word & WAITERS };
                match self.take(word, me, hold.bits() | waiters) {
                    None => continue,
                    taken => return taken,
                }
            }
            if patience.is_over() {
                return self.try_slow(me, hold);
            }
            let starving = asleep_since.is_some_and(is_hungry);
            let marked = word | WAITERS | if starving { STARVING } else { 0 };
            if marked != word && self.owner.compare_exchange(word, marked, Relaxed, Relaxed).is_err() {
                continue;
            }
            asleep_since.get_or_insert_with(Instant::now);
            if wait(&self.turn, turn, patience.next()) == WaitResult::TimedOut
                && let recovered @ Some(_) = self.recover(me, hold)
            {
                return recovered;
            }
        }
    }

    /// A few looks before the sleep, ever further apart: each one takes the word from the holder's cache.
    #[cold]
    #[cfg(not(loom))]
    fn spin(&self, me: Holder, hold: Hold) -> Option<Acquired> {
        (0..SPINS).find_map(|round| {
            (0..1 << round).for_each(|_| spin_loop());
            if self.owner.load(Relaxed) == 0 { self.take(0, me, hold.bits()) } else { None }
        })
    }

    #[cfg(loom)]
    fn spin(&self, _: Holder, _: Hold) -> Option<Acquired> {
        None
    }

    /// From free or reserved to ours.
    fn take(&self, from: u64, me: Holder, flags: u64) -> Option<Acquired> {
        self.owner.compare_exchange(from, me.bits() | flags, Acquire, Relaxed).ok()?;
        self.note_thread();
        Some(Acquired::by(me))
    }

    /// For the holder: says which thread it is.
    #[inline]
    fn note_thread(&self) {
        // The release has to wait for a write, and mostly it is the same thread again.
        if !thread::is_known(self.thread.load(Relaxed)) {
            self.thread.store(thread::current(), Relaxed);
        }
    }

    /// Takes it from a dead holder.
    fn recover(&self, me: Holder, hold: Hold) -> Option<Acquired> {
        let mut word = self.owner.load(Relaxed);
        let holder = Holder::in_word(word);
        if !holder.has_died() {
            return None;
        }
        // Others may sleep, whatever the word says: whoever was to wake them may have died.
        let mine = me.bits() | hold.bits() | WAITERS | RECOVERING;
        while let Err(now) = self.owner.compare_exchange(word, mine, Acquire, Relaxed) {
            if Holder::in_word(now) != holder {
                return None;
            }
            word = now;
        }
        self.thread.store(thread::current(), Relaxed);
        self.depth.store(0, Relaxed);
        self.owner.fetch_and(!RECOVERING, Release);
        Some(Acquired { holder: me, died: holder })
    }

    /// Releases it for the guard that got `acquired`. Does nothing in a child of a fork, which has but a copy of the guard,
    /// and may hold the lock by another.
    #[inline(always)]
    pub(crate) fn release_guarded(&self, acquired: &Acquired) {
        if !acquired.is_ours() {
            return;
        }
        let mine = acquired.holder.bits();
        if self.owner.compare_exchange(mine, 0, Release, Relaxed).is_err() {
            self.release_slow(mine);
        }
    }

    #[cold]
    fn release_slow(&self, mine: u64) {
        let mut word = self.owner.load(Relaxed);
        while word & (Holder::MASK | OPEN) == mine {
            match self.leave(word) {
                Ok(()) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Releases it, whoever holds it, unless a guard does.
    ///
    /// # Errors
    /// Why it was not to be released; nothing has changed then.
    #[inline]
    pub fn release(&self) -> Result<(), Refused> {
        let mut word = self.owner.load(Relaxed);
        loop {
            let holder = Holder::in_word(word);
            if holder.bits() == 0 {
                return Err(Refused::Free);
            }
            if word & OPEN == 0 {
                return Err(Refused::Guarded(holder.process().map_or(0, |process| process.pid())));
            }
            match self.leave(word) {
                Ok(()) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// From held to free or reserved; wakes one who sleeps.
    #[inline]
    fn leave(&self, word: u64) -> Result<(), u64> {
        let next = if word & STARVING != 0 { RESERVED } else { 0 };
        self.owner.compare_exchange(word, next, Release, Relaxed)?;
        if word & WAITERS != 0 {
            self.turn.fetch_add(1, Release);
            wake(&self.turn, 1);
        }
        Ok(())
    }

    /// Ends the hold of the guard that got `acquired` as if the one who died before still had it: whoever takes it next is
    /// told of that death, too. Releases it if nobody died.
    pub(crate) fn pass_on(&self, acquired: &Acquired) {
        if acquired.died.bits() == 0 {
            return self.release_guarded(acquired);
        }
        // Others may sleep; they find out at the end of their slice, as with any dead holder.
        let left = acquired.died.bits() | WAITERS;
        self.change_guarded(acquired, |_| left);
    }

    /// Ends this process's hold of whatever kind as if `dead` had it: whoever takes it next is told of that death.
    pub(crate) fn leave_to(&self, dead: DeadOwner) {
        let me = Holder::current();
        let left = Holder::in_word(dead.process().to_word()).bits() | WAITERS;
        let mut word = self.owner.load(Relaxed);
        while Holder::in_word(word) == me {
            match self.owner.compare_exchange(word, left, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Makes what the guard that got `acquired` holds a hold of nobody, which no death ends and which anybody may release.
    pub(crate) fn hand_over(&self, acquired: &Acquired) {
        self.change_guarded(acquired, |word| word & !Holder::MASK | Holder::NOBODY.bits() | OPEN);
    }

    /// Changes the word for a guard, if this process has more of it than a copy.
    fn change_guarded(&self, acquired: &Acquired, next: impl Fn(u64) -> u64) {
        let mine = acquired.holder.bits();
        let mut word = self.owner.load(Relaxed);
        while acquired.is_ours() && word & (Holder::MASK | OPEN) == mine {
            match self.owner.compare_exchange(word, next(word), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Whether somebody holds it at this moment.
    pub fn is_locked(&self) -> bool {
        self.owner.load(Relaxed) & Holder::MASK != 0
    }

    /// Whether a guard holds it.
    pub(crate) fn is_guarded(&self) -> bool {
        let word = self.owner.load(Relaxed);
        word & Holder::MASK != 0 && word & OPEN == 0
    }

    /// Who holds it.
    pub(crate) fn holder(&self) -> Holder {
        Holder::in_word(self.owner.load(Relaxed))
    }

    /// Whether this thread of this process holds it; right for the thread itself if it cleared `thread` at each release.
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        let word = self.owner.load(Relaxed);
        word & Holder::MASK != 0
            && Holder::in_word(word).is_current()
            && word & RECOVERING == 0
            && thread::is_known(self.thread.load(Relaxed))
    }

    /// How often the holder took it; means something to the holder only.
    #[inline]
    pub(crate) fn depth(&self) -> u32 {
        self.depth.load(Relaxed)
    }

    /// For the holder: sets what [`depth`](Self::depth) says.
    #[inline]
    pub(crate) fn set_depth(&self, depth: u32) {
        self.depth.store(depth, Relaxed);
    }

    /// For the holder, before it releases: no thread is named any more, so that none takes itself for the next holder.
    #[inline]
    pub(crate) fn clear_thread(&self) {
        self.thread.store(0, Relaxed);
    }

    /// Announces a waiter that will watch [`turn`](Self::turn) without sleeping here; the value to watch. `None` if it is
    /// free.
    pub(crate) fn announce(&self) -> Option<u32> {
        let turn = self.turn.load(Acquire);
        let mut word = self.owner.load(Relaxed);
        while word & Holder::MASK != 0 {
            match self.owner.compare_exchange(word, word | WAITERS, Relaxed, Relaxed) {
                Ok(_) => return Some(turn),
                Err(now) => word = now,
            }
        }
        None
    }

    /// For the holder: has the one that sleeps on `word`, if it is `expected`, sleep on until the lock is released, which
    /// it will want next; how many it were. It has to go on with [`acquire_awoken`](Self::acquire_awoken).
    pub(crate) fn wake_on_release(&self, word: &AtomicU32, expected: u32) -> usize {
        let Some(turn) = self.announce() else { return wake(word, 1) };
        let moved = move_one(word, expected, &self.turn);
        // Somebody else released it: that wake-up may have come before the sleeper.
        if moved > 0 && self.turn.load(Acquire) != turn {
            wake(&self.turn, 1);
        }
        moved
    }

    /// The word that changes when a waiter should look again.
    pub(crate) fn turn(&self) -> &AtomicU32 {
        &self.turn
    }
}

#[cfg(not(loom))]
pub(crate) fn is_hungry(asleep_since: Instant) -> bool {
    asleep_since.elapsed() >= HUNGER
}

/// A model must not depend on the clock.
#[cfg(loom)]
pub(crate) fn is_hungry(_: Instant) -> bool {
    let _ = HUNGER;
    true
}
