//! One segment full of blocks of one size, as mapped in this process.
//!
//! The header says the size of the blocks and how many there are, which is checked against the length of the segment;
//! everything else follows from that, so there is little that a broken process could lie about. Behind the blocks lie
//! the tallies of other processes (see `ledger`), which have no memory until they are used.

use std::collections::HashMap;
use std::mem::size_of;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicPtr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use crossbeam_utils::CachePadded;

use super::class::Class;
use super::ledger::{self, SLOTS};
use super::stack::{self, LINK};
use super::{ALIGN, CLASSES, SMALLEST};
use crate::futex::{AtomicU32, AtomicU64, Ordering::*, fence};
use crate::liveness::ProcessId;
use crate::segment::{Segment, SegmentId};
use crate::{Error, Result};

/// "mp-arena" in ASCII.
const MAGIC: u64 = 0x6d70_2d61_7265_6e61;
/// Where the counts begin.
const COUNTS: usize = 1024;
/// Tallies are reserved in pieces of so many bytes.
const PIECE: usize = 4096;
/// From this count on a block is never freed: far more handles than memory could hold.
pub(super) const IMMORTAL: u32 = 1 << 30;

#[repr(C)]
struct Header {
    magic: AtomicU64,
    /// The blocks have 2^size bytes.
    size: AtomicU32,
    capacity: AtomicU32,
    /// Top of the stack of foreign frees.
    freed: CachePadded<AtomicU32>,
    /// The processes that have tallies.
    slots: [AtomicU64; SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Header>() <= COUNTS && size_of::<AtomicU32>() == 4);

/// See the module.
pub(crate) struct Chunk {
    segment: Segment,
    size: u32,
    capacity: u32,
    /// Where its free blocks are kept, in the process that made it.
    home: Option<Home>,
    /// The process that made it, here; 0 elsewhere.
    owner: u32,
    /// What this process notes of its handles, from `Box::into_raw`; null before the first of another process's chunk.
    ledger: AtomicPtr<Ledger>,
}

/// A process's place among the tallies of a chunk.
struct Ledger {
    /// A forked child finds its parent's, and takes one of its own.
    pid: u32,
    /// None if all were in use.
    slot: Option<usize>,
    /// Which pieces of its tallies are reserved, by bit.
    reserved: Box<[std::sync::atomic::AtomicU64]>,
}

pub(super) struct Home {
    pub class: Arc<Class>,
    /// Its place among the chunks of the class.
    pub key: usize,
}

/// The chunks of this process, its own and those of others.
static CHUNKS: LazyLock<Mutex<HashMap<SegmentId, Weak<Chunk>>>> = LazyLock::new(Mutex::default);

fn chunks() -> MutexGuard<'static, HashMap<SegmentId, Weak<Chunk>>> {
    CHUNKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many blocks fit into `length` bytes with their counts.
fn capacity(length: usize, size: u32) -> u32 {
    let each = (1 << size) + size_of::<u32>();
    // The data begin at the next multiple of `ALIGN` after the counts.
    u32::try_from(length.saturating_sub(COUNTS + ALIGN) / each)
        .map_or(LINK >> 1, |count| count.min(LINK >> 1))
}

/// Where the blocks begin.
fn data(capacity: u32) -> usize {
    (COUNTS + capacity as usize * size_of::<u32>()).next_multiple_of(ALIGN)
}

/// Where the tallies begin, and how far apart those of two slots are.
fn tallies(capacity: u32, size: u32) -> (usize, usize) {
    let start = (data(capacity) + ((capacity as usize) << size)).next_multiple_of(PIECE);
    (start, (capacity as usize * size_of::<u32>()).next_multiple_of(PIECE))
}

impl Chunk {
    /// A new chunk of this process.
    pub(super) fn create(length: usize, size: u32, home: Home) -> Result<Arc<Chunk>> {
        let capacity = capacity(length, size);
        let (start, each) = tallies(capacity, size);
        let segment = Segment::create_sparse("multiprocess-arena", start + SLOTS * each)?;
        segment.reserve(0..start)?;
        let owner = home.class.pid();
        let chunk = Chunk { segment, size, capacity, home: Some(home), owner, ledger: AtomicPtr::default() };
        let header = chunk.header();
        header.size.store(size, Relaxed);
        header.capacity.store(capacity, Relaxed);
        header.magic.store(MAGIC, Relaxed);
        let chunk = Arc::new(chunk);
        chunks().insert(chunk.segment.id(), Arc::downgrade(&chunk));
        Ok(chunk)
    }

