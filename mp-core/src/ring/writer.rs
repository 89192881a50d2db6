//! Writing records, for the holder of the writers' lock.
//!
//! Until it publishes, a writer has changed nothing that anybody looks at: killed, or dropped, it was never there.

use super::memory::{not_read, not_written};
use super::place::{self, Place, RINGS, fitting, length};
use super::{AHEAD, InSharedMemory, RECORD_HEAD, Ring, published, record_size};
use crate::futex::Ordering::*;
use crate::{Error, Result};

/// Records go round in a ring up to this one even when it runs empty, 8 MiB: so items of a megabyte find warm pages.
pub(super) const KEPT: usize = 7;
/// Rings up to this one keep their pages while they are not used: 2 MiB.
pub(super) const WARM: usize = 5;
/// Pages are reserved at least so many bytes at a time.
const STEP: u64 = 64 << 10;

/// Some records on their way into a ring; see [`Ring::writer`].
pub struct Writer<'a, L> {
    ring: &'a Ring<L>,
    now: Position,
}

/// How far a writer is. What is seldom done takes one and gives another: so that what is done for each record need not be
/// kept in memory.
#[derive(Clone, Copy)]
struct Position {
    /// Where the next record goes, and how many there are before it.
    at: Place,
    items: u64,
    /// How far the readers are, at least.
    got: Place,
    got_items: u64,
    staged: u32,
}

/// Why a record was not staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// It will be published with the others.
    Yes,
    /// As many records are in the ring as may be.
    Full,
    /// The ring is closed.
    Closed,
}

impl<'a, L: InSharedMemory> Writer<'a, L> {
    #[inline(always)]
    pub(super) fn new(ring: &'a Ring<L>) -> Result<Writer<'a, L>> {
        let header = ring.header();
        let put = header.put.read_own();
        let at = Place::from_word(put.place).ok_or_else(not_written)?;
        let got = Place::from_word(header.writers.got_place.load(Relaxed)).ok_or_else(not_read)?;
        let got_items = header.writers.got_items.load(Relaxed);
        Ok(Writer { ring, now: Position { at, items: put.items, got, got_items, staged: 0 } })
    }

    /// Puts a record behind the last one: `head` and `body`, one after the other. `about` arrives with it.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no memory for it, [`Error::TooLong`] for more than a ring can hold. Nothing has happened then.
    #[inline(always)]
    pub fn stage(&mut self, head: &[u8], body: &[u8], about: u64) -> Result<Staged> {
        if self.ring.is_closed() {
            return Ok(Staged::Closed);
        }
        let limit = self.ring.limit();
        if self.now.backlog() >= limit {
            self.now = self.now.look(self.ring)?;
            if self.now.backlog() >= limit {
                return Ok(Staged::Full);
            }
        }
        let bytes = head.len() as u64 + body.len() as u64;
        let size = record_size(bytes);
        self.room(size)?;
        let at = self.now.at;
        let piece = self.ring.memory.ring(at.ring)?;
        piece.fetch(at.offset + AHEAD, true);
        piece.write_head(at.offset, [bytes, about]);
        let begin = at.offset + RECORD_HEAD;
        piece.write(begin, head)?;
        if !body.is_empty() {
            piece.write(begin + head.len() as u64, body)?;
        }
        self.now.at.offset = at.offset + size;
        self.now.items = self.now.items.wrapping_add(1);
        self.now.staged += 1;
        Ok(Staged::Yes)
    }

    /// Goes where there is a place for `size` bytes, with pages.
    #[inline(always)]
    pub(super) fn room(&mut self, size: u64) -> Result<()> {
        if !self.now.has_room(self.ring, size) {
            self.now = self.now.find_room(self.ring, size)?;
        }
        Ok(())
    }

    /// How many records there are before the next one, ever: the number of the next one.
    #[inline]
    pub fn number(&self) -> u64 {
        self.now.items
    }

    /// Makes all staged records visible at once, in order; false if the ring was closed before: then none of them is.
    #[inline(always)]
    pub fn publish(self) -> bool {
        if self.now.staged == 0 {
            return true;
        }
        let ring = self.ring;
        ring.note_cpu_sometimes(true, self.now.items);
        let note = || ring.note_cpu(true);
        if !ring.header().put.publish_if_open(self.now.published(), self.now.staged, note) {
            return false;
        }
        if self.ring.header().left.load(Relaxed) != 0 {
            self.ring.release_left();
        }
        true
    }

    /// Publishes that the next record will be in the shortest ring; for an empty ring.
    pub(super) fn go_home(self) -> Result<()> {
        if self.now.at.ring != 0 {
            // With a look first: readers were noted in the home ring perhaps, long ago.
            let home = self.now.look(self.ring)?.enter(self.ring, 0, 0)?;
            // A sleeper has to say again that it sleeps.
            self.ring.header().put.publish(home.published(), 1, || ());
        }
        Ok(())
    }
}

impl Position {
    /// How many records are written and, as far as is known, not read.
    #[inline]
    fn backlog(self) -> u64 {
        self.items.wrapping_sub(self.got_items)
    }

