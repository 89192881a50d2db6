//! The lock of a condition, of either kind, and how a waiter gives it up and has it back.
//!
//! If its holder is killed meanwhile, the waiter gets it and learns who died, as any other locker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::Relock;
use crate::error::{Error, Result};
use crate::holder::{DeadOwner, Holder};
use crate::lock::{Lock, LockGuard, describe_owner};
use crate::raw_lock::{Acquired, Hold, RawLock, acquire_async};
use crate::rlock::RLock;

pub(super) const WHAT: &str = "lock of a condition";

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mutex {
    Plain(Lock),
    Recursive(RLock),
}

impl Mutex {
    pub(super) fn raw(&self) -> &RawLock {
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
    mutex: &'a Mutex,
    /// What to restore: all the levels, or the kind of hold.
    depth: u32,
    hold: Hold,
    /// Who died with the lock, which nobody has looked at yet: whoever gets it next is told if we give it up again.
    pub(super) died: Option<DeadOwner>,
}

impl<'a> Interrupted<'a> {
    pub(super) fn new(mutex: &'a Mutex, died: Option<DeadOwner>) -> Interrupted<'a> {
        Interrupted { mutex, depth: 0, hold: Hold::Open, died }
    }
}

impl Relock for Interrupted<'_> {
    fn suspend(&mut self) {
        if let Some(dead) = self.died.take() {
            match self.mutex {
                Mutex::Recursive(lock) => self.depth = lock.release_all_to(dead),
                Mutex::Plain(lock) => {
                    self.hold = if lock.raw().is_guarded() { Hold::Guarded } else { Hold::Open };
                    lock.raw().leave_to(dead);
                }
            }
            return;
        }
        match self.mutex {
            Mutex::Recursive(lock) => self.depth = lock.release_all(),
            Mutex::Plain(lock) if lock.raw().release().is_err() => {
                self.hold = Hold::Guarded;
                lock.raw().release_guarded(&Acquired::by(Holder::current()));
            }
            Mutex::Plain(_) => self.hold = Hold::Open,
        }
    }

    fn resume(&mut self) {
        let raw = self.mutex.raw();
        let acquired = raw.acquire_awoken(self.hold);
        if let Mutex::Recursive(_) = self.mutex {
            raw.set_depth(self.depth);
        }
        self.died = acquired.and_then(|acquired| acquired.owner_died()).or(self.died);
    }
}

impl Interrupted<'_> {
    /// As [`resume`](Relock::resume), without blocking the thread.
    pub(super) async fn resume_async(&mut self) -> Result<()> {
        let acquired = match self.mutex {
            Mutex::Recursive(lock) => {
                let acquired = acquire_async(lock.raw(), Hold::Open).await?;
                lock.raw().set_depth(self.depth);
                acquired
            }
            Mutex::Plain(lock) => acquire_async(lock.raw(), self.hold).await?,
        };
        self.died = acquired.owner_died().or(self.died);
        Ok(())
    }
}
