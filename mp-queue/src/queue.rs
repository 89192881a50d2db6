//! The queue: items of one type, first in, first out, between any processes.
//!
//! A process that is killed while it puts or gets holds nobody up: what it had put is in the queue, what it had not finished
//! getting still is.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use mp_core::codec::whole;
use mp_core::message::{Fds, SharedFd, decode_from, discard, encode_into};
use mp_core::ring::Short;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, Got, Parcel, Put, Witness};
use crate::error::{Error, Result};
use crate::iter::Iter;
use crate::scratch::{self, Scratch};
use crate::wait::Wait;

/// A queue of items that any number of processes and threads put and get; a clone is another handle to the same one.
///
/// Items come out in the order in which their `put` returned, each to exactly one getter. When `put` returns, the item is in
/// shared memory: the putter may end or be killed at once (NA-8, NA-13). An item may hold handles of any kind, and the queue
/// itself can sit inside any message. It costs three descriptors, and memory for what waits in it.
///
/// A getter that is killed before its `get` returned leaves the item to the next one. Others never wait for the dead longer
/// than 100 ms. One that is stopped (`SIGSTOP`) in the middle of a call holds the others up until it goes on: the forms with a
/// time limit keep it, and the async ones block no thread.
///
/// Without special rights, descriptors on their way are limited: all of a user's together to as many as one process may open
/// (`RLIMIT_NOFILE`), and a queue to some 500 items with handles, or what `net.core.wmem_max` allows; each handle counts, even to
/// the same lock or file. Beyond that the queue is full for such an item, whatever its bound, until somebody gets some.
///
/// Follows Python's `multiprocessing.Queue`, without its feeder thread.
///
/// ```
/// use mp_queue::Queue;
///
/// let queue = Queue::<(String, u32)>::bounded(2)?;
/// queue.put(("one".into(), 1))?;
/// queue.put(("two".into(), 2))?;
/// assert!(queue.is_full() && queue.try_put(("three".into(), 3)).is_err());
/// assert_eq!(queue.get()?, ("one".into(), 1));
/// # Ok::<(), mp_queue::Error>(())
/// ```
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Queue<T> {
    channel: Channel,
    items: PhantomData<fn(T) -> T>,
}

impl<T> Queue<T> {
    /// An empty queue for at most `items` items at a time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no items at all, [`Error::Ground`] if memory or descriptors do not suffice.
    pub fn bounded(items: usize) -> Result<Queue<T>> {
        if items == 0 {
            return Err(Error::Invalid {
                what: "bound of a queue",
                reason: "it has no room for any item".into(),
            });
        }
        Queue::with_limit(items as u64)
    }

    /// An empty queue that grows as long as there is memory.
    ///
    /// # Errors
    /// [`Error::Ground`] if memory or descriptors do not suffice.
    pub fn unbounded() -> Result<Queue<T>> {
        Queue::with_limit(u64::MAX)
    }

    fn with_limit(limit: u64) -> Result<Queue<T>> {
        Ok(Queue { channel: Channel::new(limit)?, items: PhantomData })
    }

    /// How many items are in it.
    pub fn len(&self) -> usize {
        self.channel.ring().len() as usize
    }

    /// Whether no item is in it.
    pub fn is_empty(&self) -> bool {
        self.channel.ring().is_empty()
    }

    /// Whether a `put` would have to wait; never if it is unbounded.
    pub fn is_full(&self) -> bool {
        self.channel.ring().len() >= self.channel.ring().limit()
    }

    /// The most items that may be in it; none if it is unbounded.
    pub fn capacity(&self) -> Option<usize> {
        let limit = self.channel.ring().limit();
        (limit != u64::MAX).then_some(limit as usize)
    }

    /// Says that no process will put anything any more: getters get what is there, then [`Error::Closed`]. An item whose
    /// `put` has not returned by then may be in or not; `put` says so.
    ///
    /// # Errors
    /// None so far: it is one step, in which no other process is in the way.
    pub fn close(&self) -> Result<()> {
        self.channel.close();
        Ok(())
    }

    /// Whether it was closed; there may be items in it still.
    pub fn is_closed(&self) -> bool {
        self.channel.ring().is_closed()
    }

    /// A descriptor that is readable while items are in the queue, for `poll`, `epoll` and [`wait_ready`]; close-on-exec.
    ///
    /// It is this process's alone, kept up by a thread that starts with the first call. Another getter may be faster:
    /// use [`try_get`](Queue::try_get) when it is readable, and do not read from it.
    ///
    /// # Errors
    /// [`Error::Ground`] if there is no descriptor or thread to be had.
    ///
    /// [`wait_ready`]: mp_core::wait::wait_ready
    pub fn ready_fd(&self) -> Result<SharedFd> {
        self.channel.ready_fd()
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }
}

