//! The event: a flag that processes wait for.
//!
//! Whoever is killed, waiting, setting or clearing, leaves it set or unset, never in between, and holds nobody up.
//!
//! # Design
//!
//! One word: `SET`, `WAITERS` (somebody may sleep), and above them how often it was cleared. Every change is one exchange.
//!
//! A waiter sets `WAITERS` in the unset word that it saw, then sleeps while the word is like that. Setting leaves all but
//! `SET` as it was and wakes those who sleep; clearing counts up and takes both flags away. So a waiter that finds the word
//! unset but the count changed knows that it was set meanwhile. If the one that should wake is killed, the waiters find
//! out at the end of their slice.

use std::fmt;
use std::time::Duration;

use mp_core::arena::{InSharedMemory, Shared};
use mp_core::deadline::Deadline;
use mp_core::futex::{AtomicU32, Ordering::*, wait, wake_all};
use mp_core::wait::word_changed;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::patience::Patience;

#[cfg(all(test, loom))]
mod loom;

const SET: u32 = 1;
const WAITERS: u32 = 2;
/// From here on the number of times it was cleared.
const CLEARED: u32 = 4;

/// The word; all zero is unset.
#[derive(Default)]
#[repr(C)]
struct Word(AtomicU32);

// SAFETY: an atomic.
unsafe impl InSharedMemory for Word {}

impl Word {
    fn is_set(&self) -> bool {
        self.0.load(Acquire) & SET != 0
    }

    fn set(&self) {
        // If it was set before, whoever did that wakes.
        if self.0.fetch_or(SET, Release) & (SET | WAITERS) == WAITERS {
            wake_all(&self.0);
        }
    }

    fn clear(&self) {
        let mut word = self.0.load(Relaxed);
        while word & SET != 0 {
            let cleared = (word & !(SET | WAITERS)).wrapping_add(CLEARED);
            // The release is that of who set it: waiters that find it cleared have to see what it did before.
            match self.0.compare_exchange(word, cleared, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    #[cold]
    fn wait(&self, deadline: Option<Deadline>) -> bool {
        self.announce().is_none_or(|seen| self.wait_for_change(seen, deadline))
    }

    /// Whether it was set since one announced oneself and saw this, or is by the deadline.
    fn wait_for_change(&self, mut seen: u32, deadline: Option<Deadline>) -> bool {
        let began = seen & !WAITERS;
        let mut patience = Patience::new(deadline);
        while !patience.is_over() {
            wait(&self.0, seen, patience.next());
            match self.announce() {
                Some(now) if now & !WAITERS == began => seen = now,
                _ => return true,
            }
        }
        false
    }

    /// Announces a waiter; what it watches the word for a change from. None if it is set.
    fn announce(&self) -> Option<u32> {
        let mut word = self.0.load(Acquire);
        while word & (SET | WAITERS) == 0 {
            match self.0.compare_exchange(word, word | WAITERS, Acquire, Acquire) {
                Ok(_) => return Some(word | WAITERS),
                Err(now) => word = now,
            }
        }
        (word & SET == 0).then_some(word)
    }
}

/// Begins the message: no handle to anything else is taken for one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Event,
}

/// A flag that any number of processes set, clear and wait for; a clone is another handle to the same one.
///
/// It can sit inside any message, and costs no descriptor: a word of shared memory. Follows Python's
/// `multiprocessing.Event`, with two differences: whoever waits when it is set returns `true`, even if it is cleared at
/// once; and [`set`](Self::set), [`clear`](Self::clear) and [`is_set`](Self::is_set) may be called in a signal handler,
/// whatever the handler interrupts.
///
/// When a process is killed that waits, the others do not notice. One that is killed in `set` has set it or has not; if it
/// has, waiters return within 40 ms.
///
/// ```
/// use mp_sync::Event;
/// use std::{thread, time::Duration};
///
/// let ready = Event::new()?;
/// assert!(!ready.wait_timeout(Duration::from_millis(1)));
/// thread::scope(|scope| {
///     scope.spawn(|| ready.set());
///     ready.wait()
/// });
/// assert!(ready.is_set());
/// # Ok::<(), mp_sync::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    kind: Kind,
    word: Shared<Word>,
}

impl Event {
    /// A new event, not set.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if the system has no memory or descriptor left.
    pub fn new() -> Result<Event> {
        Ok(Event { kind: Kind::Event, word: Shared::new()? })
    }

    /// Whether it is set at this moment.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.word.is_set()
    }

    /// Sets it, if it is not, and wakes all who wait; never waits itself.
    ///
    /// What was done before is seen by those who return from [`wait`](Self::wait).
    #[inline]
    pub fn set(&self) {
        self.word.set();
    }

    /// Unsets it, if it is set.
    #[inline]
    pub fn clear(&self) {
        self.word.clear();
    }

    /// Waits until it is set; for ever if nobody does that.
    #[inline]
    pub fn wait(&self) {
        if !self.word.is_set() {
            self.word.wait(None);
        }
    }

    /// As [`wait`](Self::wait), without blocking the thread; it waits from when the future is first polled. Dropping that ends
    /// the wait.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if the thread that watches over async waits cannot be started.
    pub async fn wait_async(&self) -> Result<()> {
        let Some(mut seen) = self.word.announce() else { return Ok(()) };
        let began = seen & !WAITERS;
        loop {
            word_changed(self.word.clone(), |word| &word.0, seen).await?;
            match self.word.announce() {
                Some(now) if now & !WAITERS == began => seen = now,
                _ => return Ok(()),
            }
        }
    }

    /// Waits until it is set, for as long as `timeout`; whether it was. Zero means one look.
    #[inline]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.word.is_set() || !timeout.is_zero() && self.word.wait(Some(Deadline::after(timeout)))
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "<Event set>" } else { "<Event unset>" })
    }
}
