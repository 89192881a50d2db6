//! Plain data in memory that other processes may change at any moment: element by element, by atomic accesses alone.
//!
//! A type is accessed in cells of the size of its alignment, eight bytes at most; every access to a place has the same
//! size, and none is a data race. A type that is one cell, as all numbers up to 64 bits are, is read and written whole.
//! A larger one may be read half old and half new, and a process that is killed while it writes leaves it so.

use std::mem::{align_of, size_of};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::*;

use Ordering::{Relaxed, SeqCst};
use bytemuck::Pod;

use crate::strings;
use crate::words::WORD;

/// An atomic integer, as the accesses below see it; of the same size and alignment as its value.
trait Cell {
    type Value: Pod;
    fn load(&self) -> Self::Value;
    fn store(&self, value: Self::Value);
}

macro_rules! cells {
    ($($atomic:ty: $value:ty),*) => {$(
        impl Cell for $atomic {
            type Value = $value;
            #[inline]
            fn load(&self) -> $value {
                <$atomic>::load(self, Relaxed)
            }
            #[inline]
            fn store(&self, value: $value) {
                <$atomic>::store(self, value, Relaxed)
            }
        }
    )*};
}

cells!(AtomicU8: u8, AtomicU16: u16, AtomicU32: u32, AtomicU64: u64);

/// Bytes in a cell of `T`.
pub const fn cell_size<T>() -> usize {
    if align_of::<T>() < WORD { align_of::<T>() } else { WORD }
}

/// Copies out of cells; as many as both have.
fn load_cells<C: Cell>(from: &[C], to: &mut [C::Value]) {
    let count = from.len().min(to.len());
    // SAFETY: so many are there on both sides; what is borrowed alone is nobody else's, and the cells are atomic.
    if unsafe { strings::copy(from.as_ptr().cast::<C::Value>(), to.as_mut_ptr(), count) } {
        return;
    }
    from.iter().zip(to).for_each(|(cell, value)| *value = cell.load());
}

/// Copies into cells; as many as both have.
fn store_cells<C: Cell>(to: &[C], from: &[C::Value]) {
    let count = to.len().min(from.len());
    // SAFETY: so many are there on both sides; what is borrowed does not change, and the cells are atomic, so that they
    // may be written through a shared reference.
    if unsafe { strings::copy(from.as_ptr(), to.as_ptr().cast::<C::Value>().cast_mut(), count) } {
        return;
    }
    to.iter().zip(from).for_each(|(cell, value)| cell.store(*value));
}

/// Reads `to.len()` elements.
///
/// # Safety
/// As many elements as `to` has are mapped at `from`, which is aligned for `T`, and all accesses that come at the same
/// time are atomic, in cells of the same size.
#[inline]
pub unsafe fn load<T: Pod>(from: NonNull<T>, to: &mut [T]) {
    /// Copies out of the cells at `from`, as many as there are in `to`.
    ///
    /// # Safety
    /// As for `load`, `C` being the cell of the elements.
    #[inline]
    unsafe fn copy<C: Cell>(from: NonNull<u8>, to: &mut [u8]) {
        let to = bytemuck::cast_slice_mut::<u8, C::Value>(to);
        // SAFETY: the caller says that so many cells are there; an atomic integer may change at any time.
        load_cells(unsafe { slice::from_raw_parts(from.cast::<C>().as_ptr(), to.len()) }, to);
    }
    let to = bytemuck::cast_slice_mut::<T, u8>(to);
    // SAFETY: the caller's promise, for the cell of `T`.
    unsafe {
        match cell_size::<T>() {
            1 => copy::<AtomicU8>(from.cast(), to),
            2 => copy::<AtomicU16>(from.cast(), to),
            4 => copy::<AtomicU32>(from.cast(), to),
            _ => copy::<AtomicU64>(from.cast(), to),
        }
    }
}

/// Writes all elements of `from`.
///
/// # Safety
/// As for [`load`].
#[inline]
pub unsafe fn store<T: Pod>(to: NonNull<T>, from: &[T]) {
    /// Copies into the cells at `to`, as many as there are in `from`.
    ///
    /// # Safety
    /// As for `load`, `C` being the cell of the elements.
    #[inline]
    unsafe fn copy<C: Cell>(to: NonNull<u8>, from: &[u8]) {
        let from = bytemuck::cast_slice::<u8, C::Value>(from);
        // SAFETY: the caller says that so many cells are there; an atomic integer may change at any time.
        store_cells(unsafe { slice::from_raw_parts(to.cast::<C>().as_ptr(), from.len()) }, from);
    }
    let from = bytemuck::cast_slice::<T, u8>(from);
    // SAFETY: the caller's promise, for the cell of `T`.
    unsafe {
        match cell_size::<T>() {
            1 => copy::<AtomicU8>(to.cast(), from),
            2 => copy::<AtomicU16>(to.cast(), from),
            4 => copy::<AtomicU32>(to.cast(), from),
            _ => copy::<AtomicU64>(to.cast(), from),
        }
    }
}

/// Reads words into bytes, wherever those lie; as many whole ones as both have.
pub fn load_words(from: &[AtomicU64], to: &mut [u8]) {
    if let Ok(to) = bytemuck::try_cast_slice_mut(to) {
        return load_cells(from, to);
    }
    for (word, bytes) in from.iter().zip(to.as_chunks_mut::<WORD>().0) {
        *bytes = word.load(Relaxed).to_ne_bytes();
    }
}

