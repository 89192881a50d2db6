//! One number or plain structure in shared memory, without a lock.
//!
//! It lives until the last handle in the last process is gone, however those processes end; a process that is killed has
//! changed it or not, if it is a number.

use std::fmt;

use bytemuck::Pod;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
use crate::elements::Elements;
use crate::plain::{self, Atomic};

/// Begins the message: no handle to anything else is taken for one.
#[derive(Serialize, Deserialize)]
enum Kind {
    RawValue,
}

/// One value that processes share without a lock; a clone is another handle to the same one.
///
/// `T` is any [`bytemuck::Pod`] type. Numbers of up to 64 bits are always read as somebody wrote them, and can be changed
/// in one step; larger values may be read half old and half new. Costs no descriptor and no mapping.
///
/// Sent in a message, it arrives as a handle to the same value.
///
/// Follows `multiprocessing.RawValue`.
///
/// ```
/// use mp_shm::RawValue;
///
/// let hits = RawValue::new(0_u64)?;
/// std::thread::scope(|scope| {
///     scope.spawn(|| hits.fetch_add(1));
///     scope.spawn(|| hits.fetch_add(1));
/// });
/// assert_eq!(hits.get(), 2);
/// # Ok::<(), mp_shm::Error>(())
/// ```
pub struct RawValue<T> {
    /// One, which safe code accesses by atomics in cells of `T` only.
    elements: Elements<T>,
}

impl<T: Pod> RawValue<T> {
    /// `value` in shared memory.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) when memory does not suffice.
    pub fn new(value: T) -> Result<RawValue<T>> {
        Ok(RawValue { elements: Elements::from_slice(&[value])? })
    }

    /// The value. Says nothing about what else its writer wrote; see [`load`](Self::load).
    pub fn get(&self) -> T {
        let mut value = [T::zeroed()];
        // SAFETY: there is this one element, aligned, and safe code accesses it by atomics in cells of `T` only.
        unsafe { plain::load(self.elements.start(), &mut value) };
        value[0]
    }

    /// Writes the value. Says nothing about what else was written before; see [`store`](Self::store).
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`.
        unsafe { plain::store(self.elements.start(), &[value]) };
    }

    /// Address of the value in this process; see [`RawArray::as_ptr`](crate::RawArray::as_ptr).
    pub fn as_ptr(&self) -> std::ptr::NonNull<T> {
        self.elements.start()
    }
}

/// In one step, sequentially consistent.
impl<T: Atomic> RawValue<T> {
    /// The atomic number, for operations that are not here or in another order.
    pub fn as_atomic(&self) -> &T::Cell {
        // SAFETY: there is this one element, aligned, for as long as `self` lives, and safe code accesses it by
        // atomics of its size only.
        unsafe { plain::cell(self.elements.start()) }
    }

    /// The value. What other threads and processes wrote before they stored it is seen afterwards.
    pub fn load(&self) -> T {
        T::load(self.as_atomic())
    }

    /// Writes the value. Whoever loads it sees what was written before.
    pub fn store(&self, value: T) {
        T::store(self.as_atomic(), value)
    }

    /// Writes the value; returns the old one.
    pub fn swap(&self, value: T) -> T {
        T::swap(self.as_atomic(), value)
    }

    /// Writes `new` if the value is `current`, bit for bit; returns what was there.
    ///
    /// # Errors
    /// What was there, if it was not `current`.
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        T::compare_exchange(self.as_atomic(), current, new)
    }

    /// Adds to the value, wrapping round if it is an integer; returns the old one.
    pub fn fetch_add(&self, value: T) -> T {
        T::fetch_add(self.as_atomic(), value)
    }

    /// Subtracts from the value, wrapping round if it is an integer; returns the old one.
    pub fn fetch_sub(&self, value: T) -> T {
        T::fetch_sub(self.as_atomic(), value)
    }

    /// Replaces the value by what `update` makes of it, which is called again if somebody else was quicker; returns the
    /// old one.
    ///
    /// # Errors
    /// The value, if `update` returned none.
    pub fn fetch_update(&self, update: impl FnMut(T) -> Option<T>) -> Result<T, T> {
        T::fetch_update(self.as_atomic(), update)
    }
}

impl<T> Clone for RawValue<T> {
    fn clone(&self) -> RawValue<T> {
        RawValue { elements: self.elements.clone() }
    }
}

/// Whether both are the same value.
impl<T> PartialEq for RawValue<T> {
    fn eq(&self, other: &RawValue<T>) -> bool {
        self.elements == other.elements
    }
}

impl<T> Eq for RawValue<T> {}

impl<T: Pod + fmt::Debug> fmt::Debug for RawValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawValue").field(&self.get()).finish()
    }
}

impl<T: Pod> Serialize for RawValue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Kind::RawValue, &self.elements).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for RawValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawValue<T>, D::Error> {
        let (_, elements) = <(Kind, Elements<T>)>::deserialize(deserializer)?;
        match elements.len() {
            1 => Ok(RawValue { elements }),
            length => Err(D::Error::custom(format_args!("{length} elements are not one value"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use mp_core::message::Message;

    use super::*;

    #[test]
    fn one_number() {
        let value = RawValue::new(5_u8).unwrap();
        let other: RawValue<u8> = Message::encode(&value).unwrap().decode().unwrap();
        value.set(200);
        assert_eq!((other.get(), other.fetch_add(100), value.load()), (200, 200, 44));
        assert_eq!((value.swap(1), value.fetch_sub(2), value.get()), (44, 1, 255));
        assert_eq!(value.compare_exchange(1, 2), Err(255));
        assert_eq!(value.fetch_update(|old| old.checked_add(1)), Err(255));
        assert_eq!(value.fetch_update(|old| Some(old / 2)), Ok(255));
        assert_eq!(value.as_atomic().fetch_or(128, std::sync::atomic::Ordering::Relaxed), 127);
        value.store(3);
        assert_eq!(format!("{:?}", value.clone()), "RawValue(3)");
    }

    #[test]
    fn floats_are_compared_by_their_bits() {
        let value = RawValue::new(f32::NAN).unwrap();
        assert!(value.compare_exchange(f32::NAN, 0.0).is_ok());
        assert_eq!(value.compare_exchange(-0.0, 1.0), Err(0.0));
        assert_eq!(value.fetch_add(0.5), 0.0);
        assert_eq!(value.load(), 0.5);
    }

    #[test]
    fn an_array_is_not_a_value() {
        let array = crate::RawArray::<u8>::zeroed(2).unwrap();
        assert!(Message::encode(&array).unwrap().decode::<RawValue<u8>>().is_err());
    }
}
