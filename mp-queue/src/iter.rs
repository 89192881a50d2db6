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
        next(&mut self.over, || self.queue.get())
    }
}

/// What `get` gives, until the queue is closed and empty; then it is `over`.
pub(crate) fn next<T>(over: &mut bool, get: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
    if *over {
        return None;
    }
    let item = get();
    // Damaged memory would give its error for ever.
    *over = matches!(item, Err(Error::Closed | Error::Ground(_)));
    (!matches!(item, Err(Error::Closed))).then_some(item)
}

impl<T: DeserializeOwned> std::iter::FusedIterator for Iter<'_, T> {}
