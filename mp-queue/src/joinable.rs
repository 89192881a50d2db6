//! The queue that knows which items are not done yet.
//!
//! A consumer that ends owing `task_done` ends everybody's `join`, with an error that names it.

use std::time::Duration;

use mp_core::message::SharedFd;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::iter;
use crate::ledger::Ledger;
use crate::queue::Queue;
use crate::wait::Wait;

/// A [`Queue`] whose getters say when they are done with an item, and which can be waited for until all are. Follows Python's
/// `multiprocessing.JoinableQueue`, where a dead consumer makes `join` wait for ever.
///
/// ```
/// let queue = mp_queue::JoinableQueue::<u32>::unbounded()?;
/// queue.put(1)?;
/// let item = queue.get()?;
/// assert_eq!((item, queue.unfinished()), (1, 1));
/// queue.task_done()?;
/// queue.join()?;
/// # Ok::<(), mp_queue::Error>(())
/// ```
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct JoinableQueue<T> {
    queue: Queue<T>,
    ledger: Ledger,
}

impl<T> JoinableQueue<T> {
    /// An empty queue for at most `items` items at a time.
    ///
    /// # Errors
    /// As for [`Queue::bounded`].
    pub fn bounded(items: usize) -> Result<JoinableQueue<T>> {
        Ok(JoinableQueue { queue: Queue::bounded(items)?, ledger: Ledger::new()? })
    }

    /// An empty queue that grows as long as there is memory.
    ///
    /// # Errors
    /// As for [`Queue::unbounded`].
    pub fn unbounded() -> Result<JoinableQueue<T>> {
        Ok(JoinableQueue { queue: Queue::unbounded()?, ledger: Ledger::new()? })
    }

    /// One item that this process got is done.
    ///
    /// A call by a process that owes nothing counts for the one that owes most.
    ///
    /// # Errors
    /// [`Error::TooManyDone`] if no item is unfinished.
    pub fn task_done(&self) -> Result<()> {
        self.ledger.done(self.queue.channel().ring())
    }

    /// Waits until every item that was put is done.
    ///
    /// # Errors
    /// [`Error::ConsumerDied`], once for each, within 100 ms after a process ended that owed
    /// `task_done`; its items then count as done, and `join` can be called again for the others. If hundreds died before
    /// anybody joined, one error may stand for several of them, with all that they owed. Who gets items while 252 others that are
    /// alive owe some is not missed when it dies.
    pub fn join(&self) -> Result<()> {
        self.join_within(None)
    }

