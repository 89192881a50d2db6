//! The header of a segment file, and how its end is found.
//!
//! A segment is written by one process, which holds its lock as long as it lives. It ends where its last whole record ends.

use crate::error::{Error, Result};
use crate::record::{self, Parsed};
use crate::state::SegmentId;
use crate::sys::File;
use std::path::Path;

/// Bytes before the first record.
pub const START: u64 = 64;
const MAGIC: [u8; 8] = *b"FSQseg\x01\n";

/// What a segment begins with.
pub(crate) fn header(id: SegmentId, first: u64, boot: u128) -> [u8; START as usize] {
    let mut bytes = [0; START as usize];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&id.writer.to_le_bytes());
    bytes[16..20].copy_from_slice(&id.number.to_le_bytes());
    bytes[24..32].copy_from_slice(&first.to_le_bytes());
    bytes[32..48].copy_from_slice(&boot.to_le_bytes());
    let crc = record::checksum(0, &bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a header: the first item's sequence and the boot of the writer's host.
pub(crate) fn read_header(bytes: &[u8], id: SegmentId) -> Option<(u64, u128)> {
    let bytes: &[u8; START as usize] = bytes.try_into().ok()?;
    let first = u64::from_le_bytes(bytes[24..32].try_into().ok()?);
    let boot = u128::from_le_bytes(bytes[32..48].try_into().ok()?);
    (*bytes == header(id, first, boot)).then_some((first, boot))
}

/// The end of the last whole record at or behind `from`, and the sequence after it; `from` must be where a record starts.
///
/// Reads two small pieces where the file ends with a whole record, and all headers from `from` on otherwise.
pub(crate) fn find_end(file: &File, id: SegmentId, from: (u64, u64)) -> Result<(u64, u64)> {
    let (mut sequence, mut offset) = from;
    let size = file.size()?;
    if size <= offset {
        return Ok(from);
    }
    let seed = record::seed(id.writer, id.number);
    let mut end = [0; record::FOOTER];
    let mut head = [0; record::HEADER];
    file.read_at(&mut end, size - record::FOOTER as u64)?;
    if let Some(at) =
        record::last_total(&end).and_then(|t| size.checked_sub(t as u64)).filter(|at| *at >= offset)
    {
        file.read_at(&mut head, at)?;
        if let Parsed::Whole(h) = record::parse_head(&head, seed)
            && at + h.total as u64 == size
        {
            return Ok((h.sequence.saturating_add(1), size));
        }
    }
    loop {
        let got = file.read_at(&mut head, offset)?;
        match record::parse_head(&head[..got], seed) {
            Parsed::Whole(h) if offset + h.total as u64 <= size => {
                (sequence, offset) = (h.sequence.saturating_add(1), offset + h.total as u64);
            }
            _ => return Ok((sequence, offset)),
        }
    }
}

/// Whether something that lies in a directory of the queue is ours to judge.
pub(crate) fn id_of(path: &Path) -> Option<SegmentId> {
    SegmentId::from_name(path.file_name()?.to_str()?)
}

/// Says that a value does not fit.
pub(crate) fn too_large(path: &Path, bytes: usize) -> Error {
    Error::TooLarge { path: path.to_owned(), bytes, limit: record::MAX_BODY }
}
