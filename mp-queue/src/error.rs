//! What can go wrong with a queue: each variant says what was wrong, with which object, and where.

use std::process::id;

/// Result of the operations in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing was put or got.
///
/// Follows `queue.Empty`, `queue.Full` and the `ValueError` of Python's `multiprocessing`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No item came in time.
    #[error("the queue is empty (asked by process {pid})", pid = id())]
    Empty,
    /// No place became free in time.
    #[error("the queue is full (asked by process {pid})", pid = id())]
    Full,
    /// The queue is closed; for a getter: and drained.
    #[error("the queue is closed (asked by process {pid})", pid = id())]
    Closed,
    /// The item cannot be encoded; the queue is as before.
    #[error("cannot put the item: {0}")]
    Encode(#[source] mp_core::Error),
    /// An item arrived that is no such item; it is gone, the queue goes on.
    #[error("cannot get the item: {0}")]
    Decode(#[source] mp_core::Error),
    /// The handles inside an item went down with a process that was killed while it got the item; the item is gone.
    #[error("the handles of an item were lost with a process that was killed while it got it (seen by process {pid})", pid = id())]
    HandlesLost,
    /// The item holds more handles than can be on their way at once.
    #[error("process {pid} cannot put an item with {count} descriptors: so many cannot be on their way at once", pid = id())]
    TooManyHandles {
        /// How many.
        count: usize,
    },
    /// `task_done` was called more often than items were got.
    #[error("task_done was called more often than items were got, by process {pid}", pid = id())]
    TooManyDone,
    /// A process ended owing `task_done` for items that it had got.
    #[error("process {pid} ended owing task_done for {owed} items (seen by process {seen_by})", seen_by = id())]
    ConsumerDied {
        /// Its pid.
        pid: u32,
        /// For how many.
        owed: u64,
    },
    /// The time limit of `join` passed while items were unfinished.
    #[error("{unfinished} items were unfinished when the time limit passed in process {pid}", pid = id())]
    Timeout {
        /// How many.
        unfinished: u64,
    },
    /// An argument makes no sense.
    #[error("invalid {what} in process {pid}: {reason}", pid = id())]
    Invalid {
        /// The argument.
        what: &'static str,
        /// Why it is refused.
        reason: String,
    },
    /// Memory or descriptors do not suffice, or the shared memory is damaged.
    #[error(transparent)]
    Ground(#[from] mp_core::Error),
}

/// An error of a hot path: what succeeds is passed in registers.
pub(crate) type Boxed = Box<Error>;

impl From<mp_core::Error> for Boxed {
    #[cold]
    fn from(error: mp_core::Error) -> Boxed {
        Box::new(error.into())
    }
}
