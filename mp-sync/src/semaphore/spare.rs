//! Permits beyond the words: a count of those that are free, one of those that are held by nobody knows whom.
//!
//! When a process dies, what it held of these stays lost; a death while one moves to a word loses and doubles nothing.
//!
//! # Design
//!
//! `spare` is one word with three parts: how many are free, how many are held without a word, and the word that one is moving
//! to. Permits are added by one exchange, without the lock. Who takes one gives it a word, so that its owner is known; that
//! takes two exchanges, so it is done under the lock, in steps from which the next holder of the lock can see what is
//! missing:
//!
//! | step                                     | if the process dies after it, the next one               |
//! |------------------------------------------|----------------------------------------------------------|
//! | a word without a permit becomes `MOVING` | makes it `ABSENT` again: nothing has moved               |
//! | one less is free, and the word is noted  | makes it `FREE`: it is there already                     |
//! | the word names its holder                | clears the note; the permit is that of a dead holder     |
//! | the note is cleared                      | has nothing to do                                        |
//!
//! Nobody but the holder of the lock makes or changes a `MOVING` word. Only if no word is without a permit, one is held
//! without a word.

#[cfg(not(loom))]
use std::time::Duration;

use mp_core::deadline::Deadline;
use mp_core::futex::{AtomicU64, Ordering::*};

use super::permits::{ABSENT, Denied, FREE, MOVING, Permits, Taken};
use crate::holder::Holder;
use crate::raw_lock::Hold;

/// How many are free.
const FREE_BITS: u32 = 31;
/// How many are held without a word.
const HELD_BITS: u32 = 17;
const ONE_FREE: u64 = 1;
const ONE_HELD: u64 = 1 << FREE_BITS;
const MAX_HELD: u64 = (1 << HELD_BITS) - 1;
/// The word that one moves to, plus one; 0 if none does.
const NOTE: u64 = u64::MAX << (FREE_BITS + HELD_BITS);

/// So many words can be noted.
pub(super) const MAX_WORDS: usize = (1 << (u64::BITS - FREE_BITS - HELD_BITS)) - 1;

fn free(spare: u64) -> u64 {
    spare & (ONE_HELD - 1)
}

fn held(spare: u64) -> u64 {
    (spare & !NOTE) >> FREE_BITS
}

fn note(index: usize) -> u64 {
    (index as u64 + 1) << (FREE_BITS + HELD_BITS)
}

fn noted(spare: u64) -> Option<usize> {
    ((spare & NOTE) >> (FREE_BITS + HELD_BITS)).checked_sub(1).map(|index| index as usize)
}

/// The exchange to `next(spare)`, if that is anything; what it was before.
fn update(spare: &AtomicU64, mut next: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
    let mut now = spare.load(SeqCst);
    loop {
        match spare.compare_exchange(now, next(now)?, SeqCst, SeqCst) {
            Ok(before) => return Some(before),
            Err(changed) => now = changed,
        }
    }
}

impl Permits<'_> {
    /// Whether there may be one, or one that a dead process has not finished to move.
    pub(super) fn has_spare(self) -> bool {
        let spare = self.head.spare.load(SeqCst);
        free(spare) != 0 || spare & NOTE != 0
    }

    pub(super) fn spare_count(self) -> u32 {
        free(self.head.spare.load(Relaxed)) as u32
    }

    /// Brings one more, unless there are as many as there may be. The lock is needed only by who relies on a refusal.
    pub(super) fn add_spare(self) -> bool {
        let room = u64::from(self.head.limit.load(Relaxed)).saturating_sub(self.words.len() as u64);
        let add = |spare| (free(spare) + held(spare) < room).then_some(spare + ONE_FREE);
        let added = update(&self.head.spare, add).is_some();
        if added {
            self.notify();
        }
        added
    }

    /// One that was held without a word is free again.
    pub(super) fn return_spare(self) {
        update(&self.head.spare, |spare| (held(spare) != 0).then(|| spare - ONE_HELD + ONE_FREE));
    }

    /// One that was held without a word is gone.
    pub(super) fn forget_spare(self) {
        update(&self.head.spare, |spare| (held(spare) != 0).then(|| spare - ONE_HELD));
    }

    /// Takes one and gives it a word, if there is one.
    #[cold]
    pub(super) fn take_spare(self, me: Holder) -> Result<Option<Taken>, Denied> {
        self.with_lock(brief(), || self.take_spare_locked(me)).unwrap_or(Ok(None))
    }

    fn take_spare_locked(self, me: Holder) -> Result<Option<Taken>, Denied> {
        let taken = |place| Ok(Some(Taken::at(place, me)));
        let Some(index) = self.claim_gap() else {
            return if self.take_nowhere()? { taken(Taken::NOWHERE) } else { Ok(None) };
        };
        if !self.move_to(index) {
            self.words[index].store(ABSENT, Release);
            return Ok(None);
        }
        self.words[index].store(me.bits(), Release);
        self.clear_note();
        taken(index as u32)
    }

    /// The first step: a word for it.
    pub(super) fn claim_gap(self) -> Option<usize> {
        let is_claimed = |word: &AtomicU64| {
            word.load(Relaxed) == ABSENT && word.compare_exchange(ABSENT, MOVING, Relaxed, Relaxed).is_ok()
        };
        self.words.iter().position(is_claimed)
    }

    /// The second step; `false` if there is none any more.
    pub(super) fn move_to(self, index: usize) -> bool {
        let moves = |spare| (free(spare) != 0).then(|| (spare - ONE_FREE) | note(index));
        update(&self.head.spare, moves).is_some()
    }

    /// Takes one without a word; `false` if there is none any more.
    fn take_nowhere(self) -> Result<bool, Denied> {
        let mut full = false;
        let before = update(&self.head.spare, |spare| {
            full = free(spare) != 0 && held(spare) == MAX_HELD;
            (free(spare) != 0 && !full).then(|| (spare - ONE_FREE) + ONE_HELD)
        });
        if full { Err(Denied::TooMany) } else { Ok(before.is_some()) }
    }

    pub(super) fn clear_note(self) {
        self.head.spare.fetch_and(!NOTE, SeqCst);
    }

    /// Runs `work` under the lock, after finishing what a dead holder had begun; nothing if the deadline passes first.
    pub(super) fn with_lock<R>(self, deadline: Option<Deadline>, work: impl FnOnce() -> R) -> Option<R> {
        let acquired = self.head.lock.acquire(Hold::Guarded, deadline)?;
        if acquired.owner_died().is_some() {
            self.repair();
        }
        let result = work();
        self.head.lock.release_guarded(&acquired);
        Some(result)
    }

    /// For the holder of the lock whose predecessor died. If we die in here, our successor does the same.
    fn repair(self) {
        let noted = noted(self.head.spare.load(SeqCst));
        if let Some(index) = noted
            && index < self.words.len()
            && self.exchange(index, MOVING, FREE)
        {
            self.brought(index);
        }
        self.clear_note();
        for word in self.words {
            if word.load(Relaxed) == MOVING {
                word.store(ABSENT, Release);
            }
        }
    }
}

/// How long one waits for the lock who will look again anyway: longer than it takes to see that its holder is dead.
#[cfg(not(loom))]
fn brief() -> Option<Deadline> {
    Some(Deadline::after(Duration::from_millis(40)))
}

/// A model must not depend on the clock.
#[cfg(loom)]
fn brief() -> Option<Deadline> {
    None
}
