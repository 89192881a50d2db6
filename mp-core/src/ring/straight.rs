//! The most frequent case, straight on: one record, mostly a short one, at a place that needs no look at anything else.
//!
//! Whatever is different, and whatever is wrong, is left to [`Writer`](super::Writer) and [`Reader`](super::Reader), who
//! handle all cases and come to the same in this one.

use super::memory::Piece;
use super::place::Place;
use super::published::Progress;
use super::short::Short;
use super::writer::KEPT;
use super::{AHEAD, Held, InSharedMemory, Ring, record_size};
use crate::futex::Ordering::*;

/// Where the rings begin that are left as soon as they are empty.
const LONG_RINGS: u64 = Place::start(KEPT + 1).word();

/// A record that was copied out of the ring and is not yet taken: if the process dies now, it is still there for the next one.
/// See [`Ring::get_short`].
#[must_use = "it is taken when that is published"]
pub struct Taken<'a, L> {
    ring: &'a Ring<L>,
    after: Progress,
}

impl<L: InSharedMemory> Taken<'_, L> {
    /// How many records were taken before it, ever.
    #[inline(always)]
    pub fn number(&self) -> u64 {
        self.after.items.wrapping_sub(1)
    }

    /// Takes it.
    #[inline(always)]
    pub fn publish(self) {
        let Taken { ring, after } = self;
        ring.note_cpu_sometimes(false, after.items);
        ring.header().got.publish(after, 1, || ring.note_cpu(false));
    }
}

impl<L: InSharedMemory> Ring<L> {
    /// Puts a record in, for the holder of [`put_lock`](Self::put_lock), if that is simple; else nothing has happened. It may be
    /// a long one, if there is room for it.
    #[inline(always)]
    pub fn put_short(&self, held: &impl Held, bytes: &[u8]) -> bool {
        let header = self.header();
        let now = header.put.read_own();
        let notes = &header.writers;
        let size = record_size(bytes.len() as u64);
        let free = notes.free_place.load(Relaxed).wrapping_sub(now.place);
        let is_simple = Ring::<L>::is_of(held, self.put_lock())
            && now.items < notes.free_items.load(Relaxed)
            && size <= free
            && header.left.load(Relaxed) == 0;
        let Some(piece) = self.piece_of(now.place, free) else { return false };
        if !is_simple || !piece.write_record(now.place, size, bytes) {
            return false;
        }
        piece.fetch(now.place + AHEAD, true);
        let after = Progress { items: now.items.wrapping_add(1), place: now.place + size };
        self.note_cpu_sometimes(true, after.items);
        header.put.publish_if_open(after, 1, || self.note_cpu(true))
    }

    /// Copies the next record into `short`, for the holder of [`get_lock`](Self::get_lock), if there is one and that is simple;
    /// one who would wait for it anyway may hesitate for a moment before it looks whether there is one.
    ///
    /// It is taken while the lock is held, or not at all:
    ///
    /// ```compile_fail,E0505
    /// # fn example<L: mp_core::arena::InSharedMemory>(ring: &mp_core::ring::Ring<L>, held: impl mp_core::ring::Held) {
    /// let taken = ring.get_short(&held, &mut mp_core::ring::Short::new(), false);
    /// drop(held);
    /// taken.map(|taken| taken.publish());
    /// # }
    /// ```
    #[inline(always)]
    pub fn get_short<'a>(
        &'a self,
        held: &'a impl Held,
        short: &mut Short,
        would_wait: bool,
    ) -> Option<Taken<'a, L>> {
        if !Ring::<L>::is_of(held, self.get_lock()) {
            return None;
        }
        let header = self.header();
        let now = header.got.read_own();
        let notes = &header.readers;
        if now.items == notes.put_items.load(Relaxed) {
            notes.pace.before_look(now.items, would_wait);
            self.look_at_writers();
        }
        let written = notes.put_place.load(Relaxed).wrapping_sub(now.place);
        let is_simple = now.items != notes.put_items.load(Relaxed)
            && now.place < LONG_RINGS
            && header.left.load(Relaxed) == 0;
        let piece = self.piece_of(now.place, written)?;
        if !is_simple {
            return None;
        }
        let size = piece.read_record(now.place, written, short)?;
        if written > AHEAD {
            piece.fetch(now.place + AHEAD, false);
        }
        let after = Progress { items: now.items.wrapping_add(1), place: now.place + size };
        Some(Taken { ring: self, after })
    }

    /// Where `place` lies, if that is mapped and `span` bytes behind it can be in the same ring.
    #[inline(always)]
    fn piece_of(&self, place: u64, span: u64) -> Option<&Piece> {
        self.memory.mapped(Place::ring_of(place)).filter(|piece| span <= piece.length())
    }
}
