//! The plain lock: one holder at a time, whatever its process.
//!
//! When the holder is killed, the next locker gets the lock within 100 ms and its guard says who died.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::time::Duration;

use mp_core::arena::{Block, Shared};
use mp_core::deadline::Deadline;
use mp_core::process::name;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::holder::{DeadOwner, Holder};
use crate::raw_lock::{Acquired, Hold, RawLock, Refused, acquire_async};
use crate::thread;

const WHAT: &str = "lock";

/// Begins the message: no handle to anything else is taken for one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Lock,
}

/// A lock that any number of processes share; a clone is another handle to the same one.
///
/// It can sit inside any message, and costs no descriptor: 36 bytes of shared memory. It is not recursive: a thread that
/// locks it twice waits for ever, as with Python's `multiprocessing.Lock`, which it follows; see [`RLock`](crate::RLock).
///
/// If the holder is killed, or exits without releasing, the next one gets the lock, and
/// [`LockGuard::owner_died`] tells it. A holder that is merely stopped still holds it.
///
/// ```
/// use mp_sync::Lock;
///
/// let lock = Lock::new()?;
/// let guard = lock.lock()?;
/// assert!(lock.locked() && lock.try_lock().is_err());
/// drop(guard);
/// assert!(!lock.locked());
/// # Ok::<(), mp_sync::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    kind: Kind,
    raw: Shared<RawLock>,
}

impl Lock {
    /// A new lock, free.
    ///
    /// # Errors
    /// [`Error::Memory`] if the system has no memory or descriptor left.
    pub fn new() -> Result<Lock> {
        Ok(Lock { kind: Kind::Lock, raw: Shared::new()? })
    }

    /// A new lock at the beginning of a block that nobody else has a handle to yet; the bytes behind it are the caller's.
    ///
    /// For structures that have their lock beside them; everybody else uses [`new`](Self::new).
    ///
    /// # Errors
    /// [`Error::Memory`] if the block is shorter than a [`RawLock`].
    pub fn within(block: Block) -> Result<Lock> {
        Ok(Lock { kind: Kind::Lock, raw: Shared::within(block)? })
    }

    /// Address in this process of the block that it lies in; good for [`block_len`](Self::block_len) bytes.
    #[inline]
    pub fn block_start(&self) -> NonNull<u8> {
        self.raw.as_ptr().cast()
    }

    /// Bytes of the block that it lies in, its own included.
    pub fn block_len(&self) -> usize {
        self.raw.block().len()
    }

