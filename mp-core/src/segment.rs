//! Shared memory segments: sealed anonymous memory that travels between processes as a descriptor.
//!
//! When a process dies, its mappings and descriptors go with it and the memory of the others stays whole;
//! the last one to let go frees it. Nothing has a name in `/dev/shm`, so nothing can be left behind.
//!
//! # Why no crash and no peer can break it
//!
//! The length is fixed at birth by seals (no shrink, no grow, no more seals). A mapping of a sealed segment
//! therefore never reaches past the end of its file, whoever else holds the descriptor, and a write to a
//! reserved page never meets an empty `/dev/shm` (no SIGBUS). Segments that arrive are accepted only with the
//! shrink seal.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use memfd::{FileSeal, MemfdOptions};
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handle;
use crate::message::SharedFd;
use crate::{Error, Result, room};

/// The identity of a segment: equal in every process that holds it, for as long as anybody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    device: u64,
    inode: u64,
}

/// A handle to one mapping of shared memory; a clone is another handle to the same mapping.
///
/// It can sit inside any message; equal segments travel once and are mapped once in each process. The memory
/// lives until the last handle in the last process is gone, however those processes end. All bytes start as
/// zero.
///
/// Follows `multiprocessing.heap.Arena`.
///
/// ```
/// # fn main() -> mp_core::Result<()> {
/// let segment = mp_core::segment::Segment::create("numbers", 4096)?;
/// assert_eq!(segment.len(), 4096);
/// let copy = mp_core::message::Message::encode(&segment)?.decode::<mp_core::segment::Segment>()?;
/// assert_eq!(copy.as_ptr(), segment.as_ptr());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Segment {
    mapping: Arc<Mapping>,
}

struct Mapping {
    fd: SharedFd,
    start: NonNull<u8>,
    length: usize,
    id: SegmentId,
}

// SAFETY: the mapping is plain memory owned by this value alone; its address means the same on every thread,
// and whoever reads or writes through `as_ptr` has to keep their own order, as between processes.
unsafe impl Send for Mapping {}
// SAFETY: as above; all methods only read the immutable fields.
unsafe impl Sync for Mapping {}

/// Every mapping of this process, so that a segment that arrives twice is mapped once.
static MAPPINGS: LazyLock<Mutex<HashMap<SegmentId, Weak<Mapping>>>> = LazyLock::new(Mutex::default);

