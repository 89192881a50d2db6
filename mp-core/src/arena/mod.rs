//! Small shared blocks: memory for a lock or a value, without a descriptor or a mapping of its own.
//!
//! When a process dies, its chunks live on for as long as anybody else holds a block in them; what it held of others is given
//! back by their owner. A death in the middle of a clone, a drop or a free loses at most that one block until its owner ends.
//!
//! # Design
//!
//! A chunk is one segment with blocks of one size: a header, a table of counts, the blocks; and behind them, without memory
//! until they are used, the tallies of the processes other than the owner, by which their counts are given back when they
//! die (see `ledger`).
//!
//! | state                         | who writes                | when                                         |
//! |-------------------------------|---------------------------|----------------------------------------------|
//! | which blocks are free         | owner, in its own memory  | alloc, free, sweep, under the lock of a size |
//! | count of a free block (0)     | owner                     | alloc makes it 1                             |
//! | count of a live block         | any process with a handle | clone, send and decode add one, drop takes one; so does a message whose decoding ends |
//! | count 0 to link, stack `head` | who took the last one     | push on the chunk's stack of foreign frees   |
//! | stack `head` to empty         | owner                     | takes the whole stack at once                |
//!
//! Only the process that made a chunk allocates in it, and what it believes to be free lies in its own memory; so no
//! other process can make it hand out a block twice, whatever it writes or wherever it is killed. A block whose last
//! handle went elsewhere is pushed on a stack in the chunk; push is store, then one exchange, so a killed pusher has
//! either pushed or lost its block. The owner takes all at once, hence no exchange can mistake an old head for a new
//! one. The owner checks each entry against its own list of blocks that are out.
//!
//! A child of a fork has the parent's handles, but no counts for them: they are borrowed. It never allocates in the parent's
//! chunks, and dropping a borrowed handle changes nothing; a clone made in the child is counted as usual.

mod block;
mod chunk;
mod class;
mod ledger;
mod shared;
mod stack;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, not(loom)))]
mod tests_in_flight;

pub use block::Block;
pub(crate) use chunk::Chunk;
pub use shared::{InSharedMemory, Shared};

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::*};

use crate::liveness::ProcessId;
use crate::{Error, Result};
use class::Class;

/// Sizes of blocks: 2^4 to 2^11 bytes.
const SMALLEST: u32 = 4;
const CLASSES: usize = 8;
/// The strictest alignment, in bytes.
const ALIGN: usize = 64;

/// Hands out small blocks of shared memory.
///
/// Follows `multiprocessing.heap.Heap`.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::{arena::{Arena, Block}, message::Message};
///
/// let block = Arena::global().alloc(8, 8)?;
/// let same = Message::encode(&block)?.decode::<Block>()?;
/// assert_eq!(same, block);
/// assert_eq!(same.as_ptr(), block.as_ptr(), "mapped once");
/// # }
/// # Ok::<(), mp_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    /// From `Box::into_raw`; null until the first allocation.
    pools: AtomicPtr<Pools>,
}

/// The chunks of one process.
struct Pools {
    pid: u32,
    classes: [Arc<Class>; CLASSES],
}

impl Arena {
    /// An arena without chunks.
    pub const fn new() -> Arena {
        Arena { pools: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The arena that everybody in this process uses.
    pub fn global() -> &'static Arena {
        static GLOBAL: Arena = Arena::new();
        &GLOBAL
    }

    /// The longest block, in bytes.
    pub const MAX_SIZE: usize = 1 << (SMALLEST as usize + CLASSES - 1);

    /// A block of at least `size` bytes, all zero, at a multiple of `align` bytes. Some ten nanoseconds, unless it takes a
    /// new chunk.
    ///
    /// # Errors
    /// `Error::Invalid` for more than [`Arena::MAX_SIZE`] bytes or an alignment that is no power of two up to 64;
    /// `Error::Io` when a new chunk is needed and the system has no memory or descriptor left.
    pub fn alloc(&self, size: usize, align: usize) -> Result<Block> {
        if size > Arena::MAX_SIZE || align > ALIGN || !align.is_power_of_two() {
            let reason = format!(
                "{size} bytes aligned to {align}; at most {} aligned to a power of two up to {ALIGN} are possible",
                Arena::MAX_SIZE
            );
            return Err(Error::Invalid { what: "size of a shared block", reason });
        }
        let size = size.max(align).next_power_of_two().trailing_zeros().max(SMALLEST);
        let class = &self.pools().classes[(size - SMALLEST) as usize];
        Class::alloc(class)
    }

    /// Takes back what other processes freed, or held when they died, and gives empty chunks back to the system.
    ///
    /// This also happens by itself, whenever a chunk would have to be made. A handle in a message that nobody decodes or
    /// discards stays counted (see [`message`](crate::message)), and so does what was held by processes beyond the 64 at the
    /// same time that a chunk keeps account of.
    pub fn sweep(&self) {
        self.pools().classes.iter().for_each(|class| class.sweep());
    }

    /// How many chunks this process has in it.
    pub fn chunks(&self) -> usize {
        self.pools().classes.iter().map(|class| class.chunks()).sum()
    }

    fn pools(&self) -> &Pools {
        let pid = ProcessId::current().pid();
        let known = self.pools.load(Acquire);
        // SAFETY: what stands here came from `Box::into_raw` and is freed by `drop` only; one that a child of a fork
        // replaces is left alone.
        match unsafe { known.as_ref() } {
            Some(pools) if pools.pid == pid => pools,
            _ => self.new_pools(pid, known),
        }
    }

    #[cold]
    fn new_pools(&self, pid: u32, known: *mut Pools) -> &Pools {
        let classes = std::array::from_fn(|class| Arc::new(Class::new(SMALLEST + class as u32, pid)));
        let new = Box::into_raw(Box::new(Pools { pid, classes }));
        let pools = match self.pools.compare_exchange(known, new, AcqRel, Acquire) {
            // The parent's pools stay where they are: a lock in there may be held by a thread that is not here.
            Ok(_) => new,
            Err(other) => {
                // SAFETY: made above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                other
            }
        };
        // SAFETY: as in `pools`; never null, and of this process, as only threads of it compete.
        unsafe { &*pools }
    }
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let pools = *self.pools.get_mut();
        // SAFETY: as in `pools`.
        if unsafe { pools.as_ref() }.is_some_and(|pools| pools.pid == ProcessId::current().pid()) {
            // SAFETY: from `Box::into_raw`, and `self` was the only way to it.
            let pools = unsafe { Box::from_raw(pools) };
            // Chunks with live blocks live on with these.
            pools.classes.iter().for_each(|class| class.let_go());
        }
    }
}
