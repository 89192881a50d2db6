//! What goes over the link between a pool and a worker.
//!
//! A task is one item, or a chunk of items each with its length before it. A result is likewise one value or a chunk
//! of values, or one [`Failure`]; of a chunk that failed at an item, the values before it and then the failure. Bodies too large for the link are files in memory, passed through the socket beside
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
    /// The body is the [`Failure`](super::Failure) of the whole task.
    pub const FAILED: u32 = 1;
    /// The body is a chunk of values and, as its last part, the [`Failure`](super::Failure) of the item after them.
    pub const CUT_SHORT: u32 = 2;
}

/// Mark of results: the body is in the file that is the last descriptor.
pub(crate) const RESULT_FILE: u32 = 1;

/// Longer bodies go in files.
pub(crate) const LONGEST_BODY: usize = 4 << 20;

/// Functions that a worker keeps at a time, by number modulo this.
pub(crate) const FUNCTIONS: usize = 16;

/// Why there is no result.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
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

/// Takes the last part off: the parts before it, how many they are, and it; `None` if there is none, or if one is cut off.
pub(crate) fn split_last_part(bytes: &[u8]) -> Option<(&[u8], usize, &[u8])> {
    let (mut rest, mut count) = (bytes, 0);
    loop {
        let before = &bytes[..bytes.len() - rest.len()];
        let part = next_part(&mut rest)?;
        if rest.is_empty() {
            return Some((before, count, part));
        }
        count += 1;
    }
}

/// Takes the first part off; `None` at the end, or when it is cut off.
pub(crate) fn next_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, tail) = rest.split_first_chunk::<8>()?;
    let (part, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    *rest = tail;
    Some(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            push_part(&mut bytes, |bytes| {
                bytes.extend_from_slice(part);
                Ok(())
            })
            .unwrap();
        }
        bytes
    }

    #[test]
    fn lengths_that_cannot_be_are_the_end() {
        for length in [1, 9, u64::MAX, u64::MAX - 7, 1 << 63] {
            let bytes = length.to_le_bytes();
            assert_eq!(next_part(&mut &bytes[..]), None, "{length}");
            assert_eq!(split_last_part(&bytes), None, "{length}");
        }
        assert_eq!(split_last_part(&[]), None);
        assert_eq!(split_last_part(&[0; 8]), Some((&[][..], 0, &[][..])));
    }

    proptest! {
        #[test]
        fn parts_come_back(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..9)) {
            let bytes = join(&parts);
            let mut rest = &bytes[..];
            for part in &parts {
                prop_assert_eq!(next_part(&mut rest), Some(&part[..]));
            }
            prop_assert_eq!(next_part(&mut rest), None);
            match (parts.split_last(), split_last_part(&bytes)) {
                (None, None) => {}
                (Some((last, before)), Some((bytes, count, part))) => {
                    prop_assert_eq!((bytes, count, part), (&join(before)[..], before.len(), &last[..]));
                }
                other => prop_assert!(false, "{:?}", other),
            }
            // Cut off anywhere, the last is no part.
            if let Some((last, before)) = parts.split_last() {
                for len in bytes.len() - last.len() - 8..bytes.len() {
                    prop_assert_eq!(split_last_part(&bytes[..len]).is_some(), len == join(before).len() && len > 0);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(prop_oneof![Just(0u8), 0u8..20, any::<u8>()], 0..200)) {
            let mut rest = &bytes[..];
            let mut total = 0;
            while let Some(part) = next_part(&mut rest) {
                total += 8 + part.len();
            }
            prop_assert_eq!(total + rest.len(), bytes.len());
            if let Some((before, _, part)) = split_last_part(&bytes) {
                prop_assert_eq!(before.len() + 8 + part.len(), bytes.len());
            }
            let _ = mp_core::codec::decode_value::<Failure>(&bytes);
        }
    }
}
