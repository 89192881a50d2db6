//! Bulk data that nobody can change any more, mapped by any number of processes.
//!
//! It lives until the last handle in the last process is gone, however those processes end; a death changes nothing in it.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ops::Deref;
use std::slice;
use std::sync::Arc;

use bytemuck::Pod;
use mp_core::handle;
use mp_core::message::SharedFd;
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pages::Pages;
use crate::vec::SharedVec;
use crate::{Error, Result};

/// A constant array in shared memory; a clone is another handle to the same one.
///
/// A slice of `T` in every process that has it. The kernel keeps all of them from writing to it (`F_SEAL_WRITE`), which is
/// why safe code can have it as a slice, also when it came from a process that cannot be trusted.
///
/// Sent in a message, it arrives as the same memory: a gigabyte travels as fast as a byte. Made by
/// [`SharedVec::freeze`], or by a copy: [`from_slice`](Self::from_slice).
///
/// ```
/// use mp_shm::SharedSlice;
///
/// let table = SharedSlice::from_slice(&[1.5, 2.5])?;
/// let there = std::thread::spawn({
///     let table = table.clone();
///     move || table.iter().sum::<f64>()
/// });
/// assert_eq!(there.join().unwrap(), 4.0);
/// # Ok::<(), mp_shm::Error>(())
/// ```
pub struct SharedSlice<T> {
    memory: Arc<Memory>,
    length: usize,
    elements: PhantomData<T>,
}

struct Memory {
    pages: Pages,
    file: SharedFd,
}

/// Bytes of a file with so many elements, one at least; none if no memory could have so many.
pub fn file_size<T>(length: usize) -> Option<usize> {
    let size = length.checked_mul(size_of::<T>())?.max(1);
    isize::try_from(size).is_ok().then_some(size)
}

impl<T: Pod> SharedSlice<T> {
    /// A copy of `values` in shared memory.
    ///
    /// # Errors
    /// As for [`SharedVec::zeroed`].
    pub fn from_slice(values: &[T]) -> Result<SharedSlice<T>> {
        SharedVec::from_slice(values)?.freeze()
    }

    /// The first `length` elements of a file, if it has so many and nobody can change them.
    pub(crate) fn map(file: SharedFd, length: usize) -> Result<SharedSlice<T>> {
        const { assert!(align_of::<T>() <= 4096, "elements of shared memory are aligned to a page at most") };
        let refuse =
            |reason: &str| Err(Error::Invalid { what: "memory of a shared slice", reason: reason.into() });
        let needed = SealFlags::WRITE | SealFlags::SHRINK;
        if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(needed)) {
            return refuse("it is not sealed against writing");
        }
        let status = fstat(&file).map_err(|errno| Error::io("mapping a shared slice", errno))?;
        match file_size::<T>(length) {
            Some(size) if size as u64 <= status.st_size as u64 => {
                let pages = Pages::to_read(&file, size);
                let pages = pages.map_err(|errno| Error::io("mapping a shared slice", errno))?;
                Ok(SharedSlice { memory: Arc::new(Memory { pages, file }), length, elements: PhantomData })
            }
            _ => refuse("it is too short"),
        }
    }
}

impl<T: Pod> Deref for SharedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `map` saw that so many elements are there, from the start of a page on, and that neither they nor the
        // length of the file can change; any bytes make a `T`.
        unsafe { slice::from_raw_parts(self.memory.pages.start().cast().as_ptr(), self.length) }
    }
}

impl<T> Clone for SharedSlice<T> {
    fn clone(&self) -> SharedSlice<T> {
        SharedSlice { memory: self.memory.clone(), length: self.length, elements: PhantomData }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for SharedSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Pod + PartialEq> PartialEq for SharedSlice<T> {
    fn eq(&self, other: &SharedSlice<T>) -> bool {
        **self == **other
    }
}

impl<T: Pod + Eq> Eq for SharedSlice<T> {}

impl<T: Pod> Serialize for SharedSlice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(serializer, "SharedSlice", |fds| {
            Ok((fds.attach_shared(&self.memory.file), self.length, size_of::<T>()))
        })
    }
}

impl<'de, T: Pod> Deserialize<'de> for SharedSlice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedSlice<T>, D::Error> {
        handle::deserialize(deserializer, "SharedSlice", |fds, body: (u32, usize, usize)| {
            let (index, length, size) = body;
            let refuse = |reason| mp_core::Error::Decode { type_name: std::any::type_name::<T>(), reason };
            if size != size_of::<T>() {
                return Err(refuse(format!("the elements that came have {size} bytes")));
            }
            let file = fds.share(index, "SharedSlice")?;
            SharedSlice::map(file, length).map_err(|error| refuse(error.to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use mp_core::message::Message;
    use rustix::mm::{MapFlags, ProtFlags, mmap};

    use super::*;

    #[test]
    fn arrives_as_the_same_memory() {
        let sent = SharedSlice::from_slice(&[1_u16, 2, 3]).unwrap();
        let message = Message::encode(&(sent.clone(), sent.clone())).unwrap();
        assert_eq!(message.fds.len(), 1);
        let (came, again) = message.decode::<(SharedSlice<u16>, SharedSlice<u16>)>().unwrap();
        assert_eq!((&came, &again), (&sent, &sent));
        assert_eq!(fstat(&came.memory.file).unwrap().st_ino, fstat(&sent.memory.file).unwrap().st_ino);
        assert!(Message::encode(&sent).unwrap().decode::<SharedSlice<u32>>().is_err());
    }

    #[test]
    fn nobody_can_write() {
        let slice = SharedSlice::from_slice(&[1_u8; 5000]).unwrap();
        let file = slice.memory.file.as_fd();
        assert!(rustix::io::pwrite(file, &[2], 0).is_err());
        assert!(rustix::fs::ftruncate(file, 1).is_err());
        // SAFETY: a new mapping touches nothing.
        let mapped = unsafe {
            mmap(std::ptr::null_mut(), 5000, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        };
        assert!(mapped.is_err());
    }

    #[test]
    fn memory_that_can_change_or_is_too_short_is_refused() {
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        assert!(SharedSlice::<u8>::map(file.into(), 1).is_err());
        let file = memfd::MemfdOptions::new().allow_sealing(true).create("open").unwrap().into_file();
        file.set_len(4096).unwrap();
        assert!(SharedSlice::<u8>::map(OwnedFd::from(file).into(), 1).is_err());
        let slice = SharedSlice::from_slice(&[1_u64; 4]).unwrap();
        for length in [5, usize::MAX, usize::MAX / 8] {
            assert!(SharedSlice::<u64>::map(slice.memory.file.clone(), length).is_err());
        }
    }
}
