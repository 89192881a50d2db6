//! Numbers or plain structures in a row that processes share, with a lock.
//!
//! When a process is killed while it holds the lock, the next one gets it within 100 ms and is told; the elements are as
//! that process left them.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ptr::{self, NonNull};
use std::time::Duration;

use bytemuck::Pod;
use mp_core::region::Region;
use mp_sync::{Lock, LockGuard};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::guard::ValueGuard;
use crate::{Error, Result, typed};

/// Begins the message of an array: what is anything else is not taken for one.
const MARK: u32 = u32::from_be_bytes(*b"Arra");

/// A fixed number of elements that processes share, with one lock; a clone is another handle to the same ones.
///
/// `T` is any [`bytemuck::Pod`] type. A guard is a slice, so everything that slices can do is done at their speed; the
/// other methods take the lock for themselves, and leave it to the next guard to tell that an owner died. Up to 2048 bytes lie in a shared block without a descriptor, more in a
/// segment of their own, reserved from the start. Can sit inside any message. Equal are handles to the same array.
///
/// Follows `multiprocessing.Array`. See [`RawArray`](crate::RawArray) for one without a lock, and
/// [`synchronized`](crate::synchronized) for one with a lock that its holder may take again.
///
/// ```
/// use mp_shm::Array;
///
/// let array = Array::<f64>::zeroed(1000)?;
/// array.set(15, -2.5)?;
/// array.lock()?[10..20].sort_by(f64::total_cmp);
/// assert_eq!(array.get(10)?, -2.5);
/// assert!(array.get(1000).is_err());
/// # Ok::<(), mp_shm::Error>(())
/// ```
pub struct Array<T> {
    lock: Lock,
    region: Region,
    length: usize,
    elements: PhantomData<fn(T) -> T>,
}

impl<T: Pod> Array<T> {
    /// `length` elements whose bytes are all zero, with a lock of their own.
    ///
    /// # Errors
    /// [`Error::Core`] when memory does not suffice, [`Error::Invalid`] for a length that no memory could have.
    pub fn zeroed(length: usize) -> Result<Array<T>> {
        Array::zeroed_with_lock(length, &Lock::new()?)
    }