    /// The chunk in a segment that came with a message.
    pub fn open(segment: Segment) -> Result<Arc<Chunk>> {
        // The lock is never held where a chunk may be dropped: that takes it as well.
        let known = |segment: &Segment| chunks().get(&segment.id()).and_then(Weak::upgrade);
        if let Some(chunk) = known(&segment) {
            return Ok(chunk);
        }
        let length = segment.len();
        if length < COUNTS + ALIGN {
            return Err(refused(format!("a segment of {length} bytes is no chunk of blocks")));
        }
        let ledger = AtomicPtr::default();
        let mut chunk = Chunk { segment, size: SMALLEST, capacity: 0, home: None, owner: 0, ledger };
        let header = chunk.header();
        let (magic, size) = (header.magic.load(Relaxed), header.size.load(Relaxed));
        if magic != MAGIC || !(SMALLEST..SMALLEST + CLASSES as u32).contains(&size) {
            return Err(refused("the segment is no chunk of blocks".into()));
        }
        let capacity = header.capacity.load(Relaxed);
        let (start, each) = tallies(capacity, size);
        if capacity > LINK >> 1 || start + SLOTS * each > length {
            return Err(refused(format!("{length} bytes are not enough for {capacity} blocks")));
        }
        (chunk.size, chunk.capacity) = (size, capacity);
        let chunk = Arc::new(chunk);
        let mut chunks = chunks();
        // Another thread may have been faster.
        let first = chunks.get(&chunk.segment.id()).and_then(Weak::upgrade);
        if first.is_none() {
            chunks.insert(chunk.segment.id(), Arc::downgrade(&chunk));
        }
        drop(chunks);
        Ok(first.unwrap_or(chunk))
    }

    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// How many blocks there are.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Bytes of a block.
    pub fn block_len(&self) -> usize {
        1 << self.size
    }

    fn header(&self) -> &Header {
        // SAFETY: `create` and `open` saw to it that the segment is longer than the header; it is page-aligned and lives as
        // long as `self`. The header is made of atomics, valid for all bytes.
        unsafe { self.segment.as_ptr().cast::<Header>().as_ref() }
    }

    fn counts(&self) -> &[AtomicU32] {
        // SAFETY: `capacity` counts and blocks fit into the segment behind `COUNTS`, which is aligned for them; atomics,
        // valid for all bytes.
        unsafe {
            let start = self.segment.as_ptr().as_ptr().add(COUNTS).cast::<AtomicU32>();
            std::slice::from_raw_parts(start, self.capacity as usize)
        }
    }

    /// Address of a block; `index` is less than `capacity`.
    pub fn block(&self, index: u32) -> NonNull<u8> {
        debug_assert!(index < self.capacity);
        // SAFETY: every `Block` was checked against the capacity when it was made, and that many blocks fit.
        unsafe { self.segment.as_ptr().add(data(self.capacity) + ((index as usize) << self.size)) }
    }

    /// Owner: makes a free block a live one with one handle, all zero; `fresh` if it was never used.
    pub fn bear(&self, index: u32, fresh: bool) {
        if !fresh {
            // SAFETY: in bounds (`block`), and free: nobody holds it.
            unsafe { self.block(index).write_bytes(0, self.block_len()) };
        }
        if let Some(count) = self.counts().get(index as usize) {
            count.store(1, Relaxed);
        }
    }

