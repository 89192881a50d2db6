//! The bounded semaphore: as many permits as at first, never more, and an error for who releases one too many.
//!
//! What it promises when a process dies is what the [`Semaphore`](super::Semaphore) does; no death lets it exceed its bound.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::table::Table;
use super::{Permit, asynchronous, permit};
use crate::error::Result;

const WHAT: &str = "bounded semaphore";

/// Begins the message: no handle to anything else is taken for one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    BoundedSemaphore,
}

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
    kind: Kind,
    table: Table,
}

impl BoundedSemaphore {
    /// A new semaphore of `value` permits, which is also the most it ever has.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a value above 2,147,483,647,
    /// [`Error::Memory`](crate::Error::Memory) if the system has no memory or descriptor left.
    pub fn new(value: u32) -> Result<BoundedSemaphore> {
        Ok(BoundedSemaphore { kind: Kind::BoundedSemaphore, table: Table::new(WHAT, value, value)? })
    }

    /// Brings back a permit that somebody [forgot](Permit::forget), from any process and thread.
    ///
    /// # Errors
    /// [`Error::OverRelease`](crate::Error::OverRelease) if all permits are there or in the hands of guards. Of several who
    /// compete for one that was forgotten, exactly one succeeds.
    pub fn release(&self) -> Result<()> {
        permit::release(&self.table, WHAT)
    }

    /// What it was at first, and never exceeds.
    pub fn max_value(&self) -> u32 {
        self.table.permits().limit()
    }
}

permit::handed_out_by!(BoundedSemaphore);

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<BoundedSemaphore(value={}, maxvalue={})>", self.get_value(), self.max_value())
    }
}
