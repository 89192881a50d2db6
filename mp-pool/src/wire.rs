//! What goes over the link between a pool and a worker.
//!
//! A task is one item, or a chunk of items each with its length before it. A result is likewise one value or a chunk
//! of values, or one [`Failure`]. Bodies too large for the link are files in memory, passed through the socket beside
//! the link, like all descriptors. A task with descriptors is alone in its link and is not taken back: what lies in the
//! socket is always of the task that is next, so sending never blocks and nothing is held open by messages that nobody
//! reads. Each message is headed by the id of its task, to be sure.

use mp_context::PanicReport;
use serde::{Deserialize, Serialize};

/// Marks of tasks.
pub(crate) mod task {
    /// The body is a function: the worker keeps it, under the number in `function`.
    pub const DEFINE: u32 = 1;
    /// The worker ends.
    pub const STOP: u32 = 2;
    /// The body is in the file that is the last descriptor.
    pub const FILE: u32 = 4;
    /// The body is a chunk of items.
    pub const CHUNK: u32 = 8;
}

/// Status of results.
pub(crate) mod status {
    /// The body is what the function returned.
    pub const VALUE: u32 = 0;
    /// The body is a [`Failure`](super::Failure).
    pub const FAILED: u32 = 1;
}

/// Mark of results: the body is in the file that is the last descriptor.
pub(crate) const RESULT_FILE: u32 = 1;

/// Longer bodies go in files.
pub(crate) const LONGEST_BODY: usize = 4 << 20;

/// Functions that a worker keeps at a time, by number modulo this.
pub(crate) const FUNCTIONS: usize = 16;

/// Why a task has no result.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Position in the chunk.
    pub item: u32,
    pub cause: Cause,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Cause {
    Panicked(PanicReport),
    Argument(String),
    Result(String),
}

/// Appends `part`, with its length before it.
pub(crate) fn push_part(
    bytes: &mut Vec<u8>,
    part: impl FnOnce(&mut Vec<u8>) -> mp_core::Result<()>,
) -> mp_core::Result<()> {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 8]);
    part(bytes)?;
    let len = (bytes.len() - start - 8) as u64;
    bytes[start..start + 8].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

/// Takes the first part off; `None` at the end, or when it is cut off.
pub(crate) fn next_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, tail) = rest.split_first_chunk::<8>()?;
    let (part, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    *rest = tail;
    Some(part)
}