    /// As [`join`](Self::join), for as long as `timeout`.
    ///
    /// # Errors
    /// [`Error::Timeout`] if items were unfinished then; otherwise as for [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<()> {
        self.join_within(Some(timeout))
    }

    fn join_within(&self, timeout: Option<Duration>) -> Result<()> {
        self.ledger.join(self.queue.channel().ring(), timeout)
    }

    /// How many items were put and are not done.
    pub fn unfinished(&self) -> usize {
        self.ledger.unfinished(self.queue.channel().ring()) as usize
    }

    /// How many items are in it.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no item is in it.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a `put` would have to wait.
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// See [`Queue::close`].
    ///
    /// # Errors
    /// As for [`Queue::close`].
    pub fn close(&self) -> Result<()> {
        self.queue.close()
    }

    /// See [`Queue::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// See [`Queue::capacity`].
    pub fn capacity(&self) -> Option<usize> {
        self.queue.capacity()
    }

    /// See [`Queue::ready_fd`].
    ///
    /// # Errors
    /// As for [`Queue::ready_fd`].
    pub fn ready_fd(&self) -> Result<SharedFd> {
        self.queue.ready_fd()
    }

    pub(crate) fn queue(&self) -> &Queue<T> {
        &self.queue
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl<T: Serialize> JoinableQueue<T> {
    /// See [`Queue::put`].
    ///
    /// # Errors
    /// As for [`Queue::put`].
    pub fn put(&self, item: T) -> Result<()> {
        self.queue.put(item)
    }

    /// See [`Queue::try_put`].
    ///
    /// # Errors
    /// As for [`Queue::try_put`].
    pub fn try_put(&self, item: T) -> Result<()> {
        self.queue.try_put(item)
    }

    /// See [`Queue::put_timeout`].
    ///
    /// # Errors
    /// As for [`Queue::put_timeout`].
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<()> {
        self.queue.put_timeout(item, timeout)
    }

    /// See [`Queue::put_ref`].
    ///
    /// # Errors
    /// As for [`Queue::put_ref`].
    pub fn put_ref(&self, item: &T) -> Result<()> {
        self.queue.put_ref(item)
    }

    /// See [`Queue::put_many`].
    ///
    /// # Errors
    /// As for [`Queue::put_many`].
    pub fn put_many(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        self.queue.put_many(items)
    }

    /// See [`Queue::try_put_many`].
    ///
    /// # Errors
    /// As for [`Queue::try_put_many`].
    pub fn try_put_many(&self, items: impl IntoIterator<Item = T>) -> Result<usize> {
        self.queue.try_put_many(items)
    }

    /// See [`Queue::put_many_timeout`].
    ///
    /// # Errors
    /// As for [`Queue::put_many_timeout`].
    pub fn put_many_timeout(&self, items: impl IntoIterator<Item = T>, timeout: Duration) -> Result<usize> {
        self.queue.put_many_timeout(items, timeout)
    }
}

impl<T: DeserializeOwned> JoinableQueue<T> {
    /// See [`Queue::get`]. An item that cannot be decoded counts as got: it is owed, too.
    ///
    /// # Errors
    /// As for [`Queue::get`].
    pub fn get(&self) -> Result<T> {
        self.queue.get_within(Wait::Until(None), &self.ledger)
    }

    /// See [`Queue::try_get`].
    ///
    /// # Errors
    /// As for [`Queue::try_get`].
    pub fn try_get(&self) -> Result<T> {
        self.queue.get_within(Wait::Not, &self.ledger)
    }

    /// See [`Queue::get_timeout`].
    ///
    /// # Errors
    /// As for [`Queue::get_timeout`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.queue.get_within(Wait::timeout(timeout), &self.ledger)
    }

    /// See [`Queue::get_many`].
    ///
    /// # Errors
    /// As for [`Queue::get_many`].
    pub fn get_many(&self, most: usize) -> Result<Vec<T>> {
        self.queue.get_many_within(most, Wait::Until(None), &self.ledger)
    }

    /// See [`Queue::try_get_many`].
    ///
    /// # Errors
    /// As for [`Queue::try_get_many`].
    pub fn try_get_many(&self, most: usize) -> Result<Vec<T>> {
        self.queue.get_many_within(most, Wait::Not, &self.ledger)
    }

    /// See [`Queue::get_many_timeout`].
    ///
    /// # Errors
    /// As for [`Queue::get_many_timeout`].
    pub fn get_many_timeout(&self, most: usize, timeout: Duration) -> Result<Vec<T>> {
        self.queue.get_many_within(most, Wait::timeout(timeout), &self.ledger)
    }

    /// See [`Queue::get_each`]. Each item counts as got, whatever came of it.
    ///
    /// # Errors
    /// As for [`Queue::get_each`].
    pub fn get_each(&self, most: usize) -> Result<Vec<Result<T>>> {
        self.queue.collect_within(most, Wait::Until(None), &self.ledger)
    }

    /// See [`Queue::get_each_timeout`].
    ///
    /// # Errors
    /// As for [`Queue::get_each_timeout`].
    pub fn get_each_timeout(&self, most: usize, timeout: Duration) -> Result<Vec<Result<T>>> {
        self.queue.collect_within(most, Wait::timeout(timeout), &self.ledger)
    }

    /// The items as they come, until the queue is closed and empty; see [`Queue::iter`]. Each of them is owed a
    /// [`task_done`](JoinableQueue::task_done).
    pub fn iter(&self) -> impl Iterator<Item = Result<T>> {
        let mut over = false;
        std::iter::from_fn(move || iter::next(&mut over, || self.get()))
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> JoinableQueue<T> {
        JoinableQueue { queue: self.queue.clone(), ledger: self.ledger.clone() }
    }
}
