//! The counts that a message owns: found in its bytes alone, whatever type was wanted and however far decoding came.
//!
//! While a value is decoded, each counted handle is noted as its header is read. If decoding ends before the bytes do, by an
//! error or a panic, what is left is walked over: MessagePack is a row of headers and contents, so no type, no nesting and no
//! stack is needed. All that was noted is given back at the end, once for each place in the bytes; handles that were made
//! have taken counts of their own.
//!
//! Bytes that nobody encoded cost one look at each at most; the walk ends at the first that is no value.

use super::{Decoder, Error};
use crate::codec::SOME;

impl Decoder<'_, '_> {
    /// The header of a counted handle was read.
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
        let rest = self.input.strip_prefix(&[0x92])?;
        let (fd, rest) = number(rest)?;
        Some((fd, number(rest)?.0))
    }

    /// Notes the counts in what was not decoded, and gives all back.
    #[cold]
    #[inline(never)]
    fn settle(&mut self) {
        if self.table.as_ref().is_some_and(|table| table.is_delivered()) {
            while !self.input.is_empty() && self.pass().is_ok() {}
        }
        if let Some(table) = &mut self.table {
            table.take_back();
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
                self.extension(marker)?;
                0
            }
        };
        self.split(length).map(drop)
    }
}

/// A number of up to 32 bits as the encoder writes it, and what comes after it.
fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (marker, rest) = bytes.split_first()?;
    let length = match marker {
        0x00..=0x7f => return Some(((*marker).into(), rest)),
        0xcc => 1,
        0xcd => 2,
        0xce => 4,
        _ => return None,
    };
    let (digits, rest) = rest.split_at_checked(length)?;
    Some((digits.iter().fold(0, |number, digit| number << 8 | u32::from(*digit)), rest))
}

impl Drop for Decoder<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        // After a whole value without handles there is nothing to do.
        if !self.input.is_empty() || self.table.as_ref().is_some_and(|table| table.is_lent()) {
            self.settle();
        }
    }
}
