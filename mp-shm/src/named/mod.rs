//! Shared memory with a name, by which any process of this user finds it.
//!
//! A block belongs to the process that created it, and goes with its owner: when the owner drops its last handle, or, if it
//! was killed, when anybody creates or opens a block next or calls [`SharedMemory::sweep`]. How that is made so is told in
//! `owner`. Whoever has the block mapped keeps its memory, name or no name. What a killed process wrote stays.

mod make;
mod name;
mod owner;

use std::fmt;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use rustix::fs::Stat;
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shared_memory::Shmem;

use crate::words::{WORD, Words};
use crate::{Error, Result};
use owner::{FileId, Tag};

/// A named block of bytes that processes share; a clone is another handle to the same one.
///
/// The file is that of POSIX shared memory, of exactly the size that was asked for, mode 0600, and nothing else lies in it:
/// programs in other languages can use it.
///
/// **Who owns it.** The process that created it, for as long as it has a handle: when the last one there is dropped, the
/// name is removed. Processes that open it, or get a handle in a message, never remove it by dropping theirs. A child of a
/// fork does not own what its parent created. A block that is to outlive its creator must be told so by
/// [`persist`](Self::persist). [`unlink`](Self::unlink) removes the name at once, whoever calls it. Without its name, the
/// block lives until the last handle is dropped.
///
/// **When its owner dies** without dropping it, the name goes as soon as any process of this user opens it, creates
/// a block (looking once a second at most), or calls [`sweep`](Self::sweep). Owners in another pid namespace, as of a
/// container, count as alive.
///
/// **Room** is reserved when it is created, so that no write can fail later. That holds as long as nobody shortens the file
/// behind the back of this library, which the system allows any program of the same user: an access to what was
/// cut off is a `SIGBUS` then, as for any mapped file.
///
/// **Access** is free of data races: [`read`](Self::read) and [`write`](Self::write) copy words of eight bytes
/// atomically. A copy that another process writes into meanwhile is a mixture of old and new words.
///
/// Sent in a message, or serialised by anything else, it is its name, and arrives as a handle to the block that has this
/// name then; an error if there is none.
///
/// Follows `multiprocessing.shared_memory.SharedMemory`.
///
/// ```
/// use mp_shm::SharedMemory;
///
/// let block = SharedMemory::create_unnamed(512)?;
/// block.write(0, b"howdy")?;
///
/// let same = SharedMemory::open(block.name())?;
/// let mut bytes = [0; 5];
/// same.read(0, &mut bytes)?;
/// assert_eq!(&bytes, b"howdy");
///
/// drop(block);
/// assert!(SharedMemory::open(same.name()).is_err());
/// # Ok::<(), mp_shm::Error>(())
/// ```
#[derive(Clone)]
pub struct SharedMemory {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    words: Words,
    id: FileId,
    /// There if this process created it.
    tag: Option<Tag>,
    persists: AtomicBool,
    /// Unmaps; never unlinks, because it does not know whether the name is still that of this block.
    _mapping: Shmem,
}

// SAFETY: the mapping is an address, a length and a descriptor that nobody else uses, and only dropped; all else is plain.
unsafe impl Send for Inner {}
// SAFETY: as above; nothing of the mapping is used through a reference.
unsafe impl Sync for Inner {}

impl SharedMemory {
    /// A block of `size` bytes, all zero, that this process owns; a slash that `name` begins with does not count.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NoSpace`] when `/dev/shm` or the memory does not suffice; [`Error::Invalid`] for
    /// no bytes or more than a mapping can have, and for a name that cannot be a file's or has more than 190 bytes.
    pub fn create(name: &str, size: usize) -> Result<SharedMemory> {
        SharedMemory::create_filled(name, size, |_| ())
    }

    /// The same with something in it from the moment that others can find it.
    pub(crate) fn create_filled(name: &str, size: usize, fill: impl Fn(&Words)) -> Result<SharedMemory> {
        let name = name::check(name)?;
        make::check_size(size)?;
        make::sweep_now_and_then();
        make::make_way(name)?;
        make::create(name, size, &fill)
    }

