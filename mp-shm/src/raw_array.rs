//! Numbers or plain structures in a row in shared memory, without a lock.
//!
//! The memory lives until the last handle in the last process is gone, however those processes end; a process that is
//! killed leaves the elements that it wrote.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ptr::NonNull;

use bytemuck::Pod;
use mp_core::region::Region;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::plain::{self, Atomic};
use crate::{Error, Result};

/// The alignment of a [`Region`].
const ALIGN: usize = 64;

/// A fixed number of elements that processes share without a lock; a clone is another handle to the same ones.
///
/// `T` is any [`bytemuck::Pod`] type: numbers, arrays of them, structures that derive it. Each element is accessed by
/// atomic operations only, so using it from any number of threads and processes is never a data race. A number of up
/// to 64 bits is always read as somebody wrote it; a larger element may be read half old and half new. For changes
/// that depend on the old value use [`fetch_add`](Self::fetch_add) and its like, or a lock.
///
/// Sent in a message, it arrives as a handle to the same elements.
///
/// Follows `multiprocessing.RawArray`.
///
/// ```
/// use mp_shm::RawArray;
///
/// let array = RawArray::from_slice(&[1.0, 2.0, 3.0])?;
/// array.set(1, 2.5)?;
/// assert_eq!(array.to_vec(), [1.0, 2.5, 3.0]);
/// assert!(array.get(3).is_err());
/// # Ok::<(), mp_shm::Error>(())
/// ```
pub struct RawArray<T> {
    region: Region,
    length: usize,
    elements: PhantomData<fn(T) -> T>,
}

impl<T: Pod> RawArray<T> {
    /// `length` elements whose bytes are all zero.
    ///
    /// # Errors
    /// [`Error::Core`] when memory does not suffice, [`Error::Invalid`] for a length that no memory could have.
    pub fn zeroed(length: usize) -> Result<RawArray<T>> {
        const { assert!(align_of::<T>() <= ALIGN, "elements of shared memory are aligned to 64 bytes at most") };
        let size = length.checked_mul(size_of::<T>()).filter(|size| isize::try_from(*size).is_ok());
        let Some(size) = size else {
            let reason = format!("{length} elements of {} bytes", size_of::<T>());
            return Err(Error::Invalid { what: "array length", reason });
        };
        // At least as many bytes as a block's alignment needs to be that of `T`.
        let region = Region::new("array", size.max(align_of::<T>()))?;
        Ok(RawArray { region, length, elements: PhantomData })
    }

    /// A copy of `values` in shared memory.
    ///
    /// # Errors
    /// As for [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> Result<RawArray<T>> {
        let array = RawArray::zeroed(values.len())?;
        // SAFETY: `place` promises what `store` needs; the array has as many elements.
        unsafe { plain::store(array.start(), values) };
        Ok(array)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The element at `index`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn get(&self, index: usize) -> Result<T> {
        let mut value = [T::zeroed()];
        // SAFETY: `place` promises what `load` needs.
        unsafe { plain::load(self.place(index, 1)?, &mut value) };
        Ok(value[0])
    }

    /// Writes the element at `index`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        // SAFETY: `place` promises what `store` needs.
        unsafe { plain::store(self.place(index, 1)?, &[value]) };
        Ok(())
    }

    /// Reads the elements from `index` on into `values`, as many as fit there. Each is read by itself.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if there are not so many.
    pub fn copy_to_slice(&self, index: usize, values: &mut [T]) -> Result<()> {
        // SAFETY: `place` promises what `load` needs.
        unsafe { plain::load(self.place(index, values.len())?, values) };
        Ok(())
    }

    /// Writes `values` from `index` on. Each is written by itself.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if they do not all fit; nothing is written then.
    pub fn copy_from_slice(&self, index: usize, values: &[T]) -> Result<()> {
        // SAFETY: `place` promises what `store` needs.
        unsafe { plain::store(self.place(index, values.len())?, values) };
        Ok(())
    }

    /// All elements, each read by itself.
    pub fn to_vec(&self) -> Vec<T> {
        let mut values = vec![T::zeroed(); self.length];
        // SAFETY: `start` promises what `load` needs for all elements.
        unsafe { plain::load(self.start(), &mut values) };
        values
    }

    /// The elements in order, each read when it is reached.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { array: self, next: 0, end: self.length }
    }

    /// Address of the first element in this process; other processes have it elsewhere.
    ///
    /// Valid for [`len`](Self::len) elements while any handle lives. For code that keeps order by other means, such as a
    /// lock that everybody holds who comes near: accesses that race with those of others must be atomic.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.start()
    }

    /// The first element. It is aligned for `T`, `length` elements are mapped there for as long as `self` lives, and safe
    /// code accesses them by atomics in cells of `T` only.
    fn start(&self) -> NonNull<T> {
        self.region.as_ptr().cast()
    }

    /// The element at `index`, followed by `count - 1` more, with the promises of `start`.
    fn place(&self, index: usize, count: usize) -> Result<NonNull<T>> {
        if index.checked_add(count).is_none_or(|end| end > self.length) {
            let index = index.max(self.length);
            return Err(Error::OutOfBounds { what: "a shared array", index, length: self.length });
        }
        // SAFETY: `index` elements lie before it in the same mapping.
        Ok(unsafe { self.start().add(index) })
    }
}

