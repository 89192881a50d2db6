//! The counting semaphore: as many permits as somebody decides, held by whatever processes.
//!
//! When a process is killed, the permits that its guards hold come back: the next ones who want them get them within 100 ms,
//! and are told who died.

mod asynchronous;
mod bounded;
mod glance;
mod hint;
mod permits;
mod spare;
mod table;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

pub use bounded::BoundedSemaphore;

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::Duration;

use mp_core::deadline::Deadline;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::holder::DeadOwner;
use permits::{CEILING, Denied, Taken};
use table::Table;

const WHAT: &str = "semaphore";

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
    table: Table,
}

impl Semaphore {
    /// A new semaphore of `value` permits, none perhaps.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value above 2,147,483,647, [`Error::Memory`] if the system has no memory or descriptor left.
    pub fn new(value: u32) -> Result<Semaphore> {
        Ok(Semaphore { table: Table::new(WHAT, value, CEILING)? })
    }

    /// Waits for a permit, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Invalid`] if more than 131,071 permits are held beyond those whose holders are known.
    #[inline]
    pub fn acquire(&self) -> Result<Permit<'_>> {
        acquire(&self.table, WHAT)
    }

    /// Holds a permit if there is one, without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if there is none; others as for [`acquire`](Self::acquire).
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>> {
        try_acquire(&self.table, WHAT)
    }

    /// Waits for a permit as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Timeout`] if there was none in time; others as for [`acquire`](Self::acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>> {
        acquire_timeout(&self.table, WHAT, timeout)
    }

    /// As [`acquire`](Self::acquire), without blocking the thread. Dropping the future ends the wait, and leaves the permits to
    /// others.
    ///
    /// # Errors
    /// As for [`acquire`](Self::acquire); [`Error::Memory`] if the thread that watches over async waits cannot be started.
    pub async fn acquire_async(&self) -> Result<Permit<'_>> {
        asynchronous::acquire(&self.table).await
    }

    /// Adds a permit, from any process and thread: one that somebody forgot, or one more than there were.
    ///
    /// # Errors
    /// [`Error::OverRelease`] if there are 2,147,483,647 of them, in guards or not.
    pub fn release(&self) -> Result<()> {
        release(&self.table, WHAT)
    }

    /// How many permits are to be had at this moment, those of dead processes among them.
    ///
    /// While others take and release permits, it may be off by as many.
    pub fn get_value(&self) -> u32 {
        self.table.permits().value()
    }

    /// Whether there is no permit at this moment.
    pub fn locked(&self) -> bool {
        self.get_value() == 0
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Semaphore(value={})>", self.get_value())
    }
}

// The first look is apart, so that what it finds never goes through memory.

#[inline]
fn acquire<'a>(table: &'a Table, what: &'static str) -> Result<Permit<'a>> {
    match table.permits().take_first() {
        Some(taken) => Ok(Permit { table, taken }),
        None => acquire_slow(table, what),
    }
}

#[cold]
fn acquire_slow<'a>(table: &'a Table, what: &'static str) -> Result<Permit<'a>> {
    permit(table, table.permits().acquire(None), || Error::WouldBlock { what })
}

#[inline]
fn try_acquire<'a>(table: &'a Table, what: &'static str) -> Result<Permit<'a>> {
    match table.permits().take_first() {
        Some(taken) => Ok(Permit { table, taken }),
        None => try_acquire_slow(table, what),
    }
}

#[cold]
fn try_acquire_slow<'a>(table: &'a Table, what: &'static str) -> Result<Permit<'a>> {
    permit(table, table.permits().try_acquire(), || Error::WouldBlock { what })
}

fn acquire_timeout<'a>(table: &'a Table, what: &'static str, timeout: Duration) -> Result<Permit<'a>> {
    let deadline = Deadline::after(timeout);
    permit(table, table.permits().acquire(Some(deadline)), || Error::Timeout { what })
}

fn permit<'a>(
    table: &'a Table,
    taken: Result<Taken, Denied>,
    in_vain: impl FnOnce() -> Error,
) -> Result<Permit<'a>> {
    match taken {
        Ok(taken) => Ok(Permit { table, taken }),
        Err(Denied::NotInTime) => Err(in_vain()),
        Err(Denied::TooMany) => Err(too_many()),
    }
}

#[cold]
fn too_many() -> Error {
    Error::Invalid { what: "number of permits", reason: "more are held at a time than can be counted".into() }
}

fn release(table: &Table, what: &'static str) -> Result<()> {
    let permits = table.permits();
    if permits.release() { Ok(()) } else { Err(Error::OverRelease { what, limit: permits.limit() }) }
}

/// A permit of a [`Semaphore`] or [`BoundedSemaphore`], which is there for others when this is dropped; also from another
/// thread.
///
/// If its process is killed, the next one to get the permit is told so. In a child of a fork it is a copy without effect.
#[must_use = "the permit is given back when the guard is dropped"]
pub struct Permit<'a> {
    table: &'a Table,
    taken: Taken,
}

impl Permit<'_> {
    /// The process that died while it held this permit before us, if one did.
    pub fn owner_died(&self) -> Option<DeadOwner> {
        self.taken.died()
    }

    /// Gives up the ownership: the permit is gone, whoever dies, until somebody releases one, in whatever process.
    ///
    /// For handing a permit over. Do not call [`std::mem::forget`] for that: then it is still this process's, and comes back
    /// when it dies.
    pub fn forget(self) {
        let permit = ManuallyDrop::new(self);
        permit.table.permits().forget(&permit.taken);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.table.permits().give_back(&self.taken);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("owner_died", &self.owner_died()).finish()
    }
}