    #[inline]
    fn published(self) -> published::Progress {
        published::Progress { items: self.items, place: self.at.word() }
    }

    /// Looks how far the readers are.
    #[cold]
    #[inline(never)]
    fn look<L: InSharedMemory>(self, ring: &Ring<L>) -> Result<Position> {
        let notes = &ring.header().writers;
        let (read, _) = ring.header().got.read();
        let got = Place::from_word(read.place).ok_or_else(not_read)?;
        notes.got_items.store(read.items, Relaxed);
        notes.got_place.store(read.place, Relaxed);
        let now = Position { got, got_items: read.items, ..self };
        now.note_free(ring, now.read());
        Ok(now)
    }

    /// Notes how far writers can go in the current ring without a look, if readers are at least at `read` there: that is so
    /// from now on, whether or not anything is published.
    fn note_free<L: InSharedMemory>(self, ring: &Ring<L>, read: u64) {
        let notes = &ring.header().writers;
        let reserved = ring.notes(self.at.ring).reserved.load(Relaxed);
        let length = length(self.at.ring);
        let end = if reserved < length { reserved } else { read.saturating_add(length) };
        // In long rings each record has to ask whether to go back.
        let end = if self.at.ring <= KEPT { end } else { 0 };
        notes.free_items.store(self.got_items.saturating_add(ring.limit()), Relaxed);
        notes.free_place.store(Place { ring: self.at.ring, offset: end }.word(), Relaxed);
    }

    /// Whether there is a place for `size` bytes, with pages.
    #[inline]
    fn has_room<L: InSharedMemory>(self, ring: &Ring<L>, size: u64) -> bool {
        let reserved = ring.notes(self.at.ring).reserved.load(Relaxed);
        self.at.ring <= KEPT
            && self.fits(size)
            && (self.at.offset + size).min(length(self.at.ring)) <= reserved
    }

    /// Goes where there is a place for `size` bytes, and sees to it that it has pages.
    #[cold]
    #[inline(never)]
    fn find_room<L: InSharedMemory>(mut self, ring: &Ring<L>, size: u64) -> Result<Position> {
        // Back to short rings once the long one is, or soon will be, empty.
        if self.at.ring > KEPT {
            self = self.look(ring)?;
            if let Some(shorter) = self.shorter(size) {
                return self.enter(ring, shorter, size);
            }
        }
        if !self.fits(size) {
            self = self.look(ring)?;
        }
        if self.fits(size) {
            ring.reserve(self.at, size)?;
            self.note_free(ring, self.read());
            return Ok(self);
        }
        let rings = ring.memory.count();
        let fitting = fitting(size).filter(|&fits| fits < rings).ok_or(Error::TooLong {
            what: "queue item",
            length: size,
            limit: length(rings - 1),
        })?;
        let longer = (fitting.max(self.at.ring + 1)..rings).chain(fitting..rings);
        match longer.into_iter().find(|&free| !self.in_chain(ring, free)) {
            Some(free) => self.enter(ring, free, size),
            None => Err(Error::Io {
                what: format!("finding room for {size} bytes in a queue"),
                source: std::io::ErrorKind::StorageFull.into(),
            }),
        }
    }

