//! The counting semaphore: as many permits as somebody decides, held by whatever processes.
//!
//! When a process is killed, the permits that its guards hold come back: the next ones who want them get them within 100 ms,
//! and are told who died.

mod asynchronous;
mod bounded;
mod hint;
mod permit;
mod permits;
mod spare;
mod table;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

pub use bounded::BoundedSemaphore;
pub use permit::Permit;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use permits::CEILING;
use table::Table;

const WHAT: &str = "semaphore";

/// Begins the message: no handle to anything else is taken for one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Semaphore,
}

/// A number of permits that any number of processes share; a clone is another handle to the same ones.
///
/// It can sit inside any message, and costs half a kibibyte of shared memory, more for values above 58.
///
/// A [`Permit`] is a guard, and belongs to its process: dropped, or when the process dies, it is there for others again.
/// [`forget`](Permit::forget) makes it a permit of nobody, which is gone until somebody, in whatever process,
/// [`release`](Self::release)s one: `acquire()?.forget()` is the `acquire()` of Python's `multiprocessing.Semaphore`, which this
/// follows.
///
/// The holders of 58 permits are known, of more if the value was higher at first, up to 65,535. What is held beyond that
/// at the same time does not come back from a dead process.
///
/// ```
/// use mp_sync::Semaphore;
///
/// let printers = Semaphore::new(2)?;
/// let permit = printers.acquire()?;
/// assert_eq!(printers.get_value(), 1);
/// printers.acquire()?.forget();
/// assert!(printers.try_acquire().is_err());
/// drop(permit);
/// printers.release()?;
/// assert_eq!(format!("{printers:?}"), "<Semaphore(value=2)>");
/// # Ok::<(), mp_sync::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Semaphore {
    kind: Kind,
    table: Table,
}

impl Semaphore {
    /// A new semaphore of `value` permits, none perhaps.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a value above 2,147,483,647, [`Error::Memory`](crate::Error::Memory) if the system has no memory or descriptor left.
    pub fn new(value: u32) -> Result<Semaphore> {
        Ok(Semaphore { kind: Kind::Semaphore, table: Table::new(WHAT, value, CEILING)? })
    }

    /// Adds a permit, from any process and thread: one that somebody forgot, or one more than there were.
    ///
    /// # Errors
    /// [`Error::OverRelease`](crate::Error::OverRelease) if there are 2,147,483,647 of them, in guards or not.
    pub fn release(&self) -> Result<()> {
        permit::release(&self.table, WHAT)
    }
}

permit::handed_out_by!(Semaphore);

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Semaphore(value={})>", self.get_value())
    }
}
