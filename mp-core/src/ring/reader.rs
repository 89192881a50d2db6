//! Reading records, for the holder of the readers' lock.
//!
//! Until it publishes, a reader has taken nothing: killed, or dropped, the records are still there for the next one.

use super::memory::{Piece, damaged, not_read, not_written};
use super::place::{Place, RINGS, length};
use super::published::{Progress, Published};
use super::record::Record;
use super::{AHEAD, InSharedMemory, RECORD_HEAD, Ring, record_size};
use crate::Result;
use crate::futex::Ordering::*;

/// A look at the records of a ring; see [`Ring::reader`].
pub struct Reader<'a, L> {
    ring: &'a Ring<L>,
    now: Position,
}

/// How far a reader is. What is seldom done takes one and gives another, as for writers.
#[derive(Clone, Copy)]
struct Position {
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
    #[inline(always)]
    pub(super) fn new(ring: &'a Ring<L>) -> Result<Reader<'a, L>> {
        let header = ring.header();
        let got = header.got.read_own();
        let at = Place::from_word(got.place).ok_or_else(not_read)?;
        let put = Place::from_word(header.readers.put_place.load(Relaxed)).ok_or_else(not_written)?;
        let put_items = header.readers.put_items.load(Relaxed);
        let items = got.items;
        Ok(Reader {
            ring,
            now: Position { at, items, put, put_items, taken: 0, left: false, drained: false },
        })
    }

    /// The next record, if there is one.
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode) if the memory is damaged.
    #[inline(always)]
    pub fn peek(&mut self) -> Result<Option<Next>> {
        if self.now.items == self.now.put_items {
            self.now = self.now.look(self.ring)?;
            if self.now.items == self.now.put_items {
                return Ok(None);
            }
        }
        if self.now.at.ring != self.now.put.ring {
            self.now = self.now.change_over(self.ring)?;
        }
        let at = self.now.at;
        let piece = self.piece()?;
        let [bytes, about] = piece.read_head(at.offset);
        let room = self.now.end(self.ring).wrapping_sub(at.offset);
        if room > length(at.ring) || bytes > room.saturating_sub(RECORD_HEAD) {
            return Err(damaged("a record is longer than what was written"));
        }
        if room > AHEAD {
            piece.fetch(at.offset + AHEAD, false);
        }
        Ok(Some(Next { bytes, about, number: self.now.items }))
    }

    /// After [`peek`](Self::peek) found nothing: whether nothing will ever come, because the ring is closed.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.now.drained
    }

    /// Where the next record is.
    #[inline(always)]
    fn piece(&self) -> Result<&'a Piece> {
        self.ring.memory.ring(self.now.at.ring)
    }

    /// The bytes of the record that [`peek`](Self::peek) found.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek).
    #[inline(always)]
    pub fn record(&self, next: &Next) -> Result<Record<'_>> {
        Ok(Record { piece: self.piece()?, begin: self.now.at.offset + RECORD_HEAD, bytes: next.bytes })
    }

    /// Goes on behind the record that [`peek`](Self::peek) found; it is taken once that is published.
    #[inline(always)]
    pub fn pass(&mut self, next: &Next) {
        self.now.at.offset += record_size(next.bytes);
        self.now.items = self.now.items.wrapping_add(1);
        self.now.taken += 1;
    }

    /// How many records were taken before those that were passed, ever.
    #[inline]
    pub fn taken_before(&self) -> u64 {
        self.now.items.wrapping_sub(self.now.taken.into())
    }

    /// Takes all records that were passed.
    #[inline(always)]
    pub fn publish(self) {
        let now = self.now;
        if now.taken == 0 {
            return;
        }
        let header = self.ring.header();
        let progress = Progress { items: now.items, place: now.at.word() };
        self.ring.note_cpu_sometimes(false, now.items);
        header.got.publish(progress, now.taken, || self.ring.note_cpu(false));
        if now.left {
            header.left.store(1, Relaxed);
        }
    }

    /// Whether memory could go back to the system once this is published, with [`Ring::give_back`].
    #[inline(always)]
    pub fn should_give_back(&self) -> bool {
        let now = self.now;
        let idle = now.items == now.put_items && now.at.ring > super::writer::KEPT;
        idle || now.left || self.ring.header().left.load(Relaxed) != 0
    }
}

impl Position {
    /// Looks how far the writers are.
    #[inline(always)]
    fn look<L: InSharedMemory>(self, ring: &Ring<L>) -> Result<Position> {
        let (written, word) = ring.look_at_writers();
        // What was published when the ring was found closed is all there will ever be.
        let drained = Published::says_closed(word) && written.items == self.items;
        let put = Place::from_word(written.place).ok_or_else(not_written)?;
        Ok(Position { put, put_items: written.items, drained, ..self })
    }

    /// Goes on in the next ring, if this one is read to where the writers left it.
    #[cold]
    #[inline(never)]
    fn change_over<L: InSharedMemory>(self, ring: &Ring<L>) -> Result<Position> {
        let notes = ring.notes(self.at.ring);
        if notes.leave_at.load(Relaxed) != self.at.offset {
            return Ok(self);
        }
        let next = notes.leave_for.load(Relaxed) as usize;
        if next >= RINGS {
            return Err(damaged("it goes on nowhere"));
        }
        let left = self.left || self.at.ring > super::writer::WARM;
        Ok(Position { at: Place::start(next), left, ..self })
    }

    /// Where the writers ended in the current ring, as far as is known.
    #[inline]
    fn end<L: InSharedMemory>(self, ring: &Ring<L>) -> u64 {
        if self.at.ring == self.put.ring {
            self.put.offset
        } else {
            ring.notes(self.at.ring).leave_at.load(Relaxed)
        }
    }
}

impl<L: InSharedMemory> Ring<L> {
    /// For the holder of the readers' lock: how far the writers are, noted for the next one.
    #[inline]
    pub(super) fn look_at_writers(&self) -> (Progress, u64) {
        let notes = &self.header().readers;
        let (written, word) = self.header().put.read();
        // In this order: a death in between leaves a place that is right for more records than are known.
        notes.put_place.store(written.place, Relaxed);
        notes.put_items.store(written.items, Release);
        (written, word)
    }
}