/// Writes bytes, wherever they lie, into words; as many whole ones as both have.
pub fn store_words(to: &[AtomicU64], from: &[u8]) {
    if let Ok(from) = bytemuck::try_cast_slice(from) {
        return store_cells(to, from);
    }
    for (word, bytes) in to.iter().zip(from.as_chunks::<WORD>().0) {
        word.store(u64::from_ne_bytes(*bytes), Relaxed);
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Numbers that shared memory can change in one step: integers and floats of up to 64 bits.
///
/// What the methods of [`RawValue`](crate::RawValue) and [`RawArray`](crate::RawArray) are made of; all are sequentially
/// consistent. `T::Cell` is the standard library's atomic type, for whoever wants another order. No step can be seen half
/// done, and a process that is killed has done it or not.
pub trait Atomic: Pod + sealed::Sealed {
    /// The atomic type: `AtomicU64` for `u64`; for floats the one of their bits.
    type Cell: Sync + 'static;

    #[doc(hidden)]
    fn load(cell: &Self::Cell) -> Self;
    #[doc(hidden)]
    fn store(cell: &Self::Cell, value: Self);
    #[doc(hidden)]
    fn swap(cell: &Self::Cell, value: Self) -> Self;
    #[doc(hidden)]
    fn compare_exchange(cell: &Self::Cell, current: Self, new: Self) -> Result<Self, Self>;
    #[doc(hidden)]
    fn fetch_add(cell: &Self::Cell, value: Self) -> Self;
    #[doc(hidden)]
    fn fetch_sub(cell: &Self::Cell, value: Self) -> Self;

    #[doc(hidden)]
    fn fetch_update(cell: &Self::Cell, mut update: impl FnMut(Self) -> Option<Self>) -> Result<Self, Self> {
        let mut current = Self::load(cell);
        while let Some(new) = update(current) {
            match Self::compare_exchange(cell, current, new) {
                Ok(old) => return Ok(old),
                Err(now) => current = now,
            }
        }
        Err(current)
    }
}

macro_rules! integers {
    ($($value:ty: $atomic:ty),*) => {$(
        // The promise of `cell`: an element is aligned for its atomic type.
        const _: () = assert!(align_of::<$value>() == align_of::<$atomic>());

        impl sealed::Sealed for $value {}

        impl Atomic for $value {
            type Cell = $atomic;

            #[inline]
            fn load(cell: &$atomic) -> $value {
                cell.load(SeqCst)
            }
            #[inline]
            fn store(cell: &$atomic, value: $value) {
                cell.store(value, SeqCst)
            }
            #[inline]
            fn swap(cell: &$atomic, value: $value) -> $value {
                cell.swap(value, SeqCst)
            }
            #[inline]
            fn compare_exchange(cell: &$atomic, current: $value, new: $value) -> Result<$value, $value> {
                cell.compare_exchange(current, new, SeqCst, SeqCst)
            }
            #[inline]
            fn fetch_add(cell: &$atomic, value: $value) -> $value {
                cell.fetch_add(value, SeqCst)
            }
            #[inline]
            fn fetch_sub(cell: &$atomic, value: $value) -> $value {
                cell.fetch_sub(value, SeqCst)
            }
        }
    )*};
}

integers!(
    u8: AtomicU8, u16: AtomicU16, u32: AtomicU32, u64: AtomicU64, usize: AtomicUsize,
    i8: AtomicI8, i16: AtomicI16, i32: AtomicI32, i64: AtomicI64, isize: AtomicIsize
);

macro_rules! floats {
    ($($value:ty: $atomic:ty),*) => {$(
        const _: () = assert!(align_of::<$value>() == align_of::<$atomic>());

        impl sealed::Sealed for $value {}

        impl Atomic for $value {
            type Cell = $atomic;

            #[inline]
            fn load(cell: &$atomic) -> $value {
                <$value>::from_bits(cell.load(SeqCst))
            }
            #[inline]
            fn store(cell: &$atomic, value: $value) {
                cell.store(value.to_bits(), SeqCst)
            }
            #[inline]
            fn swap(cell: &$atomic, value: $value) -> $value {
                <$value>::from_bits(cell.swap(value.to_bits(), SeqCst))
            }
            /// Compares bits: a NaN equals itself, and 0.0 is not -0.0.
            #[inline]
            fn compare_exchange(cell: &$atomic, current: $value, new: $value) -> Result<$value, $value> {
                let result = cell.compare_exchange(current.to_bits(), new.to_bits(), SeqCst, SeqCst);
                result.map(<$value>::from_bits).map_err(<$value>::from_bits)
            }
            #[inline]
            fn fetch_add(cell: &$atomic, value: $value) -> $value {
                Self::fetch_update(cell, |old| Some(old + value)).unwrap_or_else(|old| old)
            }
            #[inline]
            fn fetch_sub(cell: &$atomic, value: $value) -> $value {
                Self::fetch_update(cell, |old| Some(old - value)).unwrap_or_else(|old| old)
            }
        }
    )*};
}

floats!(f32: AtomicU32, f64: AtomicU64);

/// The atomic type of the number at `place`.
///
/// # Safety
/// `place` is mapped for as long as `'a` and aligned for `T`, and all accesses that come at the same time are atomic, of
/// the same size.
pub unsafe fn cell<'a, T: Atomic>(place: NonNull<T>) -> &'a T::Cell {
    const { assert!(size_of::<T>() == size_of::<T::Cell>() && align_of::<T>() == align_of::<T::Cell>()) };
    // SAFETY: the caller's promise; size and alignment are the same, and any bytes make an atomic integer.
    unsafe { place.cast::<T::Cell>().as_ref() }
}
