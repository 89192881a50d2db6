//! Several items at once: the forms beyond [`Queue::put_many`] and [`Queue::get_many`].
//!
//! As there, a death in the middle costs at most what the dead process was about to put or get.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::queue::Queue;
use crate::wait::Wait;

impl<T: Serialize> Queue<T> {
    /// As [`put_many`](Queue::put_many), for as long as `timeout`: how many found a place in time.
    ///
    /// # Errors
    /// As for [`put_timeout`](Queue::put_timeout), if not even the first was put.
    pub fn put_many_timeout(&self, items: impl IntoIterator<Item = T>, timeout: Duration) -> Result<usize> {
        match self.put_many_within(items, Wait::timeout(timeout)) {
            (0, Err(error)) => Err(error),
            (put, _) => Ok(put),
        }
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// As [`get_many`](Queue::get_many), each item by itself: one that cannot be decoded costs no other.
    ///
    /// ```
    /// let queue = mp_queue::Queue::unbounded()?;
    /// queue.put_many([1, 2])?;
    /// let items: Vec<i32> = queue.get_each(9)?.into_iter().flatten().collect();
    /// assert_eq!(items, [1, 2]);
    /// # Ok::<(), mp_queue::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`get_many`](Queue::get_many), if nothing was got. Of each item: [`Error::Decode`](crate::Error::Decode) and
    /// [`Error::HandlesLost`](crate::Error::HandlesLost), as for [`get`](Queue::get).
    pub fn get_each(&self, most: usize) -> Result<Vec<Result<T>>> {
        self.collect_within(most, Wait::Until(None), &())
    }

    /// As [`get_each`](Queue::get_each), for as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Empty`](crate::Error::Empty) if no item came in time; otherwise as for [`get_each`](Queue::get_each).
    pub fn get_each_timeout(&self, most: usize, timeout: Duration) -> Result<Vec<Result<T>>> {
        self.collect_within(most, Wait::timeout(timeout), &())
    }
}
