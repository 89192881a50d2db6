//! The barrier: a number of parties wait for each other, again and again.
//!
//! When a party dies while it waits, or while it runs the action, the barrier breaks for the others within 100 ms.

mod action;
mod asynchronous;
mod table;
mod word;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;
use std::time::Duration;

use mp_core::deadline::Deadline;
use mp_core::region::Region;
#[cfg(not(loom))]
use mp_core::spin::Spin;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use action::ActionResult;

use crate::error::{BrokenReason, Error, Result};
use crate::patience::Patience;
use action::Action;
use table::{Arrival, Head, MOST_PARTIES, Party, Slot, Table};

const WHAT: &str = "barrier";

/// Begins the message: no handle to anything else is taken for one.
#[derive(Serialize, Deserialize)]
enum Kind {
    Barrier,
}

/// A point where a fixed number of parties, processes or threads, wait until all of them are there; a clone is another
/// handle to the same one.
///
/// It can sit inside any message, and is used as often as one likes. More processes than it has parties may come: as many
/// as it has parties pass at a time. A party that is slow to leave, even one that is stopped, gets the answer of its own
/// round and holds up nobody.
///
/// A barrier that breaks sends all parties away with [`Error::BrokenBarrier`], and everybody who comes later, until
/// [`reset`](Self::reset). It breaks when
/// - the process of a party dies while it waits or runs the action: the others are told within 100 ms;
/// - the time limit of a party passes;
/// - the action fails or panics;
/// - somebody calls [`abort`](Self::abort).
///
/// A process that is killed before it waits, or after it passed, breaks nothing; the others then wait until their time limit.
/// One that died within the last 100 ms may still count as having arrived.
///
/// Follows Python's `multiprocessing.Barrier`, but does not take 0 parties.
///
/// ```
/// use mp_sync::Barrier;
///
/// let barrier = Barrier::new(3)?;
/// let mut indices: Vec<u32> = std::thread::scope(|scope| {
///     let parties: Vec<_> = (0..3).map(|_| scope.spawn(|| barrier.wait())).collect();
///     parties.into_iter().map(|party| party.join().unwrap()).collect::<Result<_, _>>()
/// })?;
/// indices.sort();
/// assert_eq!(indices, [0, 1, 2]);
/// # Ok::<(), mp_sync::Error>(())
/// ```
pub struct Barrier {
    memory: Region,
    parties: u32,
    timeout: Option<Duration>,
    action: Option<Action>,
    /// Learns for this handle whether the others are soon there.
    #[cfg(not(loom))]
    spin: Spin,
}

impl Barrier {
    /// A new barrier for `parties`, without time limit and action. It takes 32 bytes of shared memory a party.
    ///
    /// # Errors
    /// [`Error::Invalid`] for 0 parties and for more than 4,194,304, [`Error::Memory`] if the system has no memory or
    /// descriptor left.
    pub fn new(parties: u32) -> Result<Barrier> {
        if !(1..=MOST_PARTIES).contains(&parties) {
            let reason = format!("{parties}; a barrier is for 1 to {MOST_PARTIES}");
            return Err(Error::Invalid { what: "number of parties", reason });
        }
        let memory = Region::new("barrier", Barrier::length(parties))?;
        Ok(Barrier::from_parts(memory, parties, None, None))
    }

    fn from_parts(
        memory: Region,
        parties: u32,
        timeout: Option<Duration>,
        action: Option<Action>,
    ) -> Barrier {
        Barrier {
            memory,
            parties,
            timeout,
            action,
            #[cfg(not(loom))]
            spin: Spin::new(),
        }
    }

    fn length(parties: u32) -> usize {
        size_of::<Head>() + Table::slots_for(parties) * size_of::<Slot>()
    }

    /// The time limit of [`wait`](Self::wait) for this handle, and for those made from it.
    pub fn with_timeout(mut self, timeout: Duration) -> Barrier {
        self.timeout = Some(timeout);
        self
    }

    /// What the last party to arrive does, in its process, before anybody passes; for this handle, and for those made from
    /// it: call this before the barrier is shared.
    ///
    /// The action is a function or a closure that captures nothing. It returns nothing, or a `Result<(), E>`. If it fails or
    /// panics, its party gets that error or panic, and the barrier breaks.
    ///
    /// ```
    /// use mp_sync::{Barrier, Error};
    ///
    /// let barrier = Barrier::new(1)?.with_action(|| Err("no paper"));
    /// assert!(matches!(barrier.wait(), Err(Error::Action { .. })));
    /// assert!(barrier.broken());
    /// # Ok::<(), mp_sync::Error>(())
    /// ```
    pub fn with_action<R: ActionResult>(mut self, action: impl Fn() -> R) -> Barrier {
        self.action = Some(Action::new(action));
        self
    }

