//! The shared memory of a semaphore: what precedes the words, and the words.
//!
//! It lives until the last handle in the last process is gone, however those processes end.

use std::mem::size_of;
use std::ptr::NonNull;

use mp_core::futex::{AtomicU64, Ordering::*};
use mp_core::region::Region;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::permits::{CEILING, FREE, Head, Permits};
use super::spare::MAX_WORDS;
use crate::error::{Error, Result};

/// Words of a semaphore that may grow: with these it takes half a kibibyte.
const ROOM_TO_GROW: usize = (512 - HEAD) / WORD;

const HEAD: usize = size_of::<Head>();
const WORD: usize = size_of::<AtomicU64>();

/// A handle to the permits of a semaphore; a clone is another handle to the same ones.
pub(super) struct Table {
    /// Saves the hot paths the way over the region.
    at: NonNull<Head>,
    len: usize,
    region: Region,
}

// SAFETY: it points to atomics in memory that processes share, hence threads may as well; the region is `Send` and `Sync`.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// `value` permits, and never more than `limit`.
    pub fn new(what: &'static str, value: u32, limit: u32) -> Result<Table> {
        if value > CEILING {
            let reason = format!("{value} is more than {CEILING}");
            return Err(Error::Invalid { what: "value of a semaphore", reason });
        }
        let len = (value as usize).max(ROOM_TO_GROW).min(limit as usize).min(MAX_WORDS);
        let region = Region::new(what, HEAD + len * WORD)?;
        let table = Table { at: region.as_ptr().cast(), len, region };
        let permits = table.permits();
        permits.head.len.store(len as u32, Relaxed);
        permits.head.limit.store(limit, Relaxed);
        permits.words.iter().take(value as usize).for_each(|word| word.store(FREE, Relaxed));
        permits.head.spare.store(u64::from(value).saturating_sub(len as u64), Relaxed);
        Ok(table)
    }

    /// The one in a region that came with a message.
    fn open(region: Region) -> Result<Table, String> {
        let room = region.len().checked_sub(HEAD).ok_or("the shared memory is too short for a semaphore")?;
        let mut table = Table { at: region.as_ptr().cast(), len: 0, region };
        let len = table.permits().head.len.load(Relaxed) as usize;
        if len > MAX_WORDS || len * WORD > room {
            return Err(format!("{room} bytes of shared memory cannot hold a semaphore of {len} words"));
        }
        table.len = len;
        Ok(table)
    }

    #[inline]
    pub fn permits(&self) -> Permits<'_> {
        // SAFETY: `new` and `open` saw to it that a head and `len` words fit into the region, which is aligned to 64 or, if it
        // is shorter, to the power of two above its length, and stays mapped while `self` lives. Both are made of atomics,
        // valid for all bytes, which other processes may change at any time.
        unsafe {
            let words = self.at.add(1).cast::<AtomicU64>();
            Permits { head: self.at.as_ref(), words: NonNull::slice_from_raw_parts(words, self.len).as_ref() }
        }
    }
}

impl Clone for Table {
    fn clone(&self) -> Table {
        Table { at: self.at, len: self.len, region: self.region.clone() }
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        self.region == other.region
    }
}

impl Eq for Table {}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.region.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Table, D::Error> {
        Table::open(Region::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
