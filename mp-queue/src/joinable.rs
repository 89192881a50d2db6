//! The queue that knows which items are not done yet.
//!
//! A consumer that ends owing `task_done` ends everybody's `join`, with an error that names it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::channel::Wait;
use crate::error::Result;
use crate::ledger::Ledger;
use crate::queue::Queue;

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
    /// A call by another process than the one that got the item counts as well, but then it is not known who owes it.
    ///
    /// # Errors
    /// [`Error::TooManyDone`](crate::Error::TooManyDone) if no item is unfinished.
    pub fn task_done(&self) -> Result<()> {
        self.ledger.done(self.queue.channel().ring().written())
    }

    /// Waits until every item that was put is done.
    ///
    /// # Errors
    /// [`Error::ConsumerDied`](crate::Error::ConsumerDied), once for each, if nothing is left but what a process owes that
    /// ended; its items then count as done.
    pub fn join(&self) -> Result<()> {
        self.join_within(None)
    }

    /// As [`join`](Self::join), for as long as `timeout`.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout) if items were unfinished then; otherwise as for [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<()> {
        self.join_within(Some(timeout))
    }

    fn join_within(&self, timeout: Option<Duration>) -> Result<()> {
        let ring = self.queue.channel().ring();
        self.ledger.join(|| ring.written(), || ring.read(), timeout)
    }

    /// How many items were put and are not done.
    pub fn unfinished(&self) -> usize {
        self.ledger.unfinished(self.queue.channel().ring().written()) as usize
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

    /// See [`Queue::put_many`].
    ///
    /// # Errors
    /// As for [`Queue::put_many`].
    pub fn put_many(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        self.queue.put_many(items)
    }
}

impl<T: DeserializeOwned> JoinableQueue<T> {
    /// See [`Queue::get`]. An item that cannot be decoded counts as got: it is owed, too.
    ///
    /// # Errors
    /// As for [`Queue::get`].
    pub fn get(&self) -> Result<T> {
        self.queue.get_within(Wait::Until(None), |items| self.ledger.take(items))
    }

    /// See [`Queue::try_get`].
    ///
    /// # Errors
    /// As for [`Queue::try_get`].
    pub fn try_get(&self) -> Result<T> {
        self.queue.get_within(Wait::Not, |items| self.ledger.take(items))
    }

    /// See [`Queue::get_timeout`].
    ///
    /// # Errors
    /// As for [`Queue::get_timeout`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.queue.get_within(Wait::timeout(timeout), |items| self.ledger.take(items))
    }

    /// See [`Queue::get_many`].
    ///
    /// # Errors
    /// As for [`Queue::get_many`].
    pub fn get_many(&self, most: usize) -> Result<Vec<T>> {
        self.queue.get_many_within(most, Wait::Until(None), |items| self.ledger.take(items))
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> JoinableQueue<T> {
        JoinableQueue { queue: self.queue.clone(), ledger: self.ledger.clone() }
    }
}
