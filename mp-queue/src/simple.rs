//! The queue without frills, as Python's `SimpleQueue`: put, get, empty, close.

use std::time::Duration;

use mp_core::message::SharedFd;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::queue::Queue;

/// An unbounded queue with few methods; otherwise a [`Queue`], and as safe from deaths. Follows Python's
/// `multiprocessing.SimpleQueue`, without the limit of its pipe.
///
/// ```
/// let queue = mp_queue::SimpleQueue::new()?;
/// queue.put("x".to_string())?;
/// assert!(!queue.is_empty());
/// assert_eq!(queue.get()?, "x");
/// # Ok::<(), mp_queue::Error>(())
/// ```
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct SimpleQueue<T>(Queue<T>);

impl<T> SimpleQueue<T> {
    /// An empty queue.
    ///
    /// # Errors
    /// As for [`Queue::unbounded`].
    pub fn new() -> Result<SimpleQueue<T>> {
        Queue::unbounded().map(SimpleQueue)
    }

    /// Whether no item is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Says that no process will put anything any more: getters get what is there, then [`Error::Closed`].
    ///
    /// # Errors
    /// As for [`Queue::close`].
    ///
    /// [`Error::Closed`]: crate::Error::Closed
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }

    /// See [`Queue::ready_fd`].
    ///
    /// # Errors
    /// As for [`Queue::ready_fd`].
    pub fn ready_fd(&self) -> Result<SharedFd> {
        self.0.ready_fd()
    }

    pub(crate) fn queue(&self) -> &Queue<T> {
        &self.0
    }
}

impl<T: Serialize> SimpleQueue<T> {
    /// Puts an item in. It has no limit, so this waits only where [`Queue::put`] of an unbounded queue does: for room for
    /// more descriptors.
    ///
    /// # Errors
    /// As for [`Queue::put`].
    pub fn put(&self, item: T) -> Result<()> {
        self.0.put(item)
    }
}

impl<T: DeserializeOwned> SimpleQueue<T> {
    /// Takes the first item out, as soon as there is one.
    ///
    /// # Errors
    /// As for [`Queue::get`].
    pub fn get(&self) -> Result<T> {
        self.0.get()
    }

    /// See [`Queue::try_get`].
    ///
    /// # Errors
    /// As for [`Queue::try_get`].
    pub fn try_get(&self) -> Result<T> {
        self.0.try_get()
    }

    /// See [`Queue::get_timeout`].
    ///
    /// # Errors
    /// As for [`Queue::get_timeout`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.0.get_timeout(timeout)
    }
}

impl<T> Clone for SimpleQueue<T> {
    fn clone(&self) -> SimpleQueue<T> {
        SimpleQueue(self.0.clone())
    }
}
