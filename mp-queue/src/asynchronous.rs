//! Waiting without a thread: `put`, `get` and `join` for any executor.
//!
//! A future that is dropped has put nothing and taken nothing. What is awaited is looked at again every few dozen
//! milliseconds, so that no death is missed; a peer that is stopped while it puts or gets holds up the future, never the
//! executor's thread.

use mp_core::message::{Fds, encode_into};
use mp_core::ring::Ring;
use mp_sync::RawLock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::Parcel;
use crate::error::{Error, Result};
use crate::joinable::JoinableQueue;
use crate::queue::Queue;
use crate::simple::SimpleQueue;
use crate::wait::Wait;

impl<T: Serialize> Queue<T> {
    /// As [`put`](Queue::put), without blocking the thread.
    ///
    /// ```
    /// # async fn example() -> Result<(), mp_queue::Error> {
    /// let queue = mp_queue::Queue::bounded(1)?;
    /// queue.put_async("hello".to_string()).await?;
    /// assert_eq!(queue.get_async().await?, "hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`put`](Queue::put).
    pub async fn put_async(&self, item: T) -> Result<()> {
        match self.put_within(&item, Wait::Never) {
            Err(Error::Full) => {}
            result => return result,
        }
        let (mut bytes, mut fds) = (Vec::new(), Fds::new());
        encode_into(&item, &mut bytes, &mut fds).map_err(Error::Encode)?;
        drop(item);
        self.put_encoded(&mut [Parcel { bytes: &bytes, fds }]).await
    }

    /// As [`put_many`](Queue::put_many), without blocking the thread. If the future is dropped, the first of them may be in.
    ///
    /// # Errors
    /// As for [`put_many`](Queue::put_many).
    pub async fn put_many_async(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        let encode = |item: T| {
            let (mut bytes, mut fds) = (Vec::new(), Fds::new());
            encode_into(&item, &mut bytes, &mut fds).map_err(Error::Encode)?;
            Ok((bytes, fds))
        };
        let encoded = items.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        let (bytes, fds): (Vec<Vec<u8>>, Vec<Fds>) = encoded.into_iter().unzip();
        let parcels = bytes.iter().zip(fds).map(|(bytes, fds)| Parcel { bytes, fds });
        self.put_encoded(&mut parcels.collect::<Vec<_>>()).await
    }

    async fn put_encoded(&self, parcels: &mut [Parcel<'_>]) -> Result<()> {
        let ring = self.channel().ring();
        let mut done = 0;
        loop {
            for again in [false, true] {
                // What is seen now is seen before the second attempt.
                let doze = again.then(|| ring.doze_until_got());
                match self.channel().try_put(&mut parcels[done..], Wait::Never) {
                    (put, Err(Error::Full)) => done += put,
                    (_, result) => return result,
                }
                let Some(doze) = doze else { continue };
                // With room for it, somebody is at it: with the lock for a moment, or stopped. Or there is none for
                // its descriptors.
                let has_room = ring.len() < ring.limit() || ring.is_closed();
                let is_plain = parcels[done..].first().is_none_or(|parcel| parcel.fds.is_empty());
                match has_room && (is_plain || ring.put_lock().is_locked()) {
                    true => drop(wait_for(ring, Ring::put_lock).await?),
                    false => doze.wait(ring).await?,
                }
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
        self.awaited(|wait| self.get_within(wait, &())).await
    }

    /// As [`get_many`](Queue::get_many), without blocking the thread.
    ///
    /// # Errors
    /// As for [`get_many`](Queue::get_many).
    pub async fn get_many_async(&self, most: usize) -> Result<Vec<T>> {
        self.awaited(|wait| self.get_many_within(most, wait, &())).await
    }

    /// Attempts it until there is an item.
    pub(crate) async fn awaited<R>(&self, attempt: impl Fn(Wait) -> Result<R>) -> Result<R> {
        let ring = self.channel().ring();
        loop {
            match attempt(Wait::Never) {
                Err(Error::Empty) => {}
                result => return result,
            }
            let doze = ring.doze_until_put();
            match attempt(Wait::Never) {
                Err(Error::Empty) => {}
                result => return result,
            }
            match ring.is_empty() && !ring.is_closed() {
                true => doze.wait(ring).await?,
                // Somebody is at it: with its lock for a moment, or stopped.
                false => drop(wait_for(ring, Ring::get_lock).await?),
            }
        }
    }
}

/// The lock, as soon as it is free.
async fn wait_for(ring: &Ring<RawLock>, lock: fn(&Ring<RawLock>) -> &RawLock) -> Result<impl Sized> {
    Ok(RawLock::guard_async(ring, lock).await?)
}

impl<T: Serialize> JoinableQueue<T> {
    /// See [`Queue::put_async`].
    ///
    /// # Errors
    /// As for [`Queue::put_async`].
    pub async fn put_async(&self, item: T) -> Result<()> {
        self.queue().put_async(item).await
    }

    /// See [`Queue::put_many_async`].
    ///
    /// # Errors
    /// As for [`Queue::put_many_async`].
    pub async fn put_many_async(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        self.queue().put_many_async(items).await
    }
}

impl<T: DeserializeOwned> JoinableQueue<T> {
    /// See [`Queue::get_async`].
    ///
    /// # Errors
    /// As for [`Queue::get_async`].
    pub async fn get_async(&self) -> Result<T> {
        self.queue().awaited(|wait| self.queue().get_within(wait, self.ledger())).await
    }

    /// See [`Queue::get_many_async`].
    ///
    /// # Errors
    /// As for [`Queue::get_many_async`].
    pub async fn get_many_async(&self, most: usize) -> Result<Vec<T>> {
        self.queue().awaited(|wait| self.queue().get_many_within(most, wait, self.ledger())).await
    }
}

impl<T> JoinableQueue<T> {
    /// As [`join`](JoinableQueue::join), without blocking the thread.
    ///
    /// # Errors
    /// As for [`join`](JoinableQueue::join).
    pub async fn join_async(&self) -> Result<()> {
        self.ledger().join_async(self.queue().channel().ring()).await
    }
}

impl<T: Serialize> SimpleQueue<T> {
    /// See [`Queue::put_async`].
    ///
    /// # Errors
    /// As for [`Queue::put_async`].
    pub async fn put_async(&self, item: T) -> Result<()> {
        self.queue().put_async(item).await
    }
}

impl<T: DeserializeOwned> SimpleQueue<T> {
    /// See [`Queue::get_async`].
    ///
    /// # Errors
    /// As for [`Queue::get_async`].
    pub async fn get_async(&self) -> Result<T> {
        self.queue().get_async().await
    }
}

#[cfg(test)]
mod tests;
