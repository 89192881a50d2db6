//! Looking at a queue, and looking after it.

use super::{FsQueue, decode};
use crate::error::Result;
use crate::failed::{self, Failed};
use crate::stats::{self, Problem, Stats};
use crate::sys;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

impl<T: Serialize + DeserializeOwned> FsQueue<T> {
    /// What is in the quarantine, in the order in which it got there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if it cannot be read.
    pub fn failed(&self) -> Result<Vec<Failed>> {
        Ok(failed::list(&self.inner.layout)?.into_iter().map(|f| f.1).collect())
    }

    /// Puts all whole items of the quarantine at the end of the queue, as this process's; how many. A death in between may
    /// leave one of them in both places.
    ///
    /// # Errors
    ///
    /// As [`FsQueue::put`].
    pub fn retry_failed(&self) -> Result<usize> {
        let mut count = 0;
        for (path, failed) in failed::list(&self.inner.layout)? {
            if !failed.whole {
                continue;
            }
            self.put_encoded(&failed.body)?;
            sys::remove(&path)?;
            count += 1;
        }
        Ok(count)
    }

    /// Gives back what dead consumers worked on, those of other hosts if they have shown no sign of life for `older_than`;
    /// how many items. `get` and `receive` do so themselves.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if it could not be written down.
    pub fn requeue_stale(&self, older_than: Duration) -> Result<u64> {
        let (mut side, _held) = self.side(None)?;
        side.requeue_dead(older_than)
    }

    /// Removes what dead processes left; how many files. Consumers do so themselves, every half minute.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if something cannot be removed.
    pub fn reap(&self) -> Result<u64> {
        let (mut side, _held) = self.side(None)?;
        side.tidy()
    }

    /// How many items wait: put, and neither given out nor claimed. The cost does not depend on the number.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if it cannot be found out.
    pub fn len(&self) -> Result<u64> {
        let (mut side, _held) = self.side(None)?;
        Ok(side.waiting()?.items)
    }

    /// Whether no item waits (Python: `FSQueue.empty`). True may be wrong as soon as it is said.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if it cannot be found out.
    pub fn is_empty(&self) -> Result<bool> {
        let (mut side, _held) = self.side(None)?;
        if side.ledger.is_read_only() {
            return Ok(side.waiting()?.items == 0);
        }
        Ok(!side.has_item()?)
    }

    /// Counts of everything, for people.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if it cannot be found out.
    pub fn stats(&self) -> Result<Stats> {
        let (mut side, _held) = self.side(None)?;
        stats::gather(&mut side)
    }

    /// Reads every file of the queue, and tells what is wrong. Nothing is changed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if the directories cannot be listed.
    pub fn check(&self) -> Result<Vec<Problem>> {
        let (mut side, _held) = self.side(None)?;
        stats::check(&mut side)
    }

    /// The items that wait, without taking them, up to `limit`, writer by writer.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if they cannot be read.
    pub fn peek(&self, limit: usize) -> Result<Vec<(crate::ItemId, T)>> {
        let (mut side, _held) = self.side(None)?;
        stats::peek(&mut side, limit, &mut decode::<T>)
    }
}