fn mappings() -> MutexGuard<'static, HashMap<SegmentId, Weak<Mapping>>> {
    MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Segment {
    /// A segment of `length` bytes with every page reserved now, so that no later write can fail.
    ///
    /// `name` shows up in `/proc` and in errors only. Errors: [`Error::Io`] naming the segment and its size
    /// when memory or the limit of `/dev/shm` does not suffice, [`Error::Invalid`] for a length of zero.
    pub fn create(name: &str, length: usize) -> Result<Segment> {
        let segment = Segment::create_sparse(name, length)?;
        segment.reserve(0..length).map_err(|error| match error {
            Error::Io { source, .. } => {
                Error::io(format!("reserving {length} bytes for the shared memory segment {name:?}"), source)
            }
            other => other,
        })?;
        Ok(segment)
    }

    /// A segment of `length` bytes that holds no pages yet: call [`reserve`](Self::reserve) before the first
    /// use of any.
    ///
    /// Errors as in [`create`](Self::create).
    pub fn create_sparse(name: &str, length: usize) -> Result<Segment> {
        let what = || format!("creating the shared memory segment {name:?} of {length} bytes");
        if length == 0 || isize::try_from(length).is_err() {
            let reason = format!("{name:?} cannot have {length} bytes");
            return Err(Error::Invalid { what: "segment length", reason });
        }
        if name.len() > 200 || name.contains('\0') {
            let reason = format!("{name:?} has more than 200 bytes or a NUL inside");
            return Err(Error::Invalid { what: "segment name", reason });
        }
        room::file(length).map_err(|error| Error::io(what(), error))?;
        let memory = MemfdOptions::new()
            .allow_sealing(true)
            .close_on_exec(true)
            .create(name)
            .map_err(|error| Error::io(what(), into_io(error)))?;
        ftruncate(memory.as_file(), length as u64).map_err(|errno| Error::io(what(), errno))?;
        memory
            .add_seals(&[FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal])
            .map_err(|error| Error::io(what(), into_io(error)))?;
        Segment::open(OwnedFd::from(memory.into_file()).into(), what)
    }

    /// The segment behind a descriptor that arrived; if this process has it mapped already, that mapping.
    ///
    /// Errors: [`Error::Invalid`] if it is not anonymous memory sealed against shrinking, or empty.
    pub fn from_fd(fd: OwnedFd) -> Result<Segment> {
        Segment::from_shared_fd(fd.into())
    }

    /// [`from_fd`](Self::from_fd) for a descriptor that a message still shares.
    pub(crate) fn from_shared_fd(fd: SharedFd) -> Result<Segment> {
        Segment::open(fd, || String::from("mapping a shared memory segment that arrived"))
    }

    fn open(fd: SharedFd, what: impl Fn() -> String) -> Result<Segment> {
        let failed = |errno| Error::io(what(), errno);
        let status = fstat(&fd).map_err(failed)?;
        let id = SegmentId { device: status.st_dev as u64, inode: status.st_ino as u64 };
        let mut mappings = mappings();
        if let Some(mapping) = mappings.get(&id).and_then(Weak::upgrade) {
            return Ok(Segment { mapping });
        }
        let refuse = |reason: &str| Error::Invalid { what: "shared memory segment", reason: reason.into() };
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| refuse("it is not anonymous memory"))?;
        if !seals.contains(rustix::fs::SealFlags::SHRINK) {
            return Err(refuse("it is not sealed against shrinking"));
        }
        let length = usize::try_from(status.st_size).unwrap_or(0);
        if length == 0 || isize::try_from(length).is_err() {
            return Err(refuse("its length makes no sense"));
        }
        // SAFETY: a fresh mapping at an address that the kernel picks touches no memory of this program; the
        // shrink seal keeps the whole of it backed by the file.
        let start = unsafe {
            mmap(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0)
        };
        let start =
            NonNull::new(start.map_err(failed)?.cast()).ok_or_else(|| failed(rustix::io::Errno::FAULT))?;
        let mapping = Arc::new(Mapping { fd, start, length, id });
        mappings.insert(id, Arc::downgrade(&mapping));
        Ok(Segment { mapping })
    }

    /// Address of the first byte in this process; other processes have it elsewhere.
    ///
    /// Valid for [`len`](Self::len) bytes while any handle lives. Other processes may write at any time: use
    /// atomics or volatile access, or keep order by a lock.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.mapping.start
    }

    /// Length in bytes; never zero.
    #[expect(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub fn len(&self) -> usize {
        self.mapping.length
    }

    /// Which segment this is, in any process.
    pub fn id(&self) -> SegmentId {
        self.mapping.id
    }

    /// The descriptor, shared with this handle.
    pub fn shared_fd(&self) -> &SharedFd {
        &self.mapping.fd
    }

    /// Gets the pages of `range` (in bytes) from the system now, keeping what they hold, so that writing
    /// there cannot fail.
    ///
    /// Errors: [`Error::Io`] when there is not enough memory, [`Error::Invalid`] for a range outside the
    /// segment.
    pub fn reserve(&self, range: Range<usize>) -> Result<()> {
        self.allocate("reserving", FallocateFlags::empty(), range)
    }

    /// Gives the whole pages of `range` (in bytes) back to the system; the bytes of `range` read as zero
    /// afterwards.
    ///
    /// Errors as in [`reserve`](Self::reserve).
    pub fn release(&self, range: Range<usize>) -> Result<()> {
        self.allocate("releasing", FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, range)
    }

    fn allocate(&self, doing: &str, flags: FallocateFlags, range: Range<usize>) -> Result<()> {
        if range.start > range.end || range.end > self.len() {
            let reason = format!("{range:?} is outside a segment of {} bytes", self.len());
            return Err(Error::Invalid { what: "segment range", reason });
        }
        if range.is_empty() {
            return Ok(());
        }
        if flags.is_empty() {
            room::memory(range.len()).map_err(|source| {
                Error::io(format!("{doing} bytes {range:?} of a shared memory segment"), source)
            })?;
        }
        loop {
            match fallocate(&self.mapping.fd, flags, range.start as u64, range.len() as u64) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::io(
                        format!("{doing} bytes {range:?} of a shared memory segment"),
                        errno,
                    ));
                }
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        {
            let mut mappings = mappings();
            // A newer mapping of the same segment may have taken the place meanwhile.
            if mappings.get(&self.id).is_some_and(|known| known.strong_count() == 0) {
                mappings.remove(&self.id);
            }
        }
        // SAFETY: the mapping was made by `open` with this length and nothing else unmaps it; whoever holds
        // the address has to hold a handle too, and this was the last.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mapping.fd.as_fd()
    }
}

