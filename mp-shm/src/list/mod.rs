//! A list of a fixed number of items in a named block of shared memory.
//!
//! A process that is killed while it sets an item leaves the old one or the new one, never a mixture; see `slot`. The block
//! goes with its owner, as every [`SharedMemory`] does.

mod item;
mod slot;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::named::SharedMemory;
use crate::words::{WORD, Words};
use crate::{Error, Result};
pub use item::Item;
use slot::{Refusal, SLOT, Slot, capacity_for, words_for};

/// The first word of a list; nothing else begins with it.
const MAGIC: u64 = u64::from_le_bytes(*b"mp-list1");

/// Words before the table: the magic number, the number of items.
const HEAD: usize = 2;

/// A list of a fixed number of texts, bytes, numbers, truth values and nothings, which processes share by name; a clone is
/// another handle to the same one.
///
/// Any item may become one of any other kind. The slot of each has room for the bytes that it had at first, rounded up to
/// a multiple of eight, and eight at least. Every item can be read and set from any process at any time without a lock: it
/// is always one that somebody set, whole, whoever is killed meanwhile. Two items are not read at the same moment.
///
/// Sent in a message, or serialised by anything else, it is its name, and arrives as a handle to the list that has this
/// name then. Who removes the block is told at [`SharedMemory`].
///
/// Follows `multiprocessing.shared_memory.ShareableList`. Its layout is its own: Python cannot read it.
///
/// ```
/// use mp_shm::{Item, ShareableList};
///
/// let list = ShareableList::new([Item::from("howdy"), Item::from(-273.154), Item::from(42)])?;
/// let same = ShareableList::open(list.shm().name())?;
/// same.set(2, "ha\0")?;
/// assert_eq!(list.get(2)?, Item::from("ha\0"));
/// assert_eq!(list.index(&Item::from("howdy"))?, Some(0));
/// assert!(list.set(2, "more than eight bytes").is_err());
/// # Ok::<(), mp_shm::Error>(())
/// ```
#[derive(Clone)]
pub struct ShareableList {
    block: SharedMemory,
    /// Checked against the size of the block; what the block says later does not count.
    count: usize,
}

impl ShareableList {
    /// A list of `items` under a name that it makes up.
    ///
    /// # Errors
    /// As for [`SharedMemory::create_unnamed`].
    pub fn new<I: IntoIterator<Item: Into<Item>>>(items: I) -> Result<ShareableList> {
        ShareableList::make(None, collect(items))
    }

    /// A list of `items`.
    ///
    /// # Errors
    /// As for [`SharedMemory::create`].
    pub fn create<I: IntoIterator<Item: Into<Item>>>(name: &str, items: I) -> Result<ShareableList> {
        ShareableList::make(Some(name), collect(items))
    }

    /// The list that has this name now.
    ///
    /// # Errors
    /// As for [`SharedMemory::open`]; [`Error::Damaged`] if it is not a list.
    pub fn open(name: &str) -> Result<ShareableList> {
        ShareableList::from_block(SharedMemory::open(name)?)
    }

    /// A list of the same items, with as much room in each slot, under a name that it makes up.
    ///
    /// # Errors
    /// As for [`new`](Self::new) and [`get`](Self::get).
    pub fn copy(&self) -> Result<ShareableList> {
        ShareableList::make(None, self.items_and_capacities()?)
    }

    /// A list of the same items, with as much room in each slot.
    ///
    /// # Errors
    /// As for [`create`](Self::create) and [`get`](Self::get).
    pub fn copy_as(&self, name: &str) -> Result<ShareableList> {
        ShareableList::make(Some(name), self.items_and_capacities()?)
    }

    fn items_and_capacities(&self) -> Result<Vec<(Item, usize)>> {
        (0..self.count).map(|index| Ok((self.get(index)?, self.capacity(index)?))).collect()
    }

