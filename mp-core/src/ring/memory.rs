//! The file behind a ring: sparse, sealed, mapped piece by piece.
//!
//! It lives until the last handle in the last process is gone. Pages are reserved before they are written, so that no write
//! can fail; what is read was written before.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::OnceLock;

use bytemuck::Pod;
use memfd::{FileSeal, MemfdOptions};
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_get_seals, fstat, ftruncate};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::copy::copy;
use super::place::{RINGS, SHORTEST, length};
use super::short::Short;
use super::{RECORD_HEAD, record_size};
use crate::message::SharedFd;
use crate::{Error, Result};

/// Bytes before the first ring, for the header.
pub(super) const HEAD: usize = 1 << SHORTEST;

/// Length of a file with so many rings.
fn file_length(rings: usize) -> u64 {
    1 << (SHORTEST as usize + rings)
}

pub(super) struct Memory {
    fd: SharedFd,
    head: Piece,
    /// The file has room for so many rings.
    count: usize,
    rings: [OnceLock<Piece>; RINGS],
}

/// One mapped piece of the file; its length is a power of two.
pub(super) struct Piece {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: plain memory whose address means the same on every thread; see `Piece::write`.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Piece {
    fn map(fd: &OwnedFd, offset: u64, length: usize) -> Result<Piece> {
        let failed = |errno| Error::io(format!("mapping {length} bytes of a queue"), errno);
        // SAFETY: a fresh mapping at an address that the kernel picks touches no memory of this program.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                offset,
            )
        };
        let start = NonNull::new(start.map_err(failed)?.cast()).ok_or_else(|| failed(Errno::FAULT))?;
        Ok(Piece { start, length })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; whoever has the address borrows the piece.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl Memory {
    /// A new file, as long as this process may have one; all bytes read as zero, and the pages of `head` bytes at its beginning are there.
    pub fn create(name: &str, head: usize) -> Result<Memory> {
        let failed =
            |source: std::io::Error| Error::io(format!("creating the memory of the queue {name:?}"), source);
        crate::room::file(file_length(1) as usize).map_err(failed)?;
        let fits = |rings: &usize| crate::room::file(file_length(*rings) as usize).is_ok();
        let length = file_length((1..=RINGS).rev().find(fits).unwrap_or(1));
        let file = MemfdOptions::new().allow_sealing(true).close_on_exec(true).create(name);
        let file = file.map_err(|error| {
            failed(match error {
                memfd::Error::Create(source)
                | memfd::Error::AddSeals(source)
                | memfd::Error::GetSeals(source) => source,
            })
        })?;
        ftruncate(file.as_file(), length).map_err(|errno| failed(errno.into()))?;
        let seals = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];
        file.add_seals(&seals).map_err(|_| failed(Errno::PERM.into()))?;
        let memory = Memory::open(OwnedFd::from(file.into_file()).into())?;
        memory.allocate(FallocateFlags::empty(), 0, head as u64)?;
        Ok(memory)
    }

