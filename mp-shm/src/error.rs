//! The errors of shared memory: each says what was wrong, with which object, in which process.

use std::io;

/// Result of the operations in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with shared values, arrays, lists and named blocks.
///
/// Follows what Python's `multiprocessing.shared_memory` and `sharedctypes` raise: `FileExistsError`, `FileNotFoundError`,
/// `ValueError`, `IndexError`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is taken.
    #[error("shared memory {name:?} already exists (seen by process {pid})", pid = std::process::id())]
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// Nothing has this name: it never existed, was unlinked, or its owner is dead.
    #[error("shared memory {name:?} is not found (by process {pid})", pid = std::process::id())]
    NotFound {
        /// The name.
        name: String,
    },
    /// There is not enough room in `/dev/shm` or in memory; nothing was created.
    #[error("there is no room for {size} bytes of shared memory {name:?} (process {pid})", pid = std::process::id())]
    NoSpace {
        /// The name.
        name: String,
        /// The bytes that were asked for.
        size: usize,
    },
    /// An argument makes no sense.
    #[error("invalid {what} in process {pid}: {reason}", pid = std::process::id())]
    Invalid {
        /// The argument.
        what: &'static str,
        /// Why it is refused.
        reason: String,
    },
    /// An element or byte outside of the object was asked for.
    #[error("{what} of length {length} has no index {index} (process {pid})", pid = std::process::id())]
    OutOfBounds {
        /// The kind of object.
        what: &'static str,
        /// The first index that is not there.
        index: usize,
        /// The length of the object, in elements or bytes.
        length: usize,
    },
    /// A text or bytes do not fit into their slot; the old value is still there.
    #[error("{needed} bytes do not fit into the {capacity} of item {index} of {name:?} (process {pid})", pid = std::process::id())]
    TooLong {
        /// The name of the list.
        name: String,
        /// Which item.
        index: usize,
        /// Bytes of the value.
        needed: usize,
        /// Bytes that the slot can hold.
        capacity: usize,
    },
    /// What lies in the memory is not what it should be: another program wrote there, or it never was one.
    #[error("{name:?} is not a sound {what} (seen by process {pid}): {reason}", pid = std::process::id())]
    Damaged {
        /// What it should be.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Another process was about to change the object, and did not finish in time; it may have been stopped.
    #[error("process {holder} did not finish changing {what} of {name:?} in time (process {pid})", pid = std::process::id())]
    Busy {
        /// What is being changed.
        what: String,
        /// The object.
        name: String,
        /// The other process.
        holder: u32,
    },
    /// A system call failed.
    #[error("{what} failed in process {pid}: {source}", pid = std::process::id())]
    Io {
        /// What was tried, on which object.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The lock of a value or array could not be had.
    #[error(transparent)]
    Lock(#[from] mp_sync::Error),
    /// Something below went wrong.
    #[error(transparent)]
    Core(#[from] mp_core::Error),
}

impl Error {
    /// An [`Error::Io`] for `what`.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Io { what: what.into(), source: source.into() }
    }
}