    /// Waits until all parties are there; the number of those who came before this one.
    ///
    /// # Errors
    /// [`Error::BrokenBarrier`] if it is or gets broken, or is reset meanwhile; also when the time limit of the barrier
    /// passes, which breaks it. [`Error::Action`] if this party ran the action and that failed. [`Error::Timeout`] if no
    /// round was open to this party in time; others came in its place, and the barrier is whole.
    pub fn wait(&self) -> Result<u32> {
        self.wait_until(self.timeout.map(Deadline::after))
    }

    /// As [`wait`](Self::wait), with this time limit; zero breaks the barrier unless this is the last party.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<u32> {
        self.wait_until(Some(Deadline::after(timeout)))
    }

    /// As [`wait`](Self::wait), without blocking the thread; it arrives when the future is first polled. The time limit of the
    /// barrier is noticed up to 50 ms late; an action that it runs does block.
    ///
    /// A future that is dropped after it arrived breaks the barrier, as if its time limit had passed, unless all were there
    /// already: the others would wait for one who does not come. Dropped before, it has done nothing.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait); [`Error::Memory`] if the thread that watches over async waits cannot be started, which
    /// breaks the barrier.
    pub async fn wait_async(&self) -> Result<u32> {
        asynchronous::wait(self, self.timeout.map(Deadline::after)).await
    }

    fn wait_until(&self, deadline: Option<Deadline>) -> Result<u32> {
        let table = self.table();
        if table.waiting() > 0 {
            table.look_around();
        }
        let mut patience = Patience::new(deadline);
        match table.arrive(self.action.is_some(), &mut patience) {
            Arrival::Passed(index) => Ok(index),
            Arrival::Waiting(party) => {
                #[cfg(not(loom))]
                self.spin.until(|| party.outcome().is_some());
                party.wait(patience).map_err(|reason| self.broke(reason))
            }
            Arrival::Acting(party) => self.act(party),
            Arrival::Full(_) => Err(Error::Timeout { what: WHAT }),
            Arrival::Broken(reason) => Err(self.broke(reason)),
        }
    }

    fn act(&self, mut party: Party<'_>) -> Result<u32> {
        party.if_dropped = BrokenReason::ActionFailed;
        // An error and a panic drop the party.
        self.action.as_ref().map_or(Ok(()), Action::run)?;
        party.pass().map_err(|reason| self.broke(reason))
    }

    fn broke(&self, reason: BrokenReason) -> Error {
        Error::BrokenBarrier { parties: self.parties, reason }
    }

    /// Breaks the barrier until it is [`reset`](Self::reset), whether or not anybody waits. Never waits.
    pub fn abort(&self) {
        self.table().abort();
    }

    /// Makes the barrier whole and empty. Parties that wait are sent away with [`BrokenReason::Reset`]. Never waits.
    ///
    /// An action that is running runs on for nobody: its party is sent away afterwards.
    pub fn reset(&self) {
        self.table().reset();
    }

    /// How many parties wait at this moment; 0 while the action runs.
    pub fn n_waiting(&self) -> u32 {
        self.table().waiting()
    }

    /// Whether it is broken.
    pub fn broken(&self) -> bool {
        self.table().broken().is_some()
    }

    /// How many parties it is for.
    pub fn parties(&self) -> u32 {
        self.parties
    }

    fn table(&self) -> Table<'_> {
        let start = self.memory.as_ptr();
        // SAFETY: the region has `length(parties)` bytes (`new` asked for them, `deserialize` checked), is aligned to
        // 64, and lives as long as `self`. Any bytes are a `Head`, and others may write to it at any time.
        let head = unsafe { start.cast::<Head>().as_ref() };
        // SAFETY: as above; the slots are behind the head, whose size is a multiple of their alignment.
        let slots = unsafe {
            std::slice::from_raw_parts(
                start.add(size_of::<Head>()).cast::<Slot>().as_ptr(),
                Table::slots_for(self.parties),
            )
        };
        Table { head, slots, parties: self.parties }
    }
}

/// Another handle to the same barrier, with the same time limit and action.
impl Clone for Barrier {
    fn clone(&self) -> Barrier {
        Barrier::from_parts(self.memory.clone(), self.parties, self.timeout, self.action.clone())
    }
}

/// Whether both are the same barrier.
impl PartialEq for Barrier {
    fn eq(&self, other: &Barrier) -> bool {
        self.memory == other.memory
    }
}

impl Eq for Barrier {}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table().broken() {
            Some(_) => write!(f, "<Barrier(broken)>"),
            None => write!(f, "<Barrier(waiters={}/{})>", self.n_waiting(), self.parties),
        }
    }
}

impl Serialize for Barrier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Kind::Barrier, &self.memory, self.parties, self.timeout, &self.action).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Barrier, D::Error> {
        let (_, memory, parties, timeout, action) = <(Kind, Region, u32, _, _)>::deserialize(deserializer)?;
        if !(1..=MOST_PARTIES).contains(&parties) || memory.len() < Barrier::length(parties) {
            let reason = format!("{} bytes are no barrier of {parties} parties", memory.len());
            return Err(serde::de::Error::custom(reason));
        }
        Ok(Barrier::from_parts(memory, parties, timeout, action))
    }
}
