//! Which process owes `task_done` for how many items, exactly, whoever is killed at whatever moment.
//!
//! # Design
//!
//! | state                    | who writes                                                            |
//! |--------------------------|-----------------------------------------------------------------------|
//! | `LAST`                   | everybody, by one exchange: how many items are done, and what for     |
//! | an entry's `done`        | everybody: what `LAST` says                                           |
//! | an entry's `taken`       | the holder of the getters' lock                                       |
//! | an entry's process       | the holder of the getters' lock                                       |
//! | `INTENT`, `UNTIL`, `NEW` | the holder of the getters' lock                                       |
//! | `BURIED`                 | the holder of the getters' lock adds, whoever joins takes             |
//!
//! What a process owes is what it took less what it did. Neither may be wrong by one for ever because of a death:
//!
//! - `LAST` counts all items that are done, and names the entry that the last one was for, together with what `done` of that
//!   entry is thereby. Whoever changes `LAST` first sees to it that this entry says so. So an item is done, and its process
//!   relieved of it, by one exchange.
//! - Who is about to take items notes which entry will have taken how many (`NEW`) once so many items were read (`UNTIL`).
//!   If it dies, whoever has the lock next sees whether the items were taken, because until then nobody else takes any.
//!
//! An item that is done by a process that owes nothing counts for the one that owes most: they handed it on.
//!
//! When all entries are taken, the place of a dead process goes to the next: what it owed counts as done, and `BURIED` keeps it
//! for the next who joins.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use mp_core::arena::Shared;
use mp_core::deadline::Deadline;
use mp_core::futex::{AtomicU32, AtomicU64, Ordering::*, wait, wake_all};
use mp_core::liveness::ProcessId;
use mp_core::ring::Ring;
use mp_core::wait::word_changed;
use mp_sync::RawLock;
use serde::{Deserialize, Serialize};

use crate::channel::Witness;
use crate::error::{Error, Result};
use crate::wait::SLICE;

/// So many processes can owe at a time; the items of others are not missed when they die.
const ENTRIES: usize = PER_BLOCK * BLOCKS;
const BLOCKS: usize = 3;
const PER_BLOCK: usize = 84;
/// Process, taken, done.
const ENTRY: usize = 3;

const LAST: usize = 0;
const INTENT: usize = 1;
const UNTIL: usize = 2;
const NEW: usize = 3;
const BURIED: usize = 4;
const WORDS: usize = 5;

/// After a vain search for the dead among those who owe, there is none for so long.
const VAIN: Duration = Duration::from_millis(100);

/// How long an executor's thread waits for a getter that is at it, before it does something else.
const TURN: Duration = Duration::from_millis(1);

/// `LAST`: how many items are done, the entry that the last of them were for, and the end of that entry's `done`.
#[derive(Clone, Copy)]
struct Last(u64);

impl Last {
    const INDEX: u32 = 16;
    const COUNT: u32 = 24;
    const TAIL: u64 = (1 << Last::INDEX) - 1;
    /// For no entry.
    const NOBODY: usize = 0xff;

    fn new(count: u64, index: usize, done: u64) -> Last {
        Last(count << Last::COUNT | (index as u64) << Last::INDEX | done & Last::TAIL)
    }

    fn count(self) -> u64 {
        self.0 >> Last::COUNT
    }

    /// All zero is the beginning: entry 0, which has done nothing.
    fn index(self) -> usize {
        (self.0 >> Last::INDEX) as usize & Last::NOBODY
    }
}

/// `BURIED`: the process that was buried last, and how many items all of them owed.
struct Buried(u64);

impl Buried {
    const PID: u32 = 40;

    fn pid(&self) -> u32 {
        (self.0 >> Buried::PID) as u32
    }

    fn owed(&self) -> u64 {
        self.0 & ((1 << Buried::PID) - 1)
    }

    fn and(&self, pid: u32, owed: u64) -> Buried {
        Buried(u64::from(pid) << Buried::PID | (self.owed() + owed).min((1 << Buried::PID) - 1))
    }
}

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ledger {
    entries: [Shared<[AtomicU64; PER_BLOCK * ENTRY]>; BLOCKS],
    words: Shared<[AtomicU64; WORDS]>,
    /// Counted up when nothing is unfinished.
    turn: Shared<[AtomicU32; 1]>,
    /// Where our entry was last time.
    #[serde(skip)]
    mine: AtomicUsize,
    /// When we last looked for the dead in vain, in nanoseconds.
    #[serde(skip)]
    looked: AtomicU64,
}

impl Ledger {
    pub fn new() -> Result<Ledger> {
        Ok(Ledger {
            entries: [Shared::new()?, Shared::new()?, Shared::new()?],
            words: Shared::new()?,
            turn: Shared::new()?,
            mine: AtomicUsize::new(0),
            looked: AtomicU64::new(0),
        })
    }

