//! Elements of one plain type in a row, in memory that processes share: what arrays with and without a lock are made of.
//!
//! They live until the last handle in the last process is gone, however those processes end.

use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ptr::{self, NonNull};

use bytemuck::Pod;
use mp_core::region::Region;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// A handle to the elements; a clone is another one to the same.
pub(crate) struct Elements<T> {
    region: Region,
    length: usize,
    types: PhantomData<fn(T) -> T>,
}

impl<T: Pod> Elements<T> {
    /// `length` elements whose bytes are all zero.
    pub fn zeroed(length: usize) -> Result<Elements<T>> {
        const { assert!(align_of::<T>() <= 64, "data in shared memory are aligned to 64 bytes at most") };
        let size = length.checked_mul(size_of::<T>()).filter(|size| isize::try_from(*size).is_ok());
        let Some(size) = size else {
            let reason = format!("{length} elements of {} bytes", size_of::<T>());
            return Err(Error::Invalid { what: "length of an array", reason });
        };
        // A short block is aligned to its length only.
        let region = Region::new("array", size.max(align_of::<T>()))?;
        Ok(Elements { region, length, types: PhantomData })
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[T]) -> Result<Elements<T>> {
        let elements = Elements::zeroed(values.len())?;
        // SAFETY: so many elements are mapped and aligned there, apart from `values`, and nobody else has seen them.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), elements.start().as_ptr(), values.len()) };
        Ok(elements)
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// The first one. It is aligned for `T`, and all are mapped there for as long as `self` lives.
    #[inline]
    pub fn start(&self) -> NonNull<T> {
        self.region.as_ptr().cast()
    }

    /// The one at `index`, followed by `count - 1` more, with the promises of `start`; an error if they are not there.
    #[inline]
    pub fn place(&self, index: usize, count: usize) -> Result<NonNull<T>> {
        if index.checked_add(count).is_none_or(|end| end > self.length) {
            let index = index.max(self.length);
            return Err(Error::OutOfBounds { what: "a shared array", index, length: self.length });
        }
        // SAFETY: `index` elements lie before it in the same mapping.
        Ok(unsafe { self.start().add(index) })
    }
}

impl<T> Clone for Elements<T> {
    fn clone(&self) -> Elements<T> {
        Elements { region: self.region.clone(), length: self.length, types: PhantomData }
    }
}

/// Whether both are the same memory.
impl<T> PartialEq for Elements<T> {
    fn eq(&self, other: &Elements<T>) -> bool {
        self.region == other.region
    }
}

impl<T: Pod> Serialize for Elements<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Layout::of::<T>(), &self.region, self.length).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Elements<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Elements<T>, D::Error> {
        let (layout, region, length) = <(Layout, Region, usize)>::deserialize(deserializer)?;
        layout.check::<T>().map_err(D::Error::custom)?;
        let size = length.checked_mul(size_of::<T>()).filter(|size| *size <= region.len());
        if size.is_none() || !region.as_ptr().cast::<T>().is_aligned() {
            return Err(D::Error::custom("shared data lie outside of their memory"));
        }
        Ok(Elements { region, length, types: PhantomData })
    }
}

/// Size and alignment of a type: what a message says of it.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout(usize, usize);

impl Layout {
    pub const fn of<T>() -> Layout {
        Layout(size_of::<T>(), align_of::<T>())
    }

    /// Refuses what is not that of `T`; the error says what it is instead.
    pub fn check<T>(&self) -> std::result::Result<(), String> {
        if *self == Layout::of::<T>() {
            return Ok(());
        }
        let (Layout(size, align), name) = (self, std::any::type_name::<T>());
        Err(format!("shared data of {size} bytes each, aligned to {align}, are none of {name}"))
    }
}

#[cfg(test)]
mod tests;
