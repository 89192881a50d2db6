//! What can go wrong with locks and their kin: each variant says what was wrong, with which object, and where.

use std::process::id;

/// Result of the operations in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Misuse, time limits and lack of memory.
///
/// Follows the `ValueError`, `AssertionError` and `BrokenBarrierError` of Python's `multiprocessing`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be had at once.
    #[error("{what} is not to be had at once (asked by process {pid})", pid = id())]
    WouldBlock {
        /// The object.
        what: &'static str,
    },
    /// The time limit passed first.
    #[error("the time limit passed while process {pid} waited for {what}", pid = id())]
    Timeout {
        /// The object.
        what: &'static str,
    },
    /// Released, waited or notified by one who does not hold it.
    #[error("{what} is not held by the caller in process {pid}: {holder}", pid = id())]
    NotHeld {
        /// The object.
        what: &'static str,
        /// Who holds it instead.
        holder: String,
    },
    /// A guard holds it, so only the guard may release it.
    #[error("{what} is held by a guard in process {holder}; process {pid} cannot release it", pid = id())]
    Guarded {
        /// The object.
        what: &'static str,
        /// The pid of the process with the guard.
        holder: u32,
    },
    /// Released more often than it may.
    #[error("{what} was released too often, by process {pid}: its value may not exceed {limit}", pid = id())]
    OverRelease {
        /// The object.
        what: &'static str,
        /// The highest value.
        limit: u32,
    },
    /// The barrier is broken; see the reason.
    #[error("a barrier of {parties} parties is broken, says process {pid}: {reason}", pid = id())]
    BrokenBarrier {
        /// How many parties it is for.
        parties: u32,
        /// Why.
        reason: BrokenReason,
    },
    /// The action of a barrier failed in this party, which ran it.
    #[error("the action of a barrier failed in process {pid}: {reason}", pid = id())]
    Action {
        /// What it said.
        reason: String,
    },
    /// An argument makes no sense.
    #[error("invalid {what} in process {pid}: {reason}", pid = id())]
    Invalid {
        /// The argument.
        what: &'static str,
        /// Why it is refused.
        reason: String,
    },
    /// Shared memory could not be had.
    #[error(transparent)]
    Memory(#[from] mp_core::Error),
}

/// Why a barrier broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenReason {
    /// Somebody called `abort`.
    #[error("it was aborted")]
    Aborted,
    /// Somebody called `reset` while others waited.
    #[error("it was reset while parties waited")]
    Reset,
    /// A party did not wait any longer.
    #[error("a party's time limit passed")]
    TimedOut,
    /// The action failed.
    #[error("its action failed")]
    ActionFailed,
    /// The process of a party died while it waited.
    #[error("process {pid}, a party, died")]
    PartyDied {
        /// Its pid.
        pid: u32,
    },
}
