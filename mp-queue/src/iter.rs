//! Items as they come. A putter that dies does not end it; only closing the queue does.

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::queue::Queue;

/// Waits for the next item of a [`Queue`] until it is closed and empty; see [`Queue::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    queue: &'a Queue<T>,
    over: bool,
}

impl<'a, T> Iter<'a, T> {
    pub(crate) fn new(queue: &'a Queue<T>) -> Iter<'a, T> {
        Iter { queue, over: false }
    }
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        if self.over {
            return None;
        }
        match self.queue.get() {
            Err(Error::Closed) => {
                self.over = true;
                None
            }
            // Damaged memory would give this for ever.
            Err(error @ Error::Ground(_)) => {
                self.over = true;
                Some(Err(error))
            }
            item => Some(item),
        }
    }
}

impl<T: DeserializeOwned> std::iter::FusedIterator for Iter<'_, T> {}