    fn entry(&self, index: usize) -> [&AtomicU64; ENTRY] {
        let index = index % ENTRIES;
        [0, 1, 2].map(|at| &self.entries[index / PER_BLOCK][index % PER_BLOCK * ENTRY + at])
    }

    fn owes(&self, index: usize) -> u64 {
        let [_, taken, done] = self.entry(index);
        // Nobody does what was not taken; memory that lies owes nothing.
        let done = done.load(Acquire);
        Some(taken.load(Acquire).wrapping_sub(done)).filter(|owes| *owes < 1 << 40).unwrap_or(0)
    }

    fn find(&self, process: u64) -> Option<usize> {
        let known = self.mine.load(Relaxed);
        let is_its = |index: &usize| self.entry(*index)[0].load(Relaxed) == process;
        if is_its(&known) {
            return Some(known);
        }
        let found = (0..ENTRIES).find(is_its)?;
        self.mine.store(found, Relaxed);
        Some(found)
    }

    /// Our entry, or a free one; for the holder of the getters' lock.
    fn claim(&self, me: u64) -> Option<usize> {
        if let Some(index) = self.find(me) {
            return Some(index);
        }
        self.last();
        let is_free = |index: &usize| {
            let owner = ProcessId::from_word(self.entry(*index)[0].load(Relaxed));
            // Its counts go on.
            owner.is_none_or(|owner| self.owes(*index) == 0 && !owner.is_alive())
        };
        let free = (0..ENTRIES).find(is_free).or_else(|| self.bury())?;
        self.entry(free)[0].store(me, Relaxed);
        self.mine.store(free, Relaxed);
        Some(free)
    }

    /// Makes room among the dead who owe something; for the holder of the getters' lock.
    #[cold]
    fn bury(&self) -> Option<usize> {
        let now = Deadline::now().as_nanos();
        if now.saturating_sub(self.looked.load(Relaxed)) < VAIN.as_nanos() as u64 {
            return None;
        }
        for index in 0..ENTRIES {
            let owner = ProcessId::from_word(self.entry(index)[0].load(Relaxed));
            let Some(owner) = owner.filter(|owner| !owner.is_alive()) else { continue };
            // Who is killed between these two steps has it told of twice; never not at all. Others may do some of it meanwhile.
            let mut noted = false;
            loop {
                let last = self.last();
                let owed = self.owes(index);
                if owed == 0 {
                    return Some(index);
                }
                if !std::mem::replace(&mut noted, true) {
                    let note = |before| Some(Buried(before).and(owner.pid(), owed).0);
                    let _ = self.words[BURIED].fetch_update(AcqRel, Relaxed, note);
                }
                // Whoever joins is woken in any case, and sees for itself.
                self.finish(last, Some(index), owed.min(Last::TAIL), 0);
            }
        }
        self.looked.store(now, Relaxed);
        None
    }

    /// Tells of the dead that were buried, once.
    fn tell(&self) -> Result<()> {
        if self.words[BURIED].load(Acquire) == 0 {
            return Ok(());
        }
        match Buried(self.words[BURIED].swap(0, AcqRel)) {
            Buried(0) => Ok(()),
            buried => Err(Error::ConsumerDied { pid: buried.pid(), owed: buried.owed() }),
        }
    }

    /// `LAST`, of which its entry knows.
    fn last(&self) -> Last {
        loop {
            let last = Last(self.words[LAST].load(Acquire));
            if last.index() == Last::NOBODY {
                return last;
            }
            let [_, _, done] = self.entry(last.index());
            let before = done.load(Acquire);
            // Read while `LAST` was the same, so it is what it was before the last change, or after it.
            if self.words[LAST].load(Acquire) != last.0 {
                continue;
            }
            let missing = (last.0 & Last::TAIL).wrapping_sub(before) & Last::TAIL;
            if missing == 0
                || done.compare_exchange(before, before.wrapping_add(missing), AcqRel, Relaxed).is_ok()
            {
                return last;
            }
        }
    }

    /// Counts `items` as done, for an entry; false if something changed since `last`.
    fn finish(&self, last: Last, index: Option<usize>, items: u64, put: u64) -> bool {
        let done = index.map_or(0, |index| self.entry(index)[2].load(Acquire).wrapping_add(items));
        let next = Last::new(last.count() + items, index.unwrap_or(Last::NOBODY), done);
        if self.words[LAST].compare_exchange(last.0, next.0, AcqRel, Relaxed).is_err() {
            return false;
        }
        self.last();
        if last.count() + items >= put {
            self.turn[0].fetch_add(1, Release);
            wake_all(&self.turn[0]);
        }
        true
    }

