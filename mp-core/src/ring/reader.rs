//! Reading records, for the holder of the readers' lock.
//!
//! Until it publishes, a reader has taken nothing: killed, or dropped, the records are still there for the next one.

use bytemuck::Pod;

use super::memory::{Piece, damaged};
use super::place::{Place, RINGS, length};
use super::published::{Progress, Published};
use super::{AHEAD, InSharedMemory, RECORD_HEAD, Ring};
use crate::Result;
use crate::codec::whole::{self, Source};
use crate::futex::Ordering::*;

/// A look at the records of a ring; see [`Ring::reader`].
pub struct Reader<'a, L> {
    ring: &'a Ring<L>,
    at: Place,
    items: u64,
    /// How far the writers are, at least.
    put: Place,
    put_items: u64,
    taken: u32,
    left: bool,
    drained: bool,
}

/// The next record, not yet taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// How many bytes it has.
    pub bytes: u64,
    /// What its writer said about it.
    pub about: u64,
    /// How many were before it, ever.
    pub number: u64,
}

impl<'a, L: InSharedMemory> Reader<'a, L> {
    #[inline]
    pub(super) fn new(ring: &'a Ring<L>) -> Result<Reader<'a, L>> {
        let header = ring.header();
        let got = header.got.read_own();
        let at = Place::from_word(got.place).ok_or_else(|| damaged("no ring is being read"))?;
        let put = Place::from_word(header.readers.put_place.load(Relaxed))
            .ok_or_else(|| damaged("no ring is being written"))?;
        let put_items = header.readers.put_items.load(Relaxed);
        Ok(Reader { ring, at, items: got.items, put, put_items, taken: 0, left: false, drained: false })
    }

    /// The next record, if there is one.
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode) if the memory is damaged.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Next>> {
        if self.items == self.put_items {
            self.look()?;
            if self.items == self.put_items {
                return Ok(None);
            }
        }
        if self.at.ring != self.put.ring {
            self.change_over()?;
        }
        let piece = self.piece()?;
        let [bytes, about] = piece.read_head(self.at.offset);
        let end = if self.at.ring == self.put.ring {
            self.put.offset
        } else {
            self.ring.notes(self.at.ring).leave_at.load(Relaxed)
        };
        let room = end.wrapping_sub(self.at.offset);
        if room > length(self.at.ring) || bytes > room.saturating_sub(RECORD_HEAD) {
            return Err(damaged("a record is longer than what was written"));
        }
        if room > AHEAD {
            piece.fetch(self.at.offset + AHEAD, false);
        }
        Ok(Some(Next { bytes, about, number: self.items }))
    }

    /// After [`peek`](Self::peek) found nothing: whether nothing will ever come, because the ring is closed.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Where the next record is.
    #[inline]
    fn piece(&self) -> Result<&'a Piece> {
        self.ring.memory.ring(self.at.ring)
    }

    /// Looks how far the writers are.
    fn look(&mut self) -> Result<()> {
        let (put, word) = self.ring.header().put.read();
        // What was published when the ring was found closed is all there will ever be.
        self.drained = Published::says_closed(word) && put.items == self.items;
        self.put = Place::from_word(put.place).ok_or_else(|| damaged("no ring is being written"))?;
        self.put_items = put.items;
        // In this order: a death in between leaves a place that is right for more records than are known.
        self.ring.header().readers.put_place.store(put.place, Relaxed);
        self.ring.header().readers.put_items.store(put.items, Release);
        Ok(())
    }

    /// Goes on in the next ring, if this one is read to where the writers left it.
    #[cold]
    fn change_over(&mut self) -> Result<()> {
        let notes = self.ring.notes(self.at.ring);
        if notes.leave_at.load(Relaxed) == self.at.offset {
            let ring = notes.leave_for.load(Relaxed) as usize;
            if ring >= RINGS {
                return Err(damaged("it goes on nowhere"));
            }
            self.left |= self.at.ring > super::writer::WARM;
            self.at = Place::start(ring);
        }
        Ok(())
    }

    /// Appends the bytes of the record that [`peek`](Self::peek) found to `bytes`, from its byte `skip` on.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek); [`Error::Io`](crate::Error::Io) if there is no memory for them.
    #[inline]
    pub fn read(&self, next: &Next, skip: u64, bytes: &mut Vec<u8>) -> Result<()> {
        let count = next.bytes.saturating_sub(skip) as usize;
        self.piece()?.read(self.at.offset + RECORD_HEAD + skip, count, bytes)
    }

    /// Fills `bytes` with the first ones of the record that [`peek`](Self::peek) found; it has so many.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek).
    #[inline]
    pub fn read_exact(&self, next: &Next, bytes: &mut [u8]) -> Result<()> {
        if bytes.len() as u64 > next.bytes {
            return Err(damaged("a record is shorter than what is wanted"));
        }
        self.piece()?.read_exact(self.at.offset + RECORD_HEAD, bytes)
    }

    /// The value in the record that [`peek`](Self::peek) found, if a `T` is a `Vec` of numbers and the record is the encoding
    /// of just such: copied once.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    #[inline]
    pub fn read_whole<T>(&self, next: &Next) -> Result<Option<T>> {
        let record = Record { piece: self.piece()?, begin: self.at.offset + RECORD_HEAD, bytes: next.bytes };
        whole::join(next.bytes, &record)
    }

    /// Goes on behind the record that [`peek`](Self::peek) found; it is taken once that is published.
    #[inline]
    pub fn pass(&mut self, next: &Next) {
        self.at.offset += (RECORD_HEAD + next.bytes).next_multiple_of(RECORD_HEAD);
        self.items = self.items.wrapping_add(1);
        self.taken += 1;
    }

    /// How many records were taken before those that were passed, ever.
    #[inline]
    pub fn taken_before(&self) -> u64 {
        self.items.wrapping_sub(self.taken.into())
    }

    /// Takes all records that were passed.
    #[inline]
    pub fn publish(self) {
        if self.taken == 0 {
            return;
        }
        let header = self.ring.header();
        let progress = Progress { items: self.items, place: self.at.word() };
        let slept = header.got.publish(progress, self.taken);
        self.ring.note_cpu_sometimes(false, self.items, slept);
        if self.left {
            header.left.store(1, Relaxed);
        }
    }

    /// Whether memory could go back to the system once this is published, with [`Ring::give_back`].
    #[inline]
    pub fn should_give_back(&self) -> bool {
        let idle = self.items == self.put_items && self.at.ring > super::writer::KEPT;
        idle || self.left || self.ring.header().left.load(Relaxed) != 0
    }
}

/// The bytes of a record.
struct Record<'a> {
    piece: &'a Piece,
    begin: u64,
    bytes: u64,
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