    /// A copy of `values` in shared memory, with a lock of its own.
    ///
    /// # Errors
    /// As for [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> Result<Array<T>> {
        Array::with_lock(values, &Lock::new()?)
    }

    /// As [`zeroed`](Self::zeroed), with a given lock, which may guard other things as well.
    ///
    /// Whoever holds that lock already must not lock the array: it waits for itself.
    ///
    /// # Errors
    /// As for [`zeroed`](Self::zeroed).
    pub fn zeroed_with_lock(length: usize, lock: &Lock) -> Result<Array<T>> {
        let region = typed::region::<T>("array", length)?;
        Ok(Array { lock: lock.clone(), region, length, elements: PhantomData })
    }

    /// As [`from_slice`](Self::from_slice), with a given lock; see [`zeroed_with_lock`](Self::zeroed_with_lock).
    ///
    /// # Errors
    /// As for [`zeroed`](Self::zeroed).
    pub fn with_lock(values: &[T], lock: &Lock) -> Result<Array<T>> {
        let array = Array::zeroed_with_lock(values.len(), lock)?;
        // SAFETY: so many elements are mapped and aligned there, apart from `values`, and nobody else has seen them.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), array.start().as_ptr(), values.len()) };
        Ok(array)
    }

    /// The first element. `length` of them are mapped and aligned there for as long as `self` lives, and are reached under
    /// the lock only.
    fn start(&self) -> NonNull<T> {
        self.region.as_ptr().cast()
    }

    fn guard<'a>(&'a self, lock: LockGuard<'a>) -> ValueGuard<'a, [T]> {
        let elements = NonNull::slice_from_raw_parts(self.start(), self.length);
        // SAFETY: what `start` promises is what `ValueGuard` asks for; `T` is plain data.
        unsafe { ValueGuard::new(lock, elements) }
    }

    /// Waits for the lock, and gives access to all elements until the guard is dropped.
    ///
    /// # Errors
    /// None at present.
    pub fn lock(&self) -> Result<ValueGuard<'_, [T]>> {
        Ok(self.guard(self.lock.lock()?))
    }

    /// As [`lock`](Self::lock), without waiting.
    ///
    /// # Errors
    /// [`mp_sync::Error::WouldBlock`] if somebody else holds the lock.
    pub fn try_lock(&self) -> Result<ValueGuard<'_, [T]>> {
        Ok(self.guard(self.lock.try_lock()?))
    }

    /// As [`lock`](Self::lock), for as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`mp_sync::Error::Timeout`] if somebody else held the lock all the time.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<ValueGuard<'_, [T]>> {
        Ok(self.guard(self.lock.lock_timeout(timeout)?))
    }

    /// As [`lock`](Self::lock), without blocking the thread; see [`Lock::lock_async`].
    ///
    /// # Errors
    /// [`mp_sync::Error::Memory`] if the thread that watches over async waits cannot be started.
    pub async fn lock_async(&self) -> Result<ValueGuard<'_, [T]>> {
        Ok(self.guard(self.lock.lock_async().await?))
    }

    /// Reads or writes some elements. That makes nothing good, so the next one is told of a dead owner, too.
    fn with<R>(&self, access: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        let mut guard = self.lock()?;
        let result = access(&mut guard);
        guard.pass_on();
        Ok(result)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The element at `index`, read under the lock.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn get(&self, index: usize) -> Result<T> {
        self.check(index, 1)?;
        self.with(|elements| elements[index])
    }

    /// Writes the element at `index`, under the lock.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        self.check(index, 1)?;
        self.with(|elements| elements[index] = value)
    }

    /// All elements, as they were at one moment.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn to_vec(&self) -> Result<Vec<T>> {
        // The memory is taken before the lock, so that the lock is held for the copy alone.
        let mut values = vec![T::zeroed(); self.length];
        self.with(|elements| values.copy_from_slice(elements))?;
        Ok(values)
    }

    /// Reads the elements from `index` on into `values`, as many as fit there, as they were at one moment.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if there are not so many.
    pub fn copy_to_slice(&self, index: usize, values: &mut [T]) -> Result<()> {
        self.check(index, values.len())?;
        self.with(|elements| values.copy_from_slice(&elements[index..index + values.len()]))
    }

    /// Writes `values` from `index` on, under the lock.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if they do not all fit; nothing is written then.
    pub fn copy_from_slice(&self, index: usize, values: &[T]) -> Result<()> {
        self.check(index, values.len())?;
        self.with(|elements| elements[index..index + values.len()].copy_from_slice(values))
    }

    /// Whether the elements from `index` on are there, `count` of them.
    fn check(&self, index: usize, count: usize) -> Result<()> {
        match index.checked_add(count) {
            Some(end) if end <= self.length => Ok(()),
            _ => {
                let index = index.max(self.length);
                Err(Error::OutOfBounds { what: "a shared array", index, length: self.length })
            }
        }
    }

    /// The lock: its own, or the one that it was given.
    pub fn get_lock(&self) -> &Lock {
        &self.lock
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Array<T> {
        let (lock, region) = (self.lock.clone(), self.region.clone());
        Array { lock, region, length: self.length, elements: PhantomData }
    }
}

/// Whether both are the same array.
impl<T> PartialEq for Array<T> {
    fn eq(&self, other: &Array<T>) -> bool {
        self.region == other.region
    }
}

impl<T> Eq for Array<T> {}

/// The elements, or `<locked>` while somebody else holds the lock.
impl<T: Pod + fmt::Debug> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Ok(elements) => {
                let result = f.debug_tuple("Array").field(&&*elements).finish();
                elements.pass_on();
                result
            }
            Err(_) => f.write_str("Array(<locked>)"),
        }
    }
}

