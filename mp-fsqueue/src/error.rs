//! Everything that can go wrong, with the object, the path and the process it went wrong in. No error loses an item: what
//! could not be read is kept in `failed/`, and the error says where.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of a queue operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which item: the writer that put it, the writer's segment file, and the item's number in the order of that writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId {
    /// The writer, a random number drawn when it put its first item.
    pub writer: u64,
    /// Which of the writer's segment files, from 0.
    pub segment: u32,
    /// The item's number among all of the writer's, from 0.
    pub sequence: u64,
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}-{}", self.writer, self.segment, self.sequence)
    }
}

/// Why a queue operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No item is waiting (Python: `queue.Empty`).
    #[error("queue {path} is empty", path = .path.display())]
    Empty {
        /// The queue's directory.
        path: PathBuf,
    },
    /// The bound on items or bytes is reached (Python: `queue.Full`); nothing was put.
    #[error("queue {path} is full: {items} items, {bytes} bytes wait", path = .path.display())]
    Full {
        /// The queue's directory.
        path: PathBuf,
        /// Items that wait.
        items: u64,
        /// Bytes that they take.
        bytes: u64,
    },
    /// The queue's lock was not to be had in time: somebody held it all the while, who may be stopped. Nothing was done.
    #[error("process {pid}: the lock of queue {path} was held until time was up, perhaps by a process that is stopped",
        pid = std::process::id(), path = .path.display())]
    Busy {
        /// The queue's directory.
        path: PathBuf,
    },
    /// The system refused: a full disk, missing permission, a read-only file system.
    #[error("process {pid}: cannot {doing} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// In which process.
        pid: u32,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The directory or one of its files is not what a queue consists of.
    #[error("process {pid}: {path} is not a queue: {why}", pid = std::process::id(), path = .path.display())]
    NotAQueue {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A value cannot be encoded; nothing was put.
    #[error("process {pid}: cannot encode a {type_name} for queue {path}: {source}", pid = std::process::id(), path = .path.display())]
    Encode {
        /// The queue's directory.
        path: PathBuf,
        /// The Rust type of the value.
        type_name: &'static str,
        /// The reason.
        source: rmp_serde::encode::Error,
    },
    /// An item is larger than an item can be; nothing was put.
    #[error("an item of {bytes} bytes is too large for queue {path}: at most {limit}", path = .path.display())]
    TooLarge {
        /// The queue's directory.
        path: PathBuf,
        /// The encoded size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// An item is whole but no value of the wanted type. It has been moved to `failed/`.
    #[error("process {pid}: item {item} is no {type_name}: {source}; kept in {kept}", pid = std::process::id(),
        kept = .kept.display())]
    Decode {
        /// The item.
        item: ItemId,
        /// The wanted type.
        type_name: &'static str,
        /// Where its bytes are now.
        kept: PathBuf,
        /// The reason.
        source: rmp_serde::decode::Error,
    },
    /// Bytes of a segment are damaged. They have been copied to `failed/`; the items around them are not affected.
    #[error("process {pid}: {path} is damaged from byte {offset}: {why}; kept in {kept}", pid = std::process::id(),
        kept = .kept.display(), path = .path.display())]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong.
        why: &'static str,
        /// Where the bytes are now.
        kept: PathBuf,
    },
    /// A claim is not ours any more: it was given back because this process was taken for dead, or settled already.
    #[error("process {pid}: item {item} is not claimed by this handle any more", pid = std::process::id())]
    ClaimLost {
        /// The item.
        item: ItemId,
    },
    /// `put_many` put only the first items; the rest was not put.
    #[error("only {put} of the items were put: {source}")]
    Partial {
        /// How many were put.
        put: usize,
        /// What stopped it.
        source: Box<Error>,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Error {
        Error::Io { doing, path: path.to_owned(), pid: std::process::id(), source: source.into() }
    }

    /// Whether no item is waiting.
    pub fn is_empty(&self) -> bool {
        matches!(self, Error::Empty { .. })
    }

    /// Whether a bound is reached.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Full { .. })
    }

    /// Whether a timed call never got the queue's lock.
    pub fn is_busy(&self) -> bool {
        matches!(self, Error::Busy { .. })
    }

    /// The system's answer, if the system refused.
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        match self {
            Error::Io { source, .. } => Some(source.kind()),
            Error::Partial { source, .. } => source.io_kind(),
            _ => None,
        }
    }
}