    /// One more handle to a live block.
    pub fn retain(&self, index: u32) {
        if let Some(count) = self.counts().get(index as usize)
            && count.load(Relaxed) < IMMORTAL
        {
            count.fetch_add(1, Relaxed);
        }
    }

    /// One more handle to a block that came in a message, if it is live.
    pub fn try_retain(&self, index: u32) -> bool {
        let Some(count) = self.counts().get(index as usize) else { return false };
        let more = |count| (1..IMMORTAL).contains(&count).then_some(count + 1);
        let before = count.fetch_update(Relaxed, Relaxed, more);
        before.is_ok() || (IMMORTAL..LINK).contains(&count.load(Relaxed))
    }

    /// Gives back the count that a message owned, if the block is live: who sends lies harms himself.
    pub fn give_back(self: &Arc<Chunk>, index: u32) {
        if self.is_live(index) {
            self.release(index);
        }
    }

    /// One handle less; the last one frees the block.
    pub fn release(self: &Arc<Chunk>, index: u32) {
        let Some(count) = self.counts().get(index as usize) else { return };
        if count.load(Relaxed) >= IMMORTAL || count.fetch_sub(1, Release) != 1 {
            return;
        }
        // All that others did with the block comes before its next life.
        fence(Acquire);
        match &self.home {
            Some(home) if home.class.pid() == ProcessId::current().pid() => {
                home.class.free(self, home.key, index)
            }
            _ => stack::push(&self.header().freed, self.counts(), index),
        }
    }

    /// Owner: takes the blocks that were freed elsewhere.
    pub fn take_freed(&self, accept: impl FnMut(u32) -> bool) {
        stack::take_all(&self.header().freed, self.counts(), accept);
    }

    /// Notes that this process, `pid`, has one more handle, whose count was taken before.
    pub fn note(&self, index: u32, pid: u32) {
        // The owner needs no tally: when it dies nobody frees anything.
        if pid != self.owner
            && let Some(ledger) = self.ledger(pid)
            && let Some(tally) = self.tally(ledger, index, true)
        {
            ledger::note(tally);
        }
    }

    /// Notes that this process, `pid`, has one handle less, whose count is given back afterwards.
    pub fn strike(&self, index: u32, pid: u32) {
        if pid == self.owner {
            return;
        }
        // SAFETY: as in `ledger`.
        let known = unsafe { self.ledger.load(Acquire).as_ref() };
        if let Some(ledger) = known.filter(|ledger| ledger.pid == pid)
            && let Some(tally) = self.tally(ledger, index, false)
        {
            ledger::strike(tally);
        }
    }

    /// This process's place among the tallies, if there was room for it.
    fn ledger(&self, pid: u32) -> Option<&Ledger> {
        // SAFETY: what stands here came from `Box::into_raw` and is freed with the chunk only.
        match unsafe { self.ledger.load(Acquire).as_ref() } {
            Some(ledger) if ledger.pid == pid => Some(ledger),
            _ => self.enter(pid),
        }
    }

    #[cold]
    fn enter(&self, pid: u32) -> Option<&Ledger> {
        static ENTERING: Mutex<()> = Mutex::new(());
        let _turn = ENTERING.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.ledger.load(Acquire);
        // SAFETY: as in `ledger`.
        if let Some(ledger) = unsafe { known.as_ref() }.filter(|ledger| ledger.pid == pid) {
            return Some(ledger);
        }
        let me = ledger::word(ProcessId::current());
        let settle = |slot| {
            self.settle(slot, |index| stack::push(&self.header().freed, self.counts(), index));
        };
        let slot = ledger::claim(&self.header().slots, me, ledger::is_alive, settle);
        let pieces = tallies(self.capacity, self.size).1 / PIECE;
        let reserved = (0..pieces.div_ceil(64)).map(|_| Default::default()).collect();
        // That of the parent is left alone: whoever forked may have been in the middle of using it.
        self.ledger.store(Box::into_raw(Box::new(Ledger { pid, slot, reserved })), Release);
        // SAFETY: as in `ledger`.
        unsafe { self.ledger.load(Acquire).as_ref() }
    }

