//! An object without a lock, and a lock for it.
//!
//! When a process is killed while it holds the lock, the next one gets it within 100 ms and is told; the object is as that
//! process left it.
//!
//! Others may have the bare object, or it with another lock, and an [`RLock`] may be held several times by one thread. So a
//! guard lends the object itself, with its atomic accesses, and no `&mut` to what is in it. For that there are
//! [`Value`](crate::Value) and [`Array`](crate::Array).

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use bytemuck::Pod;
use mp_sync::{DeadOwner, Lock, LockGuard, RLock, RLockGuard};
use serde::{Deserialize, Serialize};

use crate::{RawArray, RawValue, Result};

mod sealed {
    pub trait Raw {}
    pub trait Locking {}
}

/// Shared objects without a lock: [`RawValue`] and [`RawArray`].
pub trait Raw: sealed::Raw {}

impl<T> sealed::Raw for RawValue<T> {}
impl<T> Raw for RawValue<T> {}
impl<T> sealed::Raw for RawArray<T> {}
impl<T> Raw for RawArray<T> {}

/// Locks that can guard an object: [`Lock`], and [`RLock`], which its holder may take again.
pub trait Locking: Clone + sealed::Locking {
    /// The hold of such a lock.
    type Guard<'a>
    where
        Self: 'a;

    #[doc(hidden)]
    fn hold(&self) -> mp_sync::Result<Self::Guard<'_>>;
    #[doc(hidden)]
    fn try_hold(&self) -> mp_sync::Result<Self::Guard<'_>>;
    #[doc(hidden)]
    fn hold_timeout(&self, timeout: Duration) -> mp_sync::Result<Self::Guard<'_>>;
    #[doc(hidden)]
    fn hold_async(&self) -> impl Future<Output = mp_sync::Result<Self::Guard<'_>>>;
    #[doc(hidden)]
    fn owner_died(guard: &Self::Guard<'_>) -> Option<DeadOwner>;
}

macro_rules! locking {
    ($($lock:ty: $guard:ident),*) => {$(
        impl sealed::Locking for $lock {}

        impl Locking for $lock {
            type Guard<'a> = $guard<'a>;

            fn hold(&self) -> mp_sync::Result<$guard<'_>> {
                self.lock()
            }
            fn try_hold(&self) -> mp_sync::Result<$guard<'_>> {
                self.try_lock()
            }
            fn hold_timeout(&self, timeout: Duration) -> mp_sync::Result<$guard<'_>> {
                self.lock_timeout(timeout)
            }
            fn hold_async(&self) -> impl Future<Output = mp_sync::Result<$guard<'_>>> {
                self.lock_async()
            }
            fn owner_died(guard: &$guard<'_>) -> Option<DeadOwner> {
                guard.owner_died()
            }
        }
    )*};
}

locking!(Lock: LockGuard, RLock: RLockGuard);

/// `object` with `lock`: the same memory, and the very lock.
///
/// Follows `multiprocessing.sharedctypes.synchronized`; what is synchronized already is refused by the compiler.
///
/// ```
/// use mp_shm::{RawValue, synchronized};
/// use mp_sync::RLock;
///
/// let count = synchronized(RawValue::new(1_u64)?, &RLock::new()?);
/// let guard = count.lock()?;
/// // The holder may take the lock again.
/// count.update(|n| *n += 1)?;
/// assert_eq!(guard.get(), 2);
/// # Ok::<(), mp_shm::Error>(())
/// ```
pub fn synchronized<O: Raw, L: Locking>(object: O, lock: &L) -> Synchronized<O, L> {
    Synchronized { object, lock: lock.clone() }
}

/// A shared object without a lock, together with a lock; see [`synchronized`].
///
/// A clone is another handle to the same two; it can sit inside any message. Nothing keeps others from using the object
/// without the lock; that is never a data race, but it is not ordered either.
///
/// The first who takes the lock after the death of a holder is told. Methods that take it for themselves keep that to
/// themselves: where it matters, use [`lock`](Self::lock).
#[derive(Clone, Serialize, Deserialize)]
pub struct Synchronized<O, L> {
    object: O,
    lock: L,
}