    /// One item less to do, of those in `ring`.
    pub fn done(&self, ring: &Ring<RawLock>) -> Result<()> {
        self.done_by(ProcessId::current().to_word(), ring)
    }

    fn done_by(&self, me: u64, ring: &Ring<RawLock>) -> Result<()> {
        loop {
            let last = self.last();
            // In this order: what is done was put.
            let put = ring.written();
            if last.count() >= put {
                return Err(Error::TooManyDone);
            }
            let mine = self.find(me).filter(|index| self.owes(*index) > 0);
            let whose = mine.or_else(|| {
                let debtors = (0..ENTRIES).filter(|index| self.owes(*index) > 0);
                debtors.max_by_key(|index| self.owes(*index))
            });
            if self.finish(last, whose, 1, put) {
                return Ok(());
            }
        }
    }

    /// How many items that were put into `ring` are unfinished.
    pub fn unfinished(&self, ring: &Ring<RawLock>) -> u64 {
        let done = Last(self.words[LAST].load(Acquire)).count();
        ring.written().saturating_sub(done)
    }

    /// Sees what became of the items that somebody was about to take, `got` having been taken; for the holder of the lock.
    fn settle(&self, got: u64) {
        let intent = self.words[INTENT].load(Acquire);
        if intent == 0 {
            return;
        }
        if got >= self.words[UNTIL].load(Relaxed) {
            self.entry(intent as usize - 1)[1].store(self.words[NEW].load(Relaxed), Release);
        }
        self.words[INTENT].store(0, Release);
    }

    fn intend(&self, me: u64, got: u64, items: u64) {
        self.settle(got);
        let Some(index) = self.claim(me) else { return };
        self.words[UNTIL].store(got + items, Relaxed);
        self.words[NEW].store(self.entry(index)[1].load(Relaxed).wrapping_add(items), Relaxed);
        self.words[INTENT].store(index as u64 + 1, Release);
    }

    /// Waits until nothing is unfinished of what was put into `ring`.
    pub fn join(&self, ring: &Ring<RawLock>, timeout: Option<Duration>) -> Result<()> {
        let deadline = Deadline::from_timeout(timeout);
        loop {
            let turn = self.turn[0].load(Acquire);
            // In this order: what is done was put.
            let done = self.last().count();
            let put = ring.written();
            self.tell()?;
            if done >= put {
                return Ok(());
            }
            // While another process takes items, it is too early to look at who took how many.
            if let Some(_held) = ring.get_lock().guard(Some(Deadline::within(deadline, SLICE))) {
                self.settle(ring.read());
                self.write_off(put)?;
            }
            if deadline.is_some_and(Deadline::has_passed) {
                return match self.unfinished(ring) {
                    0 => Ok(()),
                    unfinished => Err(Error::Timeout { unfinished }),
                };
            }
            wait(&self.turn[0], turn, Some(Deadline::within(deadline, SLICE)));
        }
    }

    /// As [`join`](Self::join), without a limit, for async code.
    pub async fn join_async(&self, ring: &Ring<RawLock>) -> Result<()> {
        loop {
            let turn = self.turn[0].load(Acquire);
            // In this order: what is done was put.
            let done = self.last().count();
            let put = ring.written();
            self.tell()?;
            if done >= put {
                return Ok(());
            }
            if let Some(_held) = ring.get_lock().guard(Some(Deadline::after(TURN))) {
                self.settle(ring.read());
                self.write_off(put)?;
            }
            // Is over after some tens of milliseconds in any case.
            word_changed(self.turn.clone(), |turn| &turn[0], turn).await?;
        }
    }

    /// Counts what a dead process owes as done, and says so; for the holder of the getters' lock.
    fn write_off(&self, put: u64) -> Result<()> {
        for index in 0..ENTRIES {
            loop {
                let last = self.last();
                let owed = self.owes(index).min(Last::TAIL);
                let owner = ProcessId::from_word(self.entry(index)[0].load(Relaxed));
                let Some(owner) = owner.filter(|owner| owed > 0 && !owner.is_alive()) else { break };
                if self.finish(last, Some(index), owed, put) {
                    return Err(Error::ConsumerDied { pid: owner.pid(), owed });
                }
            }
        }
        Ok(())
    }
}

/// For the getter, under the getters' lock.
impl Witness for Ledger {
    fn before(&self, got: u64, items: u64) {
        self.intend(ProcessId::current().to_word(), got, items);
    }

    fn after(&self, got: u64) {
        self.settle(got);
    }
}

impl Clone for Ledger {
    fn clone(&self) -> Ledger {
        Ledger {
            entries: self.entries.clone(),
            words: self.words.clone(),
            turn: self.turn.clone(),
            mine: AtomicUsize::new(self.mine.load(Relaxed)),
            looked: AtomicU64::new(self.looked.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests;
