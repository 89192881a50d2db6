//! The hold of a value or an array: while it lasts, the data are like any other of this process.
//!
//! When the holder is killed, the next one gets the data as they were at that moment, and is told who died.
//!
//! # Design
//!
//! `&mut T` must be the only way to the data for as long as it lives. That stands on three legs:
//! - The data of a [`Value`](crate::Value) or [`Array`](crate::Array) are reached through a `ValueGuard` only, and each has
//!   one lock for life: it is made with it, and travels with it. (What may be reached otherwise, or may have another lock
//!   elsewhere, is a [`Synchronized`](crate::Synchronized), which lends no `&mut`.)
//! - The lock is held by a [`LockGuard`], which nobody but the guard itself can release, from whatever process. An
//!   [`RLock`](mp_sync::RLock) could be held twice by one thread, or be released under a guard; so it never guards these.
//! - When the lock is taken from a holder, that holder is dead, all its threads and references included. Whatever bytes it
//!   left are a `T`, because `T` is plain data.
//!
//! What this cannot see to is what no memory between processes can: that all who have it mapped keep to these rules, and
//! that nobody makes up a message that pairs the memory of one with the lock of another. A closure that is forked along with
//! a guard has a copy of the guard, which does not hold the lock; it must not use it, and debug builds look.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use mp_sync::{DeadOwner, LockGuard};

/// Access to the data of a [`Value`](crate::Value) (`T`) or an [`Array`](crate::Array) (`[T]`), until it is dropped.
///
/// A plain reference in all but name: elements are read and written at the speed of a slice. If the process is killed,
/// the next one who takes the lock is told so by [`owner_died`](Self::owner_died), and finds the data as they were. A panic
/// releases the lock as usual.
///
/// In a child of a fork a guard that came along is a copy without a hold, and the parent may be writing: do not use it there.
/// With debug assertions that is a panic; take the lock in the child instead.
///
/// ```
/// use mp_shm::Array;
///
/// let array = Array::from_slice(&[3, 1, 2])?;
/// let mut guard = array.lock()?;
/// guard.sort();
/// guard[0] += 10;
/// assert_eq!(*guard, [11, 2, 3]);
/// # Ok::<(), mp_shm::Error>(())
/// ```
#[must_use = "the lock is released when the guard is dropped"]
pub struct ValueGuard<'a, T: ?Sized> {
    lock: LockGuard<'a>,
    /// Not a reference, which would have to be valid until the end of `drop`, when others may have the lock.
    data: NonNull<T>,
    borrow: PhantomData<&'a mut T>,
}

// SAFETY: it is a `&mut T` and a guard that may be dropped anywhere.
unsafe impl<T: ?Sized + Send> Send for ValueGuard<'_, T> {}
// SAFETY: shared, it is a `&T` only.
unsafe impl<T: ?Sized + Sync> Sync for ValueGuard<'_, T> {}

impl<'a, T: ?Sized> ValueGuard<'a, T> {
    /// Access to `data` for as long as `lock` is held.
    ///
    /// # Safety
    /// For the lifetime `'a`, `data` is mapped, aligned, and whatever bytes are there make a `T`. Everybody who reads or
    /// writes it holds the same lock through a [`LockGuard`].
    #[inline]
    pub(crate) unsafe fn new(lock: LockGuard<'a>, data: NonNull<T>) -> ValueGuard<'a, T> {
        ValueGuard { lock, data, borrow: PhantomData }
    }

    /// The process that died while it held the lock before us, if one did: the data may be half changed.
    pub fn owner_died(&self) -> Option<DeadOwner> {
        self.lock.owner_died()
    }

    /// Releases the lock without having made good what a dead owner left: the next one who locks it is told of that death
    /// as well, after some milliseconds. Like `drop` if no owner died.
    pub fn pass_on(self) {
        self.lock.pass_on();
    }
}

impl<T: ?Sized> ValueGuard<'_, T> {
    /// Looks in debug builds only: elements are to be had at the speed of a slice, and this would take half as long again.
    #[inline]
    fn assert_held(&self) {
        debug_assert!(
            self.lock.is_ours(),
            "this guard holds the lock in the parent process; a forked child has but a copy of it"
        );
    }
}

impl<T: ?Sized> Deref for ValueGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.assert_held();
        // SAFETY: mapped, aligned and a `T`, says `new`; nobody else reaches it while the lock is held.
        unsafe { self.data.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for ValueGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.assert_held();
        // SAFETY: as in `deref`; the exclusive borrow is that of `self`.
        unsafe { self.data.as_mut() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueGuard").field("data", &&**self).field("owner_died", &self.owner_died()).finish()
    }
}
