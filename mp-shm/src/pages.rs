//! Pages of a file in memory, mapped into this process. A death takes the mapping with it and leaves the file to the others.

use std::os::fd::AsFd;
use std::ptr::NonNull;

use mp_core::liveness::ProcessId;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Gets `size` bytes of pages from the system now, so that no write to them can fail.
///
/// In pieces, because a signal undoes the piece that is being got.
pub fn reserve(file: &impl AsFd, size: usize) -> Result<(), Errno> {
    const PIECE: usize = 32 << 20;
    for start in (0..size).step_by(PIECE) {
        let length = PIECE.min(size - start);
        while let Err(errno) = fallocate(file, FallocateFlags::empty(), start as u64, length as u64) {
            if errno != Errno::INTR {
                return Err(errno);
            }
        }
    }
    Ok(())
}

/// The first bytes of a file, mapped; unmapped when dropped.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    length: usize,
    /// The only process that has the mapping, if children of a fork do not get it.
    only: Option<ProcessId>,
}

// SAFETY: an address and a length; what is read and written there is up to who uses them.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `length` bytes, one at least, to read; children of a fork have them, too.
    pub fn to_read(file: &impl AsFd, length: usize) -> Result<Pages, Errno> {
        // Private, because older kernels refuse to share what is sealed against writing; as nobody writes, it is the same.
        let start = Pages::map(file, length, ProtFlags::READ, MapFlags::PRIVATE)?;
        Ok(Pages { start, length, only: None })
    }

    /// Maps `length` bytes, one at least, to read and write; children of a fork do not have them.
    pub fn to_write(file: &impl AsFd, length: usize) -> Result<Pages, Errno> {
        let start = Pages::map(file, length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)?;
        let pages = Pages { start, length, only: Some(ProcessId::current()) };
        // SAFETY: the mapping is this one; what it is in this process does not change.
        unsafe { madvise(start.as_ptr().cast(), length, Advice::LinuxDontFork)? };
        Ok(pages)
    }

    fn map(file: &impl AsFd, length: usize, access: ProtFlags, kind: MapFlags) -> Result<NonNull<u8>, Errno> {
        // SAFETY: a new mapping, at an address that the kernel picks, touches no memory of this program.
        let start = unsafe { mmap(std::ptr::null_mut(), length, access, kind, file, 0)? };
        NonNull::new(start.cast()).ok_or(Errno::FAULT)
    }

    /// Address of the first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Whether the mapping is there: not in a child of a fork, if it was made to write.
    pub fn are_here(&self) -> bool {
        self.only.is_none_or(|process| process == ProcessId::current())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Where they are not, something else may have the address by now.
        if self.are_here() {
            // SAFETY: this mapping, of which nobody may use the address any more.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}