    fn make(name: Option<&str>, items: Vec<(Item, usize)>) -> Result<ShareableList> {
        let start = items.len().checked_mul(SLOT).and_then(|table| table.checked_add(HEAD));
        let add = |sum: Option<usize>, (_, capacity): &(Item, usize)| sum?.checked_add(words_for(*capacity)?);
        let size = items.iter().fold(start, add).and_then(|words| words.checked_mul(WORD));
        let (Some(start), Some(size)) = (start, size) else {
            let reason = String::from("they are more than any memory can hold");
            return Err(Error::Invalid { what: "items of a list", reason });
        };
        let fill = |words: &Words| {
            let mut data = start;
            for (index, (item, capacity)) in items.iter().enumerate() {
                let entry = HEAD + index * SLOT;
                Slot::create(words, entry, data, *capacity);
                // Nobody else sees it yet, and the room was made for it.
                let _ = Slot::open(words, entry).map(|slot| slot.set(item));
                data += words_for(*capacity).unwrap_or(0);
            }
            let [magic, count, ..] = words.words() else { return };
            count.store(items.len() as u64, std::sync::atomic::Ordering::Relaxed);
            magic.store(MAGIC, std::sync::atomic::Ordering::Release);
        };
        let block = match name {
            Some(name) => SharedMemory::create_filled(name, size, fill)?,
            None => SharedMemory::create_unnamed_filled(size, fill)?,
        };
        Ok(ShareableList { block, count: items.len() })
    }

    fn from_block(block: SharedMemory) -> Result<ShareableList> {
        let words = block.words().words();
        let read =
            |index: usize| words.get(index).map_or(0, |word| word.load(std::sync::atomic::Ordering::Acquire));
        if read(0) != MAGIC {
            return Err(damaged(&block, "it does not begin like one".into()));
        }
        let room = (block.len() / WORD).saturating_sub(HEAD) / SLOT;
        match usize::try_from(read(1)) {
            Ok(count) if count <= room => Ok(ShareableList { block, count }),
            _ => Err(damaged(&block, format!("{} items do not fit into {} bytes", read(1), block.len()))),
        }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The block in which the list lies: its name, and who removes it.
    pub fn shm(&self) -> &SharedMemory {
        &self.block
    }

    /// The item at `index`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Damaged`] if another program wrote over it.
    pub fn get(&self, index: usize) -> Result<Item> {
        self.slot(index)?.get().map_err(|reason| damaged(&self.block, reason))
    }

    /// Makes `item` the item at `index`. Waits for others that are setting it, five seconds if such a one was stopped;
    /// one that was killed holds up nobody.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::TooLong`] if it does not fit; [`Error::Busy`]; [`Error::Damaged`]. The old item is
    /// still there then.
    pub fn set(&self, index: usize, item: impl Into<Item>) -> Result<()> {
        let slot = self.slot(index)?;
        let name = || self.block.name().to_owned();
        slot.set(&item.into()).map_err(|refusal| match refusal {
            Refusal::TooLong(needed) => {
                Error::TooLong { name: name(), index, needed, capacity: slot.capacity() }
            }
            Refusal::Busy(holder) => Error::Busy { what: format!("item {index}"), name: name(), holder },
        })
    }

    /// Bytes that a text or bytes at `index` can have.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn capacity(&self, index: usize) -> Result<usize> {
        self.slot(index).map(|slot| slot.capacity())
    }

    /// How many items equal `item`.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn count(&self, item: &Item) -> Result<usize> {
        self.iter().try_fold(0, |count, other| Ok(count + usize::from(other? == *item)))
    }

    /// The index of the first item that equals `item`, if one does.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn index(&self, item: &Item) -> Result<Option<usize>> {
        for (index, other) in self.iter().enumerate() {
            if other? == *item {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// All items in order, each read when it is reached.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Item>> + DoubleEndedIterator {
        (0..self.count).map(|index| self.get(index))
    }

    /// All items.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn to_vec(&self) -> Result<Vec<Item>> {
        self.iter().collect()
    }

    fn slot(&self, index: usize) -> Result<Slot<'_>> {
        if index >= self.count {
            return Err(Error::OutOfBounds { what: "a shareable list", index, length: self.count });
        }
        Slot::open(self.block.words(), HEAD + index * SLOT).map_err(|reason| damaged(&self.block, reason))
    }
}

fn collect<I: IntoIterator<Item: Into<Item>>>(items: I) -> Vec<(Item, usize)> {
    let item = |item: I::Item| {
        let item = item.into();
        let capacity = capacity_for(&item);
        (item, capacity)
    };
    items.into_iter().map(item).collect()
}

fn damaged(block: &SharedMemory, reason: String) -> Error {
    Error::Damaged { what: "list", name: block.name().into(), reason }
}

impl fmt::Debug for ShareableList {
    /// As Python prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShareableList([")?;
        for (index, item) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match item {
                Ok(item) => write!(f, "{comma}{item}")?,
                Err(_) => write!(f, "{comma}<damaged>")?,
            }
        }
        write!(f, "], name={})", Item::from(self.block.name()))
    }
}

impl Serialize for ShareableList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.block.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ShareableList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ShareableList, D::Error> {
        let block = SharedMemory::deserialize(deserializer)?;
        ShareableList::from_block(block).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