impl<T: Serialize> Queue<T> {
    /// Puts an item in, as soon as there is a place; then it is there for good.
    ///
    /// # Errors
    /// [`Error::Encode`] if the item cannot be encoded (nothing has happened then), [`Error::Closed`] if the queue is
    /// closed, [`Error::Ground`] if there is no memory for the item, [`Error::TooManyHandles`] for one with thousands.
    pub fn put(&self, item: T) -> Result<()> {
        self.put_ref(&item)
    }

    /// As [`put`](Self::put), for an item that is still needed.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn put_ref(&self, item: &T) -> Result<()> {
        self.put_within(item, Wait::Until(None))
    }

    /// As [`put`](Self::put), without waiting.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no place at once; otherwise as for [`put`](Self::put).
    pub fn try_put(&self, item: T) -> Result<()> {
        self.put_within(&item, Wait::Not)
    }

    /// As [`put`](Self::put), for as long as `timeout`; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Full`] if there was no place in time; otherwise as for [`put`](Self::put).
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<()> {
        self.put_within(&item, Wait::timeout(timeout))
    }

    #[inline]
    pub(crate) fn put_within(&self, item: &T, wait: Wait) -> Result<()> {
        let put = match whole::split(item) {
            Some(numbers) => {
                let [head, body] = numbers.parts();
                self.channel.put_one(head, body, &wait)
            }
            None => scratch::with(|bytes| self.put_by_way_of(item, bytes, &wait)),
        };
        match put {
            Put::Done => Ok(()),
            Put::Full => Err(Error::Full),
            Put::Failed(error) => Err(*error),
        }
    }

    /// As [`put_within`](Self::put_within), by way of `bytes`.
    #[inline]
    fn put_by_way_of(&self, item: &T, bytes: &mut Vec<u8>, wait: &Wait) -> Put {
        let mut fds = Fds::new();
        if let Err(error) = encode_into(item, bytes, &mut fds) {
            return Put::Failed(Box::new(Error::Encode(error)));
        }
        if fds.is_plain() {
            return self.channel.put_one(bytes, &[], wait);
        }
        match self.channel.put(&mut [Parcel { bytes, fds }], *wait).1 {
            Ok(()) => Put::Done,
            Err(error) => Put::Failed(Box::new(error)),
        }
    }

    /// Puts all items in, in order, as many at a time as there are places: if there is room, nobody else's come between.
    ///
    /// # Errors
    /// As for [`put`](Self::put). Items that cannot be encoded are found before anything is put; after other errors, those
    /// before the one that failed are in the queue.
    pub fn put_many(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        self.put_many_within(items, Wait::Until(None)).1
    }

    /// As [`put_many`](Self::put_many), without waiting: how many found a place.
    ///
    /// # Errors
    /// As for [`put`](Self::put), if not even the first was put.
    pub fn try_put_many(&self, items: impl IntoIterator<Item = T>) -> Result<usize> {
        match self.put_many_within(items, Wait::Not) {
            (0, Err(error)) => Err(error),
            (put, _) => Ok(put),
        }
    }

    pub(crate) fn put_many_within(
        &self,
        items: impl IntoIterator<Item = T>,
        wait: Wait,
    ) -> (usize, Result<()>) {
        let (mut bytes, mut ends) = (Scratch::take(), Vec::new());
        for item in items {
            let mut fds = Fds::new();
            if let Err(error) = encode_into(&item, &mut bytes, &mut fds) {
                return (0, Err(Error::Encode(error)));
            }
            ends.push((bytes.len(), fds));
        }
        let mut start = 0;
        let parcel = |(end, fds)| Parcel { bytes: &bytes[std::mem::replace(&mut start, end)..end], fds };
        let mut parcels: Vec<_> = ends.into_iter().map(parcel).collect();
        self.channel.put(&mut parcels, wait)
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// Takes the first item out, as soon as there is one.
    ///
    /// # Errors
    /// [`Error::Closed`] if the queue is closed and empty; [`Error::Decode`] and [`Error::HandlesLost`] for an item that is
    /// gone; [`Error::Ground`] if there is no memory for the item, which then stays in the queue, or if this process has no
    /// descriptors left for its handles, and it is gone.
    pub fn get(&self) -> Result<T> {
        self.get_within(Wait::Until(None), &())
    }

    /// As [`get`](Self::get), without waiting, but for the moment in which other processes get items: it fails only if there is no
    /// item, or if a process that is stopped stands in the way for 50 ms.
    ///
    /// # Errors
    /// [`Error::Empty`] if there is no item; otherwise as for [`get`](Self::get).
    pub fn try_get(&self) -> Result<T> {
        self.get_within(Wait::Not, &())
    }

    /// As [`get`](Self::get), for as long as `timeout`, whatever other processes do; zero means one attempt.
    ///
    /// # Errors
    /// [`Error::Empty`] if no item came in time; otherwise as for [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.get_within(Wait::timeout(timeout), &())
    }

    #[inline]
    pub(crate) fn get_within(&self, wait: Wait, witness: &impl Witness) -> Result<T> {
        // Short items need no buffer of the thread.
        let (mut short, mut other) = (Short::new(), None);
        let got = self.channel.get_one(&wait, witness, &mut short, &mut |found| {
            other = Some(match found.read_whole()? {
                Some(item) => Taken::Item(item),
                None => {
                    let mut bytes = Scratch::take();
                    found.read(&mut bytes)?;
                    Taken::Bytes(bytes, found.handles())
                }
            });
            Ok(())
        });
        match got {
            Got::Short => decode_from(short.as_slice(), &mut Fds::new()).map_err(Error::Decode),
            Got::Other => match other {
                Some(Taken::Item(item)) => Ok(item),
                Some(Taken::Bytes(bytes, handles)) => {
                    decode_from(&bytes, &mut handles?).map_err(Error::Decode)
                }
                None => Err(Error::Empty),
            },
            Got::Nothing => Err(Error::Empty),
            Got::Failed(error) => Err(*error),
        }
    }

    /// Takes up to `most` items out at once, at least one; waits for the first only.
    ///
    /// # Errors
    /// As for [`get`](Self::get). If one of several cannot be decoded, the error is given and the others are gone with it:
    /// where that may happen, use [`get_each`](Self::get_each).
    pub fn get_many(&self, most: usize) -> Result<Vec<T>> {
        self.get_many_within(most, Wait::Until(None), &())
    }

    /// As [`get_many`](Self::get_many), without waiting.
    ///
    /// # Errors
    /// [`Error::Empty`] if there is no item; otherwise as for [`get_many`](Self::get_many).
    pub fn try_get_many(&self, most: usize) -> Result<Vec<T>> {
        self.get_many_within(most, Wait::Not, &())
    }

    /// As [`get_many`](Self::get_many), for as long as `timeout`.
    ///
    /// # Errors
    /// [`Error::Empty`] if no item came in time; otherwise as for [`get_many`](Self::get_many).
    pub fn get_many_timeout(&self, most: usize, timeout: Duration) -> Result<Vec<T>> {
        self.get_many_within(most, Wait::timeout(timeout), &())
    }

    pub(crate) fn get_many_within(&self, most: usize, wait: Wait, witness: &impl Witness) -> Result<Vec<T>> {
        self.collect_within::<Result<Vec<T>>>(most, wait, witness)?
    }

    pub(crate) fn collect_within<C>(&self, most: usize, wait: Wait, witness: &impl Witness) -> Result<C>
    where
        C: FromIterator<Result<T>>,
    {
        if most == 0 {
            return Ok(C::from_iter([]));
        }
        let (mut bytes, mut items, mut has_handles) = (Scratch::take(), Vec::new(), false);
        self.channel.get(most, wait, witness, |found| {
            let start = bytes.len();
            has_handles |= found.has_handles();
            let (fate, handles) = found.gather(&mut bytes, items.is_empty())?;
            items.extend(handles.map(|handles| (start..bytes.len(), handles)));
            Ok(fate)
        })?;
        let decode = |(range, fds): (Range<usize>, Result<Fds>)| {
            decode_from(&bytes[range], &mut fds?).map_err(Error::Decode)
        };
        if has_handles {
            let mut items = Undecoded { bytes: &bytes, items: items.into_iter() };
            return Ok(items.items.by_ref().map(decode).collect());
        }
        Ok(items.into_iter().map(decode).collect())
    }

    /// The items as they come, until the queue is closed and empty.
    ///
    /// ```
    /// let queue = mp_queue::Queue::unbounded()?;
    /// queue.put_many([1, 2, 3])?;
    /// queue.close()?;
    /// assert_eq!(queue.iter().collect::<Result<Vec<i32>, _>>()?, [1, 2, 3]);
    /// # Ok::<(), mp_queue::Error>(())
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter::new(self)
    }
}

/// Items that were taken out. If one of them is the last that is decoded, what the others carry is given back.
struct Undecoded<'a> {
    bytes: &'a [u8],
    items: std::vec::IntoIter<(Range<usize>, Result<Fds>)>,
}

impl Drop for Undecoded<'_> {
    fn drop(&mut self) {
        for (range, fds) in self.items.by_ref() {
            let _ = fds.map(|mut fds| discard(&self.bytes[range], &mut fds));
        }
    }
}

impl<'a, T: DeserializeOwned> IntoIterator for &'a Queue<T> {
    type Item = Result<T>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue { channel: self.channel.clone(), items: PhantomData }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Queue");
        f.field("len", &self.len()).field("capacity", &self.capacity()).field("closed", &self.is_closed());
        f.finish()
    }
}

/// An item out of the ring that is not short.
enum Taken<T> {
    /// The item itself.
    Item(T),
    /// Its bytes and its handles.
    Bytes(Scratch, Result<Fds>),
}
