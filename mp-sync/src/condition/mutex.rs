//! The lock of a condition, of either kind, and how a waiter gives it up and has it back.
//!
//! If its holder is killed meanwhile, the waiter gets it and learns who died, as any other locker.

use std::time::Duration;

use mp_core::arena::Shared;
use serde::{Deserialize, Serialize};

use super::table::Relock;
use crate::error::{Error, Result};
use crate::holder::{DeadOwner, Holder};
use crate::lock::{Lock, LockGuard, describe_owner};
use crate::raw_lock::{Acquired, Hold, RawLock, acquire_async};
use crate::rlock::RLock;

#[cfg(all(test, loom))]
mod loom;

pub(super) const WHAT: &str = "lock of a condition";

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mutex {
    Plain(Lock),
    Recursive(RLock),
}

impl Mutex {
    pub(super) fn raw(&self) -> &Shared<RawLock> {
        match self {
            Mutex::Plain(lock) => lock.raw(),
            Mutex::Recursive(lock) => lock.raw(),
        }
    }

    /// Takes it as a guard has it.
    pub(super) fn lock(&self) -> Result<Acquired> {
        match self {
            Mutex::Plain(lock) => lock.lock().map(LockGuard::into_acquired),
            Mutex::Recursive(lock) => lock.acquire(),
        }
    }

    pub(super) fn try_lock(&self) -> Result<Acquired> {
        match self {
            Mutex::Plain(lock) => lock.try_lock().map(LockGuard::into_acquired),
            Mutex::Recursive(lock) => lock.try_acquire(),
        }
    }

    pub(super) fn lock_timeout(&self, timeout: Duration) -> Result<Acquired> {
        match self {
            Mutex::Plain(lock) => lock.lock_timeout(timeout).map(LockGuard::into_acquired),
            Mutex::Recursive(lock) => lock.acquire_timeout(timeout),
        }
    }

    pub(super) async fn lock_async(&self) -> Result<Acquired> {
        match self {
            Mutex::Plain(lock) => acquire_async(lock.raw(), Hold::Guarded).await,
            Mutex::Recursive(lock) => lock.acquire_async().await,
        }
    }

    /// Ends what [`lock`](Self::lock) began. Does nothing in a child of a fork.
    pub(super) fn unlock(&self, acquired: &Acquired) {
        match self {
            Mutex::Plain(lock) => lock.raw().release_guarded(acquired),
            Mutex::Recursive(lock) => lock.release_guarded(acquired),
        }
    }

    /// # Errors
    /// [`Error::NotHeld`] if this thread does not hold it, in whatever way.
    pub(super) fn check_mine(&self) -> Result<()> {
        if self.raw().is_mine() { Ok(()) } else { Err(self.not_mine()) }
    }

    #[cold]
    pub(super) fn not_mine(&self) -> Error {
        Error::NotHeld { what: WHAT, holder: format!("its owner is {}", describe_owner(self.raw())) }
    }

    /// # Errors
    /// [`Error::Guarded`] if a guard of whatever type holds it.
    pub(super) fn check_unguarded(&self) -> Result<()> {
        if !self.raw().is_guarded() {
            return Ok(());
        }
        let holder = self.raw().holder().process().map_or(0, |process| process.pid());
        Err(Error::Guarded { what: WHAT, holder })
    }
}

/// A hold that this thread has, whole or given up for a while.
pub(super) struct Interrupted<'a> {
    lock: &'a RawLock,
    recursive: bool,
    /// What to restore: all the levels, or the kind of hold.
    depth: u32,
    hold: Hold,
    /// Who died with the lock, which nobody has looked at yet: whoever gets it next is told if we give it up again.
    pub(super) died: Option<DeadOwner>,
}

impl<'a> Interrupted<'a> {
    pub(super) fn new(mutex: &'a Mutex, died: Option<DeadOwner>) -> Interrupted<'a> {
        Interrupted::of(mutex.raw(), matches!(mutex, Mutex::Recursive(_)), died)
    }

    fn of(lock: &'a RawLock, recursive: bool, died: Option<DeadOwner>) -> Interrupted<'a> {
        Interrupted { lock, recursive, depth: 0, hold: Hold::Open, died }
    }

    /// What there is to do once the lock is ours again.
    fn restore(&mut self, acquired: &Acquired) {
        if self.recursive {
            self.lock.set_depth(self.depth);
        }
        self.died = acquired.owner_died().or(self.died);
    }

    /// As [`resume`](Relock::resume), without blocking the thread; `lock` is that of the condition.
    pub(super) async fn resume_async(&mut self, lock: &Shared<RawLock>) -> Result<()> {
        let acquired = acquire_async(lock, self.hold).await?;
        self.restore(&acquired);
        Ok(())
    }
}

impl Relock for Interrupted<'_> {
    fn suspend(&mut self) {
        if self.recursive {
            self.depth = self.lock.depth();
            self.lock.clear_thread();
        } else if self.lock.is_guarded() {
            self.hold = Hold::Guarded;
        }
        match (self.died.take(), self.hold) {
            (Some(dead), _) => self.lock.leave_to(dead),
            (None, Hold::Guarded) => self.lock.release_guarded(&Acquired::by(Holder::current())),
            // Not refused: this thread has it, and without a guard.
            (None, Hold::Open) => _ = self.lock.release(),
        }
    }

    fn resume(&mut self) {
        if let Some(acquired) = self.lock.acquire_awoken(self.hold) {
            self.restore(&acquired);
        }
    }
}