impl PartialEq for Segment {
    fn eq(&self, other: &Segment) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Segment {}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("len", &self.len()).field("id", &self.id()).finish()
    }
}

impl Serialize for Segment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(serializer, "Segment", |fds| Ok(fds.attach_segment(self)))
    }
}

impl<'de> Deserialize<'de> for Segment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Segment, D::Error> {
        handle::deserialize(deserializer, "Segment", |fds, index: u32| fds.segment(index, "Segment"))
    }
}

fn into_io(error: memfd::Error) -> std::io::Error {
    match error {
        memfd::Error::Create(source) | memfd::Error::AddSeals(source) | memfd::Error::GetSeals(source) => {
            source
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(segment: &Segment, at: usize, byte: u8) {
        assert!(at < segment.len());
        // SAFETY: inside the mapping, which the handle keeps alive; the test is the only user.
        unsafe { segment.as_ptr().add(at).write_volatile(byte) }
    }

    fn read(segment: &Segment, at: usize) -> u8 {
        assert!(at < segment.len());
        // SAFETY: as in `write`.
        unsafe { segment.as_ptr().add(at).read_volatile() }
    }

    fn blocks(segment: &Segment) -> i64 {
        fstat(segment).unwrap().st_blocks as i64
    }

    #[test]
    fn equal_segments_are_mapped_once() {
        let segment = Segment::create("once", 10_000).unwrap();
        let duplicate = Segment::from_fd(segment.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(segment.as_ptr(), duplicate.as_ptr());
        assert_eq!(segment, duplicate);
        let id = segment.id();
        drop(segment);
        write(&duplicate, 9_999, 7);
        assert_eq!(read(&duplicate, 9_999), 7);
        drop(duplicate);
        assert!(!mappings().contains_key(&id));
    }

    #[test]
    fn na_14_pages_are_there_from_the_start() {
        let whole = Segment::create("whole", 1 << 20).unwrap();
        assert!(blocks(&whole) >= (1 << 20) / 512);
        let sparse = Segment::create_sparse("sparse", 1 << 30).unwrap();
        assert_eq!(blocks(&sparse), 0);
        sparse.reserve(4096..12288).unwrap();
        assert_eq!(blocks(&sparse), 16);
        write(&sparse, 5000, 9);
        sparse.reserve(0..8192).unwrap();
        assert_eq!(read(&sparse, 5000), 9);
        sparse.release(4096..8192).unwrap();
        assert_eq!(read(&sparse, 5000), 0);
        assert!(matches!(sparse.reserve(0..(1 << 30) + 1), Err(Error::Invalid { .. })));
    }

    #[test]
    fn na_14_too_large_is_an_error_with_name_and_size() {
        // More than any address space, and more than the memory of this machine.
        for length in [1_usize << 50, 1 << 44] {
            let error = Segment::create("giant", length).unwrap_err().to_string();
            assert!(error.contains("giant") && error.contains(&length.to_string()), "{error}");
        }
        assert!(matches!(Segment::create("nothing", 0), Err(Error::Invalid { .. })));
        assert!(matches!(Segment::create("a\0b", 1), Err(Error::Invalid { .. })));
    }

    #[test]
    fn nobody_can_change_the_length() {
        let segment = Segment::create("sealed", 8192).unwrap();
        assert!(ftruncate(&segment, 4096).is_err());
        assert!(ftruncate(&segment, 16384).is_err());
    }

    #[test]
    fn unsealed_memory_and_other_files_are_refused() {
        let memory = MemfdOptions::new().allow_sealing(true).create("unsealed").unwrap().into_file();
        memory.set_len(4096).unwrap();
        assert!(matches!(Segment::from_fd(memory.into()), Err(Error::Invalid { .. })));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(Segment::from_fd(file.into()), Err(Error::Invalid { .. })));
    }
}
