//! The queue itself.

mod get;
mod inspect;
mod put;

pub use get::Iter;

use crate::error::{Error, Result};
use crate::group::Group;
use crate::host;
use crate::journal::Entry;
use crate::layout::Layout;
use crate::ledger::Held;
use crate::options::{Builder, Durability};
use crate::side::{Place, Side, Undecodable};
use crate::sys;
use crate::wait::Waiter;
use crate::writer::Writer;
use serde::{Serialize, de::DeserializeOwned};
use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

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
    /// Claims that a call with a time limit could not give back within it; the next use of the getting side does.
    late: Mutex<Vec<Place>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left half done is read anew from the journal.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As `lock`, but gives up: another thread may be waiting for a process that is stopped.
fn lock_until<T>(mutex: &Mutex<T>, deadline: Option<Instant>) -> Option<MutexGuard<'_, T>> {
    let Some(deadline) = deadline else { return Some(lock(mutex)) };
    let mut pause = Duration::from_micros(20);
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(2));
    }
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
        let side = Side::open(&layout, &options, None)?;
        if side.ledger.is_remote() && options.durability == Durability::None {
            options.durability = Durability::GROUP;
        }
        if options.durability.is_durable() && !side.ledger.is_read_only() {
            sys::sync_dir(&layout.root)?;
            // Those above it may be new too; some may not be ours to read, and were there before.
            layout.root.ancestors().skip(1).for_each(|above| drop(sys::sync_dir(above)));
        }
        Ok(FsQueue {
            inner: Arc::new(Inner {
                layout,
                options,
                writer: Mutex::new(None),
                side: Mutex::new(side),
                group: Group::default(),
                waiters: Mutex::default(),
                late: Mutex::default(),
            }),
            items: PhantomData,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.inner.layout.root
    }

    fn busy(&self) -> Error {
        Error::Busy { path: self.path().to_owned() }
    }

    /// The getting side, as this process, with the queue's lock.
    fn side(&self, deadline: Option<Instant>) -> Result<(MutexGuard<'_, Side>, Held)> {
        let mut side = lock_until(&self.inner.side, deadline).ok_or_else(|| self.busy())?;
        if side.pid != host::pid() {
            *side = Side::open(&self.inner.layout, &self.inner.options, deadline)?;
        }
        let held = side.ledger.hold(deadline)?;
        let late = std::mem::take(&mut *lock(&self.inner.late));
        if !late.is_empty() {
            // Refused only if they came back in another way.
            let _ = side.settle(&late, |id, span, consumer| Entry::Release { id, span, consumer });
        }
        Ok((side, held))
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Undecodable> {
    rmp_serde::from_slice(body).map_err(|source| Undecodable { type_name: type_name::<T>(), source })
}

/// Closes a queue as the death of its process would: the consumer's file stays, its lock does not.
#[cfg(test)]
pub(crate) fn forget_consumer<T>(queue: FsQueue<T>) {
    lock(&queue.inner.side).pid = -1;
}

/// Makes the next use of the handle look like the first one after a fork.
#[cfg(test)]
pub(crate) fn pretend_fork<T>(queue: &FsQueue<T>) {
    lock(&queue.inner.side).pid = -1;
    if let Some(writer) = lock(&queue.inner.writer).as_mut() {
        writer.pid = -1;
    }
}
