//! What one side of a ring has done so far, published to the other side by a single exchange.
//!
//! A process that dies before the exchange has done nothing; one that dies after it, before it woke the sleepers, leaves
//! them asleep until the end of their slice.
//!
//! # Design
//!
//! | state       | who writes                                                           |
//! |-------------|----------------------------------------------------------------------|
//! | `word`      | number of the current record, by the side's owner; `SLEEPER`, by sleepers; `CLOSED`, by anybody |
//! | `records`   | the owner of the side: the one that is not current                    |
//! | `turn`      | counted up by the owner, after it published, if `SLEEPER` was set     |
//!
//! The owner (whoever holds the side's lock) writes the record that is not current, then makes it current. A reader takes
//! the current record and looks again: if the number is the same, nobody can have written into what it read, because the
//! record that is written next is the other one, and the one after that only when the number has changed.
//!
//! A sleeper reads `turn`, looks, sets `SLEEPER` on the number that it has seen, and sleeps while `turn` is as it was: a publication
//! before the flag makes it fail, one after it counts `turn` up.

use crate::futex::{AtomicU32, AtomicU64, Ordering::*, fence, wake};

/// Somebody may sleep on `turn`.
const SLEEPER: u64 = 1;
/// What is current stays so.
const CLOSED: u64 = 2;
/// The number of the current record begins here.
const NUMBER: u32 = 2;

/// See the module; all zero is the beginning.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Published {
    word: AtomicU64,
    turn: AtomicU32,
    unused: AtomicU32,
    records: [[AtomicU64; 2]; 2],
}

/// How far a side is: records ever, and where the next one begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub items: u64,
    pub place: u64,
}

impl Published {
    /// The current record, and the word that it was current in. For anybody.
    #[inline]
    pub fn read(&self) -> (Progress, u64) {
        loop {
            let word = self.word.load(Acquire);
            let progress = self.record(word);
            fence(Acquire);
            let now = self.word.load(Relaxed);
            if now >> NUMBER == word >> NUMBER {
                return (progress, now);
            }
        }
    }

    /// The current record, for the owner of the side, who alone changes it.
    #[inline]
    pub fn read_own(&self) -> Progress {
        self.record(self.word.load(Relaxed))
    }

    #[inline]
    fn record(&self, word: u64) -> Progress {
        let [items, place] = &self.records[(word >> NUMBER & 1) as usize];
        Progress { items: items.load(Relaxed), place: place.load(Relaxed) }
    }

    /// For the owner: publishes, and wakes up to `sleepers` who wait for that, after `before`: a sleeper may run at once, and
    /// the owner only after it.
    #[inline]
    pub fn publish(&self, progress: Progress, sleepers: u32, before: impl FnOnce()) {
        self.exchange(progress, sleepers, 0, before);
    }

    /// As [`publish`](Self::publish), unless it is closed: false then.
    #[inline]
    pub fn publish_if_open(&self, progress: Progress, sleepers: u32, before: impl FnOnce()) -> bool {
        self.exchange(progress, sleepers, CLOSED, before)
    }

    #[inline]
    fn exchange(&self, progress: Progress, sleepers: u32, unless: u64, before_waking: impl FnOnce()) -> bool {
        let mut before = self.word.load(Relaxed);
        let number = (before >> NUMBER).wrapping_add(1);
        let [items, place] = &self.records[(number & 1) as usize];
        // Whoever reads one of these while it was reading the record before sees that the number has changed.
        items.store(progress.items, Release);
        place.store(progress.place, Release);
        // Others change the flags only.
        loop {
            if before & unless != 0 {
                return false;
            }
            let next = number << NUMBER | before & CLOSED;
            match self.word.compare_exchange(before, next, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        if before & SLEEPER != 0 {
            before_waking();
            self.rouse(sleepers);
        }
        true
    }

    /// What is current stays so for ever, except for [`publish`](Self::publish); wakes all who sleep. For anybody.
    pub fn close(&self) {
        self.word.fetch_or(CLOSED, AcqRel);
        self.shout();
    }

    /// Whether it was closed: then what is read afterwards is the last.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.word.load(Acquire) & CLOSED != 0
    }

    /// Whether a word that [`read`](Self::read) gave says that it was closed.
    #[inline]
    pub fn says_closed(word: u64) -> bool {
        word & CLOSED != 0
    }

    #[cold]
    fn rouse(&self, sleepers: u32) {
        self.turn.fetch_add(1, Release);
        wake(&self.turn, sleepers);
    }

    /// The value of [`turn`](Self::turn) at this moment; to be asked for before looking at anything else.
    #[inline]
    pub fn now(&self) -> u32 {
        self.turn.load(Acquire)
    }

    /// Says that somebody will sleep on [`turn`](Self::turn); false if the record changed since `word`.
    pub fn announce(&self, word: u64) -> bool {
        let mut now = self.word.load(Relaxed);
        loop {
            if now >> NUMBER != word >> NUMBER {
                return false;
            }
            if now & SLEEPER != 0 {
                return true;
            }
            match self.word.compare_exchange(now, now | SLEEPER, AcqRel, Relaxed) {
                Ok(_) => return true,
                Err(changed) => now = changed,
            }
        }
    }

    /// Whether the record changed since `word`.
    #[inline]
    pub fn changed(&self, word: u64) -> bool {
        self.word.load(Acquire) >> NUMBER != word >> NUMBER
    }

    /// One who announced itself at `word` was woken: others may sleep still, so the next publication must wake again, and
    /// what was published between the wake-up and now has woken nobody.
    pub fn awake(&self, word: u64) {
        let now = self.word.fetch_or(SLEEPER, AcqRel);
        if (now >> NUMBER).wrapping_sub(word >> NUMBER) > 1 {
            self.turn.fetch_add(1, Release);
            wake(&self.turn, 1);
        }
    }

    /// For one who was woken and takes nothing: the wake-up goes on to another. Not if nothing changed since `word`, so that
    /// two of them do not wake each other for ever.
    pub fn pass_on(&self, word: u64) {
        if self.changed(word) {
            wake(&self.turn, 1);
        }
    }

    /// Wakes all who sleep, for a change that is not in the record.
    pub fn shout(&self) {
        self.turn.fetch_add(1, Release);
        wake(&self.turn, u32::MAX);
    }

    /// What sleepers sleep on.
    pub fn turn(&self) -> &AtomicU32 {
        &self.turn
    }
}