/// In one step, sequentially consistent.
impl<T: Atomic> RawArray<T> {
    /// The atomic number at `index`, for operations that are not here or in another order.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn as_atomic(&self, index: usize) -> Result<&T::Cell> {
        // SAFETY: `place` promises what `cell` needs, for as long as `self` lives.
        Ok(unsafe { plain::cell(self.place(index, 1)?) })
    }

    /// Writes the element at `index`; returns the old one.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn swap(&self, index: usize, value: T) -> Result<T> {
        Ok(T::swap(self.as_atomic(index)?, value))
    }

    /// Writes `new` at `index` if the element is `current`, bit for bit; returns what was there, as an inner error if
    /// that was something else.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn compare_exchange(&self, index: usize, current: T, new: T) -> Result<std::result::Result<T, T>> {
        Ok(T::compare_exchange(self.as_atomic(index)?, current, new))
    }

    /// Adds to the element at `index`, wrapping round if it is an integer; returns the old one.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn fetch_add(&self, index: usize, value: T) -> Result<T> {
        Ok(T::fetch_add(self.as_atomic(index)?, value))
    }

    /// Subtracts from the element at `index`, wrapping round if it is an integer; returns the old one.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn fetch_sub(&self, index: usize, value: T) -> Result<T> {
        Ok(T::fetch_sub(self.as_atomic(index)?, value))
    }
}

/// The elements of a [`RawArray`] in order, each read when it is reached.
pub struct Iter<'a, T> {
    array: &'a RawArray<T>,
    next: usize,
    end: usize,
}

impl<T: Pod> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let index = (self.next < self.end).then_some(self.next)?;
        self.next += 1;
        self.array.get(index).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl<T: Pod> DoubleEndedIterator for Iter<'_, T> {
    fn next_back(&mut self) -> Option<T> {
        self.end = (self.next < self.end).then(|| self.end - 1)?;
        self.array.get(self.end).ok()
    }
}

impl<T: Pod> ExactSizeIterator for Iter<'_, T> {}

impl<T: Pod> FusedIterator for Iter<'_, T> {}

