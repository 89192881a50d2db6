//! The condition: processes wait, each until another one tells it that something has changed.
//!
//! Whoever is killed, waiting or notifying, holds nobody up; what a dead waiter was told, another one is told instead.

mod asynchronous;
mod mutex;
mod table;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::time::Duration;

use mp_core::arena::Shared;
use mp_core::deadline::Deadline;
use serde::{Deserialize, Serialize};

use self::mutex::{Interrupted, Mutex, WHAT};
use self::table::Table;
use crate::error::{Error, Result};
use crate::holder::DeadOwner;
use crate::lock::Lock;
use crate::raw_lock::Acquired;
use crate::rlock::RLock;

/// Begins the message: no handle to anything else is taken for one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Condition,
}

/// A lock, and the means to wait until somebody who had it changed something; a clone is another handle to the same one.
///
/// It can sit inside any message, and costs no descriptor: 2 KiB of shared memory. Follows Python's
/// `multiprocessing.Condition`; unlike there, [`notify`](Self::notify) never waits for those it tells.
///
/// Up to 127 wait without ever being woken in vain, and those who have waited longest are told first. Further ones wait
/// until there is room, or until a notification finds nobody else; then all of them return.
///
/// When a waiter is killed, its notification goes to another one, if it did not return with it: within 100 ms, if it was
/// told before. When the holder of the lock is killed, the next one is told so, and [`ConditionGuard::owner_died`] is how.
///
/// ```
/// use mp_sync::Condition;
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use std::thread;
///
/// let condition = Condition::new()?;
/// let stock = AtomicU32::new(0);
/// thread::scope(|scope| {
///     scope.spawn(|| {
///         let guard = condition.lock()?;
///         stock.store(3, Relaxed);
///         condition.notify_all()?;
///         drop(guard);
///         Ok::<(), mp_sync::Error>(())
///     });
///     let mut guard = condition.lock()?;
///     condition.wait_for(&mut guard, || stock.load(Relaxed) > 0)?;
///     assert_eq!(stock.load(Relaxed), 3);
///     Ok::<(), mp_sync::Error>(())
/// })?;
/// # Ok::<(), mp_sync::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    kind: Kind,
    mutex: Mutex,
    table: Shared<Table>,
}

impl Condition {
    /// A new condition with a recursive lock of its own.
    ///
    /// # Errors
    /// [`Error::Memory`] if the system has no memory or descriptor left.
    pub fn new() -> Result<Condition> {
        Condition::with(Mutex::Recursive(RLock::new()?))
    }

