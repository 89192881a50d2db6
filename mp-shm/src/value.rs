//! One number or plain structure that processes share, with a lock.
//!
//! When a process is killed while it holds the lock, the next one gets it within 100 ms and is told; the value is as that
//! process left it. A process that is killed at any other moment leaves it whole.

use std::fmt;
use std::mem::{align_of, size_of};
use std::ptr::NonNull;
use std::time::Duration;

use bytemuck::Pod;
use mp_core::arena::Arena;
use mp_sync::{Lock, LockGuard, RawLock};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
use crate::elements::{Elements, Layout};
use crate::guard::ValueGuard;

/// Begins the message: no handle to anything else is taken for one.
#[derive(Serialize, Deserialize)]
enum Kind {
    Value,
}

/// One value that processes share, with a lock; a clone is another handle to the same one.
///
/// `T` is any [`bytemuck::Pod`] type: numbers, arrays of them, structures that derive it. A small value lies beside its
/// lock in one block, 32 bytes of shared memory for a `u64`, without a descriptor or mapping of its own. It can sit inside
/// any message, and arrives as a handle to the same value. Equal are handles to the same value.
///
/// [`get`](Self::get) and [`set`](Self::set) hold the lock for themselves, so `v.set(v.get()? + 1)?` loses the changes
/// that others make in between: use `*v.lock()? += 1` or [`update`](Self::update).
///
/// Follows `multiprocessing.Value`. See [`RawValue`](crate::RawValue) for one without a lock, and
/// [`synchronized`](crate::synchronized) for one with a lock that its holder may take again.
///
/// ```
/// use mp_shm::Value;
///
/// let count = Value::new(0_u64)?;
/// *count.lock()? += 1;
/// count.update(|n| *n += 1)?;
/// assert_eq!(count.get()?, 2);
/// # Ok::<(), mp_shm::Error>(())
/// ```
pub struct Value<T> {
    /// At the beginning of its block; the value follows, unless it is elsewhere.
    lock: Lock,
    elsewhere: Option<Box<Elements<T>>>,
}

impl<T: Pod> Value<T> {
    /// Where a value lies in the block of its own lock, in bytes.
    const OFFSET: usize = size_of::<RawLock>().next_multiple_of(align_of::<T>());

    /// `value` in shared memory, with a lock of its own.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) when memory does not suffice.
    pub fn new(value: T) -> Result<Value<T>> {
        let size = Self::OFFSET.saturating_add(size_of::<T>());
        if size > Arena::MAX_SIZE || align_of::<T>() > 64 {
            return Value::with_lock(value, &Lock::new()?);
        }
        let block = Arena::global().alloc(size, align_of::<RawLock>().max(align_of::<T>()))?;
        let new = Value { lock: Lock::within(block)?, elsewhere: None };
        // SAFETY: `place` is mapped and aligned for a `T`, and nobody else has seen the new memory.
        unsafe { new.place().write(value) };
        Ok(new)
    }

    /// `value` in shared memory, with a given lock, which may guard other things as well.
    ///
    /// Whoever holds that lock already must not lock the value: it waits for itself.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_lock(value: T, lock: &Lock) -> Result<Value<T>> {
        Ok(Value { elsewhere: Some(Box::new(Elements::from_slice(&[value])?)), lock: lock.clone() })
    }

    /// Where the value is: mapped and aligned for as long as `self` lives, and reached under the lock only.
    #[inline]
    fn place(&self) -> NonNull<T> {
        match &self.elsewhere {
            // SAFETY: `new` made the block long enough for a `T` at this offset, or `deserialize` looked.
            None => unsafe { self.lock.block_start().add(Self::OFFSET).cast() },
            Some(elements) => elements.start(),
        }
    }

    #[inline]
    fn guard<'a>(&'a self, lock: LockGuard<'a>) -> ValueGuard<'a, T> {
        // SAFETY: what `place` promises is what `ValueGuard` asks for; `T` is plain data.
        unsafe { ValueGuard::new(lock, self.place()) }
    }

    /// Waits for the lock, and gives access to the value until the guard is dropped.
    ///
    /// # Errors
    /// None at present.
    #[inline]
    pub fn lock(&self) -> Result<ValueGuard<'_, T>> {
        Ok(self.guard(self.lock.lock()?))
    }

    /// As [`lock`](Self::lock), without waiting.
    ///
    /// # Errors
    /// [`mp_sync::Error::WouldBlock`] if somebody else holds the lock.
    pub fn try_lock(&self) -> Result<ValueGuard<'_, T>> {
        Ok(self.guard(self.lock.try_lock()?))
    }

    /// As [`lock`](Self::lock), for as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`mp_sync::Error::Timeout`] if somebody else held the lock all the time.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<ValueGuard<'_, T>> {
        Ok(self.guard(self.lock.lock_timeout(timeout)?))
    }

    /// As [`lock`](Self::lock), without blocking the thread; see [`Lock::lock_async`].
    ///
    /// # Errors
    /// [`mp_sync::Error::Memory`] if the thread that watches over async waits cannot be started.
    pub async fn lock_async(&self) -> Result<ValueGuard<'_, T>> {
        Ok(self.guard(self.lock.lock_async().await?))
    }

    /// The value, read under the lock. Whether an owner died is still told to the next one who locks it.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn get(&self) -> Result<T> {
        let guard = self.lock()?;
        let value = *guard;
        guard.pass_on();
        Ok(value)
    }

    /// Writes the value, under the lock. Now it is whole, even if an owner died.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn set(&self, value: T) -> Result<()> {
        self.update(|old| *old = value)
    }

    /// Changes the value under the lock; returns what `change` returns.
    ///
    /// For values that are right whenever they are whole; where a dead owner matters use [`lock`](Self::lock), which tells.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        Ok(change(&mut *self.lock()?))
    }

    /// The lock: its own, or the one that it was given.
    pub fn get_lock(&self) -> &Lock {
        &self.lock
    }
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Value<T> {
        Value { lock: self.lock.clone(), elsewhere: self.elsewhere.clone() }
    }
}

