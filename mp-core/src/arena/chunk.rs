//! One segment full of blocks of one size, as mapped in this process.
//!
//! The header says the size of the blocks; everything else follows from that and from the length of the segment, so
//! there is little that a broken process could lie about.

use std::collections::HashMap;
use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use crossbeam_utils::CachePadded;

use super::class::Class;
use super::stack::{self, LINK};
use super::{ALIGN, CLASSES, SMALLEST};
use crate::futex::{AtomicU32, AtomicU64, Ordering::*, fence};
use crate::liveness::ProcessId;
use crate::segment::{Segment, SegmentId};
use crate::{Error, Result};

/// "mp-arena" in ASCII.
const MAGIC: u64 = 0x6d70_2d61_7265_6e61;
/// Where the counts begin.
const COUNTS: usize = 512;
/// From this count on a block is never freed: far more handles than memory could hold.
const IMMORTAL: u32 = 1 << 30;

#[repr(C)]
struct Header {
    magic: AtomicU64,
    /// The blocks have 2^size bytes.
    size: AtomicU32,
    /// Top of the stack of foreign frees.
    freed: CachePadded<AtomicU32>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Header>() <= COUNTS && size_of::<AtomicU32>() == 4);

/// See the module.
pub(super) struct Chunk {
    segment: Segment,
    size: u32,
    capacity: u32,
    /// Where its free blocks are kept, in the process that made it.
    home: Option<Home>,
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

fn capacity(length: usize, size: u32) -> u32 {
    let each = (1 << size) + size_of::<u32>();
    // The data begin at the next multiple of `ALIGN` after the counts.
    u32::try_from(length.saturating_sub(COUNTS + ALIGN) / each)
        .map_or(LINK >> 1, |count| count.min(LINK >> 1))
}

impl Chunk {
    /// A new chunk of this process.
    pub fn create(length: usize, size: u32, home: Home) -> Result<Arc<Chunk>> {
        let segment = Segment::create("multiprocess-arena", length)?;
        let chunk = Chunk { capacity: capacity(length, size), segment, size, home: Some(home) };
        chunk.header().size.store(size, Relaxed);
        chunk.header().magic.store(MAGIC, Relaxed);
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
        let mut chunk = Chunk { segment, size: SMALLEST, capacity: 0, home: None };
        let (magic, size) = (chunk.header().magic.load(Relaxed), chunk.header().size.load(Relaxed));
        if magic != MAGIC || !(SMALLEST..SMALLEST + CLASSES as u32).contains(&size) {
            return Err(refused("the segment is no chunk of blocks".into()));
        }
        (chunk.size, chunk.capacity) = (size, capacity(length, size));
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
        let data = (COUNTS + self.capacity as usize * size_of::<u32>()).next_multiple_of(ALIGN);
        // SAFETY: every `Block` was checked against the capacity when it was made, and that many blocks fit.
        unsafe { self.segment.as_ptr().add(data + ((index as usize) << self.size)) }
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

    /// Whether somebody has a handle to the block.
    pub fn is_live(&self, index: u32) -> bool {
        self.counts().get(index as usize).is_some_and(|count| (1..LINK).contains(&count.load(Relaxed)))
    }

    /// The same chunk as another process sees it.
    #[cfg(all(test, not(loom)))]
    pub fn foreign(&self) -> Arc<Chunk> {
        let (segment, size, capacity) = (self.segment.clone(), self.size, self.capacity);
        Arc::new(Chunk { segment, size, capacity, home: None })
    }

    #[cfg(all(test, not(loom)))]
    pub fn count(&self, index: u32) -> u32 {
        self.counts()[index as usize].load(Relaxed)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
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
