//! The quarantine: a file for each item that failed, with its bytes and the reason. Written aside and renamed into place
//! before the journal says that the item is gone; a death in between leaves the item in both places, and the next failure
//! overwrites the file.

use crate::error::{Error, ItemId, Result};
use crate::host;
use crate::layout::Layout;
use crate::record;
use crate::state::{SegmentId, Span};
use crate::sys::{self, File};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"FSQbad\x01\n";
const HEADER: usize = 16;

/// An item in the quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Why it is there.
    pub reason: String,
    /// When it got there, in nanoseconds since 1970.
    pub time: u64,
    /// The process that put it there.
    pub pid: i32,
    /// Its writer.
    pub writer: u64,
    /// Its segment.
    pub segment: u32,
    /// Its number among all of the writer's.
    pub sequence: u64,
    /// Whether the bytes are those of an item; otherwise of a damaged piece of a segment, header and all.
    pub whole: bool,
    /// The encoded value, or the damaged bytes.
    #[serde(with = "bytes")]
    pub body: Vec<u8>,
}

impl Failed {
    /// Which item it is.
    pub fn id(&self) -> ItemId {
        ItemId { writer: self.writer, segment: self.segment, sequence: self.sequence }
    }

    /// The value, if it is one of this type.
    pub fn value<T: serde::de::DeserializeOwned>(&self) -> Result<T, rmp_serde::decode::Error> {
        rmp_serde::from_slice(&self.body)
    }
}

/// Reads what `keep` wrote.
pub(crate) fn decode(bytes: &[u8]) -> Option<Failed> {
    let (header, body) = bytes.split_at_checked(HEADER)?;
    let length = u32::from_le_bytes(header[12..16].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(header[8..12].try_into().ok()?);
    if header[..8] != MAGIC || length != body.len() || crc != record::checksum(0, body) {
        return None;
    }
    rmp_serde::from_slice(body).ok()
}

/// Puts an item there. Call it with the queue's lock, before the journal says so.
pub(crate) fn keep(
    layout: &Layout,
    (id, span): (SegmentId, Span),
    reason: &str,
    (body, whole): (&[u8], bool),
    (durable, mode): (bool, Option<u32>),
) -> Result<PathBuf> {
    let failed = Failed {
        reason: reason.to_owned(),
        time: host::wall_clock(),
        pid: host::pid(),
        writer: id.writer,
        segment: id.number,
        sequence: span.first,
        whole,
        body: body.to_owned(),
    };
    let path = layout.failed_item(id, span.first);
    let packed = rmp_serde::to_vec_named(&failed).map_err(|source| Error::Encode {
        path: path.clone(),
        type_name: "Failed",
        source,
    })?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&record::checksum(0, &packed).to_le_bytes());
    bytes.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&packed);
    store(layout, &path, &bytes, durable, mode)?;
    Ok(path)
}

/// Writes a file aside, then gives it its name.
pub(crate) fn store(
    layout: &Layout,
    path: &Path,
    bytes: &[u8],
    durable: bool,
    mode: Option<u32>,
) -> Result<()> {
    let aside = path.with_extension("new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = File::open(&aside, flags, mode.unwrap_or(0o666))?;
    if let Some(mode) = mode {
        file.chmod(mode)?;
    }
    file.write_at(bytes, 0).map_err(|(_, e)| e)?;
    if durable {
        file.sync()?;
    }
    sys::rename(&aside, path)?;
    if durable { sys::sync_dir(&layout.failed()) } else { Ok(()) }
}

/// Everything that failed, in the order of failing, with its file.
pub(crate) fn list(layout: &Layout) -> Result<Vec<(PathBuf, Failed)>> {
    let mut found = Vec::new();
    for name in sys::list(&layout.failed())? {
        let path = layout.failed().join(name);
        if path.extension().is_some_and(|e| e == "item")
            && let Some(bytes) = read(&path)?
            && let Some(failed) = decode(&bytes)
        {
            found.push((path, failed));
        }
    }
    found.sort_by_key(|(_, f)| (f.time, f.id()));
    Ok(found)
}

/// A whole file; none if it is gone.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = File::find(path, OFlags::RDONLY)? else { return Ok(None) };
    let mut bytes = vec![0; file.size()? as usize];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(Some(bytes))
}

/// Bytes as msgpack's `bin`.
mod bytes {
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&bytes), None);
            let mut framed = MAGIC.to_vec();
            framed.extend_from_slice(&record::checksum(0, &bytes).to_le_bytes());
            framed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            framed.extend_from_slice(&bytes);
            decode(&framed);
        }
    }
}