    /// The tally of a block; none if there is no memory for it, or none yet and it is not to be had.
    fn tally(&self, ledger: &Ledger, index: u32, reserve: bool) -> Option<&AtomicU32> {
        if index >= self.capacity {
            return None;
        }
        let (start, each) = tallies(self.capacity, self.size);
        let slot = start + ledger.slot? * each;
        let offset = index as usize * size_of::<u32>();
        let piece = offset / PIECE;
        let (word, bit) = (ledger.reserved.get(piece / 64)?, 1 << (piece % 64));
        if word.load(Relaxed) & bit == 0 {
            let range = slot + piece * PIECE..slot + (piece + 1) * PIECE;
            if !reserve || self.segment.reserve(range).is_err() {
                return None;
            }
            word.fetch_or(bit, Relaxed);
        }
        // SAFETY: inside the tallies, which `create` and `open` saw to be inside the segment, and memory was reserved for
        // it; aligned, and an atomic, valid for all bytes.
        Some(unsafe { self.segment.as_ptr().add(slot + offset).cast::<AtomicU32>().as_ref() })
    }

    /// Gives back what the slot's process held, which must be dead and the slot this process's; `freed` gets the blocks
    /// that nobody holds any more.
    fn settle(&self, slot: usize, mut freed: impl FnMut(u32)) {
        let (start, each) = tallies(self.capacity, self.size);
        let all = start + slot * each..start + (slot + 1) * each;
        let Some(parts) = ledger::pages(&self.segment, all.clone()) else { return };
        let each = size_of::<u32>();
        for part in parts {
            let first = (part.start - all.start).div_ceil(each);
            let last = ((part.end - all.start) / each).min(self.counts().len());
            for (index, count) in (first..).zip(self.counts().get(first..last).unwrap_or_default()) {
                // SAFETY: as in `tally`; the kernel says that there is memory.
                let tally = unsafe {
                    self.segment.as_ptr().add(all.start + index * each).cast::<AtomicU32>().as_ref()
                };
                if ledger::give_back(tally, count) {
                    freed(index as u32);
                }
            }
        }
        // The next process in this slot reserves anew what it needs; without success, it finds its tallies at zero.
        let _ = self.segment.release(all);
    }

    /// Owner: gives back what dead processes held; `freed` gets the blocks that nobody holds any more.
    pub fn bury(&self, is_alive: impl FnMut(u64) -> bool, mut freed: impl FnMut(u32)) {
        let me = ledger::word(ProcessId::current());
        ledger::bury(&self.header().slots, me, is_alive, |slot| self.settle(slot, &mut freed));
    }

    /// Whether somebody has a handle to the block.
    pub fn is_live(&self, index: u32) -> bool {
        self.counts().get(index as usize).is_some_and(|count| (1..LINK).contains(&count.load(Relaxed)))
    }

    /// The same chunk as another process sees it.
    #[cfg(all(test, not(loom)))]
    pub fn foreign(&self) -> Arc<Chunk> {
        let (segment, size, capacity) = (self.segment.clone(), self.size, self.capacity);
        Arc::new(Chunk { segment, size, capacity, home: None, owner: 0, ledger: AtomicPtr::default() })
    }

    #[cfg(all(test, not(loom)))]
    pub fn count(&self, index: u32) -> u32 {
        self.counts()[index as usize].load(Relaxed)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let ledger = std::mem::replace(self.ledger.get_mut(), null_mut());
        if !ledger.is_null() {
            // SAFETY: from `Box::into_raw`; nobody else has the chunk any more.
            drop(unsafe { Box::from_raw(ledger) });
        }
        let mut chunks = chunks();
        // Another view of the same segment may have taken the place meanwhile.
        if chunks.get(&self.segment.id()).is_some_and(|known| known.strong_count() == 0) {
            chunks.remove(&self.segment.id());
        }
    }
}

/// What arrived is not a block.
pub(super) fn refused(reason: String) -> Error {
    Error::Decode { type_name: "shared block", reason }
}
