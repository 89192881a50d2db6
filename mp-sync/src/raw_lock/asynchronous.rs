//! Waiting for a lock without a thread: a future looks, announces itself as a sleeper does, and has `turn` watched.
//!
//! A dead holder is found as soon as by one who sleeps. A future that is dropped holds nothing: a wake-up that it got and did
//! not use goes to the next waiter, and nothing stays reserved for it.

use std::time::Instant;

use mp_core::arena::Shared;
use mp_core::futex::{Ordering::*, wake};
use mp_core::wait::word_changed;

use super::{Acquired, Hold, RawLock, STARVING, WAITERS, is_hungry};
use crate::error::Result;
use crate::holder::Holder;
use crate::patience::Look;
use crate::raw_guard::RawGuard;

#[cfg(all(test, loom))]
mod loom;

/// Takes the lock as soon as it is free or its holder is dead.
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory) if the thread that watches words cannot be started.
pub(crate) async fn acquire(lock: &Shared<RawLock>, hold: Hold) -> Result<Acquired> {
    Ok(acquire_in(lock, |lock| lock, hold).await?)
}

async fn acquire_in<O>(owner: &O, lock: fn(&O) -> &RawLock, hold: Hold) -> mp_core::Result<Acquired>
where
    O: Clone + Send + Sync + 'static,
{
    let mut waiter = Waiter { lock: lock(owner), asleep_since: None, look: Look::default(), starving: false };
    loop {
        match waiter.attempt(hold) {
            Ok(acquired) => return Ok(acquired),
            Err(turn) => word_changed(owner.clone(), |owner| lock(owner).turn(), turn).await?,
        }
    }
}

impl RawLock {
    /// As [`guard`](Self::guard), for async code on any executor: the lock that `lock` finds in `owner`.
    ///
    /// # Errors
    /// [`Error::Io`](mp_core::Error::Io) if the thread that watches words cannot be started.
    pub async fn guard_async<O>(owner: &O, lock: fn(&O) -> &RawLock) -> mp_core::Result<RawGuard<'_>>
    where
        O: Clone + Send + Sync + 'static,
    {
        let acquired = acquire_in(owner, lock, Hold::Guarded).await?;
        Ok(RawGuard::new(lock(owner), acquired))
    }
}

/// One who waits for a lock, in whatever thread.
struct Waiter<'a> {
    lock: &'a RawLock,
    asleep_since: Option<Instant>,
    look: Look,
    /// It has asked not to be overtaken any more.
    starving: bool,
}

impl Waiter<'_> {
    /// Takes the lock, if it is to be had; otherwise the value of `turn` to watch, after announcing itself.
    fn attempt(&mut self, hold: Hold) -> Result<Acquired, u32> {
        let lock = self.lock;
        let me = Holder::current();
        loop {
            // Before the owner: a release that we do not see there must be seen here.
            let turn = lock.turn.load(Acquire);
            let word = lock.owner.load(Relaxed);
            if word & Holder::MASK == 0 && (word & STARVING == 0 || self.asleep_since.is_some()) {
                // One who was woken sets the flag: the wake-up was for all who sleep.
                let waiters = if self.asleep_since.is_some() { WAITERS } else { word & WAITERS };
                match lock.take(word, me, hold.bits() | waiters) {
                    None => continue,
                    Some(acquired) => return Ok(self.served(acquired)),
                }
            }
            if self.look.is_due()
                && let Some(acquired) = lock.recover(me, hold)
            {
                return Ok(self.served(acquired));
            }
            let starving = self.asleep_since.is_some_and(is_hungry);
            let marked = word | WAITERS | if starving { STARVING } else { 0 };
            if marked != word && lock.owner.compare_exchange(word, marked, Relaxed, Relaxed).is_err() {
                continue;
            }
            self.starving |= starving;
            self.asleep_since.get_or_insert_with(Instant::now);
            return Err(turn);
        }
    }

    fn served(&mut self, acquired: Acquired) -> Acquired {
        self.starving = false;
        acquired
    }
}

impl Drop for Waiter<'_> {
    /// Leaves no reservation behind, which newcomers would respect for a slice. Others who starve ask again.
    fn drop(&mut self) {
        if !self.starving {
            return;
        }
        let word = self.lock.owner.fetch_and(!STARVING, Relaxed);
        if word & STARVING != 0 && word & Holder::MASK == 0 {
            self.lock.turn.fetch_add(1, Release);
            wake(&self.lock.turn, 1);
        }
    }
}
