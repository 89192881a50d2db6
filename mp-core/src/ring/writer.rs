//! Writing records, for the holder of the writers' lock.
//!
//! Until it publishes, a writer has changed nothing that anybody looks at: killed, or dropped, it was never there.

use super::memory::damaged;
use super::place::{self, Place, RINGS, fitting, length};
use super::published::Progress;
use super::{AHEAD, InSharedMemory, RECORD_HEAD, Ring};
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
    #[inline]
    pub(super) fn new(ring: &'a Ring<L>) -> Result<Writer<'a, L>> {
        let header = ring.header();
        let put = header.put.read_own();
        let at = Place::from_word(put.place).ok_or_else(|| damaged("no ring is being written"))?;
        let got = Place::from_word(header.writers.got_place.load(Relaxed))
            .ok_or_else(|| damaged("no ring is being read"))?;
        let got_items = header.writers.got_items.load(Relaxed);
        Ok(Writer { ring, at, items: put.items, got, got_items, staged: 0 })
    }

    /// Puts a record behind the last one: `parts`, one after the other. `about` arrives with it.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no memory for it, [`Error::TooLong`] for more than a ring can hold. Nothing has happened then.
    #[inline]
    pub fn stage(&mut self, parts: &[&[u8]], about: u64) -> Result<Staged> {
        if self.ring.is_closed() {
            return Ok(Staged::Closed);
        }
        let limit = self.ring.limit();
        if self.items.wrapping_sub(self.got_items) >= limit {
            self.look()?;
            if self.items.wrapping_sub(self.got_items) >= limit {
                return Ok(Staged::Full);
            }
        }
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let size = (RECORD_HEAD + bytes).next_multiple_of(RECORD_HEAD);
        let at = self.room(size)?;
        let piece = self.ring.memory.ring(at.ring)?;
        piece.fetch(at.offset + AHEAD, true);
        piece.write_head(at.offset, [bytes, about]);
        let mut offset = at.offset + RECORD_HEAD;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            piece.write(offset, part)?;
            offset += part.len() as u64;
        }
        self.at = Place { ring: at.ring, offset: at.offset + size };
        self.items = self.items.wrapping_add(1);
        self.staged += 1;
        Ok(Staged::Yes)
    }

    /// How many records there are before the next one, ever: the number of the next one.
    #[inline]
    pub fn number(&self) -> u64 {
        self.items
    }

    /// Makes all staged records visible at once, in order; false if the ring was closed before: then none of them is.
    #[inline]
    pub fn publish(self) -> bool {
        if self.staged == 0 {
            return true;
        }
        let progress = Progress { items: self.items, place: self.at.word() };
        let Some(slept) = self.ring.header().put.publish_if_open(progress, self.staged) else { return false };
        self.ring.note_cpu_sometimes(true, self.items, slept);
        if self.ring.header().left.load(Relaxed) != 0 {
            self.ring.release_left();
        }
        true
    }

    /// Publishes that the next record will be in the shortest ring; for an empty ring.
    pub(super) fn go_home(mut self) -> Result<()> {
        if self.at.ring != 0 {
            self.enter(0, 0)?;
            let progress = Progress { items: self.items, place: self.at.word() };
            // A sleeper has to say again that it sleeps.
            self.ring.header().put.publish(progress, 1);
        }
        Ok(())
    }

    /// Looks how far the readers are.
    fn look(&mut self) -> Result<()> {
        let notes = &self.ring.header().writers;
        let (got, _) = self.ring.header().got.read();
        self.got = Place::from_word(got.place).ok_or_else(|| damaged("no ring is being read"))?;
        self.got_items = got.items;
        notes.got_items.store(got.items, Relaxed);
        notes.got_place.store(got.place, Relaxed);
        Ok(())
    }

    /// A place for `size` bytes, with pages.
    #[inline]
    pub(super) fn room(&mut self, size: u64) -> Result<Place> {
        let reserved = self.ring.notes(self.at.ring).reserved.load(Relaxed);
        if self.at.ring <= KEPT
            && self.fits(size)
            && (self.at.offset + size).min(length(self.at.ring)) <= reserved
        {
            return Ok(self.at);
        }
        self.find_room(size)
    }

    #[cold]
    fn find_room(&mut self, size: u64) -> Result<Place> {
        // Back to short rings once the long one is, or soon will be, empty.
        if self.at.ring > KEPT
            && let Some(ring) = self.shorter(size)?
        {
            return self.enter(ring, size);
        }
        if !self.fits(size) {
            self.look()?;
        }
        if self.fits(size) {
            self.reserve(self.at, size)?;
            return Ok(self.at);
        }
        let rings = self.ring.memory.count();
        let fitting = fitting(size).filter(|&ring| ring < rings).ok_or(Error::TooLong {
            what: "queue item",
            length: size,
            limit: length(rings - 1),
        })?;
        let longer = (fitting.max(self.at.ring + 1)..rings).chain(fitting..rings);
        match longer.into_iter().find(|&ring| !self.in_chain(ring)) {
            Some(ring) => self.enter(ring, size),
            None => Err(Error::Io {
                what: format!("finding room for {size} bytes in a queue"),
                source: std::io::ErrorKind::StorageFull.into(),
            }),
        }
    }

    /// Bytes of the current ring that are not read yet.
    #[inline]
    fn backlog(&self) -> u64 {
        self.at.offset.wrapping_sub(if self.got.ring == self.at.ring { self.got.offset } else { 0 })
    }

    #[inline]
    fn fits(&self, size: u64) -> bool {
        self.backlog().checked_add(size).is_some_and(|end| end <= length(self.at.ring))
    }

    /// A shorter ring in which there is room for all that is waiting, several times over.
    fn shorter(&mut self, size: u64) -> Result<Option<usize>> {
        self.look()?;
        if self.got.ring != self.at.ring {
            return Ok(None);
        }
        let wanted = self.backlog().saturating_add(size).saturating_mul(4);
        if self.backlog() == 0 && size <= length(0) {
            return Ok(Some(0));
        }
        Ok(fitting(wanted).filter(|&ring| ring + 3 <= self.at.ring))
    }

    /// Whether a ring is between the reader's and the writer's, both included.
    fn in_chain(&self, wanted: usize) -> bool {
        let mut ring = self.got.ring;
        for _ in 0..RINGS {
            if ring == wanted {
                return true;
            }
            if ring == self.at.ring {
                return false;
            }
            ring = self.ring.notes(ring).leave_for.load(Relaxed) as usize;
            if ring >= RINGS {
                return true;
            }
        }
        true
    }

    /// Goes on in another ring, which is empty.
    fn enter(&mut self, ring: usize, size: u64) -> Result<Place> {
        let start = Place::start(ring);
        self.reserve(start, size)?;
        let notes = self.ring.notes(self.at.ring);
        notes.leave_at.store(self.at.offset, Relaxed);
        notes.leave_for.store(ring as u64, Relaxed);
        self.at = start;
        Ok(start)
    }

    /// Sees to it that `size` bytes from `at` have pages.
    fn reserve(&self, at: Place, size: u64) -> Result<()> {
        let notes = self.ring.notes(at.ring);
        let reserved = notes.reserved.load(Relaxed);
        let end = (at.offset + size).min(length(at.ring));
        if end <= reserved {
            return Ok(());
        }
        let memory = &self.ring.memory;
        let ample = end.max(reserved.saturating_mul(2)).max(STEP).min(length(at.ring));
        let got = match memory.reserve(at.ring, reserved, ample) {
            Ok(()) => ample,
            Err(_) => memory.reserve(at.ring, reserved, end).map(|()| end)?,
        };
        notes.reserved.store(got, Relaxed);
        Ok(())
    }
}

impl<L: InSharedMemory> Ring<L> {
    #[inline]
    pub(super) fn notes(&self, ring: usize) -> &super::RingNotes {
        &self.header().writers.rings[ring.min(RINGS - 1)]
    }

    /// For the holder of the writers' lock: gives the pages of long rings back that nobody uses any more.
    pub(super) fn release_left(&self) {
        self.header().left.store(0, Relaxed);
        let Ok(mut writer) = Writer::new(self) else { return };
        if writer.look().is_err() {
            return;
        }
        for ring in WARM + 1..place::RINGS {
            let notes = self.notes(ring);
            if notes.reserved.load(Relaxed) != 0 && !writer.in_chain(ring) {
                // First the note: a death in between leaves pages that count as absent, not the other way round.
                notes.reserved.store(0, Relaxed);
                // If the system refuses, the pages are still there and stay so.
                let _ = self.memory.release(ring);
            }
        }
    }
}
