//! The bytes of a short record, out of the ring, without memory of their own and without a call to copy them.
//!
//! A record begins at a multiple of sixteen bytes and takes up a multiple of them, so it can be copied sixteen at a time.

use std::mem::MaybeUninit;

use super::memory::Piece;

const SIXTEENS: usize = 8;

/// Up to [`MOST`](Short::MOST) bytes; see [`Record::read_short`](super::Record::read_short).
pub struct Short {
    /// Those that `length` reaches into are filled.
    bytes: [MaybeUninit<[u8; 16]>; SIXTEENS],
    length: usize,
}

impl Short {
    /// The most bytes.
    pub const MOST: usize = 16 * SIXTEENS;

    /// No bytes.
    #[inline]
    pub fn new() -> Short {
        Short { bytes: [const { MaybeUninit::uninit() }; SIXTEENS], length: 0 }
    }

    /// Takes `length` bytes at `offset` of a ring, a multiple of sixteen; the caller has the readers' lock, and they are
    /// published.
    #[inline]
    pub(super) fn fill(&mut self, piece: &Piece, offset: u64, length: usize) {
        self.length = length.min(Short::MOST);
        for (at, sixteen) in self.bytes[..self.length.div_ceil(16)].iter_mut().enumerate() {
            *sixteen = piece.sixteen(offset + 16 * at as u64);
        }
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: so many lie in the array, and `fill`, which alone sets the length, has filled them from memory that is
        // initialised, as all that is mapped is.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast::<u8>(), self.length) }
    }
}

impl Default for Short {
    fn default() -> Short {
        Short::new()
    }
}