    /// A block of `size` bytes, all zero, that this process owns, under a name that it makes up.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn create_unnamed(size: usize) -> Result<SharedMemory> {
        SharedMemory::create_unnamed_filled(size, |_| ())
    }

    /// The same with something in it from the moment that others can find it.
    pub(crate) fn create_unnamed_filled(size: usize, fill: impl Fn(&Words)) -> Result<SharedMemory> {
        make::first_free(name::generate, |name| SharedMemory::create_filled(name, size, &fill))
    }

    /// The block that has this name now. Its length is that of the file.
    ///
    /// # Errors
    /// [`Error::NotFound`], also if its owner is dead; [`Error::Damaged`] for a file that is not memory or has no bytes;
    /// [`Error::Io`] with "permission denied" for another user's.
    pub fn open(name: &str) -> Result<SharedMemory> {
        let name = name::check(name)?;
        loop {
            if let Some(block) = make::open(name)? {
                return Ok(block);
            }
        }
    }

    /// The block that has this name now, whatever its size, or else a new one of `size` bytes.
    ///
    /// # Errors
    /// As for [`create`](Self::create) and [`open`](Self::open), except that the name is taken, or is not.
    pub fn open_or_create(name: &str, size: usize) -> Result<SharedMemory> {
        make::check_size(size)?;
        loop {
            match SharedMemory::open(name) {
                Err(Error::NotFound { .. }) => {}
                result => return result,
            }
            match SharedMemory::create(name, size) {
                Err(Error::AlreadyExists { .. }) => {}
                result => return result,
            }
        }
    }

    fn new(name: &str, mapping: Shmem, status: &Stat, tag: Option<Tag>) -> SharedMemory {
        let inner = Inner {
            name: name.to_owned(),
            words: make::words_of(&mapping),
            id: FileId::from(status),
            tag,
            persists: AtomicBool::new(false),
            _mapping: mapping,
        };
        SharedMemory { inner: Arc::new(inner) }
    }

    /// The name, without a slash.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Length in bytes; never zero.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        self.inner.words.len()
    }

    /// Whether this process created it, and so removes it with its last handle.
    pub fn is_owner(&self) -> bool {
        !self.inner.persists.load(Relaxed) && self.inner.tag.as_ref().is_some_and(Tag::is_mine)
    }

    /// Lets the block outlive its owner: from now on only [`unlink`](Self::unlink) removes the name.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is another process that owns it; [`Error::Io`].
    pub fn persist(&self) -> Result<()> {
        if self.inner.persists.load(Relaxed) {
            return Ok(());
        }
        let Some(tag) = self.inner.tag.as_ref().filter(|tag| tag.is_mine()) else {
            let reason = format!("{:?} is not owned by this process", self.name());
            return Err(Error::Invalid { what: "block to persist", reason });
        };
        match tag.remove() {
            // Another thread did it, or somebody removed it by hand.
            Ok(()) | Err(Errno::NOENT) => self.inner.persists.store(true, Relaxed),
            Err(errno) => {
                return Err(Error::io(format!("persisting shared memory {:?}", self.name()), errno));
            }
        }
        Ok(())
    }

    /// Removes the name, whoever owns the block; those who have it mapped go on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it was removed before, even if another block has the name now; [`Error::Io`] for another
    /// user's, and with "timed out" if a process that removes it as well was stopped.
    pub fn unlink(&self) -> Result<()> {
        match owner::remove_name(self.name(), self.inner.id) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotFound { name: self.name().into() }),
            Err(errno) => Err(Error::io(format!("unlinking shared memory {:?}", self.name()), errno)),
        }
    }

    /// Drops this handle; see there who removes the name.
    pub fn close(self) {}

    /// Removes all blocks of this user whose owners are dead; returns how many. Blocks of the living, blocks that persist
    /// and files of other programs stay. Processes that sweep at the same time share the work, and wait for each other,
    /// two seconds if one was stopped.
    ///
    /// # Errors
    /// [`Error::Io`] if it could remove none though there are some.
    pub fn sweep() -> Result<usize> {
        owner::sweep(None, owner::PATIENCE)
            .map_err(|errno| Error::io("removing the shared memory of dead processes", errno))
    }

    /// Fills `bytes` with those from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if there are not so many.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let length = bytes.len();
        self.inner.words.read(offset, bytes).then_some(()).ok_or_else(|| self.outside(offset, length))
    }

    /// Writes `bytes` from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if they do not all fit; nothing is written then.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.inner.words.write(offset, bytes).then_some(()).ok_or_else(|| self.outside(offset, bytes.len()))
    }

    /// The byte at `offset`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn load(&self, offset: usize) -> Result<u8> {
        let mut byte = [0];
        self.read(offset, &mut byte)?;
        Ok(byte[0])
    }

    /// Writes the byte at `offset`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn store(&self, offset: usize, byte: u8) -> Result<()> {
        self.write(offset, &[byte])
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        // All of them are there.
        let _ = self.inner.words.read(0, &mut bytes);
        bytes
    }

    /// The eight bytes at `offset` as an atomic number, for counters and flags between processes.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Invalid`] for an offset that is not a multiple of eight.
    pub fn as_atomic(&self, offset: usize) -> Result<&AtomicU64> {
        if !offset.is_multiple_of(WORD) {
            let reason = format!("{offset} is not a multiple of {WORD}");
            return Err(Error::Invalid { what: "offset of an atomic number", reason });
        }
        let is_inside = offset.checked_add(WORD).is_some_and(|end| end <= self.len());
        let word = self.inner.words.words().get(offset / WORD).filter(|_| is_inside);
        word.ok_or_else(|| self.outside(offset, WORD))
    }

    /// Address of the first byte in this process, at the start of a page; other processes have it elsewhere.
    ///
    /// Valid for [`len`](Self::len) bytes while any handle lives. Other processes may write at any time.
    pub fn as_ptr(&self) -> NonNull<u8> {
        NonNull::from(self.inner.words.words()).cast()
    }

    /// All bytes, where they are.
    ///
    /// # Safety
    /// Nobody, in any process, writes to them while the slice is in use, nor shortens the file.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self`; nobody writes, says the caller.
        unsafe { slice::from_raw_parts(self.as_ptr().as_ptr(), self.len()) }
    }

    /// All bytes, where they are, to write.
    ///
    /// # Safety
    /// Nobody else, in any process, reads or writes them while the slice is in use, nor shortens the file.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: mapped for as long as `self`; nobody else comes near, says the caller.
        unsafe { slice::from_raw_parts_mut(self.as_ptr().as_ptr(), self.len()) }
    }

    /// The words themselves, for structures that lie in the block.
    pub(crate) fn words(&self) -> &Words {
        &self.inner.words
    }

    fn outside(&self, offset: usize, length: usize) -> Error {
        let index = if length > 0 && offset < self.len() { self.len() } else { offset };
        Error::OutOfBounds { what: "a block of shared memory", index, length: self.len() }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(tag) = self.tag.as_ref().filter(|tag| tag.is_mine() && !*self.persists.get_mut()) {
            // What cannot be removed now is swept when this process is gone.
            let _ = tag.remove_block(self.id);
        }
    }
}

impl fmt::Debug for SharedMemory {
    /// As Python prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory('{}', size={})", self.name().escape_debug(), self.len())
    }
}

impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedMemory, D::Error> {
        let name = String::deserialize(deserializer)?;
        SharedMemory::open(&name).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