/// Whether both are the same value.
impl<T> PartialEq for Value<T> {
    fn eq(&self, other: &Value<T>) -> bool {
        self.lock == other.lock && self.elsewhere == other.elsewhere
    }
}

impl<T> Eq for Value<T> {}

/// The value, or `<locked>` while somebody else holds the lock.
impl<T: Pod + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Ok(value) => {
                let result = f.debug_tuple("Value").field(&*value).finish();
                value.pass_on();
                result
            }
            Err(_) => f.write_str("Value(<locked>)"),
        }
    }
}

impl<T: Pod> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Kind::Value, Layout::of::<T>(), &self.lock, &self.elsewhere).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value<T>, D::Error> {
        let (_, layout, lock, elsewhere) =
            <(Kind, Layout, Lock, Option<Box<Elements<T>>>)>::deserialize(deserializer)?;
        layout.check::<T>().map_err(D::Error::custom)?;
        let value = Value { lock, elsewhere };
        let fits = match &value.elsewhere {
            None => Self::OFFSET.saturating_add(size_of::<T>()) <= value.lock.block_len(),
            Some(elements) => elements.len() == 1,
        };
        if !fits || !value.place().is_aligned() {
            return Err(D::Error::custom("a shared value lies outside of its memory"));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use mp_core::message::Message;

    use super::*;
    use crate::Error;

    #[test]
    fn a_small_value_and_its_lock_are_one_block() {
        let value = Value::new(7_u64).unwrap();
        assert_eq!(value.get_lock().block_len(), 32);
        assert_eq!(size_of::<Value<u64>>(), 32);
        assert_eq!(Value::new([1_u8; 2024]).unwrap().get_lock().block_len(), 2048);
        let large = Value::new([1_u8; 2025]).unwrap();
        assert_eq!((large.get_lock().block_len(), large.get().unwrap()), (32, [1; 2025]));
        assert_eq!(Value::new(u128::MAX).unwrap().get().unwrap(), u128::MAX);
        Value::new(()).unwrap().set(()).unwrap();
    }

    #[test]
    fn the_lock_is_held_while_the_guard_lives() {
        let value = Value::new(1_i32).unwrap();
        let mut guard = value.lock().unwrap();
        *guard += 1;
        assert!(value.get_lock().locked());
        assert!(matches!(value.try_lock(), Err(Error::Lock(mp_sync::Error::WouldBlock { .. }))));
        assert!(matches!(
            value.lock_timeout(Duration::from_millis(1)),
            Err(Error::Lock(mp_sync::Error::Timeout { .. }))
        ));
        assert!(value.get_lock().release().is_err(), "only the guard may");
        assert_eq!(format!("{value:?}"), "Value(<locked>)");
        drop(guard);
        assert_eq!(format!("{value:?}"), "Value(2)");
        assert_eq!(value.update(|v| std::mem::replace(v, 5)).unwrap(), 2);
        assert_eq!(*value.try_lock().unwrap(), 5);
    }

    #[test]
    fn nobody_releases_the_lock_under_a_guard() {
        let value = Value::new(1_i32).unwrap();
        let condition = mp_sync::Condition::with_lock(value.get_lock()).unwrap();
        let guard = value.lock().unwrap();
        let waited = condition.wait_unguarded(Some(Duration::ZERO));
        assert!(matches!(waited, Err(mp_sync::Error::Guarded { .. })), "{waited:?}");
        assert!(condition.release().is_err() && value.try_lock().is_err());
        drop(guard);
        assert!(value.try_lock().is_ok());
    }

    #[test]
    fn handles_to_one_value_are_equal() {
        let lock = Lock::new().unwrap();
        for value in [Value::new(1_u16).unwrap(), Value::with_lock(1_u16, &lock).unwrap()] {
            let copy: Value<u16> = Message::encode(&value).unwrap().decode().unwrap();
            copy.set(9).unwrap();
            assert!(copy == value && value.get().unwrap() == 9 && copy.clone() == value);
            assert_ne!(value, Value::new(9).unwrap());
            assert_ne!(value, Value::with_lock(9, value.get_lock()).unwrap());
        }
    }

    #[test]
    fn other_types_are_refused() {
        let send = || Message::encode(&Value::new(1_u32).unwrap()).unwrap();
        assert_eq!(send().decode::<Value<i32>>().unwrap().get().unwrap(), 1);
        let error = send().decode::<Value<[u8; 4]>>().unwrap_err().to_string();
        assert!(error.contains("[u8; 4]"), "{error}");
        assert!(send().decode::<Value<u64>>().is_err());
        assert!(send().decode::<Lock>().is_err());
        let lock = Lock::new().unwrap();
        assert!(Message::encode(&lock).unwrap().decode::<Value<u32>>().is_err());
        // A lock alone, and two elements where there should be one.
        type Four = [u64; 4];
        let (layout, two) = (|| Layout::of::<Four>(), Elements::from_slice(&[[0_u64; 4]; 2]).unwrap());
        for forged in [
            Message::encode(&(Kind::Value, layout(), &lock, None::<Elements<Four>>)),
            Message::encode(&(Kind::Value, layout(), &lock, Some(two))),
        ] {
            let error = forged.unwrap().decode::<Value<Four>>().unwrap_err().to_string();
            assert!(error.contains("outside of its memory"), "{error}");
        }
    }
}
