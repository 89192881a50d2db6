//! Waiting without a thread: `put` and `get` for any executor.
//!
//! A future that is dropped has taken nothing. What is awaited is looked at again every few dozen milliseconds, so that no
//! death is missed.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::Wait;
use crate::error::{Error, Result};
use crate::queue::Queue;

impl<T: Serialize> Queue<T> {
    /// As [`put`](Queue::put), without blocking the thread.
    ///
    /// # Errors
    /// As for [`put`](Queue::put).
    pub async fn put_async(&self, item: T) -> Result<()> {
        loop {
            match self.put_within(&item, Wait::Not) {
                Err(Error::Full) => {}
                result => return result,
            }
            let doze = self.channel().ring().doze_until_got();
            match self.put_within(&item, Wait::Not) {
                Err(Error::Full) => doze.wait(self.channel().ring()).await?,
                result => return result,
            }
        }
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// As [`get`](Queue::get), without blocking the thread.
    ///
    /// # Errors
    /// As for [`get`](Queue::get).
    pub async fn get_async(&self) -> Result<T> {
        loop {
            match self.try_get() {
                Err(Error::Empty) => {}
                result => return result,
            }
            let doze = self.channel().ring().doze_until_put();
            match self.try_get() {
                Err(Error::Empty) => doze.wait(self.channel().ring()).await?,
                result => return result,
            }
        }
    }
}
