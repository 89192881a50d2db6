//! A permit as a guard, and how semaphores of both kinds hand it out.
//!
//! If its process is killed, the next one to get the permit is told so.

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::Duration;

use mp_core::deadline::Deadline;

use super::permits::{Denied, Taken};
use super::table::Table;
use crate::error::{Error, Result};
use crate::holder::DeadOwner;

/// A permit of a [`Semaphore`](super::Semaphore) or [`BoundedSemaphore`](super::BoundedSemaphore), which is there for others when this is dropped; also from another
/// thread.
///
/// If its process is killed, the next one to get the permit is told so. In a child of a fork it is a copy without effect.
#[must_use = "the permit is given back when the guard is dropped"]
pub struct Permit<'a> {
    pub(super) table: &'a Table,
    pub(super) taken: Taken,
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

/// Hands out permits: what both kinds of semaphore do alike.
macro_rules! handed_out_by {
    ($kind:ident) => {
        impl $kind {
            /// Waits for a permit, and holds it until the guard is dropped.
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) if more than 131,071 permits are held beyond those whose holders
            /// are known.
            #[inline]
            pub fn acquire(&self) -> $crate::Result<Permit<'_>> {
                permit::acquire(&self.table, WHAT)
            }

            /// Holds a permit if there is one, without waiting.
            ///
            /// # Errors
            /// [`Error::WouldBlock`](crate::Error::WouldBlock) if there is none; others as for
            /// [`acquire`](Self::acquire).
            #[inline]
            pub fn try_acquire(&self) -> $crate::Result<Permit<'_>> {
                permit::try_acquire(&self.table, WHAT)
            }

            /// Waits for a permit as long as `timeout`; zero means one attempt.
            ///
            /// # Errors
            /// [`Error::Timeout`](crate::Error::Timeout) if there was none in time; others as for
            /// [`acquire`](Self::acquire).
            pub fn acquire_timeout(&self, timeout: std::time::Duration) -> $crate::Result<Permit<'_>> {
                permit::acquire_timeout(&self.table, WHAT, timeout)
            }

            /// As [`acquire`](Self::acquire), without blocking the thread. Dropping the future ends the wait, and leaves
            /// the permits to others.
            ///
            /// # Errors
            /// As for [`acquire`](Self::acquire); [`Error::Memory`](crate::Error::Memory) if the thread that watches over
            /// async waits cannot be started.
            pub async fn acquire_async(&self) -> $crate::Result<Permit<'_>> {
                asynchronous::acquire(&self.table).await
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
    };
}
pub(super) use handed_out_by;

// The first look is apart, so that what it finds never goes through memory.

#[inline]
pub fn acquire<'a>(table: &'a Table, what: &'static str) -> Result<Permit<'a>> {
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
pub fn try_acquire<'a>(table: &'a Table, what: &'static str) -> Result<Permit<'a>> {
    match table.permits().take_first() {
        Some(taken) => Ok(Permit { table, taken }),
        None => try_acquire_slow(table, what),
    }
}

#[cold]
fn try_acquire_slow<'a>(table: &'a Table, what: &'static str) -> Result<Permit<'a>> {
    permit(table, table.permits().try_acquire(), || Error::WouldBlock { what })
}

pub fn acquire_timeout<'a>(table: &'a Table, what: &'static str, timeout: Duration) -> Result<Permit<'a>> {
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
pub fn too_many() -> Error {
    Error::Invalid { what: "number of permits", reason: "more are held at a time than can be counted".into() }
}

pub fn release(table: &Table, what: &'static str) -> Result<()> {
    let permits = table.permits();
    if permits.release() { Ok(()) } else { Err(Error::OverRelease { what, limit: permits.limit() }) }
}
