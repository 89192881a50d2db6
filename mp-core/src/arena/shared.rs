//! A structure in shared memory: a block, seen as what lies in it.
//!
//! The memory outlives every process that holds a handle; a death leaves the structure as it was at that moment, and it is
//! up to its own rules what that means.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ops::Deref;
use std::ptr::NonNull;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Arena, Block};
use crate::{Error, Result};

/// Structures that processes may share.
///
/// # Safety
/// Every pattern of bytes is a valid value, other processes may change any of it at any time, it has a fixed layout
/// (`repr(C)`), it holds no address, and dropping it does nothing. Atomics are, and `repr(C)` structures of them.
pub unsafe trait InSharedMemory: Sync + 'static {}

// SAFETY: any bytes are a number, and atomics may be shared.
#[cfg(not(loom))]
unsafe impl InSharedMemory for crate::futex::AtomicU32 {}
// SAFETY: as above.
#[cfg(not(loom))]
unsafe impl InSharedMemory for crate::futex::AtomicU64 {}
// SAFETY: as its elements; an array has no gaps.
unsafe impl<T: InSharedMemory, const N: usize> InSharedMemory for [T; N] {}

/// A structure in a block of its own, all bytes zero at first; a clone is another handle to the same one.
///
/// Sent in a message, it arrives as a handle to the same structure.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::arena::{InSharedMemory, Shared};
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
///
/// #[repr(C)]
/// struct Counter(AtomicU32);
/// // SAFETY: an atomic number, nothing else.
/// unsafe impl InSharedMemory for Counter {}
///
/// let counter = Shared::<Counter>::new()?;
/// counter.clone().0.fetch_add(1, Relaxed);
/// assert_eq!(counter.0.load(Relaxed), 1);
/// # }
/// # Ok::<(), mp_core::Error>(())
/// ```
pub struct Shared<T> {
    /// Saves the hot paths the way over the block.
    at: NonNull<T>,
    block: Block,
    marker: PhantomData<T>,
}

// SAFETY: `T` may be used by many processes at the same time, hence by many threads; the block is `Send` and `Sync`.
unsafe impl<T: InSharedMemory> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: InSharedMemory> Sync for Shared<T> {}

impl<T: InSharedMemory> Shared<T> {
    /// A new structure, all zero.
    ///
    /// # Errors
    /// As for [`Arena::alloc`].
    pub fn new() -> Result<Shared<T>> {
        Shared::within(Arena::global().alloc(size_of::<T>(), align_of::<T>())?)
    }

    /// The structure at the beginning of a block, which may be longer.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the block is too short for it.
    pub fn within(block: Block) -> Result<Shared<T>> {
        let at = block.as_ptr().cast::<T>();
        if block.len() < size_of::<T>() || !at.is_aligned() {
            let reason = format!("{} bytes are no {}", block.len(), std::any::type_name::<T>());
            return Err(Error::Invalid { what: "shared block", reason });
        }
        Ok(Shared { at, block, marker: PhantomData })
    }

    /// The memory it lies in.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// Its address in this process, good for the whole block; as [`Block::as_ptr`], only faster.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<T> {
        self.at
    }
}

impl<T: InSharedMemory> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `within` checked length and alignment, the block keeps the memory mapped, and any bytes are a `T`.
        unsafe { self.at.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared { at: self.at, block: self.block.clone(), marker: PhantomData }
    }
}

/// Whether both are the same structure.
impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Shared<T>) -> bool {
        self.block == other.block
    }
}

impl<T> Eq for Shared<T> {}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&self.block).finish()
    }
}

impl<T> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.block.serialize(serializer)
    }
}

impl<'de, T: InSharedMemory> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shared<T>, D::Error> {
        Shared::within(Block::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