    /// Waits until it is free, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// None at present.
    #[inline]
    pub fn lock(&self) -> Result<LockGuard<'_>> {
        self.guard(None, || Error::WouldBlock { what: WHAT })
    }

    /// Holds it if it is free, without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if somebody else holds it.
    #[inline]
    pub fn try_lock(&self) -> Result<LockGuard<'_>> {
        let acquired = self.raw.try_acquire(Hold::Guarded).ok_or(Error::WouldBlock { what: WHAT })?;
        Ok(LockGuard { raw: &self.raw, acquired })
    }

    /// Waits for it as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it was not free in time.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<LockGuard<'_>> {
        self.guard(Some(Deadline::after(timeout)), || Error::Timeout { what: WHAT })
    }

    #[inline]
    fn guard(&self, deadline: Option<Deadline>, error: fn() -> Error) -> Result<LockGuard<'_>> {
        match self.raw.acquire(Hold::Guarded, deadline) {
            Some(acquired) => Ok(LockGuard { raw: &self.raw, acquired }),
            None => Err(error()),
        }
    }

    /// Waits until it is free and holds it without a guard: whoever likes may [`release`](Self::release) it.
    ///
    /// # Errors
    /// None at present.
    pub fn acquire(&self) -> Result<Acquired> {
        self.raw.acquire(Hold::Open, None).ok_or(Error::WouldBlock { what: WHAT })
    }

    /// As [`acquire`](Self::acquire), without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if it is held.
    pub fn try_acquire(&self) -> Result<Acquired> {
        self.raw.try_acquire(Hold::Open).ok_or(Error::WouldBlock { what: WHAT })
    }

    /// As [`acquire`](Self::acquire), for as long as `timeout`.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it was not free in time.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Acquired> {
        self.raw.acquire(Hold::Open, Some(Deadline::after(timeout))).ok_or(Error::Timeout { what: WHAT })
    }

    /// As [`lock`](Self::lock), without blocking the thread. Dropping the future ends the wait, and leaves the lock to others.
    ///
    /// The guard is that of its task: no other one gets the lock meanwhile, also in the same thread.
    ///
    /// # Errors
    /// [`Error::Memory`] if the thread that watches over async waits cannot be started.
    pub async fn lock_async(&self) -> Result<LockGuard<'_>> {
        let acquired = acquire_async(&self.raw, Hold::Guarded).await?;
        Ok(LockGuard { raw: &self.raw, acquired })
    }

    /// As [`acquire`](Self::acquire), without blocking the thread; otherwise as [`lock_async`](Self::lock_async).
    ///
    /// # Errors
    /// As for [`lock_async`](Self::lock_async).
    pub async fn acquire_async(&self) -> Result<Acquired> {
        acquire_async(&self.raw, Hold::Open).await
    }

    /// Ends a hold without a guard, from any process and thread.
    ///
    /// # Errors
    /// [`Error::NotHeld`] if it is free, [`Error::Guarded`] if a guard holds it.
    pub fn release(&self) -> Result<()> {
        self.raw.release().map_err(|refused| match refused {
            Refused::Free => Error::NotHeld { what: WHAT, holder: "it is free".into() },
            Refused::Guarded(holder) => Error::Guarded { what: WHAT, holder },
        })
    }

    /// Whether somebody holds it at this moment.
    pub fn locked(&self) -> bool {
        self.raw.is_locked()
    }

    pub(crate) fn raw(&self) -> &Shared<RawLock> {
        &self.raw
    }
}

/// Who holds a lock, as seen from this thread: process name, thread name, or what is known instead.
pub(crate) fn describe_owner(raw: &RawLock) -> String {
    let holder = raw.holder();
    if raw.is_mine() {
        name::current() + &thread::suffix()
    } else if holder.bits() == 0 {
        "None".into()
    } else if holder == Holder::current() {
        "SomeOtherThread".into()
    } else {
        "SomeOtherProcess".into()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Lock(owner={})>", describe_owner(&self.raw))
    }
}

/// The hold of a [`Lock`], which ends when this is dropped; also from another thread.
///
/// If its process is killed, the next locker is told so. In a child of a fork it is a copy without effect.
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'a> {
    raw: &'a Shared<RawLock>,
    acquired: Acquired,
}

impl LockGuard<'_> {
    /// The process that died while it held the lock before us, if one did: look at the data before trusting it.
    pub fn owner_died(&self) -> Option<DeadOwner> {
        self.acquired.owner_died()
    }

    /// Whether it holds the lock: not so in a child of a fork, which has but a copy of the guard.
    #[inline]
    pub fn is_ours(&self) -> bool {
        self.acquired.is_ours()
    }

    /// Keeps the lock held, by nobody: any process may [`release`](Lock::release) it, and no death does.
    ///
    /// For handing a lock over to another process. Do not call [`std::mem::forget`] for that: then the lock is still this
    /// process's, and only its death releases it.
    pub fn forget(self) {
        let guard = ManuallyDrop::new(self);
        guard.raw.hand_over(&guard.acquired);
    }

    /// Releases the lock without having made good what a dead owner left: the next locker is told of that death as well,
    /// after some milliseconds. Like `drop` if no owner died.
    pub fn pass_on(self) {
        let guard = ManuallyDrop::new(self);
        guard.raw.pass_on(&guard.acquired);
    }

    /// What it knows, without it: the lock stays held.
    pub(crate) fn into_acquired(self) -> Acquired {
        ManuallyDrop::new(self).acquired
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.raw.release_guarded(&self.acquired);
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("owner_died", &self.owner_died()).finish()
    }
}
