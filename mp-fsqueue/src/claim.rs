//! Items that are worked on: claimed, then acknowledged, released or failed.

use crate::error::{Error, ItemId, Result};
use crate::queue::FsQueue;
use crate::side::{Place, item_id};
use serde::{Serialize, de::DeserializeOwned};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

/// An item that this process works on; nobody else gets it meanwhile.
///
/// Dropping it gives it back, as does the death of the process: then it is the next item for someone else. So an item is
/// handled *at least* once: work that was done but not acknowledged is done again.
#[derive(Debug)]
pub struct Claim<T: Serialize + DeserializeOwned> {
    value: T,
    place: Place,
    queue: FsQueue<T>,
    settled: bool,
}

impl<T: Serialize + DeserializeOwned> Claim<T> {
    pub(crate) fn new(value: T, place: Place, queue: FsQueue<T>) -> Self {
        Claim { value, place, queue, settled: false }
    }

    /// Which item it is: the same at each delivery.
    pub fn id(&self) -> ItemId {
        item_id(self.place.0, self.place.1.first)
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn forget(mut self) {
        self.settled = true;
    }

    /// The work is done: nobody gets the item again.
    ///
    /// # Errors
    ///
    /// [`Error::ClaimLost`] if the item is not ours any more; [`Error::Io`] if it could not be written down: then it is
    /// given back; but if the error says `cannot sync` it is done, and may come again after a power cut.
    pub fn ack(mut self) -> Result<()> {
        self.queue.acknowledge(&[self.place])?;
        self.settled = true;
        Ok(())
    }

    /// Gives the item back now; it keeps its place in the order.
    ///
    /// # Errors
    ///
    /// As [`Claim::ack`].
    pub fn release(mut self) -> Result<()> {
        self.settled = true;
        self.queue.give_back(&[self.place])
    }

    /// Moves the item to the quarantine (see [`FsQueue::failed`]); the file that keeps it.
    ///
    /// # Errors
    ///
    /// As [`Claim::ack`].
    pub fn fail(mut self, reason: &str) -> Result<PathBuf> {
        let kept = self.queue.fail(self.place, reason, None)?;
        self.settled = true;
        Ok(kept)
    }
}

impl<T: Serialize + DeserializeOwned> Deref for Claim<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Serialize + DeserializeOwned> DerefMut for Claim<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Serialize + DeserializeOwned> Drop for Claim<T> {
    fn drop(&mut self) {
        if !self.settled {
            // What cannot be given back now is when this process ends.
            let _ = self.queue.give_back(&[self.place]);
        }
    }
}

/// Items claimed together, and what was found that is no item.
#[derive(Debug)]
pub struct Batch<T: Serialize + DeserializeOwned> {
    pub(crate) claims: Vec<Claim<T>>,
    /// Items that could not be read; they are in the quarantine now. Also an error that ended the batch early.
    pub bad: Vec<Error>,
}

impl<T: Serialize + DeserializeOwned> Batch<T> {
    /// Acknowledges all, at the price of one.
    ///
    /// # Errors
    ///
    /// As [`Claim::ack`], and then none is acknowledged.
    pub fn ack(self) -> Result<()> {
        let places = self.claims.iter().map(Claim::place).collect::<Vec<_>>();
        if let Some(first) = self.claims.first() {
            first.queue.clone().acknowledge(&places)?;
        }
        self.claims.into_iter().for_each(Claim::forget);
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned> Deref for Batch<T> {
    type Target = [Claim<T>];
    fn deref(&self) -> &[Claim<T>] {
        &self.claims
    }
}

impl<T: Serialize + DeserializeOwned> IntoIterator for Batch<T> {
    type Item = Claim<T>;
    type IntoIter = std::vec::IntoIter<Claim<T>>;
    fn into_iter(self) -> Self::IntoIter {
        self.claims.into_iter()
    }
}

/// What [`FsQueue::drain`] got.
#[derive(Debug)]
pub struct Drained<T> {
    /// The items, in order.
    pub items: Vec<T>,
    /// Items that could not be read; they are in the quarantine now. Also an error that ended the draining early.
    pub bad: Vec<Error>,
}

impl<T> Deref for Drained<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> IntoIterator for Drained<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}
