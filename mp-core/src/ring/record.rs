//! The bytes of a record that is still in the ring.

use bytemuck::Pod;

use super::memory::Piece;
use super::short::Short;
use crate::Result;
use crate::codec::whole::{self, Source};

/// The bytes of the next record, while its reader looks at it; see [`Reader::record`](super::Reader::record).
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub(super) piece: &'a Piece,
    pub(super) begin: u64,
    pub(super) bytes: u64,
}

impl Record<'_> {
    /// Appends them to `bytes`, from byte `skip` on.
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode) if the memory is damaged; [`Error::Io`](crate::Error::Io) if there is no memory
    /// for them.
    #[inline]
    pub fn read(&self, skip: u64, bytes: &mut Vec<u8>) -> Result<()> {
        self.piece.read(self.begin + skip, self.bytes.saturating_sub(skip) as usize, bytes)
    }

    /// All of them, if they are few: cheaper than [`read`](Self::read).
    #[inline(always)]
    pub fn read_short(&self, bytes: &mut Short) -> bool {
        let fits = self.bytes <= Short::MOST as u64;
        if fits {
            bytes.fill(self.piece, self.begin, self.bytes as usize);
        }
        fits
    }

    /// The value in the record, if a `T` is a `Vec` of numbers and the record is the encoding of just such: copied once.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    #[inline]
    pub fn read_whole<T>(&self) -> Result<Option<T>> {
        whole::join(self.bytes, self)
    }
}

impl Source for Record<'_> {
    #[inline]
    fn begin(&self, bytes: &mut [u8]) -> Result<()> {
        self.piece.read_exact(self.begin, bytes)
    }

    #[inline]
    fn rest<N: Pod>(&self, skip: usize) -> Result<Vec<N>> {
        let (skip, mut numbers) = (skip as u64, Vec::new());
        let count = self.bytes.saturating_sub(skip) as usize;
        self.piece.read(self.begin + skip, count, &mut numbers)?;
        Ok(numbers)
    }
}
