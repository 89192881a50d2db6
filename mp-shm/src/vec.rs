//! Bulk data while it is being made: memory that one process writes, ready to be sent without a copy.
//!
//! Nothing of it has a name: when the process dies, it is gone.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::slice;

use bytemuck::Pod;
use memfd::{FileSeal, MemfdOptions};
use mp_core::room;

use crate::pages::{Pages, reserve};
use crate::slice::{SharedSlice, file_size};
use crate::{Error, Result};

/// An array that its process alone has, in memory that can be given to others.
///
/// A slice of `T` to read and write, as a `Vec` of fixed length is. [`freeze`](Self::freeze) makes it a
/// [`SharedSlice`], which nobody can change any more, and which any number of processes map. The bytes are never
/// copied: what one process computes is read by the others where it was written.
///
/// Costs a descriptor, and whole pages. A child of a fork does not have it: there, looking at the slice panics.
///
/// What `multiprocessing.Array` is used for in Python, without a lock; for elements that change while others look, see
/// [`RawArray`](crate::RawArray).
///
/// ```
/// use mp_shm::{SharedSlice, SharedVec};
///
/// let mut squares = SharedVec::<u64>::zeroed(1000)?;
/// for (i, square) in squares.iter_mut().enumerate() {
///     *square = (i * i) as u64;
/// }
/// let squares: SharedSlice<u64> = squares.freeze()?;
/// assert_eq!(squares[12], 144);
/// # Ok::<(), mp_shm::Error>(())
/// ```
pub struct SharedVec<T> {
    pages: Pages,
    file: OwnedFd,
    length: usize,
    elements: PhantomData<T>,
}

impl<T: Pod> SharedVec<T> {
    /// `length` elements whose bytes are all zero.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when memory does not suffice, [`Error::Invalid`] for a length that no memory could have.
    pub fn zeroed(length: usize) -> Result<SharedVec<T>> {
        const { assert!(align_of::<T>() <= 4096, "elements of shared memory are aligned to a page at most") };
        let Some(size) = file_size::<T>(length) else {
            let reason = format!("{length} elements of {} bytes", size_of::<T>());
            return Err(Error::Invalid { what: "length of a shared vector", reason });
        };
        let fail = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::OutOfMemory => {
                Error::NoSpace { name: "vector".into(), size }
            }
            _ => Error::io(format!("making a shared vector of {size} bytes"), source),
        };
        room::file(size).and_then(|()| room::memory(size)).map_err(fail)?;
        let file = MemfdOptions::new().allow_sealing(true).close_on_exec(true).create("vector");
        let file = file.map_err(|error| fail(into_io(error)))?.into_file();
        file.set_len(size as u64).map_err(fail)?;
        reserve(&file, size).map_err(|errno| fail(errno.into()))?;
        let pages = Pages::to_write(&file, size).map_err(|errno| fail(errno.into()))?;
        Ok(SharedVec { pages, file: file.into(), length, elements: PhantomData })
    }

    /// A copy of `values` in memory that can be shared.
    ///
    /// # Errors
    /// As for [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> Result<SharedVec<T>> {
        let mut vec = SharedVec::zeroed(values.len())?;
        vec.copy_from_slice(values);
        Ok(vec)
    }

    /// Ends all writing: what it holds now is what every process sees, for ever. The kernel sees to that.
    ///
    /// # Errors
    /// [`Error::Invalid`] in a child of a fork; [`Error::Io`] if the system refuses, as it does while a direct read from a
    /// disk into the memory is still going on. The data is lost then.
    pub fn freeze(self) -> Result<SharedSlice<T>> {
        let SharedVec { pages, file, length, .. } = self;
        if !pages.are_here() {
            let reason = String::from("it belongs to the process that made it, before the fork");
            return Err(Error::Invalid { what: "shared vector to freeze", reason });
        }
        // The kernel refuses the seal while the memory can be written anywhere.
        drop(pages);
        let fail = |source: std::io::Error| Error::io("freezing a shared vector", source);
        let file =
            memfd::Memfd::try_from_fd(file).map_err(|_| fail(std::io::ErrorKind::InvalidInput.into()))?;
        let seals = [FileSeal::SealWrite, FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];
        file.add_seals(&seals).map_err(|error| fail(into_io(error)))?;
        SharedSlice::map(OwnedFd::from(file.into_file()).into(), length)
    }
}

impl<T> SharedVec<T> {
    /// # Panics
    /// In a child of a fork.
    fn assert_here(&self) {
        assert!(
            self.pages.are_here(),
            "a SharedVec belongs to the process that made it, and this is a child that was forked later; \
             freeze it before the fork"
        );
    }
}

impl<T: Pod> Deref for SharedVec<T> {
    type Target = [T];

    /// # Panics
    /// In a child of a fork.
    fn deref(&self) -> &[T] {
        self.assert_here();
        // SAFETY: so many elements are mapped, at a page, in this process alone: nobody else got the descriptor or, by
        // a fork, the mapping. Whoever writes has borrowed `self` to do so. Any bytes make a `T`.
        unsafe { slice::from_raw_parts(self.pages.start().cast().as_ptr(), self.length) }
    }
}

impl<T: Pod> DerefMut for SharedVec<T> {
    /// # Panics
    /// In a child of a fork.
    fn deref_mut(&mut self) -> &mut [T] {
        self.assert_here();
        // SAFETY: as in `deref`; `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.pages.start().cast().as_ptr(), self.length) }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for SharedVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

fn into_io(error: memfd::Error) -> std::io::Error {
    match error {
        memfd::Error::Create(error) | memfd::Error::AddSeals(error) | memfd::Error::GetSeals(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_until_it_is_frozen() {
        let mut vec = SharedVec::<u32>::zeroed(5000).unwrap();
        assert!(vec.iter().all(|element| *element == 0));
        vec[4999] = 7;
        vec[..3].copy_from_slice(&[3, 1, 2]);
        vec[..3].sort();
        let frozen = vec.freeze().unwrap();
        assert_eq!((&frozen[..4], frozen[4999], frozen.len()), (&[1, 2, 3, 0][..], 7, 5000));
    }

    #[test]
    fn nothing_and_elements_of_no_size() {
        let frozen = SharedVec::<u64>::from_slice(&[]).unwrap().freeze().unwrap();
        assert!(frozen.is_empty());
        assert_eq!(SharedVec::<()>::zeroed(9).unwrap().freeze().unwrap().len(), 9);
        assert!(matches!(SharedVec::<u64>::zeroed(usize::MAX / 8), Err(Error::Invalid { .. })));
    }
}
