//! Numbers or plain structures in a row that processes share, with a lock.
//!
//! When a process is killed while it holds the lock, the next one gets it within 100 ms and is told; the elements are as
//! that process left them.

use std::fmt;
use std::ptr::NonNull;
use std::time::Duration;

use bytemuck::Pod;
use mp_sync::{Lock, LockGuard};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
use crate::elements::Elements;
use crate::guard::ValueGuard;

/// Begins the message: no handle to anything else is taken for one.
#[derive(Serialize, Deserialize)]
enum Kind {
    Array,
}

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
    /// Reached under the lock only.
    elements: Elements<T>,
}

impl<T: Pod> Array<T> {
    /// `length` elements whose bytes are all zero, with a lock of their own.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) when memory does not suffice, [`Error::Invalid`](crate::Error::Invalid) for a length that no memory could have.
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
        Ok(Array { elements: Elements::zeroed(length)?, lock: lock.clone() })
    }

    /// As [`from_slice`](Self::from_slice), with a given lock; see [`zeroed_with_lock`](Self::zeroed_with_lock).
    ///
    /// # Errors
    /// As for [`zeroed`](Self::zeroed).
    pub fn with_lock(values: &[T], lock: &Lock) -> Result<Array<T>> {
        Ok(Array { elements: Elements::from_slice(values)?, lock: lock.clone() })
    }

    fn guard<'a>(&'a self, lock: LockGuard<'a>) -> ValueGuard<'a, [T]> {
        let elements = NonNull::slice_from_raw_parts(self.elements.start(), self.len());
        // SAFETY: what `start` promises is what `ValueGuard` asks for; `T` is plain data, reached under the lock only.
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
        self.elements.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`, read under the lock.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn get(&self, index: usize) -> Result<T> {
        self.check(index, 1)?;
        self.with(|elements| elements[index])
    }

    /// Writes the element at `index`, under the lock.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
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
        let mut values = vec![T::zeroed(); self.len()];
        self.with(|elements| values.copy_from_slice(elements))?;
        Ok(values)
    }

    /// Reads the elements from `index` on into `values`, as many as fit there, as they were at one moment.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds) if there are not so many.
    pub fn copy_to_slice(&self, index: usize, values: &mut [T]) -> Result<()> {
        self.check(index, values.len())?;
        self.with(|elements| values.copy_from_slice(&elements[index..index + values.len()]))
    }

    /// Writes `values` from `index` on, under the lock.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds) if they do not all fit; nothing is written then.
    pub fn copy_from_slice(&self, index: usize, values: &[T]) -> Result<()> {
        self.check(index, values.len())?;
        self.with(|elements| elements[index..index + values.len()].copy_from_slice(values))
    }

    /// Whether the elements from `index` on are there, `count` of them.
    fn check(&self, index: usize, count: usize) -> Result<()> {
        self.elements.place(index, count).map(drop)
    }

    /// The lock: its own, or the one that it was given.
    pub fn get_lock(&self) -> &Lock {
        &self.lock
    }
}

/// Texts of varying length, as C keeps them.
impl Array<u8> {
    /// The bytes before the first NUL, or all of them.
    ///
    /// Follows `value` of Python's arrays of characters; all bytes are what [`to_vec`](Self::to_vec) returns.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    ///
    /// ```
    /// use mp_shm::Array;
    ///
    /// let line = Array::<u8>::zeroed(16)?;
    /// line.set_text(b"howdy")?;
    /// line.set_text(b"hi")?;
    /// assert_eq!(line.text()?, b"hi");
    /// assert_eq!(&line.to_vec()?[..6], b"hi\0dy\0");
    /// assert!(line.set_text(&[b'x'; 17]).is_err());
    /// # Ok::<(), mp_shm::Error>(())
    /// ```
    pub fn text(&self) -> Result<Vec<u8>> {
        let mut bytes = self.to_vec()?;
        let length = bytes.iter().position(|byte| *byte == 0);
        bytes.truncate(length.unwrap_or(bytes.len()));
        Ok(bytes)
    }

    /// Writes `text`, and a NUL behind it if there is room for one.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds) if it does not fit; nothing is written then.
    pub fn set_text(&self, text: &[u8]) -> Result<()> {
        self.check(0, text.len())?;
        self.with(|bytes| {
            let (start, rest) = bytes.split_at_mut(text.len());
            start.copy_from_slice(text);
            rest.iter_mut().take(1).for_each(|end| *end = 0);
        })
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Array<T> {
        Array { lock: self.lock.clone(), elements: self.elements.clone() }
    }
}

/// Whether both are the same array.
impl<T> PartialEq for Array<T> {
    fn eq(&self, other: &Array<T>) -> bool {
        self.elements == other.elements
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
        (Kind::Array, &self.lock, &self.elements).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Array<T>, D::Error> {
        let (_, lock, elements) = <(Kind, Lock, Elements<T>)>::deserialize(deserializer)?;
        Ok(Array { lock, elements })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SCT-5
    #[test]
    fn texts_end_at_a_nul_or_at_the_end() {
        let array = Array::from_slice(b"0123456789").unwrap();
        assert_eq!(array.text().unwrap(), b"0123456789");
        for text in [&b"abc"[..], b"", b"abcdefghij", b"a\xff"] {
            array.set_text(text).unwrap();
            assert_eq!(array.text().unwrap(), text);
        }
        assert!(array.set_text(b"0123456789a").is_err());
        assert_eq!(array.to_vec().unwrap(), b"a\xff\0defghij");
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
}