    /// A new condition with this lock, which several conditions may have.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_lock(lock: &Lock) -> Result<Condition> {
        Condition::with(Mutex::Plain(lock.clone()))
    }

    /// A new condition with this recursive lock, which several conditions may have.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_rlock(lock: &RLock) -> Result<Condition> {
        Condition::with(Mutex::Recursive(lock.clone()))
    }

    fn with(mutex: Mutex) -> Result<Condition> {
        Ok(Condition { kind: Kind::Condition, mutex, table: Shared::new()? })
    }

    /// Waits for the lock, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// Those of [`Lock::lock`] or [`RLock::lock`].
    #[inline]
    pub fn lock(&self) -> Result<ConditionGuard<'_>> {
        self.mutex.lock().map(|acquired| self.guard(acquired))
    }

    /// As [`lock`](Self::lock), without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if somebody else holds it.
    pub fn try_lock(&self) -> Result<ConditionGuard<'_>> {
        self.mutex.try_lock().map(|acquired| self.guard(acquired))
    }

    /// As [`lock`](Self::lock), for as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Timeout`] if somebody else held it all the time.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<ConditionGuard<'_>> {
        self.mutex.lock_timeout(timeout).map(|acquired| self.guard(acquired))
    }

    #[inline]
    fn guard(&self, acquired: Acquired) -> ConditionGuard<'_> {
        let died = acquired.owner_died();
        ConditionGuard {
            mutex: &self.mutex,
            acquired,
            died,
            seen: Cell::new(false),
            held: true,
            thread: PhantomData,
        }
    }

    /// As [`lock`](Self::lock), without blocking the thread. Dropping the future ends the wait, and leaves the lock to others.
    ///
    /// A recursive lock does not keep the tasks of one thread apart; see [`RLock::lock_async`]. A condition for tasks is one
    /// [with a plain lock](Self::with_lock).
    ///
    /// # Errors
    /// As for [`lock`](Self::lock); [`Error::Memory`] if the thread that watches over async waits cannot be started.
    pub async fn lock_async(&self) -> Result<ConditionGuard<'_>> {
        self.mutex.lock_async().await.map(|acquired| self.guard(acquired))
    }

    /// Waits for the lock and holds it without a guard, until [`release`](Self::release).
    ///
    /// # Errors
    /// Those of [`Lock::acquire`] or [`RLock::acquire`].
    pub fn acquire(&self) -> Result<Acquired> {
        match &self.mutex {
            Mutex::Plain(lock) => lock.acquire(),
            Mutex::Recursive(lock) => lock.acquire(),
        }
    }

    /// As [`acquire`](Self::acquire), without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if somebody else holds it.
    pub fn try_acquire(&self) -> Result<Acquired> {
        match &self.mutex {
            Mutex::Plain(lock) => lock.try_acquire(),
            Mutex::Recursive(lock) => lock.try_acquire(),
        }
    }

    /// As [`acquire`](Self::acquire), for as long as `timeout`.
    ///
    /// # Errors
    /// [`Error::Timeout`] if somebody else held it all the time.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Acquired> {
        match &self.mutex {
            Mutex::Plain(lock) => lock.acquire_timeout(timeout),
            Mutex::Recursive(lock) => lock.acquire_timeout(timeout),
        }
    }

    /// Ends what [`acquire`](Self::acquire) began.
    ///
    /// # Errors
    /// Those of [`Lock::release`] or [`RLock::release`].
    pub fn release(&self) -> Result<()> {
        match &self.mutex {
            Mutex::Plain(lock) => lock.release(),
            Mutex::Recursive(lock) => lock.release(),
        }
    }

    /// Whether somebody holds the lock at this moment.
    pub fn locked(&self) -> bool {
        self.mutex.raw().is_locked()
    }

    /// How many wait at this moment.
    pub fn waiters(&self) -> usize {
        self.table.waiters()
    }

    /// Gives up the lock, all its levels, waits to be notified, and takes it again.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the guard holds another lock, [`Error::NotHeld`] in a child of a fork, which has but a copy of
    /// the guard. Nothing was waited for then.
    pub fn wait(&self, guard: &mut ConditionGuard<'_>) -> Result<()> {
        self.wait_until(guard, None).map(drop)
    }

    /// As [`wait`](Self::wait), for as long as `timeout`; whether it was notified. It has the lock either way.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_timeout(&self, guard: &mut ConditionGuard<'_>, timeout: Duration) -> Result<bool> {
        self.wait_until(guard, Some(Deadline::after(timeout)))
    }

    /// Waits until `predicate` is true; it is asked with the lock held, first at once, then after each notification.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_for(
        &self,
        guard: &mut ConditionGuard<'_>,
        mut predicate: impl FnMut() -> bool,
    ) -> Result<()> {
        self.check(guard)?;
        while !predicate() {
            self.wait(guard)?;
        }
        Ok(())
    }

    /// As [`wait_for`](Self::wait_for), for as long as `timeout`; the last answer of `predicate`.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_for_timeout(
        &self,
        guard: &mut ConditionGuard<'_>,
        timeout: Duration,
        mut predicate: impl FnMut() -> bool,
    ) -> Result<bool> {
        self.check(guard)?;
        let deadline = Deadline::after(timeout);
        loop {
            if predicate() {
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
            self.wait_until(guard, Some(deadline))?;
        }
    }

    /// As [`wait`](Self::wait), without blocking the thread.
    ///
    /// A future that is dropped leaves the lock released: the guard holds nothing any more, and waits with it fail; the same
    /// goes for further guards of this thread, whose levels of a recursive lock were given up, too. What the future was told
    /// already, another waiter is told instead.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait). [`Error::NotHeld`] also if the guard lost the lock in a wait that was dropped;
    /// [`Error::Memory`] if the thread that watches over async waits cannot be started: then the guard has lost the lock.
    pub async fn wait_async(&self, guard: &mut ConditionGuard<'_>) -> Result<()> {
        self.check(guard)?;
        asynchronous::wait(self, guard).await
    }

    /// As [`wait_for`](Self::wait_for), without blocking the thread; see [`wait_async`](Self::wait_async).
    ///
    /// # Errors
    /// As for [`wait_async`](Self::wait_async).
    pub async fn wait_for_async(
        &self,
        guard: &mut ConditionGuard<'_>,
        mut predicate: impl FnMut() -> bool,
    ) -> Result<()> {
        self.check(guard)?;
        while !predicate() {
            self.wait_async(guard).await?;
        }
        Ok(())
    }

    fn check(&self, guard: &ConditionGuard<'_>) -> Result<()> {
        if !ptr::eq(guard.mutex, &self.mutex) && *guard.mutex != self.mutex {
            let reason = "it holds the lock of another condition".into();
            return Err(Error::Invalid { what: "guard to wait with", reason });
        }
        if !guard.held {
            return Err(Error::NotHeld {
                what: WHAT,
                holder: "its guard lost it in a wait that was dropped".into(),
            });
        }
        if !guard.acquired.is_ours() {
            return Err(self.mutex.not_mine());
        }
        self.mutex.check_mine()
    }

    fn wait_until(&self, guard: &mut ConditionGuard<'_>, deadline: Option<Deadline>) -> Result<bool> {
        self.check(guard)?;
        let (told, died) = self.sleep(deadline, guard.unseen());
        guard.learn(died);
        Ok(told)
    }

    fn sleep(&self, deadline: Option<Deadline>, unseen: Option<DeadOwner>) -> (bool, Option<DeadOwner>) {
        let mut hold = Interrupted::new(&self.mutex, unseen);
        let told = self.table.wait(&mut hold, deadline);
        (told, hold.died)
    }

    /// As [`wait`](Self::wait) or [`wait_timeout`](Self::wait_timeout), for a thread that has the lock without a guard:
    /// whether it was notified, and who died with the lock meanwhile, if somebody did.
    ///
    /// # Errors
    /// [`Error::NotHeld`] if this thread does not hold the lock; [`Error::Guarded`] if a guard holds a plain lock, because
    /// nobody else may release that, not even for a while: what it guards may be lent out as `&mut`.
    pub fn wait_unguarded(&self, timeout: Option<Duration>) -> Result<(bool, Option<DeadOwner>)> {
        let deadline = Deadline::from_timeout(timeout);
        self.mutex.check_mine()?;
        self.mutex.check_unguarded()?;
        Ok(self.sleep(deadline, None))
    }

    /// Tells up to `n` of those who wait, the longest waiting first; how many it told. This thread must have the lock.
    ///
    /// They return when they have the lock, hence not before this thread gives it up. Never waits.
    ///
    /// # Errors
    /// [`Error::NotHeld`] if this thread does not hold the lock.
    pub fn notify(&self, n: usize) -> Result<usize> {
        self.mutex.check_mine()?;
        Ok(self.table.notify(n, self.mutex.raw()))
    }

    /// Tells the one who has waited longest; how many that is, 0 or 1. See [`notify`](Self::notify).
    ///
    /// # Errors
    /// As for [`notify`](Self::notify).
    pub fn notify_one(&self) -> Result<usize> {
        self.notify(1)
    }

    /// Tells all who wait; how many. See [`notify`](Self::notify).
    ///
    /// # Errors
    /// As for [`notify`](Self::notify).
    pub fn notify_all(&self) -> Result<usize> {
        self.notify(usize::MAX)
    }
}

