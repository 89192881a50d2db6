//! Where a record stands: in which of the rings, at which offset.
//!
//! # Design
//!
//! There are rings of 2^16, 2^17, .. bytes in one sparse file, each at the offset of its own length. Records go round in one
//! of them; when a record finds no room there, the writer goes on in another, longer one and notes where in the old ring the
//! reader has to change over (`leave_at`, `leave_for`). The rings from the reader's to the writer's are the chain; a ring is
//! entered again only when it is not in the chain, so it is empty then. When all is read, the writer goes back to the
//! shortest ring, whose pages are warm.

/// Length of the shortest ring, and of the longest, as powers of two.
pub(super) const SHORTEST: u32 = 16;
pub(super) const LONGEST: u32 = 38;
pub(super) const RINGS: usize = (LONGEST - SHORTEST + 1) as usize;

/// The ring begins here in a place; the offset is below.
const RING: u32 = 58;
const OFFSET: u64 = (1 << RING) - 1;

/// See the module. Offsets count on and on; modulo the length of the ring they are an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From 0 for the shortest.
    pub ring: usize,
    pub offset: u64,
}

impl Place {
    /// None if no ring is meant.
    #[inline]
    pub fn from_word(word: u64) -> Option<Place> {
        let ring = Place::ring_of(word);
        (ring < RINGS).then_some(Place { ring, offset: word & OFFSET })
    }

    /// The ring of a word, whether or not there is one.
    #[inline]
    pub fn ring_of(word: u64) -> usize {
        (word >> RING) as usize
    }

    #[inline]
    pub const fn word(self) -> u64 {
        (self.ring as u64) << RING | self.offset & OFFSET
    }

    #[inline]
    pub const fn start(ring: usize) -> Place {
        Place { ring, offset: 0 }
    }
}

/// Bytes of a ring, which are also its place in the file.
#[inline]
pub(super) fn length(ring: usize) -> u64 {
    1 << (SHORTEST + ring as u32)
}

/// The shortest ring that holds `bytes`.
pub(super) fn fitting(bytes: u64) -> Option<usize> {
    (0..RINGS).find(|&ring| length(ring) >= bytes)
}
