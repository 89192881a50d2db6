//! The memory of a link, until segments travel.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::{Error, Result};

#[derive(Clone, Debug)]
pub(super) struct Segment(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; access goes through raw pointers.
unsafe impl Send for Inner {}
// SAFETY: as above; nothing in here changes after creation.
unsafe impl Sync for Inner {}

impl Segment {
    pub fn create_sparse(name: &str, len: usize) -> Result<Segment> {
        let fail = |source| Error::io(format!("creating the segment {name:?} of {len} bytes"), source);
        let fd = memfd_create(name, MemfdFlags::CLOEXEC).map_err(fail)?;
        ftruncate(&fd, len as u64).map_err(fail)?;
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start =
            unsafe { mmap(std::ptr::null_mut(), len, flags, MapFlags::SHARED, &fd, 0) }.map_err(fail)?;
        let start = NonNull::new(start.cast()).ok_or_else(|| fail(rustix::io::Errno::NOMEM))?;
        Ok(Segment(Arc::new(Inner { fd, start, len })))
    }

    pub fn reserve(&self, range: Range<usize>) -> Result<()> {
        let length = (range.end - range.start) as u64;
        loop {
            match fallocate(&self.0.fd, FallocateFlags::empty(), range.start as u64, length) {
                Err(rustix::io::Errno::INTR) => continue,
                result => {
                    return result.map_err(|source| {
                        Error::io(format!("reserving {length} bytes of shared memory"), source)
                    });
                }
            }
        }
    }

    pub fn as_ptr(&self) -> NonNull<u8> {
        self.0.start
    }

    pub fn len(&self) -> usize {
        self.0.len
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `create_sparse`, and its last user is gone.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
