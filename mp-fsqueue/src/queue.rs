//! The queue itself.

use crate::claim::{Batch, Claim, Drained};
use crate::error::{Error, Result};
use crate::failed::{self, Failed};
use crate::group::Group;
use crate::host;
use crate::journal::Entry;
use crate::layout::Layout;
use crate::ledger::Held;
use crate::options::{Builder, Durability};
use crate::segment;
use crate::side::{Place, Side, Undecodable};
use crate::stats::{Problem, Stats};
use crate::sys::{self, File};
use crate::wait::Waiter;
use crate::writer::Writer;
use serde::{Serialize, de::DeserializeOwned};
use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many items `drain` takes out by one entry of the journal.
const DRAIN: usize = 1024;

/// A queue in a directory, for any number of processes that need not know each other (Python: `FSQueue`).
///
/// Clones are handles to the same queue. What [`put`](FsQueue::put) has returned for survives the death of every process;
/// see [`Durability`] for power cuts. Each item goes to one consumer. Items of one writer come in the order of their puts;
/// items of different writers of one host in the order in which their puts were over.
///
/// A process that dies while it puts has put nothing; one that dies in [`get`](FsQueue::get) has either taken nothing, or
/// the item is gone with it. Use [`receive`](FsQueue::receive) where an item must outlive its consumer.
///
/// After `fork`, a child that uses a handle of its parent becomes a writer and a consumer of its own.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("fsqueue-doc-queue-{}", std::process::id()));
/// use mp_fsqueue::FsQueue;
/// let q = FsQueue::<(String, u32)>::open(&dir)?;
/// q.put(&("a".to_owned(), 1))?;
/// q.put(&("b".to_owned(), 2))?;
/// assert_eq!(q.len()?, 2);
/// assert_eq!(q.get()?.0, "a");
/// assert_eq!(q.drain()?.items, [("b".to_owned(), 2)]);
/// assert!(q.try_get().unwrap_err().is_empty());
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), mp_fsqueue::Error>(())
/// ```
pub struct FsQueue<T> {
    inner: Arc<Inner>,
    items: PhantomData<fn(T) -> T>,
}

struct Inner {
    layout: Layout,
    options: Builder,
    writer: Mutex<Option<Writer>>,
    side: Mutex<Side>,
    group: Group,
    waiters: Mutex<Vec<Waiter>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left half done is read anew from the journal.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Clone for FsQueue<T> {
    fn clone(&self) -> Self {
        FsQueue { inner: self.inner.clone(), items: PhantomData }
    }
}

impl<T> fmt::Debug for FsQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<FsQueue({})>", self.inner.layout.root.display())
    }
}