    /// How far the readers are in the current ring, at least.
    #[inline]
    fn read(self) -> u64 {
        if self.got.ring == self.at.ring { self.got.offset } else { 0 }
    }

    /// Bytes of the current ring that are not read yet.
    #[inline]
    fn unread(self) -> u64 {
        self.at.offset.wrapping_sub(self.read())
    }

    #[inline]
    fn fits(self, size: u64) -> bool {
        self.unread().checked_add(size).is_some_and(|end| end <= length(self.at.ring))
    }

    /// A shorter ring in which there is room for all that is waiting, several times over; for one who has just looked.
    fn shorter(self, size: u64) -> Option<usize> {
        if self.got.ring != self.at.ring {
            return None;
        }
        let wanted = self.unread().saturating_add(size).saturating_mul(4);
        if self.unread() == 0 && size <= length(0) {
            return Some(0);
        }
        fitting(wanted).filter(|&ring| ring + 3 <= self.at.ring)
    }

    /// Whether a ring is between the reader's and the writer's, both included.
    fn in_chain<L: InSharedMemory>(self, ring: &Ring<L>, wanted: usize) -> bool {
        let mut at = self.got.ring;
        for _ in 0..RINGS {
            if at == wanted {
                return true;
            }
            if at == self.at.ring {
                return false;
            }
            at = ring.notes(at).leave_for.load(Relaxed) as usize;
            if at >= RINGS {
                return true;
            }
        }
        true
    }

    /// Goes on in another ring, which is empty.
    fn enter<L: InSharedMemory>(self, ring: &Ring<L>, next: usize, size: u64) -> Result<Position> {
        let start = Place::start(next);
        ring.reserve(start, size)?;
        let notes = ring.notes(self.at.ring);
        notes.leave_at.store(self.at.offset, Relaxed);
        notes.leave_for.store(next as u64, Relaxed);
        let now = Position { at: start, ..self };
        now.note_free(ring, 0);
        Ok(now)
    }
}

impl<L: InSharedMemory> Ring<L> {
    #[inline]
    pub(super) fn notes(&self, ring: usize) -> &super::RingNotes {
        &self.header().writers.rings[ring.min(RINGS - 1)]
    }

    /// For the holder of the writers' lock: sees to it that `size` bytes from `at` have pages.
    fn reserve(&self, at: Place, size: u64) -> Result<()> {
        let notes = self.notes(at.ring);
        let reserved = notes.reserved.load(Relaxed);
        let end = (at.offset + size).min(length(at.ring));
        if end <= reserved {
            return Ok(());
        }
        let memory = &self.memory;
        let ample = end.max(reserved.saturating_mul(2)).max(STEP).min(length(at.ring));
        let got = match memory.reserve(at.ring, reserved, ample) {
            Ok(()) => ample,
            Err(_) => memory.reserve(at.ring, reserved, end).map(|()| end)?,
        };
        notes.reserved.store(got, Relaxed);
        Ok(())
    }

    /// For the holder of the writers' lock: gives the pages of long rings back that nobody uses any more.
    #[cold]
    pub(super) fn release_left(&self) {
        self.header().left.store(0, Relaxed);
        let Ok(writer) = Writer::new(self) else { return };
        let Ok(now) = writer.now.look(self) else { return };
        for ring in WARM + 1..place::RINGS {
            let notes = self.notes(ring);
            if notes.reserved.load(Relaxed) != 0 && !now.in_chain(self, ring) {
                // First the note: a death in between leaves pages that count as absent, not the other way round.
                notes.reserved.store(0, Relaxed);
                // If the system refuses, the pages are still there and stay so.
                let _ = self.memory.release(ring);
            }
        }
    }
}
