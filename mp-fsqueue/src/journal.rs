//! The entries of the journal: what has become of items, 64 bytes each. An entry counts when its checksum is right; one that
//! is damaged is skipped and counted, and most of what it said follows from its successors.

use crate::record::checksum;
use crate::state::{SegmentId, Span, Totals};

/// Bytes of an entry.
pub const ENTRY: usize = 64;
/// The version of all formats.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 2] = *b"Fj";

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The first entry: the version of the formats.
    Format { version: u32, durable: bool },
    /// What to add to the clock of a host since its boot, in nanoseconds.
    Host { boot: u128, offset: u64 },
    /// A segment exists, and is read from here.
    Segment { id: SegmentId, sequence: u64, offset: u64, boot: u128 },
    /// Items are gone: `get` gave them to a consumer.
    Take { id: SegmentId, span: Span },
    /// A consumer works on items.
    Claim { id: SegmentId, span: Span, consumer: u64 },
    /// A consumer is done with items that it claimed.
    Ack { id: SegmentId, span: Span, consumer: u64 },
    /// A consumer gives items back.
    Release { id: SegmentId, span: Span, consumer: u64 },
    /// Items are in `failed/` now.
    Fail { id: SegmentId, span: Span, consumer: u64 },
    /// A consumer is dead: its items are given back.
    Dead { consumer: u64 },
    /// All of a segment has been seen: nothing will be added to it.
    End { id: SegmentId, torn: u64 },
    /// A segment is gone.
    Remove { id: SegmentId },
    /// The journal goes on in another file of the same name.
    Moved,
    /// Counts so far.
    Totals(Totals),
    /// A snapshot's items that wait again (no consumer) or are claimed.
    Held { id: SegmentId, span: Span, consumer: u64 },
}