/// As Python prints it: the lock, and how many wait.
impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lock: &dyn fmt::Debug = match &self.mutex {
            Mutex::Plain(lock) => lock,
            Mutex::Recursive(lock) => lock,
        };
        write!(f, "<Condition({lock:?}, {})>", self.waiters())
    }
}

/// The hold of the lock of a [`Condition`], one level of it, which ends when this is dropped. Stays in its thread.
///
/// It serves for all conditions with the same lock. If its process is killed, the next locker is told so. In a child of a
/// fork it is a copy without effect.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ConditionGuard<'a> {
    mutex: &'a Mutex,
    acquired: Acquired,
    died: Option<DeadOwner>,
    /// Somebody has asked for `died`.
    seen: Cell<bool>,
    /// Not while a future waits, nor after that was dropped.
    held: bool,
    /// The hold is the thread's.
    thread: PhantomData<*const ()>,
}

impl ConditionGuard<'_> {
    /// The process that died while it held the lock before us, when we took it or during a wait: look at the data before
    /// trusting it. The last one, if there were several.
    ///
    /// If nobody has asked by the time of the next wait, the next one to get the lock is told instead.
    pub fn owner_died(&self) -> Option<DeadOwner> {
        self.seen.set(true);
        self.died
    }

    /// The death that nobody has asked for.
    fn unseen(&self) -> Option<DeadOwner> {
        self.died.filter(|_| !self.seen.get())
    }

    /// After a wait that ended with this news.
    fn learn(&mut self, died: Option<DeadOwner>) {
        if died.is_some() || !self.seen.get() {
            self.died = died;
            self.seen.set(false);
        }
    }
}

impl Drop for ConditionGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.held {
            self.mutex.unlock(&self.acquired);
        }
    }
}

impl fmt::Debug for ConditionGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionGuard").field("owner_died", &self.died).finish()
    }
}
