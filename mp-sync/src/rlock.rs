//! The recursive lock: its holder, one thread of one process, may take it again.
//!
//! When the holder is killed, all its levels end at once; the next one gets the lock within 100 ms and is told who died.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use mp_core::arena::Shared;
use mp_core::deadline::Deadline;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::holder::{DeadOwner, Holder};
use crate::lock::describe_owner;
use crate::raw_lock::{Acquired, Hold, RawLock, acquire_async};

const WHAT: &str = "recursive lock";

/// Begins the message: no handle to anything else is taken for one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    RLock,
}

/// A lock that its holder may take again, as often as it likes; free after as many releases.
///
/// The holder is a thread of a process: nobody else can release it, and a child of a fork holds nothing. Otherwise as
/// [`Lock`](crate::Lock). Follows Python's `multiprocessing.RLock`.
///
/// ```
/// use mp_sync::RLock;
///
/// let lock = RLock::new()?;
/// let outer = lock.lock()?;
/// let inner = lock.lock()?;
/// drop(outer);
/// assert!(lock.locked());
/// assert_eq!(format!("{lock:?}"), "<RLock(MainProcess, 1)>");
/// drop(inner);
/// assert!(!lock.locked());
/// # Ok::<(), mp_sync::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RLock {
    kind: Kind,
    raw: Shared<RawLock>,
}

impl RLock {
    /// A new lock, free.
    ///
    /// # Errors
    /// [`Error::Memory`] if the system has no memory or descriptor left.
    pub fn new() -> Result<RLock> {
        Ok(RLock { kind: Kind::RLock, raw: Shared::new()? })
    }

    /// Waits until it is free or this thread's, and holds it one level deeper until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Invalid`] at four billion levels.
    #[inline]
    pub fn lock(&self) -> Result<RLockGuard<'_>> {
        self.acquire().map(|acquired| self.guard(acquired))
    }

    /// As [`lock`](Self::lock), without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if somebody else holds it.
    pub fn try_lock(&self) -> Result<RLockGuard<'_>> {
        self.try_acquire().map(|acquired| self.guard(acquired))
    }

    /// As [`lock`](Self::lock), for as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Timeout`] if somebody else held it all the time.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<RLockGuard<'_>> {
        self.acquire_timeout(timeout).map(|acquired| self.guard(acquired))
    }

    /// As [`lock`](Self::lock), without blocking the thread. Dropping the future ends the wait, and leaves the lock to others.
    ///
    /// The holder is the thread that polls, so the guard stays there, and the lock does not keep the tasks of one thread
    /// apart: they hold it together if one awaits something else with the guard. [`Lock`](crate::Lock) is the one for tasks.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock); [`Error::Memory`] if the thread that watches over async waits cannot be started.
    pub async fn lock_async(&self) -> Result<RLockGuard<'_>> {
        self.acquire_async().await.map(|acquired| self.guard(acquired))
    }

    pub(crate) async fn acquire_async(&self) -> Result<Acquired> {
        if self.raw.is_mine() {
            return self.acquire();
        }
        let acquired = acquire_async(&self.raw, Hold::Open).await?;
        self.raw.set_depth(1);
        Ok(acquired)
    }

    #[inline]
    fn guard(&self, acquired: Acquired) -> RLockGuard<'_> {
        RLockGuard { lock: self, acquired, thread: PhantomData }
    }

    /// Waits until it is free or this thread's, and holds it one level deeper until [`release`](Self::release).
    ///
    /// # Errors
    /// [`Error::Invalid`] at four billion levels.
    #[inline]
    pub fn acquire(&self) -> Result<Acquired> {
        self.deeper(|raw| raw.acquire(Hold::Open, None), || Error::WouldBlock { what: WHAT })
    }

    /// As [`acquire`](Self::acquire), without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if somebody else holds it.
    pub fn try_acquire(&self) -> Result<Acquired> {
        self.deeper(|raw| raw.try_acquire(Hold::Open), || Error::WouldBlock { what: WHAT })
    }

    /// As [`acquire`](Self::acquire), for as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Timeout`] if somebody else held it all the time.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Acquired> {
        let acquire = |raw: &RawLock| raw.acquire(Hold::Open, Some(Deadline::after(timeout)));
        self.deeper(acquire, || Error::Timeout { what: WHAT })
    }

    #[inline]
    fn deeper(
        &self,
        acquire: impl FnOnce(&RawLock) -> Option<Acquired>,
        error: fn() -> Error,
    ) -> Result<Acquired> {
        if self.raw.is_mine() {
            let deeper = self.raw.depth().checked_add(1).ok_or_else(|| Error::Invalid {
                what: "depth of a recursive lock",
                reason: "it is held four billion times".into(),
            })?;
            self.raw.set_depth(deeper);
            return Ok(Acquired::by(Holder::current()));
        }
        let acquired = acquire(&self.raw).ok_or_else(error)?;
        self.raw.set_depth(1);
        Ok(acquired)
    }

    /// Ends one level of this thread's hold.
    ///
    /// # Errors
    /// [`Error::NotHeld`] if this thread does not hold it.
    #[inline]
    pub fn release(&self) -> Result<()> {
        if !self.raw.is_mine() {
            return Err(self.not_held());
        }
        match self.raw.depth().saturating_sub(1) {
            0 => self.release_all(),
            depth => self.raw.set_depth(depth),
        }
        Ok(())
    }

    /// Ends the level of a guard. Does nothing in a child of a fork, which has but a copy of the guard, and may hold the lock
    /// by another.
    #[inline]
    pub(crate) fn release_guarded(&self, acquired: &Acquired) {
        if acquired.is_ours() {
            // Not refused: it is held, by this thread, in which guards stay.
            let _ = self.release();
        }
    }

    /// Ends all levels of this thread's hold, which it must have.
    #[inline]
    fn release_all(&self) {
        self.raw.clear_thread();
        // Not refused: it is held, and not by a guard of the plain kind.
        let _ = self.raw.release();
    }

    pub(crate) fn not_held(&self) -> Error {
        Error::NotHeld { what: WHAT, holder: format!("its owner is {}", describe_owner(&self.raw)) }
    }

    /// Whether somebody holds it at this moment.
    pub fn locked(&self) -> bool {
        self.raw.is_locked()
    }

    /// Whether this thread holds it.
    pub fn is_mine(&self) -> bool {
        self.raw.is_mine()
    }

    pub(crate) fn raw(&self) -> &Shared<RawLock> {
        &self.raw
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = describe_owner(&self.raw);
        if self.raw.is_mine() {
            write!(f, "<RLock({owner}, {})>", self.raw.depth())
        } else if owner == "None" {
            write!(f, "<RLock(None, 0)>")
        } else {
            write!(f, "<RLock({owner}, nonzero)>")
        }
    }
}

/// One level of the hold of an [`RLock`], which ends when this is dropped. Stays in its thread.
///
/// If its process is killed, all levels end and the next locker is told so. In a child of a fork it is a copy without effect.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    acquired: Acquired,
    /// The hold is the thread's.
    thread: PhantomData<*const ()>,
}

impl RLockGuard<'_> {
    /// The process that died while it held the lock before us, if one did: look at the data before trusting it.
    pub fn owner_died(&self) -> Option<DeadOwner> {
        self.acquired.owner_died()
    }
}

impl Drop for RLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lock.release_guarded(&self.acquired);
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard").field("owner_died", &self.owner_died()).finish()
    }
}