impl<'a, T: Pod> IntoIterator for &'a RawArray<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> Clone for RawArray<T> {
    fn clone(&self) -> RawArray<T> {
        RawArray { region: self.region.clone(), length: self.length, elements: PhantomData }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawArray(")?;
        f.debug_list().entries(self).finish()?;
        f.write_str(")")
    }
}

impl<T: Pod> Serialize for RawArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.region, self.length, size_of::<T>(), align_of::<T>()).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for RawArray<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawArray<T>, D::Error> {
        let (region, length, size, align) = <(Region, usize, usize, usize)>::deserialize(deserializer)?;
        if (size, align) != (size_of::<T>(), align_of::<T>()) {
            return Err(D::Error::custom(format_args!(
                "an array of elements of {size} bytes, aligned to {align}, is none of {}",
                std::any::type_name::<T>()
            )));
        }
        let fits = length.checked_mul(size).is_some_and(|size| size <= region.len());
        if !fits || !region.as_ptr().cast::<T>().is_aligned() {
            return Err(D::Error::custom("a shared array lies outside of its memory"));
        }
        Ok(RawArray { region, length, elements: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use mp_core::message::Message;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
    #[repr(C)]
    struct Point {
        x: i32,
        y: f32,
        id: [u8; 4],
    }

    #[test]
    fn elements_of_every_size_and_alignment() {
        fn check<T: Pod + PartialEq + fmt::Debug>(values: &[T]) {
            let array = RawArray::from_slice(values).unwrap();
            assert_eq!(array.to_vec(), values);
            assert!(array.iter().eq(values.iter().copied()));
            assert!(array.iter().rev().eq(values.iter().rev().copied()));
            let copy: RawArray<T> = Message::encode(&array).unwrap().decode().unwrap();
            for (index, value) in values.iter().rev().enumerate() {
                copy.set(index, *value).unwrap();
                assert_eq!(array.get(index).unwrap(), *value);
            }
            let zeroed = RawArray::<T>::zeroed(3).unwrap();
            assert_eq!(zeroed.to_vec(), [T::zeroed(); 3]);
        }
        check(&[1_u8, 2, 255]);
        check(&[1_u16, 2, u16::MAX]);
        check(&[-1_i32, 2, i32::MIN]);
        check(&[f64::MAX, -0.0, 1.5]);
        check(&[u128::MAX, 1, 1 << 64]);
        check(&[[1_u8; 3], [2; 3], [3; 3]]);
        check(&[Point { x: -1, y: 2.5, id: *b"a\0c " }; 5]);
        check(&[(); 4]);
        check::<u64>(&[]);
        check(&(0..100_000).collect::<Vec<u32>>());
    }

    #[test]
    fn long_copies_from_anywhere_to_anywhere() {
        fn check<T: Pod + PartialEq + fmt::Debug>(make: impl Fn(usize) -> T) {
            let values: Vec<T> = (0..5000).map(make).collect();
            let array = RawArray::zeroed(values.len()).unwrap();
            for (start, length) in [(0, 5000), (1, 511), (3, 512), (7, 513), (4999, 1), (13, 4096)] {
                let range = start..start + length;
                array.copy_from_slice(0, &[T::zeroed(); 5000]).unwrap();
                array.copy_from_slice(start, &values[range.clone()]).unwrap();
                let mut read = values.clone();
                array.copy_to_slice(start, &mut read[range.clone()]).unwrap();
                assert_eq!(read, values);
                let outside = |index: &usize| !range.contains(index);
                assert!((0..5000).filter(outside).all(|index| array.get(index).unwrap() == T::zeroed()));
                assert!(range.clone().all(|index| array.get(index).unwrap() == values[index]));
            }
        }
        check(|number| number as u8 | 1);
        check(|number| number as u16 + 1);
        check(|number| number as f32 + 0.5);
        check(|number| !(number as u64));
        check(|number| (number as u128) << 60 | 1);
        check(|number| [number as u8 | 1; 3]);
        check(|number| Point { x: -1, y: number as f32, id: [number as u8; 4] });
    }

    #[test]
    fn errors_name_index_and_length() {
        let array = RawArray::<u32>::zeroed(10).unwrap();
        let error = array.get(10).unwrap_err().to_string();
        assert!(error.contains("length 10 has no index 10"), "{error}");
        assert!(matches!(array.set(usize::MAX, 1), Err(Error::OutOfBounds { index: usize::MAX, .. })));
        assert!(matches!(array.copy_from_slice(8, &[1, 2, 3]), Err(Error::OutOfBounds { index: 10, .. })));
        assert_eq!(array.to_vec(), [0; 10]);
        assert!(array.copy_to_slice(10, &mut []).is_ok() && array.copy_to_slice(11, &mut []).is_err());
        assert!(matches!(RawArray::<u64>::zeroed(usize::MAX / 8), Err(Error::Invalid { .. })));
        assert!(matches!(RawArray::<u64>::zeroed(usize::MAX), Err(Error::Invalid { .. })));
    }

    #[test]
    fn other_types_are_refused() {
        let send = || Message::encode(&RawArray::<u32>::zeroed(10).unwrap()).unwrap();
        assert!(send().decode::<RawArray<f32>>().is_ok(), "any bytes are plain data");
        assert!(send().decode::<RawArray<u64>>().is_err());
        let error = send().decode::<RawArray<[u8; 4]>>().unwrap_err().to_string();
        assert!(error.contains("[u8; 4]"), "{error}");
        let region = Region::new("short", 64).unwrap();
        for length in [1000_usize, usize::MAX] {
            let forged = Message::encode(&(region.clone(), length, 4_usize, 4_usize)).unwrap();
            assert!(forged.decode::<RawArray<u32>>().is_err());
        }
    }

    #[test]
    fn numbers_change_in_one_step() {
        let array = RawArray::<i16>::zeroed(3).unwrap();
        let sums = RawArray::<f64>::zeroed(1).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        array.fetch_add(1, 1).unwrap();
                        array.fetch_sub(2, 1).unwrap();
                        sums.fetch_add(0, 0.5).unwrap();
                    }
                });
            }
        });
        assert_eq!((array.to_vec(), sums.get(0).unwrap()), (vec![0, 4000, -4000], 2000.0));
        assert_eq!(array.swap(0, 7).unwrap(), 0);
        assert_eq!(array.compare_exchange(0, 8, 1).unwrap(), Err(7));
        assert_eq!(array.compare_exchange(0, 7, 1).unwrap(), Ok(7));
        assert_eq!(format!("{array:?}"), "RawArray([1, 4000, -4000])");
    }

    proptest! {
        #[test]
        fn as_a_vector(
            mut model in prop::collection::vec(any::<u16>(), 0..50),
            steps in prop::collection::vec((0..60_usize, prop::collection::vec(any::<u16>(), 0..20)), 0..20),
        ) {
            let array = RawArray::from_slice(&model).unwrap();
            for (index, values) in steps {
                let wrote = array.copy_from_slice(index, &values).is_ok();
                let there = model.get_mut(index..index + values.len());
                prop_assert_eq!(wrote, there.is_some());
                if let Some(there) = there {
                    there.copy_from_slice(&values);
                    let mut read = values.clone();
                    array.copy_to_slice(index, &mut read).unwrap();
                    prop_assert_eq!(read, values);
                }
            }
            prop_assert_eq!(array.to_vec(), model);
        }
    }
}