impl<T: Serialize + DeserializeOwned> FsQueue<T> {
    /// Opens the queue in `dir`, which is created with the directories above it if need be.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if files cannot be created, [`Error::NotAQueue`] if there is something else.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Builder::default().open(dir)
    }

    /// Options before opening.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn with(mut options: Builder, dir: &Path) -> Result<Self> {
        // A later change of the working directory must not make it another queue.
        let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
        let layout = Layout::new(&dir);
        for place in [layout.root.clone(), layout.segments(), layout.consumers(), layout.failed()] {
            if !place.is_dir() {
                sys::make_dir(&place, options.dir_mode)?;
            }
        }
        let side = Side::open(&layout, &options)?;
        if side.ledger.is_remote() && options.durability == Durability::None {
            options.durability = Durability::GROUP;
        }
        if options.durability.is_durable() && !side.ledger.is_read_only() {
            sys::sync_dir(&layout.root)?;
        }
        Ok(FsQueue {
            inner: Arc::new(Inner {
                layout,
                options,
                writer: Mutex::new(None),
                side: Mutex::new(side),
                group: Group::default(),
                waiters: Mutex::default(),
            }),
            items: PhantomData,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.inner.layout.root
    }

    /// Adds an item. When it returns, every process sees the item, and it survives the death of this one.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`], [`Error::TooLarge`], [`Error::Full`] and [`Error::Io`] mean that nothing was put; but an
    /// [`Error::Io`] that says `cannot sync` means that the item is there and may not survive a power cut.
    pub fn put(&self, item: &T) -> Result<()> {
        let mut guard = self.writer()?;
        let Some(writer) = guard.as_mut() else { return Err(self.no_writer()) };
        let file = writer.put(|buffer| self.encode(item, buffer))?;
        self.make_durable(guard, file)
    }

    /// Adds an item, waiting up to `timeout` while the queue is [full](Error::Full).
    ///
    /// # Errors
    ///
    /// As [`FsQueue::put`].
    pub fn put_timeout(&self, item: &T, timeout: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(timeout);
        let mut pause = Duration::from_millis(1);
        loop {
            match self.put(item) {
                Err(e) if e.is_full() && deadline.is_none_or(|d| Instant::now() < d) => {
                    let left = deadline.map_or(pause, |d| d.saturating_duration_since(Instant::now()));
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    }

    /// Adds items, many by one system call and all by one sync. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Partial`] if only the first ones were put; otherwise as [`FsQueue::put`].
    pub fn put_many<'a>(&self, items: impl IntoIterator<Item = &'a T>) -> Result<usize>
    where
        T: 'a,
    {
        let encode = |item: &T| {
            let mut body = Vec::new();
            self.encode(item, &mut body)?;
            if body.len() > crate::record::MAX_BODY {
                return Err(segment::too_large(self.path(), body.len()));
            }
            Ok(body)
        };
        let bodies = items.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        let mut guard = self.writer()?;
        let Some(writer) = guard.as_mut() else { return Err(self.no_writer()) };
        let (put, result) = writer.put_many(&bodies);
        let failed = |source: Error| match put {
            0 => source,
            _ => Error::Partial { put, source: Box::new(source) },
        };
        match result.map_err(failed)? {
            Some(file) => self.make_durable(guard, file).map_err(failed)?,
            None => {}
        }
        Ok(put)
    }

    fn encode(&self, item: &T, buffer: &mut Vec<u8>) -> Result<()> {
        let encoded = match self.inner.options.named {
            true => rmp_serde::encode::write_named(buffer, item),
            false => rmp_serde::encode::write(buffer, item),
        };
        encoded.map_err(|source| Error::Encode {
            path: self.path().to_owned(),
            type_name: type_name::<T>(),
            source,
        })
    }

    fn writer(&self) -> Result<MutexGuard<'_, Option<Writer>>> {
        let mut writer = lock(&self.inner.writer);
        if writer.as_ref().is_none_or(|w| w.pid != host::pid()) {
            *writer = Some(Writer::open(&self.inner.layout, &self.inner.options)?);
        }
        Ok(writer)
    }

    fn no_writer(&self) -> Error {
        Error::io("write to", self.path(), rustix::io::Errno::BADF)
    }

    fn make_durable(&self, guard: MutexGuard<'_, Option<Writer>>, file: Arc<File>) -> Result<()> {
        let result = match self.inner.options.durability {
            Durability::None => return Ok(()),
            Durability::Item => {
                drop(guard);
                file.sync()
            }
            Durability::Group { within, count } => {
                let ticket = self.inner.group.issue(file);
                drop(guard);
                self.inner.group.wait(ticket, within, count)
            }
        };
        if result.is_err() {
            if let Some(writer) = lock(&self.inner.writer).as_mut() {
                writer.abandon();
            }
        }
        result
    }

    /// Takes the oldest item, waiting until there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] and [`Error::Damaged`] tell of an item that was moved to the quarantine; the next call goes on
    /// behind it. [`Error::Io`] if the item could not be taken; it is still there.
    pub fn get(&self) -> Result<T> {
        self.get_until(None)
    }

    /// Takes the oldest item, waiting up to `timeout` until there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] if there is none in time; otherwise as [`FsQueue::get`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.get_until(Some(Instant::now().checked_add(timeout).unwrap_or_else(far_future)))
    }

    /// Takes the oldest item if there is one (Python: `FSQueue.get`).
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] if there is none; otherwise as [`FsQueue::get`].
    pub fn try_get(&self) -> Result<T> {
        self.get_now(None)
    }

    fn get_now(&self, deadline: Option<Instant>) -> Result<T> {
        let (mut side, held) = self.side(deadline)?;
        let got = side.take(&mut decode::<T>);
        match got? {
            Some(value) => {
                drop(held);
                side.ledger.sync()?;
                Ok(value)
            }
            // Damage is told when there is nothing better to tell.
            None => Err(side.damage().unwrap_or_else(|| side.empty())),
        }
    }

    fn get_until(&self, deadline: Option<Instant>) -> Result<T> {
        match self.get_now(deadline) {
            Err(e) if e.is_empty() => {}
            result => return result,
        }
        self.wait_for(deadline, || match self.get_now(deadline) {
            Err(e) if e.is_empty() => None,
            result => Some(result),
        })
    }

    /// Sleeps until `attempt` has a result or time is up.
    fn wait_for<R>(
        &self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Option<Result<R>>,
    ) -> Result<R> {
        let spare = lock(&self.inner.waiters).pop();
        let mut waiter = spare.filter(Waiter::is_ours).unwrap_or_else(Waiter::new);
        let result = loop {
            // Armed first, then looked: what comes in between is not missed.
            if !waiter.is_armed() {
                waiter.arm(&self.inner.layout);
            }
            if let Some(result) = attempt() {
                break result;
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|l| l.is_zero()) {
                break Err(Error::Empty { path: self.path().to_owned() });
            }
            waiter.wait(left);
        };
        waiter.disarm();
        lock(&self.inner.waiters).push(waiter);
        result
    }

    /// Takes everything that waits (Python: `FSQueue.drain`). An item that cannot be read is moved to the quarantine and
    /// reported beside the others.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if nothing could be taken; if something was, the error is in [`Drained::bad`].
    pub fn drain(&self) -> Result<Drained<T>> {
        let mut drained = Drained { items: Vec::new(), bad: Vec::new() };
        loop {
            let (items, more) = self.take_some(DRAIN, &mut drained.bad)?;
            let done = items.is_empty() && !more;
            drained.items.extend(items);
            if done || drained.bad.last().is_some_and(|e| matches!(e, Error::Io { .. })) {
                return Ok(drained);
            }
        }
    }

    /// Takes up to `limit` items that wait, at the price of one.
    ///
    /// # Errors
    ///
    /// As [`FsQueue::drain`].
    pub fn get_many(&self, limit: usize) -> Result<Drained<T>> {
        let mut bad = Vec::new();
        let (items, _) = self.take_some(limit, &mut bad)?;
        Ok(Drained { items, bad })
    }

    fn take_some(&self, limit: usize, bad: &mut Vec<Error>) -> Result<(Vec<T>, bool)> {
        let before = bad.len();
        let (mut side, held) = match self.side(None) {
            Ok(side) => side,
            Err(e) if before > 0 => {
                bad.push(e);
                return Ok((Vec::new(), false));
            }
            Err(e) => return Err(e),
        };
        let taken = side.take_many(limit, false, &mut decode::<T>, bad);
        while let Some(damage) = side.damage() {
            bad.push(damage);
        }
        drop(held);
        let taken = taken?;
        if let Err(e) = side.ledger.sync() {
            bad.push(e);
        }
        Ok((taken.into_iter().map(|t| t.0).collect(), bad.len() > before))
    }

    /// An iterator that takes items until none waits.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { queue: self }
    }

    /// Claims up to `limit` waiting items, for work that must survive this process: each is to be
    /// [acknowledged](Claim::ack). An empty batch means that none waits. Items that cannot be read go to the quarantine.
    ///
    /// Claims of a consumer that dies come back at once; of one on another host, after
    /// [`stale_after`](Builder::stale_after).
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("fsqueue-doc-receive-{}", std::process::id()));
    /// use mp_fsqueue::FsQueue;
    /// let q = FsQueue::<u32>::open(&dir)?;
    /// q.put_many(&[1, 2, 3])?;
    /// for item in q.receive(100)? {
    ///     match *item {
    ///         1 => item.ack()?,
    ///         2 => item.release()?,
    ///         _ => drop(item.fail("not a good number")?),
    ///     }
    /// }
    /// assert_eq!(q.try_get()?, 2);
    /// assert_eq!(q.failed()?[0].reason, "not a good number");
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), mp_fsqueue::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if nothing could be claimed.
    pub fn receive(&self, limit: usize) -> Result<Batch<T>> {
        let (mut side, held) = self.side(None)?;
        let mut bad = Vec::new();
        let taken = side.take_many(limit, true, &mut decode::<T>, &mut bad);
        while let Some(damage) = side.damage() {
            bad.push(damage);
        }
        drop(held);
        drop(side);
        let claims =
            taken?.into_iter().map(|(value, place)| Claim::new(value, place, self.clone())).collect();
        Ok(Batch { claims, bad })
    }

    /// As [`FsQueue::receive`], waiting up to `timeout` for the first item.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] if none comes in time; otherwise as [`FsQueue::receive`].
    pub fn receive_timeout(&self, limit: usize, timeout: Duration) -> Result<Batch<T>> {
        let deadline = Some(Instant::now().checked_add(timeout).unwrap_or_else(far_future));
        self.wait_for(deadline, || match self.receive(limit) {
            Ok(batch) if batch.is_empty() && batch.bad.is_empty() => None,
            result => Some(result),
        })
    }

    pub(crate) fn acknowledge(&self, places: &[Place]) -> Result<()> {
        self.settle(places, |id, span, consumer| Entry::Ack { id, span, consumer })
    }

    pub(crate) fn give_back(&self, places: &[Place]) -> Result<()> {
        self.settle(places, |id, span, consumer| Entry::Release { id, span, consumer })
    }

    fn settle(
        &self,
        places: &[Place],
        entry: fn(crate::state::SegmentId, crate::state::Span, u64) -> Entry,
    ) -> Result<()> {
        let (mut side, held) = self.side(None)?;
        side.settle(places, entry)?;
        drop(held);
        side.ledger.sync()
    }

    pub(crate) fn fail(&self, place: Place, reason: &str) -> Result<PathBuf> {
        let (mut side, held) = self.side(None)?;
        let kept = side.fail(place, reason)?;
        drop(held);
        side.ledger.sync()?;
        Ok(kept)
    }

    /// What is in the quarantine, in the order in which it got there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read.
    pub fn failed(&self) -> Result<Vec<Failed>> {
        Ok(failed::list(&self.inner.layout)?.into_iter().map(|f| f.1).collect())
    }

    /// Puts all whole items of the quarantine at the end of the queue, as this process's; how many. A death in between may
    /// leave one of them in both places.
    ///
    /// # Errors
    ///
    /// As [`FsQueue::put`].
    pub fn retry_failed(&self) -> Result<usize> {
        let mut count = 0;
        for (path, failed) in failed::list(&self.inner.layout)? {
            if !failed.whole {
                continue;
            }
            let mut guard = self.writer()?;
            let Some(writer) = guard.as_mut() else { return Err(self.no_writer()) };
            let file = writer.put(|buffer| {
                buffer.extend_from_slice(&failed.body);
                Ok(())
            })?;
            self.make_durable(guard, file)?;
            sys::remove(&path)?;
            count += 1;
        }
        Ok(count)
    }

    /// Gives back what dead consumers worked on, those of other hosts if they have shown no sign of life for `older_than`;
    /// how many items. `get` and `receive` do so themselves.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it could not be written down.
    pub fn requeue_stale(&self, older_than: Duration) -> Result<u64> {
        let (mut side, _held) = self.side(None)?;
        side.requeue_dead(older_than)
    }

    /// Removes what dead processes left; how many files. Consumers do so themselves, every half minute.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if something cannot be removed.
    pub fn reap(&self) -> Result<u64> {
        let (mut side, _held) = self.side(None)?;
        side.tidy()
    }

    /// How many items wait: put, and neither given out nor claimed. The cost does not depend on the number.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be found out.
    pub fn len(&self) -> Result<u64> {
        let (mut side, _held) = self.side(None)?;
        Ok(side.waiting()?.items)
    }

    /// Whether no item waits (Python: `FSQueue.empty`). True may be wrong as soon as it is said.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be found out.
    pub fn is_empty(&self) -> Result<bool> {
        let (mut side, _held) = self.side(None)?;
        if side.ledger.is_read_only() {
            return Ok(side.waiting()?.items == 0);
        }
        Ok(!side.has_item()?)
    }

    /// Counts of everything, for people.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be found out.
    pub fn stats(&self) -> Result<Stats> {
        let (mut side, _held) = self.side(None)?;
        crate::stats::gather(&mut side)
    }

    /// Reads every file of the queue, and tells what is wrong. Nothing is changed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directories cannot be listed.
    pub fn check(&self) -> Result<Vec<Problem>> {
        let (mut side, _held) = self.side(None)?;
        crate::stats::check(&mut side)
    }

    /// The items that wait, without taking them, up to `limit`, writer by writer.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if they cannot be read.
    pub fn peek(&self, limit: usize) -> Result<Vec<(crate::ItemId, T)>> {
        let (mut side, _held) = self.side(None)?;
        crate::stats::peek(&mut side, limit, &mut decode::<T>)
    }

    /// The getting side, as this process, with the queue's lock.
    fn side(&self, deadline: Option<Instant>) -> Result<(MutexGuard<'_, Side>, Held)> {
        let mut side = lock(&self.inner.side);
        if side.pid != host::pid() {
            *side = Side::open(&self.inner.layout, &self.inner.options)?;
        }
        let held = side.hold(deadline)?;
        Ok((side, held))
    }
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(1 << 31)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Undecodable> {
    rmp_serde::from_slice(body).map_err(|source| Undecodable { type_name: type_name::<T>(), source })
}

/// Takes items until none waits.
#[derive(Debug)]
pub struct Iter<'a, T> {
    queue: &'a FsQueue<T>,
}

impl<T: Serialize + DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T>;
    fn next(&mut self) -> Option<Result<T>> {
        match self.queue.try_get() {
            Err(e) if e.is_empty() => None,
            result => Some(result),
        }
    }
}

impl<'a, T: Serialize + DeserializeOwned> IntoIterator for &'a FsQueue<T> {
    type Item = Result<T>;
    type IntoIter = Iter<'a, T>;
    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// Closes a queue as the death of its process would: the consumer's file stays, its lock does not.
#[cfg(test)]
pub(crate) fn forget_consumer<T>(queue: FsQueue<T>) {
    lock(&queue.inner.side).pid = -1;
}
