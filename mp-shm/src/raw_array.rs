//! Numbers or plain structures in a row in shared memory, without a lock.
//!
//! The memory lives until the last handle in the last process is gone, however those processes end; a process that is
//! killed leaves the elements that it wrote.

use std::fmt;
use std::iter::FusedIterator;
use std::ptr::NonNull;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
use crate::elements::Elements;
use crate::plain::{self, Atomic};

/// Begins the message: no handle to anything else is taken for one.
#[derive(Serialize, Deserialize)]
enum Kind {
    RawArray,
}

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
    /// Safe code accesses them by atomics in cells of `T` only.
    elements: Elements<T>,
}

impl<T: Pod> RawArray<T> {
    /// `length` elements whose bytes are all zero.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) when memory does not suffice, [`Error::Invalid`](crate::Error::Invalid) for a length that no memory could have.
    pub fn zeroed(length: usize) -> Result<RawArray<T>> {
        Ok(RawArray { elements: Elements::zeroed(length)? })
    }

    /// A copy of `values` in shared memory.
    ///
    /// # Errors
    /// As for [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> Result<RawArray<T>> {
        Ok(RawArray { elements: Elements::from_slice(values)? })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn get(&self, index: usize) -> Result<T> {
        let mut value = [T::zeroed()];
        // SAFETY: `place` promises what `load` needs.
        unsafe { plain::load(self.elements.place(index, 1)?, &mut value) };
        Ok(value[0])
    }

    /// Writes the element at `index`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        // SAFETY: `place` promises what `store` needs.
        unsafe { plain::store(self.elements.place(index, 1)?, &[value]) };
        Ok(())
    }

    /// Reads the elements from `index` on into `values`, as many as fit there. Each is read by itself.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds) if there are not so many.
    pub fn copy_to_slice(&self, index: usize, values: &mut [T]) -> Result<()> {
        // SAFETY: `place` promises what `load` needs.
        unsafe { plain::load(self.elements.place(index, values.len())?, values) };
        Ok(())
    }

    /// Writes `values` from `index` on. Each is written by itself.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds) if they do not all fit; nothing is written then.
    pub fn copy_from_slice(&self, index: usize, values: &[T]) -> Result<()> {
        // SAFETY: `place` promises what `store` needs.
        unsafe { plain::store(self.elements.place(index, values.len())?, values) };
        Ok(())
    }

    /// All elements, each read by itself.
    pub fn to_vec(&self) -> Vec<T> {
        let mut values = vec![T::zeroed(); self.len()];
        // SAFETY: `start` promises what `load` needs for all elements.
        unsafe { plain::load(self.elements.start(), &mut values) };
        values
    }

    /// The elements in order, each read when it is reached.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { array: self, next: 0, end: self.len() }
    }

    /// Address of the first element in this process; other processes have it elsewhere.
    ///
    /// Valid for [`len`](Self::len) elements while any handle lives. For code that keeps order by other means, such as a
    /// lock that everybody holds who comes near: accesses that race with those of others must be atomic.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.elements.start()
    }
}

/// In one step, sequentially consistent.
impl<T: Atomic> RawArray<T> {
    /// The atomic number at `index`, for operations that are not here or in another order.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn as_atomic(&self, index: usize) -> Result<&T::Cell> {
        // SAFETY: `place` promises what `cell` needs, for as long as `self` lives.
        Ok(unsafe { plain::cell(self.elements.place(index, 1)?) })
    }

    /// Writes the element at `index`; returns the old one.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn swap(&self, index: usize, value: T) -> Result<T> {
        Ok(T::swap(self.as_atomic(index)?, value))
    }

    /// Writes `new` at `index` if the element is `current`, bit for bit; returns what was there, as an inner error if
    /// that was something else.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn compare_exchange(&self, index: usize, current: T, new: T) -> Result<std::result::Result<T, T>> {
        Ok(T::compare_exchange(self.as_atomic(index)?, current, new))
    }

    /// Adds to the element at `index`, wrapping round if it is an integer; returns the old one.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn fetch_add(&self, index: usize, value: T) -> Result<T> {
        Ok(T::fetch_add(self.as_atomic(index)?, value))
    }

    /// Subtracts from the element at `index`, wrapping round if it is an integer; returns the old one.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
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
        RawArray { elements: self.elements.clone() }
    }
}

/// Whether both are the same array.
impl<T> PartialEq for RawArray<T> {
    fn eq(&self, other: &RawArray<T>) -> bool {
        self.elements == other.elements
    }
}

impl<T> Eq for RawArray<T> {}

impl<T: Pod + fmt::Debug> fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawArray(")?;
        f.debug_list().entries(self).finish()?;
        f.write_str(")")
    }
}

impl<T: Pod> Serialize for RawArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Kind::RawArray, &self.elements).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for RawArray<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawArray<T>, D::Error> {
        let (_, elements) = <(Kind, Elements<T>)>::deserialize(deserializer)?;
        Ok(RawArray { elements })
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
    #[repr(C)]
    struct Point {
        x: i32,
        y: f32,
        id: [u8; 4],
    }

    #[test]
    fn read_from_both_ends() {
        let array = RawArray::from_slice(&[1, 2, 3]).unwrap();
        assert!(array.iter().eq([1, 2, 3]) && array.iter().rev().eq([3, 2, 1]));
        let mut both = array.iter();
        assert_eq!((both.next(), both.next_back(), both.len()), (Some(1), Some(3), 1));
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
}