impl<O, L: Locking> Synchronized<O, L> {
    /// Waits for the lock, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// As for [`RLock::lock`].
    pub fn lock(&self) -> Result<SynchronizedGuard<'_, O, L>> {
        Ok(SynchronizedGuard { hold: self.lock.hold()?, object: &self.object })
    }

    /// As [`lock`](Self::lock), without waiting.
    ///
    /// # Errors
    /// [`mp_sync::Error::WouldBlock`] if somebody else holds the lock.
    pub fn try_lock(&self) -> Result<SynchronizedGuard<'_, O, L>> {
        Ok(SynchronizedGuard { hold: self.lock.try_hold()?, object: &self.object })
    }

    /// As [`lock`](Self::lock), for as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`mp_sync::Error::Timeout`] if somebody else held the lock all the time.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<SynchronizedGuard<'_, O, L>> {
        Ok(SynchronizedGuard { hold: self.lock.hold_timeout(timeout)?, object: &self.object })
    }

    /// As [`lock`](Self::lock), without blocking the thread; see [`Lock::lock_async`] and [`RLock::lock_async`].
    ///
    /// # Errors
    /// [`mp_sync::Error::Memory`] if the thread that watches over async waits cannot be started.
    pub async fn lock_async(&self) -> Result<SynchronizedGuard<'_, O, L>> {
        Ok(SynchronizedGuard { hold: self.lock.hold_async().await?, object: &self.object })
    }

    /// The lock.
    pub fn get_lock(&self) -> &L {
        &self.lock
    }

    /// The object without the lock.
    pub fn get_obj(&self) -> &O {
        &self.object
    }
}

impl<T: Pod, L: Locking> Synchronized<RawValue<T>, L> {
    /// The value, read under the lock.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn get(&self) -> Result<T> {
        Ok(self.lock()?.get())
    }

    /// Writes the value, under the lock.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn set(&self, value: T) -> Result<()> {
        self.lock()?.set(value);
        Ok(())
    }

    /// Changes the value under the lock: `change` gets a copy, which is then written. Returns what `change` returns.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        let guard = self.lock()?;
        let mut value = guard.get();
        let result = change(&mut value);
        guard.set(value);
        Ok(result)
    }
}

impl<T: Pod, L: Locking> Synchronized<RawArray<T>, L> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.object.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// The element at `index`, read under the lock.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn get(&self, index: usize) -> Result<T> {
        self.lock()?.get(index)
    }

    /// Writes the element at `index`, under the lock.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds).
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        self.lock()?.set(index, value)
    }

    /// All elements, as they were at one moment.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn to_vec(&self) -> Result<Vec<T>> {
        Ok(self.lock()?.to_vec())
    }
}

impl<O: fmt::Debug, L: fmt::Debug> fmt::Debug for Synchronized<O, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Synchronized").field("object", &self.object).field("lock", &self.lock).finish()
    }
}

/// The hold of a [`Synchronized`] object, which ends when this is dropped: until then, the object as it is without a lock.
///
/// If the process is killed, the next one who takes the lock is told so by [`owner_died`](Self::owner_died).
#[must_use = "the lock is released when the guard is dropped"]
pub struct SynchronizedGuard<'a, O, L: Locking + 'a> {
    hold: L::Guard<'a>,
    object: &'a O,
}

impl<O, L: Locking> SynchronizedGuard<'_, O, L> {
    /// The process that died while it held the lock before us, if one did: the object may be half changed.
    pub fn owner_died(&self) -> Option<DeadOwner> {
        L::owner_died(&self.hold)
    }
}

impl<O, L: Locking> Deref for SynchronizedGuard<'_, O, L> {
    type Target = O;

    fn deref(&self) -> &O {
        self.object
    }
}

impl<O: fmt::Debug, L: Locking> fmt::Debug for SynchronizedGuard<'_, O, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let died = self.owner_died();
        f.debug_struct("SynchronizedGuard").field("object", self.object).field("owner_died", &died).finish()
    }
}

#[cfg(test)]
mod tests {
    use mp_core::message::Message;

    use super::*;

    #[test]
    fn the_same_memory_and_the_very_lock() {
        let (lock, raw) = (Lock::new().unwrap(), RawArray::from_slice(&[1, 2, 3]).unwrap());
        let array = synchronized(raw.clone(), &lock);
        array.set(1, 5).unwrap();
        assert_eq!(raw.to_vec(), [1, 5, 3]);
        assert!(array.get_lock() == &lock && array.get(3).is_err());
        let guard = array.lock().unwrap();
        guard.set(0, 7).unwrap();
        assert!(lock.locked() && array.try_lock().is_err() && array.lock_timeout(Duration::ZERO).is_err());
        drop(guard);
        assert_eq!((array.to_vec().unwrap(), array.len()), (vec![7, 5, 3], 3));
        assert_eq!(array.get_obj().get(0).unwrap(), 7);
    }

    #[test]
    fn travels_with_its_lock() {
        let value = synchronized(RawValue::new(1_u32).unwrap(), &RLock::new().unwrap());
        let copy: Synchronized<RawValue<u32>, RLock> = Message::encode(&value).unwrap().decode().unwrap();
        let (outer, inner) = (value.lock().unwrap(), copy.lock().unwrap());
        copy.update(|n| *n += 1).unwrap();
        assert_eq!((outer.get(), inner.get()), (2, 2));
        assert!(value.get_lock() == copy.get_lock());
        std::thread::scope(|scope| assert!(scope.spawn(|| copy.try_lock().is_err()).join().unwrap()));
        drop((outer, inner));
        assert_eq!(format!("{value:?}"), "Synchronized { object: RawValue(2), lock: <RLock(None, 0)> }");
    }
}
