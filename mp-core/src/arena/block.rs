//! A handle to one block: counted, cloned, sent.
//!
//! When a process dies, the owner of a block gives back the counts of the handles that died with it, as soon as it needs
//! memory. Handles in messages that nobody decodes or discards (see [`message`](crate::message)) stay counted until the owner
//! ends, and so do those of more processes than a chunk accounts for (64) at the same time. Nobody is harmed but the owner's
//! memory.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chunk::{Chunk, refused};
use crate::handle;
use crate::liveness::ProcessId;

/// What errors call it.
const WHAT: &str = "shared block";

/// A small piece of shared memory; a clone is another handle to the same piece.
///
/// It can sit inside any message. It is freed when the last handle, in whatever process, is gone.
///
/// A child of a fork only borrows the handles it finds: the parent has to keep them, and live, for as long as the child uses
/// them. Its own clones are handles like any other. Follows `multiprocessing.heap.BufferWrapper`.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::arena::Arena;
///
/// let block = Arena::global().alloc(100, 8)?;
/// assert!(block.len() >= 100);
/// let other = block.clone();
/// assert_eq!(other.as_ptr(), block.as_ptr());
/// # }
/// # Ok::<(), mp_core::Error>(())
/// ```
pub struct Block {
    chunk: Arc<Chunk>,
    index: u32,
    /// The process whose count it is.
    pid: u32,
}

impl Block {
    /// Makes a handle of this process, `pid`, of a count that somebody took for it.
    pub(super) fn adopt(chunk: Arc<Chunk>, index: u32, pid: u32) -> Block {
        chunk.note(index, pid);
        Block { chunk, index, pid }
    }

    /// Address of the first byte in this process; other processes have it elsewhere.
    ///
    /// Valid for [`len`](Self::len) bytes while the handle lives. Other processes may write at any time: use atomics or
    /// volatile access, or keep order by a lock.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.chunk.block(self.index)
    }

    /// Bytes that may be used: at least as many as were asked for, a power of two.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        self.chunk.block_len()
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn count(&self) -> u32 {
        self.chunk.count(self.index)
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn parts(&self) -> (&Arc<Chunk>, u32) {
        (&self.chunk, self.index)
    }
}

impl Clone for Block {
    fn clone(&self) -> Block {
        self.chunk.retain(self.index);
        Block::adopt(self.chunk.clone(), self.index, ProcessId::current().pid())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // One that came with a fork is borrowed: its count belongs to the parent's handle.
        if self.pid == ProcessId::current().pid() {
            self.chunk.strike(self.index, self.pid);
            self.chunk.release(self.index);
        }
    }
}

/// Whether both are the same piece of memory.
impl PartialEq for Block {
    fn eq(&self, other: &Block) -> bool {
        self.index == other.index && self.chunk.segment() == other.chunk.segment()
    }
}

impl Eq for Block {}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunk = self.chunk.segment().id();
        f.debug_struct("Block")
            .field("len", &self.len())
            .field("chunk", &chunk)
            .field("index", &self.index)
            .finish()
    }
}

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize_counted(serializer, WHAT, |fds| {
            // This count travels with the message.
            self.chunk.retain(self.index);
            let (chunk, index, pid) = (self.chunk.clone(), self.index, ProcessId::current().pid());
            // A message that came with a fork is the parent's.
            fds.on_unsent(move || {
                if pid == ProcessId::current().pid() {
                    chunk.release(index);
                }
            });
            Ok((fds.attach_shared(self.chunk.segment().shared_fd()), self.index))
        })
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Block, D::Error> {
        handle::deserialize(deserializer, WHAT, |fds, (fd, index): (u32, u32)| {
            let chunk = fds.chunk(fd, WHAT)?;
            // The message gives its own count back when it is decoded.
            if !chunk.try_retain(index) {
                let blocks = chunk.capacity();
                return Err(refused(format!("block {index} of a chunk with {blocks} is not in use")));
            }
            Ok(Block::adopt(chunk, index, ProcessId::current().pid()))
        })
    }
}
