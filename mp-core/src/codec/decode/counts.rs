//! The counts that a message owns: found in its bytes alone, whatever type was wanted and however far decoding came.
//!
//! While a value is decoded, each counted handle is noted as it is met. If decoding ends before the bytes do, by an error or a
//! panic, what is left is walked over: MessagePack is a row of headers and contents, so no type, no nesting and no stack is
//! needed. All that was noted is given back at the end, once for each place in the bytes; handles that were made have taken
//! counts of their own.
//!
//! Bytes that nobody encoded cost one look at each at most; the walk ends at the first that is no value.

use serde::Deserialize;

use super::{Decoder, Error, Extension};
use crate::codec::SOME;

impl Decoder<'_, '_> {
    /// The body of a counted handle is next.
    #[cold]
    pub(super) fn note_count(&mut self) {
        if let Some(block) = self.block()
            && let Some(table) = &mut self.table
        {
            table.owes(block);
        }
    }

    /// What a shared block encodes: a descriptor and an index. It stays where it is.
    fn block(&self) -> Option<(u32, u32)> {
        Deserialize::deserialize(&mut Decoder::new(self.input, None)).ok()
    }

    /// Notes the counts in what was not decoded.
    #[cold]
    #[inline(never)]
    fn note_rest(&mut self) {
        if self.table.as_ref().is_some_and(|table| table.is_delivered()) {
            while !self.input.is_empty() && self.pass().is_ok() {}
        }
    }

    /// Passes one header, and the contents that are no values of their own.
    fn pass(&mut self) -> Result<(), Error> {
        let marker = self.marker()?;
        let length = match marker {
            // Small numbers, headers of short sequences and maps, nil, booleans.
            0x00..=0x9f | 0xe0..=0xff | 0xc0 | SOME | 0xc2 | 0xc3 => 0,
            0xa0..=0xbf => (marker & 0x1f).into(),
            0xcc | 0xd0 => 1,
            // Numbers, and lengths of sequences and maps.
            0xcd | 0xd1 | 0xdc | 0xde => 2,
            0xca | 0xce | 0xd2 | 0xdd | 0xdf => 4,
            0xcb | 0xcf | 0xd3 => 8,
            0xd9 | 0xc4 => self.length::<1>()?,
            0xda | 0xc5 => self.length::<2>()?,
            0xdb | 0xc6 => self.length::<4>()?,
            _ => {
                if let Extension::Counted = self.extension(marker)? {
                    self.note_count();
                }
                0
            }
        };
        self.split(length).map(drop)
    }
}

impl Drop for Decoder<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        if !self.input.is_empty() {
            self.note_rest();
        }
    }
}
