//! Taking and claiming items.

use super::{FsQueue, decode, lock};
use crate::claim::{Batch, Claim, Drained};
use crate::error::{Error, Result};
use crate::journal::Entry;
use crate::side::Place;
use crate::state::{SegmentId, Span};
use crate::wait::Waiter;
use serde::{Serialize, de::DeserializeOwned};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How many items `drain` takes out by one entry of the journal.
const DRAIN: usize = 1024;

impl<T: Serialize + DeserializeOwned> FsQueue<T> {
    /// Takes the oldest item, waiting until there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] and [`Error::Damaged`] tell of an item that was moved to the quarantine; the next call goes on
    /// behind it. [`Error::Io`] if the item could not be taken; it is still there, or in the quarantine if the error says
    /// `cannot sync`.
    pub fn get(&self) -> Result<T> {
        self.get_until(None)
    }

    /// Takes the oldest item, waiting up to `timeout` until there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] if there is none in time; [`Error::Busy`] if there was no looking, since somebody held the queue's
    /// lock all the time; otherwise as [`FsQueue::get`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.get_until(Some(Instant::now().checked_add(timeout).unwrap_or_else(far_future)))
    }

    /// Takes the oldest item if there is one (Python: `FSQueue.get`).
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] if there is none; otherwise as [`FsQueue::get`].
    pub fn try_get(&self) -> Result<T> {
        self.get_now(None)
    }

    fn get_now(&self, deadline: Option<Instant>) -> Result<T> {
        let (mut side, held) = self.side(deadline)?;
        let got = side.take(&mut decode::<T>);
        match got? {
            Some((value, place)) => {
                let journal = side.ledger.unsynced();
                drop(held);
                drop(side);
                match journal.sync() {
                    Ok(()) => Ok(value),
                    Err(e) => Err(self.keep_taken(&value, place, e)),
                }
            }
            // Damage is told when there is nothing better to tell.
            None => Err(side.damage().unwrap_or_else(|| side.empty())),
        }
    }

    /// Keeps an item that was taken, although that may not survive a power cut; the error to tell.
    fn keep_taken(&self, value: &T, place: Place, why: Error) -> Error {
        let mut body = Vec::new();
        let kept = self.encode(value, &mut body).and_then(|()| {
            let (side, _held) = self.side(None)?;
            side.keep(place, &why.to_string(), &body)
        });
        kept.map_or_else(|e| e, |_| why)
    }

    fn get_until(&self, deadline: Option<Instant>) -> Result<T> {
        // Mostly there is one; then there is no need for a watch.
        match self.get_now(deadline) {
            Err(e) if e.is_empty() => {}
            result => return result,
        }
        self.wait_for(deadline, true, || match self.get_now(deadline) {
            Err(e) if e.is_empty() => None,
            result => Some(result),
        })
    }

    fn empty(&self) -> Error {
        Error::Empty { path: self.path().to_owned() }
    }

    /// Sleeps until `attempt` has a result or time is up.
    fn wait_for<R>(
        &self,
        deadline: Option<Instant>,
        mut seen_empty: bool,
        mut attempt: impl FnMut() -> Option<Result<R>>,
    ) -> Result<R> {
        let spare = lock(&self.inner.waiters).pop();
        let mut waiter = spare.filter(Waiter::is_ours).unwrap_or_else(Waiter::new);
        let result = loop {
            // Armed first, then looked: what comes in between is not missed.
            if !waiter.is_armed() {
                waiter.arm(&self.inner.layout);
            }
            match attempt() {
                // Time is up.
                Some(Err(e)) if e.is_busy() && !seen_empty => break Err(e),
                Some(Err(e)) if e.is_busy() => break Err(self.empty()),
                Some(result) => break result,
                None => seen_empty = true,
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|l| l.is_zero()) {
                break Err(self.empty());
            }
            waiter.wait(left);
        };
        waiter.disarm();
        lock(&self.inner.waiters).push(waiter);
        result
    }

    /// Takes everything that waits (Python: `FSQueue.drain`). An item that cannot be read is moved to the quarantine and
    /// reported beside the others.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if nothing could be taken; if something was, the error is in [`Drained::bad`].
    pub fn drain(&self) -> Result<Drained<T>> {
        let mut drained = Drained { items: Vec::new(), bad: Vec::new() };
        loop {
            let (items, more) = self.take_some(DRAIN, &mut drained.bad)?;
            let done = items.is_empty() && !more;
            drained.items.extend(items);
            if done || drained.bad.last().is_some_and(|e| matches!(e, Error::Io { .. })) {
                return Ok(drained);
            }
        }
    }

    /// Takes up to `limit` items that wait, at the price of one.
    ///
    /// # Errors
    ///
    /// As [`FsQueue::drain`].
    pub fn get_many(&self, limit: usize) -> Result<Drained<T>> {
        let mut bad = Vec::new();
        let (items, _) = self.take_some(limit, &mut bad)?;
        Ok(Drained { items, bad })
    }

    fn take_some(&self, limit: usize, bad: &mut Vec<Error>) -> Result<(Vec<T>, bool)> {
        let before = bad.len();
        let (mut side, held) = match self.side(None) {
            Ok(side) => side,
            Err(e) if before > 0 => {
                bad.push(e);
                return Ok((Vec::new(), false));
            }
            Err(e) => return Err(e),
        };
        let taken = side.take_many(limit, false, &mut decode::<T>, bad);
        while let Some(damage) = side.damage() {
            bad.push(damage);
        }
        let journal = side.ledger.unsynced();
        drop(held);
        drop(side);
        let taken = taken?;
        if let Err(e) = journal.sync() {
            bad.push(e);
        }
        Ok((taken.into_iter().map(|t| t.0).collect(), bad.len() > before))
    }

    /// An iterator that takes items until none waits.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { queue: self }
    }

    /// Claims up to `limit` waiting items, for work that must survive this process: each is to be
    /// [acknowledged](Claim::ack). An empty batch means that none waits. Items that cannot be read go to the quarantine.
    ///
    /// Claims of a consumer that dies come back at once; of one on another host, after
    /// [`stale_after`](crate::Builder::stale_after).
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("fsqueue-doc-receive-{}", std::process::id()));
    /// use mp_fsqueue::FsQueue;
    /// let q = FsQueue::<u32>::open(&dir)?;
    /// q.put_many(&[1, 2, 3])?;
    /// for item in q.receive(100)? {
    ///     match *item {
    ///         1 => item.ack()?,
    ///         2 => item.release()?,
    ///         _ => drop(item.fail("not a good number")?),
    ///     }
    /// }
    /// assert_eq!(q.try_get()?, 2);
    /// assert_eq!(q.failed()?[0].reason, "not a good number");
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), mp_fsqueue::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if nothing could be claimed.
    pub fn receive(&self, limit: usize) -> Result<Batch<T>> {
        self.receive_now(limit, None)
    }

    fn receive_now(&self, limit: usize, deadline: Option<Instant>) -> Result<Batch<T>> {
        let (mut side, held) = self.side(deadline)?;
        let mut bad = Vec::new();
        let taken = side.take_many(limit, true, &mut |body| Ok(body.to_vec()), &mut bad);
        while let Some(damage) = side.damage() {
            bad.push(damage);
        }
        drop(held);
        drop(side);
        // Decoded without the lock: a claim comes back if this process dies now.
        let taken = taken?;
        let mut claims = Vec::with_capacity(taken.len());
        let mut undecided = Undecided { queue: self, places: taken.iter().rev().map(|t| t.1).collect() };
        for (body, place) in taken {
            match decode::<T>(&body) {
                Ok(value) => claims.push(Claim::new(value, place, self.clone())),
                Err(wrong) => bad.push(match self.fail(place, &wrong.reason(), deadline) {
                    Ok(kept) => wrong.error(place, kept),
                    Err(e) => {
                        // As a claim that is dropped, but without waiting for the lock.
                        lock(&self.inner.late).push(place);
                        e
                    }
                }),
            }
            undecided.places.pop();
        }
        Ok(Batch { claims, bad })
    }

    /// As [`FsQueue::receive`], waiting up to `timeout` for the first item.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] and [`Error::Busy`] as [`FsQueue::get_timeout`]; otherwise as [`FsQueue::receive`].
    pub fn receive_timeout(&self, limit: usize, timeout: Duration) -> Result<Batch<T>> {
        let deadline = Some(Instant::now().checked_add(timeout).unwrap_or_else(far_future));
        self.wait_for(deadline, false, || match self.receive_now(limit, deadline) {
            Ok(batch) if batch.is_empty() && batch.bad.is_empty() => None,
            result => Some(result),
        })
    }

    pub(crate) fn acknowledge(&self, places: &[Place]) -> Result<()> {
        self.settle(places, |id, span, consumer| Entry::Ack { id, span, consumer })
    }

    pub(crate) fn give_back(&self, places: &[Place]) -> Result<()> {
        self.settle(places, |id, span, consumer| Entry::Release { id, span, consumer })
    }

    fn settle(&self, places: &[Place], entry: fn(SegmentId, Span, u64) -> Entry) -> Result<()> {
        let (mut side, held) = self.side(None)?;
        side.settle(places, entry)?;
        let journal = side.ledger.unsynced();
        drop(held);
        drop(side);
        journal.sync()
    }

    pub(crate) fn fail(&self, place: Place, reason: &str, deadline: Option<Instant>) -> Result<PathBuf> {
        let (mut side, held) = self.side(deadline)?;
        let kept = side.fail(place, reason)?;
        let journal = side.ledger.unsynced();
        drop(held);
        drop(side);
        journal.sync()?;
        Ok(kept)
    }
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(1 << 31)
}

/// Claims that are not decoded yet; should that panic, they come back.
struct Undecided<'a, T: Serialize + DeserializeOwned> {
    queue: &'a FsQueue<T>,
    /// The last comes first.
    places: Vec<Place>,
}

impl<T: Serialize + DeserializeOwned> Drop for Undecided<'_, T> {
    fn drop(&mut self) {
        if !self.places.is_empty() {
            let _ = self.queue.give_back(&self.places);
        }
    }
}

/// Takes items until none waits.
#[derive(Debug)]
pub struct Iter<'a, T> {
    queue: &'a FsQueue<T>,
}

impl<T: Serialize + DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T>;
    fn next(&mut self) -> Option<Result<T>> {
        match self.queue.try_get() {
            Err(e) if e.is_empty() => None,
            result => Some(result),
        }
    }
}

impl<'a, T: Serialize + DeserializeOwned> IntoIterator for &'a FsQueue<T> {
    type Item = Result<T>;
    type IntoIter = Iter<'a, T>;
    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}