impl<T: Pod> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (MARK, size_of::<T>(), align_of::<T>(), &self.lock, &self.region, self.length).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Array<T>, D::Error> {
        let (mark, size, align, lock, region, length): (u32, usize, usize, Lock, Region, usize) =
            Deserialize::deserialize(deserializer)?;
        typed::check::<T>("array", mark == MARK, size, align).map_err(D::Error::custom)?;
        let fits = length.checked_mul(size).is_some_and(|size| size <= region.len());
        if !fits || !region.as_ptr().cast::<T>().is_aligned() {
            return Err(D::Error::custom("a shared array lies outside of its memory"));
        }
        Ok(Array { lock, region, length, elements: PhantomData })
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
            let array = Array::from_slice(values).unwrap();
            assert_eq!(array.to_vec().unwrap(), values);
            let copy: Array<T> = Message::encode(&array).unwrap().decode().unwrap();
            assert_eq!(copy, array);
            for (index, value) in values.iter().rev().enumerate() {
                copy.set(index, *value).unwrap();
                assert_eq!(array.get(index).unwrap(), *value);
            }
            assert_eq!(Array::<T>::zeroed(3).unwrap().to_vec().unwrap(), [T::zeroed(); 3]);
        }
        check(&[1_u8, 2, 255]);
        check(&[1_u16, 2, u16::MAX]);
        check(&[f64::MAX, -0.0, 1.5]);
        check(&[u128::MAX, 1, 1 << 64]);
        check(&[[1_u8; 3], [2; 3], [3; 3]]);
        check(&[Point { x: -1, y: 2.5, id: *b"a\0c " }; 5]);
        check(&[(); 4]);
        check::<u64>(&[]);
        check(&(0..100_000).collect::<Vec<u32>>());
    }

    #[test]
    fn errors_name_index_and_length() {
        let array = Array::<u32>::zeroed(10).unwrap();
        let error = array.get(10).unwrap_err().to_string();
        assert!(error.contains("length 10 has no index 10"), "{error}");
        assert!(matches!(array.set(usize::MAX, 1), Err(Error::OutOfBounds { index: usize::MAX, .. })));
        assert!(matches!(array.copy_from_slice(8, &[1, 2, 3]), Err(Error::OutOfBounds { index: 10, .. })));
        assert!(array.copy_to_slice(10, &mut []).is_ok() && array.copy_to_slice(11, &mut []).is_err());
        assert_eq!(array.to_vec().unwrap(), [0; 10]);
        assert!(matches!(Array::<u64>::zeroed(usize::MAX / 8), Err(Error::Invalid { .. })));
        assert!(matches!(Array::<u64>::zeroed(usize::MAX), Err(Error::Invalid { .. })));
    }

    #[test]
    fn a_guard_holds_the_lock_and_is_a_slice() {
        let lock = Lock::new().unwrap();
        let array = Array::with_lock(&[3, 1, 2], &lock).unwrap();
        assert_eq!(array.get_lock(), &lock);
        let mut guard = array.lock().unwrap();
        assert!(lock.locked() && array.try_lock().is_err());
        assert!(array.lock_timeout(Duration::ZERO).is_err());
        assert_eq!(format!("{array:?}"), "Array(<locked>)");
        guard.sort();
        drop(guard);
        assert_eq!(format!("{array:?}"), "Array([1, 2, 3])");
    }

    #[test]
    fn other_types_are_refused() {
        let send = || Message::encode(&Array::<u32>::zeroed(10).unwrap()).unwrap();
        assert!(send().decode::<Array<f32>>().is_ok(), "any bytes are plain data");
        assert!(send().decode::<Array<u64>>().is_err());
        let error = send().decode::<Array<[u8; 4]>>().unwrap_err().to_string();
        assert!(error.contains("[u8; 4]"), "{error}");
        assert!(send().decode::<crate::Value<u32>>().is_err());
        let (lock, region) = (Lock::new().unwrap(), Region::new("short", 64).unwrap());
        for length in [17_usize, usize::MAX] {
            let forged = Message::encode(&(MARK, 4_usize, 4_usize, &lock, &region, length)).unwrap();
            assert!(forged.decode::<Array<u32>>().is_err());
        }
    }

    proptest! {
        #[test]
        fn as_a_vector(
            mut model in prop::collection::vec(any::<u16>(), 0..50),
            steps in prop::collection::vec((0..60_usize, prop::collection::vec(any::<u16>(), 0..20)), 0..20),
        ) {
            let array = Array::from_slice(&model).unwrap();
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
            prop_assert_eq!(array.to_vec().unwrap(), model);
        }
    }
}
