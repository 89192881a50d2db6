//! Values as bytes: compact MessagePack by rmp-serde, with fast lanes for numbers and no limits that lose
//! data.
//!
//! Nothing here is shared between processes; a process that dies leaves at most bytes that end too early, and
//! those are a decode error.
//!
//! # Design
//!
//! rmp-serde writes the scalars, and whatever it writes is read; the structure around them is ours, because
//! MessagePack as it stands
//! - has no `Some(None)` (both are nil): here the marker that MessagePack leaves unused, `0xc1`, stands
//!   before a nil that is wrapped once more;
//! - counts in 32 bits: longer strings, bytes and sequences get a 64-bit header;
//! - has structs as arrays, where no field can be left out, or as maps with names: here they are arrays, a
//!   value in which some `skip_serializing_if` strikes is encoded once more with names, and [`named`] asks
//!   for them;
//! - writes numbers one by one: here any slice of one number type, wherever it stands in a value, is one
//!   memory copy on each side. The lane names its element type, so that a receiver who wants another type
//!   gets correct values or an error, and it still is a sequence for whoever does not know lanes.
//!
//! Headers are extension types, so that ordinary MessagePack without them is read as well. Bytes that arrive
//! are never trusted: a length is checked against the bytes that are there before anything is allocated, and
//! nesting is limited to [`DEPTH`] levels and [`STACK`] bytes on both sides.

pub mod bulk;
mod decode;
mod encode;
mod lane;
pub mod named;
pub mod whole;
mod words;

use std::mem::ManuallyDrop;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use bulk::Bulk;

use crate::handle::Table;
use crate::message::Fds;
use crate::{Error, Result};

/// Deepest nesting of sequences, maps and enum values that is encoded and decoded.
///
/// Where a level needs much stack, as in unoptimised programs, less is possible: see [`STACK`].
pub const DEPTH: u16 = 512;

/// Bytes of stack that nested values may use up before they count as nested too deeply.
pub const STACK: usize = 1 << 20;

/// Where the stack stood when a value began.
#[derive(Clone, Copy)]
struct Stack(usize);

impl Stack {
    #[inline]
    fn here() -> Stack {
        let here = 0_u8;
        Stack(std::ptr::from_ref(&here).addr())
    }

    #[inline]
    fn is_used_up(self) -> bool {
        Stack::here().0.abs_diff(self.0) > STACK
    }
}

/// The marker before a nil that stands for `Some` of it.
const SOME: u8 = 0xc1;

/// Extension types: the elements of a lane are 1..=12, [`lane::Code`]; with this bit, the header has 64-bit
/// lengths.
const WIDE: u8 = 0x20;
const WIDE_STR: u8 = WIDE | 0x10;
const WIDE_BYTES: u8 = WIDE | 0x11;
const WIDE_SEQ: u8 = WIDE | 0x12;
const WIDE_MAP: u8 = WIDE | 0x13;
/// Before the body of a handle, with one of the two below.
const HANDLE: u8 = 0x40;
const PLAIN: u8 = 0;
/// The body is that of a shared block: the message owns a count of it.
const COUNTED: u8 = 1;

/// Appends `value` to `bytes`; on an error, `bytes` is as before. Handles inside are an error: see
/// [`crate::message`].
///
/// Errors: [`Error::Encode`] if the value refuses to be serialised or is nested more than [`DEPTH`] deep.
///
/// ```
/// use mp_core::codec::{decode_value, encode_value};
/// # fn main() -> mp_core::Result<()> {
/// let mut bytes = Vec::new();
/// encode_value(&vec![1.5_f64; 1000], &mut bytes)?;
/// assert!(bytes.len() < 8010);
/// assert_eq!(decode_value::<Vec<f64>>(&bytes)?, [1.5; 1000]);
/// # Ok(())
/// # }
/// ```
pub fn encode_value<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<()> {
    encode(value, bytes, None)
}

/// The value in `bytes`, all of them.
///
/// Errors: [`Error::Decode`] if they are not exactly one `T`. Never panics, whatever the bytes are.
pub fn decode_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    decode(bytes, None)
}

#[inline]
pub(crate) fn encode<T>(value: &T, bytes: &mut Vec<u8>, mut fds: Option<&mut Fds>) -> Result<()>
where
    T: Serialize + ?Sized,
{
    let length = bytes.len();
    let mark = fds.as_ref().map(|fds| fds.mark());
    let mut named = false;
    loop {
        let mut encoder = encode::Encoder::new(bytes, fds.as_deref_mut(), named);
        let Err(error) = value.serialize(&mut encoder) else { return Ok(()) };
        named = encoder.needs_names;
        bytes.truncate(length);
        if let (Some(fds), Some(mark)) = (&mut fds, mark) {
            fds.truncate(mark);
        }
        if !named {
            return Err(Error::Encode { type_name: std::any::type_name::<T>(), reason: error.to_string() });
        }
    }
}

#[inline(always)]
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], fds: Option<&mut Fds>) -> Result<T> {
    let mut decoder = decode::Decoder::new(bytes, fds.map(Table::new));
    match T::deserialize(&mut decoder).map(ManuallyDrop::new) {
        Ok(value) => {
            let value = words::take(value);
            match decoder.end() {
                Ok(()) => Ok(value),
                Err(error) => Err(refused::<T>(error)),
            }
        }
        Err(error) => Err(refused::<T>(error)),
    }
}

/// Gives back what the handles in `bytes` own; for bytes that nobody decodes.
pub(crate) fn discard(bytes: &[u8], fds: &mut Fds) {
    drop(decode::Decoder::new(bytes, Some(Table::new(fds))));
}

#[cold]
fn refused<T>(error: rmp_serde::decode::Error) -> Error {
    Error::Decode { type_name: std::any::type_name::<T>(), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
