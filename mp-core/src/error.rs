//! The one error type of the ground: each variant says what was wrong, with which object, and where.
//!
//! Failures of starting and running processes build on it in `mp-context`, those of tasks in `mp-pool`.

use std::io;

/// Result of the operations in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with values, functions, connections and shared memory.
///
/// Follows the exceptions of Python's `multiprocessing`: `BufferTooShort`, `AuthenticationError`,
/// `EOFError`, `OSError`, `ValueError`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{what} failed in process {pid}: {source}", pid = std::process::id())]
    Io {
        /// What was tried, on which object.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A value could not be encoded; nothing was sent.
    #[error("cannot encode a value of type {type_name} in process {pid}: {reason}", pid = std::process::id())]
    Encode {
        /// Rust name of the value's type.
        type_name: &'static str,
        /// Why.
        reason: String,
    },
    /// Bytes that arrived are not a value of the wanted type.
    #[error("cannot decode a value of type {type_name} in process {pid}: {reason}", pid = std::process::id())]
    Decode {
        /// Rust name of the wanted type.
        type_name: &'static str,
        /// Why.
        reason: String,
    },
    /// A function that arrived cannot be called here.
    #[error("cannot call {function} in process {pid}: {reason}", pid = std::process::id())]
    Function {
        /// Rust path of the function.
        function: String,
        /// Why.
        reason: String,
    },
    /// The handle was closed in this process.
    #[error("{what} is closed in process {pid}", pid = std::process::id())]
    Closed {
        /// The object.
        what: &'static str,
    },
    /// The peer closed its end, or died, between two messages.
    #[error("the peer of this {what} is gone (seen by process {pid})", pid = std::process::id())]
    EndOfFile {
        /// The object.
        what: &'static str,
    },
    /// The peer closed its end, or died, inside a message.
    #[error(
        "the peer of this {what} is gone in the middle of a message: {got} of {expected} bytes came (seen by process {pid})",
        pid = std::process::id()
    )]
    Truncated {
        /// The object.
        what: &'static str,
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// Sending on a receive-only end, or receiving on a send-only end.
    #[error("cannot {operation} on a {direction} connection in process {pid}", pid = std::process::id())]
    Direction {
        /// `"send"`, `"receive"` or `"poll"`.
        operation: &'static str,
        /// `"receive-only"` or `"send-only"`.
        direction: &'static str,
    },
    /// The message does not fit into the buffer; it is handed over here whole.
    #[error("a message of {} bytes does not fit into a buffer of {room} bytes in process {pid}", message.len(), pid = std::process::id())]
    BufferTooShort {
        /// The whole message.
        message: Vec<u8>,
        /// Bytes that the buffer could hold.
        room: usize,
    },
    /// A message is longer than the limit that was given.
    #[error("{what} of {length} bytes is longer than the limit of {limit} bytes (process {pid})", pid = std::process::id())]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its length.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// An argument makes no sense.
    #[error("invalid {what} in process {pid}: {reason}", pid = std::process::id())]
    Invalid {
        /// The argument.
        what: &'static str,
        /// Why it is refused.
        reason: String,
    },
    /// The peer did not prove that it may talk to this process, or this process could not prove itself to it.
    #[error("authentication with {peer} failed in process {pid}: {reason}", pid = std::process::id())]
    Authentication {
        /// The peer, as far as it is known.
        peer: String,
        /// Why.
        reason: String,
    },
    /// The time limit passed first.
    #[error("{what} did not finish in time in process {pid}", pid = std::process::id())]
    Timeout {
        /// The operation.
        what: &'static str,
    },
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Error {
        match never {}
    }
}

impl Error {
    /// An [`Error::Io`] for `what`.
    pub fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::Io { what: what.into(), source: source.into() }
    }
}