    /// The file behind a descriptor that arrived.
    pub fn open(fd: SharedFd) -> Result<Memory> {
        let refuse = |reason: &str| Error::Decode { type_name: "queue", reason: reason.into() };
        let seals = fcntl_get_seals(&fd).map_err(|_| refuse("its memory is not anonymous memory"))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(refuse("its memory is not sealed against shrinking"));
        }
        let status = fstat(&fd).map_err(|errno| Error::io("looking at the memory of a queue", errno))?;
        let Some(count) = (1..=RINGS).find(|&rings| file_length(rings) == status.st_size as u64) else {
            return Err(refuse("its memory has another length"));
        };
        let head = Piece::map(&fd, 0, HEAD)?;
        Ok(Memory { fd, head, count, rings: [const { OnceLock::new() }; RINGS] })
    }

    /// How many rings there are.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn fd(&self) -> &SharedFd {
        &self.fd
    }

    /// Address of the header, valid for [`HEAD`] bytes while `self` lives.
    pub fn head(&self) -> NonNull<u8> {
        self.head.start
    }

    /// The piece that is a ring.
    #[inline]
    pub fn ring(&self, ring: usize) -> Result<&Piece> {
        match self.rings[ring].get() {
            Some(piece) => Ok(piece),
            None => self.map_ring(ring),
        }
    }

    /// The piece that is a ring, if there is one and it is mapped.
    #[inline]
    pub fn mapped(&self, ring: usize) -> Option<&Piece> {
        self.rings.get(ring)?.get()
    }

    #[cold]
    fn map_ring(&self, ring: usize) -> Result<&Piece> {
        if ring >= self.count {
            return Err(damaged("a record is behind the end of the file"));
        }
        let piece = Piece::map(&self.fd, length(ring), length(ring) as usize)?;
        // Another thread may have been faster; then ours goes.
        Ok(self.rings[ring].get_or_init(|| piece))
    }

    /// Gets the pages of the first `end` bytes of a ring from the system, those below `begin` being there.
    pub fn reserve(&self, ring: usize, begin: u64, end: u64) -> Result<()> {
        self.allocate(FallocateFlags::empty(), length(ring) + begin, end - begin)
    }

    /// Gives the pages of a ring back to the system.
    pub fn release(&self, ring: usize) -> Result<()> {
        self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, length(ring), length(ring))
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, bytes: u64) -> Result<()> {
        if flags.is_empty() {
            crate::room::memory(bytes as usize)
                .map_err(|source| Error::io(format!("reserving {bytes} bytes for a queue"), source))?;
        }
        loop {
            match fallocate(&self.fd, flags, offset, bytes) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io(format!("reserving {bytes} bytes for a queue"), errno)),
            }
        }
    }
}

impl Piece {
    /// Where in the mapping an offset lies.
    #[inline]
    fn at(&self, offset: u64) -> usize {
        offset as usize & (self.length - 1)
    }

    #[inline]
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// Writes a whole record of `size` bytes, if it does not go round the end; as [`write`](Self::write).
    #[inline(always)]
    pub fn write_record(&self, offset: u64, size: u64, bytes: &[u8]) -> bool {
        let at = self.at(offset);
        let room = self.length - at;
        if size > room as u64 || bytes.len() > room - RECORD_HEAD as usize {
            return false;
        }
        // SAFETY: all within the mapping, as was just seen; else as in `write`.
        unsafe {
            let to = self.start.as_ptr().add(at);
            to.cast::<[u64; 2]>().write_unaligned([bytes.len() as u64, 0]);
            copy(bytes.as_ptr(), to.add(RECORD_HEAD as usize), bytes.len());
        }
        true
    }

    /// Copies a whole record, if it is short, takes up `most` bytes at most, and nothing is said about it; the size that it
    /// takes up. As [`read`](Self::read).
    #[inline(always)]
    pub fn read_record(&self, offset: u64, most: u64, short: &mut Short) -> Option<u64> {
        let [bytes, about] = self.read_head(offset);
        if bytes > Short::MOST as u64 || about != 0 {
            return None;
        }
        let size = record_size(bytes);
        if size > most {
            return None;
        }
        short.fill(self, offset + RECORD_HEAD, bytes as usize);
        Some(size)
    }

