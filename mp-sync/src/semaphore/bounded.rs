//! The bounded semaphore: as many permits as at first, never more, and an error for who releases one too many.
//!
//! What it promises when a process dies is what the [`Semaphore`](super::Semaphore) does; no death lets it exceed its bound.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::Table;
use super::{Permit, acquire, acquire_timeout, asynchronous, release, try_acquire};
use crate::error::Result;

const WHAT: &str = "bounded semaphore";

/// A [`Semaphore`](super::Semaphore) whose value never exceeds what it was at first, so that a release too many is found.
///
/// It takes 8 bytes of shared memory for each permit and 48 beside them; the holders of 65,535 permits are known. Follows
/// Python's `multiprocessing.BoundedSemaphore`.
///
/// ```
/// use mp_sync::{BoundedSemaphore, Error};
///
/// let seats = BoundedSemaphore::new(3)?;
/// seats.acquire()?.forget();
/// seats.release()?;
/// assert!(matches!(seats.release(), Err(Error::OverRelease { limit: 3, .. })));
/// let seat = seats.acquire()?;
/// assert!(seats.release().is_err(), "the guard will give it back");
/// assert_eq!(format!("{seats:?}"), "<BoundedSemaphore(value=2, maxvalue=3)>");
/// # Ok::<(), mp_sync::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundedSemaphore {
    table: Table,
}

impl BoundedSemaphore {
    /// A new semaphore of `value` permits, which is also the most it ever has.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a value above 2,147,483,647,
    /// [`Error::Memory`](crate::Error::Memory) if the system has no memory or descriptor left.
    pub fn new(value: u32) -> Result<BoundedSemaphore> {
        Ok(BoundedSemaphore { table: Table::new(WHAT, value, value)? })
    }

    /// Waits for a permit, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// As for [`Semaphore::acquire`](super::Semaphore::acquire).
    #[inline]
    pub fn acquire(&self) -> Result<Permit<'_>> {
        acquire(&self.table, WHAT)
    }

    /// Holds a permit if there is one, without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`](crate::Error::WouldBlock) if there is none; others as for
    /// [`Semaphore::acquire`](super::Semaphore::acquire).
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>> {
        try_acquire(&self.table, WHAT)
    }

    /// Waits for a permit as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout) if there was none in time; others as for
    /// [`Semaphore::acquire`](super::Semaphore::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>> {
        acquire_timeout(&self.table, WHAT, timeout)
    }

    /// As [`acquire`](Self::acquire), without blocking the thread; see
    /// [`Semaphore::acquire_async`](super::Semaphore::acquire_async).
    ///
    /// # Errors
    /// As for [`Semaphore::acquire_async`](super::Semaphore::acquire_async).
    pub async fn acquire_async(&self) -> Result<Permit<'_>> {
        asynchronous::acquire(&self.table).await
    }

    /// Brings back a permit that somebody [forgot](Permit::forget), from any process and thread.
    ///
    /// # Errors
    /// [`Error::OverRelease`](crate::Error::OverRelease) if all permits are there or in the hands of guards. Of several who
    /// compete for one that was forgotten, exactly one succeeds.
    pub fn release(&self) -> Result<()> {
        release(&self.table, WHAT)
    }

    /// How many permits are to be had at this moment, those of dead processes among them.
    ///
    /// While others take and release permits, it may be off by as many.
    pub fn get_value(&self) -> u32 {
        self.table.permits().value()
    }

    /// What it was at first, and never exceeds.
    pub fn max_value(&self) -> u32 {
        self.table.permits().limit()
    }

    /// Whether there is no permit at this moment.
    pub fn locked(&self) -> bool {
        self.get_value() == 0
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<BoundedSemaphore(value={}, maxvalue={})>", self.get_value(), self.max_value())
    }
}
