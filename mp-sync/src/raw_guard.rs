//! The guard of a lock that lies inside another structure in shared memory.
//!
//! If its process dies, the next one to lock is told so by its own guard.

use std::mem::ManuallyDrop;

use mp_core::deadline::Deadline;
use mp_core::ring::Held;

use crate::holder::DeadOwner;
use crate::raw_lock::{Acquired, Hold, RawLock};

/// The hold of a [`RawLock`], which ends when this is dropped. In a child of a fork it is a copy without effect.
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct RawGuard<'a> {
    lock: &'a RawLock,
    acquired: Acquired,
}

impl RawLock {
    /// Takes it until the guard is dropped; `None` if the deadline passes first.
    ///
    /// ```
    /// let lock = mp_sync::RawLock::default();
    /// let guard = lock.guard(None);
    /// assert!(guard.is_some() && lock.try_guard().is_none());
    /// ```
    #[inline]
    pub fn guard(&self, deadline: Option<Deadline>) -> Option<RawGuard<'_>> {
        self.acquire(Hold::Guarded, deadline).map(|acquired| RawGuard { lock: self, acquired })
    }

    /// As [`guard`](Self::guard), without waiting.
    #[inline]
    pub fn try_guard(&self) -> Option<RawGuard<'_>> {
        self.try_acquire(Hold::Guarded).map(|acquired| RawGuard { lock: self, acquired })
    }

    /// As [`try_guard`](Self::try_guard), by one look: `None` also if its holder is dead. Its cost is the exchange, and no more.
    ///
    /// ```
    /// let lock = mp_sync::RawLock::default();
    /// let guard = lock.guard_at_once();
    /// assert!(guard.is_some() && lock.guard_at_once().is_none());
    /// ```
    #[inline(always)]
    pub fn guard_at_once(&self) -> Option<RawGuard<'_>> {
        self.acquire_at_once(Hold::Guarded).map(|acquired| RawGuard { lock: self, acquired })
    }
}

impl<'a> RawGuard<'a> {
    pub(crate) fn new(lock: &'a RawLock, acquired: Acquired) -> RawGuard<'a> {
        RawGuard { lock, acquired }
    }

    /// The process that died while it held the lock before us, if one did.
    pub fn owner_died(&self) -> Option<DeadOwner> {
        self.acquired.owner_died()
    }
}

impl RawGuard<'_> {
    /// Releases the lock without having looked at what a dead owner left: the next locker is told of that death as well.
    pub fn pass_on(self) {
        let guard = ManuallyDrop::new(self);
        guard.lock.pass_on(&guard.acquired);
    }
}

impl Drop for RawGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.release_guarded(&self.acquired);
    }
}

// SAFETY: made only when the lock was taken with a guard, which nobody else can release: `RawLock::release` refuses, and
// the lock goes to another holder only when this process is dead.
unsafe impl Held for RawGuard<'_> {
    fn address(&self) -> *const () {
        (self.lock as *const RawLock).cast()
    }
}