    /// Copies `bytes` into a ring, round its end. The caller has the writers' lock and these pages are reserved.
    #[inline(always)]
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = self.at(offset);
        let first = bytes.len().min(self.length - at);
        if bytes.len() - first > at {
            return Err(damaged("a record is longer than its ring"));
        }
        // SAFETY: both parts lie within the mapping: `first` ends at its end at the latest, the rest before `at`. Nobody
        // reads these bytes before they are published, and nobody else writes them: the caller has the lock.
        unsafe {
            let to = self.start.as_ptr();
            copy(bytes.as_ptr(), to.add(at), first);
            if first < bytes.len() {
                to.copy_from_nonoverlapping(bytes.as_ptr().add(first), bytes.len() - first);
            }
        }
        Ok(())
    }

    /// Appends `count` bytes of a ring to `numbers`, round its end, or as many as make whole numbers. The caller has the
    /// readers' lock, and they are published.
    #[inline]
    pub fn read<N: Pod>(&self, offset: u64, count: usize, numbers: &mut Vec<N>) -> Result<()> {
        let more = count.checked_div(size_of::<N>()).unwrap_or(0);
        if numbers.capacity() - numbers.len() < more && numbers.try_reserve(more).is_err() {
            return Err(no_memory(count));
        }
        let room = numbers.spare_capacity_mut();
        let room = &mut room[..more];
        // SAFETY: uninitialised memory of numbers is memory of bytes as well, which are only written.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(room.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of_val(room))
        };
        self.fill(offset, bytes)?;
        // SAFETY: there is room for so many, all their bytes were filled, and any bytes make an `N: Pod`.
        unsafe { numbers.set_len(numbers.len() + more) };
        Ok(())
    }

    /// Fills all of `bytes` from a ring; as [`read`](Self::read).
    #[inline]
    pub fn read_exact(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: initialised memory stays so: it is only overwritten with bytes.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<MaybeUninit<u8>>(), bytes.len())
        };
        self.fill(offset, bytes)
    }

    /// Writes every one of `bytes`, unless it fails.
    #[inline]
    fn fill(&self, offset: u64, bytes: &mut [MaybeUninit<u8>]) -> Result<()> {
        let at = self.at(offset);
        let count = bytes.len();
        if count > self.length {
            return Err(damaged("a record is longer than its ring"));
        }
        let first = count.min(self.length - at);
        // SAFETY: both parts lie within the mapping, and `bytes` has room for them. Nobody writes these bytes: they are
        // published and not yet taken, and the caller alone may take them.
        unsafe {
            let from = self.start.as_ptr();
            let to = bytes.as_mut_ptr().cast::<u8>();
            to.copy_from_nonoverlapping(from.add(at), first);
            if first < count {
                to.add(first).copy_from_nonoverlapping(from, count - first);
            }
        }
        Ok(())
    }

    /// The sixteen bytes at `offset`, a multiple of sixteen, or at the multiple before it; as [`read`](Self::read).
    #[inline]
    pub fn sixteen(&self, offset: u64) -> MaybeUninit<[u8; 16]> {
        let at = self.at(offset) & !15;
        // SAFETY: within the mapping, whose length is a power of two above sixteen; nobody writes these bytes, as in `fill`.
        unsafe { self.start.as_ptr().add(at).cast::<MaybeUninit<[u8; 16]>>().read() }
    }

    /// The sixteen bytes at `offset`, a multiple of sixteen, as two numbers.
    #[inline]
    pub fn read_head(&self, offset: u64) -> [u64; 2] {
        let at = self.at(offset) & !15;
        // SAFETY: aligned and within the mapping, whose length is a power of two above sixteen; bytes as in `read`.
        unsafe { self.start.as_ptr().add(at).cast::<[u64; 2]>().read_volatile() }
    }

    /// Fetches the memory at `offset` for one who will write it soon (`write`), or read it: it takes some time to come from
    /// another CPU, and so it comes while other things are done.
    #[inline]
    pub fn fetch(&self, offset: u64, write: bool) {
        // SAFETY: within the mapping.
        let at = unsafe { self.start.as_ptr().add(self.at(offset)) };
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch changes nothing and never faults.
            unsafe {
                match write {
                    true => _mm_prefetch::<_MM_HINT_ET0>(at.cast()),
                    false => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, write);
    }

    /// Writes the sixteen bytes at `offset`, a multiple of sixteen; as [`write`](Self::write).
    #[inline]
    pub fn write_head(&self, offset: u64, head: [u64; 2]) {
        let at = self.at(offset) & !15;
        // SAFETY: as in `read_head` and `write`.
        unsafe { self.start.as_ptr().add(at).cast::<[u64; 2]>().write_volatile(head) };
    }
}

#[cold]
fn no_memory(count: usize) -> Error {
    Error::io(format!("getting {count} bytes of memory for a message"), std::io::ErrorKind::OutOfMemory)
}

/// What another process wrote makes no sense.
#[cold]
pub(super) fn damaged(reason: &str) -> Error {
    Error::Decode { type_name: "queue", reason: format!("its memory is damaged: {reason}") }
}

#[cold]
pub(super) fn not_written() -> Error {
    damaged("no ring is being written")
}

#[cold]
pub(super) fn not_read() -> Error {
    damaged("no ring is being read")
}
