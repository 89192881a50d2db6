//! Shared memory of any length: a block of the arena if it is small, a segment of its own if it is not.
//!
//! It lives until the last handle in the last process is gone, however those processes end.

use std::ptr::NonNull;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::arena::{Arena, Block};
use crate::segment::Segment;

/// Some bytes that processes share, all zero at first; a clone is another handle to the same ones.
///
/// It can sit inside any message. All pages are there from the start, so that no write can fail.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::region::Region;
///
/// let small = Region::new("numbers", 100)?;
/// let large = Region::new("pixels", 1_000_000)?;
/// assert!(small.len() >= 100 && large.len() >= 1_000_000);
/// # }
/// # Ok::<(), mp_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region(Place);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    Block(Block),
    Segment(Segment),
}

impl Region {
    /// At least `length` bytes, aligned to 64; `name` shows up in `/proc` and in errors only.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when memory does not suffice, [`Error::Invalid`](crate::Error::Invalid) for a length
    /// that no memory could have.
    pub fn new(name: &str, length: usize) -> Result<Region> {
        if length <= Arena::MAX_SIZE {
            return Ok(Region(Place::Block(
                Arena::global().alloc(length, 64.min(length.next_power_of_two()))?,
            )));
        }
        Ok(Region(Place::Segment(Segment::create(name, length)?)))
    }

    /// Address of the first byte in this process; other processes have it elsewhere.
    ///
    /// Valid for [`len`](Self::len) bytes while any handle lives. Other processes may write at any time: use atomics or
    /// volatile access, or keep order by a lock.
    pub fn as_ptr(&self) -> NonNull<u8> {
        match &self.0 {
            Place::Block(block) => block.as_ptr(),
            Place::Segment(segment) => segment.as_ptr(),
        }
    }

    /// Bytes that may be used: at least as many as were asked for.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::Block(block) => block.len(),
            Place::Segment(segment) => segment.len(),
        }
    }
}