impl Entry {
    /// The entry's bytes.
    pub fn encode(&self) -> [u8; ENTRY] {
        let none = SegmentId { writer: 0, number: 0 };
        let (low, high) = (|w: u128| w as u64, |w: u128| (w >> 64) as u64);
        let spans = |s: &Span, consumer| [s.first, s.end, s.offset, s.end_offset, consumer];
        let (kind, id, words) = match self {
            Entry::Format { version, durable } => {
                (1, none, [u64::from(*version), u64::from(*durable), 0, 0, 0])
            }
            Entry::Host { boot, offset } => (2, none, [low(*boot), high(*boot), *offset, 0, 0]),
            Entry::Segment { id, sequence, offset, boot } => {
                (3, *id, [*sequence, *offset, low(*boot), high(*boot), 0])
            }
            Entry::Take { id, span } => (4, *id, spans(span, 0)),
            Entry::Claim { id, span, consumer } => (5, *id, spans(span, *consumer)),
            Entry::Ack { id, span, consumer } => (6, *id, spans(span, *consumer)),
            Entry::Release { id, span, consumer } => (7, *id, spans(span, *consumer)),
            Entry::Fail { id, span, consumer } => (8, *id, spans(span, *consumer)),
            Entry::Dead { consumer } => (9, none, [0, 0, 0, 0, *consumer]),
            Entry::End { id, torn } => (10, *id, [*torn, 0, 0, 0, 0]),
            Entry::Remove { id } => (11, *id, [0; 5]),
            Entry::Moved => (12, none, [0; 5]),
            Entry::Totals(t) => (13, none, [t.taken, t.acknowledged, t.failed, t.returned, t.torn]),
            Entry::Held { id, span, consumer } => (14, *id, spans(span, *consumer)),
        };
        let mut bytes = [0; ENTRY];
        bytes[0..2].copy_from_slice(&MAGIC);
        bytes[2] = kind;
        bytes[8..16].copy_from_slice(&id.writer.to_le_bytes());
        bytes[16..20].copy_from_slice(&id.number.to_le_bytes());
        for (word, at) in words.iter().zip((24..).step_by(8)) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let crc = checksum(u32::from(kind), &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// One entry for two, if `next` is the same for the items that follow.
    pub fn join(&self, next: &Entry) -> Option<Entry> {
        let follow = |a: &Span, b: &Span| (a.end, a.end_offset) == (b.first, b.offset);
        let both = |a: &Span, b: &Span| Span { end: b.end, end_offset: b.end_offset, ..*a };
        match (*self, *next) {
            (Entry::Take { id, span }, Entry::Take { id: other, span: more })
                if id == other && follow(&span, &more) =>
            {
                Some(Entry::Take { id, span: both(&span, &more) })
            }
            (Entry::Claim { id, span, consumer }, Entry::Claim { id: other, span: more, consumer: same })
                if id == other && consumer == same && follow(&span, &more) =>
            {
                Some(Entry::Claim { id, span: both(&span, &more), consumer })
            }
            _ => None,
        }
    }

    /// Reads an entry; none if it is damaged or of a kind that we do not know.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        let bytes = bytes.get(..ENTRY)?;
        let kind = bytes[2];
        let crc = u32::from_le_bytes(bytes[4..8].try_into().ok()?);
        if bytes[..2] != MAGIC || bytes[3] != 0 || crc != checksum(u32::from(kind), &bytes[8..]) {
            return None;
        }
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        let [a, b, c, d, consumer] = [24, 32, 40, 48, 56].map(word);
        let number = u32::from_le_bytes(bytes[16..20].try_into().ok()?);
        let id = SegmentId { writer: word(8), number };
        let span = Span { first: a, end: b, offset: c, end_offset: d };
        let wide = |low: u64, high: u64| u128::from(low) | u128::from(high) << 64;
        Some(match kind {
            1 => Entry::Format { version: a as u32, durable: b & 1 == 1 },
            2 => Entry::Host { boot: wide(a, b), offset: c },
            3 => Entry::Segment { id, sequence: a, offset: b, boot: wide(c, d) },
            4 => Entry::Take { id, span },
            5 => Entry::Claim { id, span, consumer },
            6 => Entry::Ack { id, span, consumer },
            7 => Entry::Release { id, span, consumer },
            8 => Entry::Fail { id, span, consumer },
            9 => Entry::Dead { consumer },
            10 => Entry::End { id, torn: a },
            11 => Entry::Remove { id },
            12 => Entry::Moved,
            13 => Entry::Totals(Totals { taken: a, acknowledged: b, failed: c, returned: d, torn: consumer }),
            14 => Entry::Held { id, span, consumer },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_are_read_as_written(kind in 1u8..=14, words: [u64; 5], writer: u64, number: u32, bit in 0..ENTRY * 8) {
            let id = SegmentId { writer, number };
            let span = Span { first: words[0], end: words[1], offset: words[2], end_offset: words[3] };
            let (consumer, boot) = (words[4], u128::from(words[2]) | u128::from(words[3]) << 64);
            let entry = match kind {
                1 => Entry::Format { version: number, durable: words[0] & 1 == 1 },
                2 => Entry::Host { boot, offset: words[4] },
                3 => Entry::Segment { id, sequence: words[0], offset: words[1], boot },
                4 => Entry::Take { id, span },
                5 => Entry::Claim { id, span, consumer },
                6 => Entry::Ack { id, span, consumer },
                7 => Entry::Release { id, span, consumer },
                8 => Entry::Fail { id, span, consumer },
                9 => Entry::Dead { consumer },
                10 => Entry::End { id, torn: words[0] },
                11 => Entry::Remove { id },
                12 => Entry::Moved,
                13 => Entry::Totals(Totals { taken: words[0], acknowledged: 1, failed: 2, returned: 3, torn: words[4] }),
                _ => Entry::Held { id, span, consumer },
            };
            let mut bytes = entry.encode();
            prop_assert_eq!(Entry::decode(&bytes), Some(entry));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Entry::decode(&bytes), None);
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(Entry::decode(&bytes), None);
        }
    }
}
