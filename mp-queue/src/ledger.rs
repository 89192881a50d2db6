//! Which process owes `task_done` for how many items.
//!
//! # Design
//!
//! What is unfinished is the number of items ever put less the number of `task_done` calls, `done`. A process that gets items
//! notes in an entry of its own how many, before they count as taken, and how many it has done. An entry that was noted by a
//! process which was killed before the items counted as taken says too much; so what the dead owe is not read from their
//! entries but is what remains when the living have been counted.
//!
//! | state                  | who writes                                                       |
//! |------------------------|------------------------------------------------------------------|
//! | `done`, `turn`         | everybody, by one addition                                       |
//! | an entry's process     | the process that finds it free, or of a dead process without debt |
//! | an entry's counts      | its process                                                      |

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use mp_core::arena::Shared;
use mp_core::deadline::Deadline;
use mp_core::futex::{AtomicU32, AtomicU64, Ordering::*, wait, wake_all};
use mp_core::liveness::ProcessId;
use serde::{Deserialize, Serialize};

use crate::channel::SLICE;
use crate::error::{Error, Result};

/// So many processes can owe at a time; the items of others are not missed when they die.
const ENTRIES: usize = 84;
const ENTRY: usize = 3;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Process, taken, done; again and again.
    entries: Shared<[AtomicU64; ENTRIES * ENTRY]>,
    done: Shared<[AtomicU64; 1]>,
    turn: Shared<[AtomicU32; 1]>,
    /// Where our entry was last time.
    #[serde(skip)]
    mine: AtomicUsize,
}

impl Ledger {
    pub fn new() -> Result<Ledger> {
        Ok(Ledger {
            entries: Shared::new()?,
            done: Shared::new()?,
            turn: Shared::new()?,
            mine: AtomicUsize::new(0),
        })
    }

    fn entry(&self, index: usize) -> [&AtomicU64; ENTRY] {
        [0, 1, 2].map(|at| &self.entries[index % ENTRIES * ENTRY + at])
    }

    /// Our entry, if there is one.
    fn mine(&self) -> Option<[&AtomicU64; ENTRY]> {
        let me = ProcessId::current().to_word();
        let known = self.mine.load(Relaxed);
        if self.entry(known)[0].load(Relaxed) == me {
            return Some(self.entry(known));
        }
        let found = (0..ENTRIES)
            .find(|&index| self.entry(index)[0].load(Relaxed) == me)
            .or_else(|| self.claim(me))?;
        self.mine.store(found, Relaxed);
        Some(self.entry(found))
    }

    fn claim(&self, me: u64) -> Option<usize> {
        (0..ENTRIES).find(|&index| {
            let [process, taken, done] = self.entry(index);
            let owner = process.load(Acquire);
            let free = match ProcessId::from_word(owner) {
                None => true,
                Some(dead) => taken.load(Relaxed) == done.load(Relaxed) && !dead.is_alive(),
            };
            // A free entry owes nothing, so its counts may go on.
            free && process.compare_exchange(owner, me, AcqRel, Relaxed).is_ok()
        })
    }

    /// This process is about to take so many items.
    pub fn take(&self, items: u64) {
        if let Some([_, taken, _]) = self.mine() {
            taken.fetch_add(items, Relaxed);
        }
    }

    /// One item less to do, of `put` items ever put.
    pub fn done(&self, put: u64) -> Result<()> {
        let counted = |done: u64| (done < put).then_some(done + 1);
        let before = self.done[0].fetch_update(AcqRel, Relaxed, counted).map_err(|_| Error::TooManyDone)?;
        if let Some([_, _, done]) = self.mine() {
            done.fetch_add(1, Relaxed);
        }
        if before + 1 == put {
            self.turn[0].fetch_add(1, Release);
            wake_all(&self.turn[0]);
        }
        Ok(())
    }

    /// How many of `put` items are unfinished.
    pub fn unfinished(&self, put: u64) -> u64 {
        put.saturating_sub(self.done[0].load(Acquire))
    }

    /// Waits until nothing is unfinished, of `put()` items of which `got()` were taken.
    pub fn join(
        &self,
        put: impl Fn() -> u64,
        got: impl Fn() -> u64,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let deadline = Deadline::from_timeout(timeout);
        loop {
            let turn = self.turn[0].load(Acquire);
            // In this order: what is done was put.
            let done = self.done[0].load(Acquire);
            if done >= put() {
                return Ok(());
            }
            if got() == put() {
                self.look_for_the_dead(&put, &got)?;
            }
            if deadline.is_some_and(Deadline::has_passed) {
                return Err(Error::Timeout { unfinished: self.unfinished(put()) });
            }
            wait(&self.turn[0], turn, Some(Deadline::within(deadline, SLICE)));
        }
    }

    /// If nothing is left but what a dead process owes: says so once, and writes it off.
    fn look_for_the_dead(&self, put: &impl Fn() -> u64, got: &impl Fn() -> u64) -> Result<()> {
        let items = put();
        let done = self.done[0].load(Acquire);
        let (mut living, mut dead) = (0_i64, None);
        for index in 0..ENTRIES {
            let [process, taken, did] = self.entry(index);
            let Some(owner) = ProcessId::from_word(process.load(Acquire)) else { continue };
            let owes = taken.load(Relaxed).wrapping_sub(did.load(Relaxed)) as i64;
            if owes == 0 {
                continue;
            }
            if owner.is_alive() {
                living += owes;
            } else if owes > 0 {
                dead = dead.or(Some((index, owner)));
            }
        }
        let Some((index, owner)) = dead else { return Ok(()) };
        let owed = items.saturating_sub(done).saturating_sub(living.max(0) as u64);
        // Only if nothing moved while we counted.
        if owed == 0 || got() != items || put() != items {
            return Ok(());
        }
        if self.done[0].compare_exchange(done, done + owed, AcqRel, Relaxed).is_err() {
            return Ok(());
        }
        let [_, taken, did] = self.entry(index);
        did.store(taken.load(Relaxed), Relaxed);
        self.turn[0].fetch_add(1, Release);
        wake_all(&self.turn[0]);
        Err(Error::ConsumerDied { pid: owner.pid(), owed })
    }
}

impl Clone for Ledger {
    fn clone(&self) -> Ledger {
        Ledger {
            entries: self.entries.clone(),
            done: self.done.clone(),
            turn: self.turn.clone(),
            mine: AtomicUsize::new(self.mine.load(Relaxed)),
        }
    }
}
