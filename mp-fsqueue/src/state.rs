//! What the journal says: per segment, up to where items have been given out, which of those came back, and who works on
//! which. Items are held as spans of consecutive ones, so that a million waiting items are one number.
//!
//! Any sequence of entries gives a state; entries that make no sense change nothing. So a damaged journal cannot stop a queue.

use crate::journal::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// A segment file: its writer, and the how-many-eth of this writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    pub writer: u64,
    pub number: u32,
}

impl SegmentId {
    /// The name of the file.
    pub fn name(self) -> String {
        format!("{:016x}-{:08x}.seg", self.writer, self.number)
    }

    /// The segment whose file has this name.
    pub fn from_name(name: &str) -> Option<SegmentId> {
        let (writer, number) = name.strip_suffix(".seg")?.split_once('-')?;
        let id = SegmentId {
            writer: u64::from_str_radix(writer, 16).ok()?,
            number: u32::from_str_radix(number, 16).ok()?,
        };
        (id.name() == name).then_some(id)
    }
}

/// Consecutive items of a segment: sequences `first..end`, bytes `offset..end_offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub end: u64,
    pub offset: u64,
    pub end_offset: u64,
}

impl Span {
    fn count(&self) -> u64 {
        self.end.saturating_sub(self.first)
    }
}

/// Counts since the queue was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub taken: u64,
    pub acknowledged: u64,
    pub failed: u64,
    pub returned: u64,
    /// Bytes that killed writers left, which were no items yet.
    pub torn: u64,
}

/// What is known of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The boot of the host that writes it.
    pub boot: u128,
    /// The first item that was never given out.
    pub next: u64,
    /// Where it stands.
    pub next_offset: u64,
    /// Nothing follows.
    pub ended: bool,
    /// Items that came back, by first.
    pub ready: BTreeMap<u64, Span>,
    /// Items that are worked on, by first.
    pub claimed: BTreeMap<u64, (Span, u64)>,
}

impl Segment {
    /// Whether the file is not needed any more.
    pub fn is_done(&self) -> bool {
        self.ended && self.ready.is_empty() && self.claimed.is_empty()
    }

    /// Where to read next: first what came back.
    pub fn front(&self) -> Option<Span> {
        match self.ready.first_key_value() {
            Some((_, span)) => Some(*span),
            None if self.ended => None,
            None => {
                Some(Span { first: self.next, end: u64::MAX, offset: self.next_offset, end_offset: u64::MAX })
            }
        }
    }

    /// Who works on an item.
    pub fn holder(&self, sequence: u64) -> Option<u64> {
        let (_, (span, consumer)) = self.claimed.range(..=sequence).next_back()?;
        (sequence < span.end).then_some(*consumer)
    }

    /// Items that came back.
    pub fn ready_items(&self) -> u64 {
        self.ready.values().map(Span::count).sum()
    }

    /// Items that are worked on.
    pub fn claimed_items(&self) -> u64 {
        self.claimed.values().map(|c| c.0.count()).sum()
    }

    /// Takes a span away from where it waits: from the front or from what came back. Whether it was there.
    fn give_out(&mut self, span: Span) -> bool {
        if span.end <= span.first || span.end_offset < span.offset {
            return false;
        }
        if span.first >= self.next {
            (self.next, self.next_offset) = (span.end, span.end_offset);
            return true;
        }
        if span.end > self.next {
            // Some that came back, and some from the front.
            let back = Span { end: self.next, end_offset: self.next_offset, ..span };
            if !self.give_out(back) {
                return false;
            }
            (self.next, self.next_offset) = (span.end, span.end_offset);
            return true;
        }
        match self.ready.range(..=span.first).next_back() {
            Some((_, &from)) if span.end <= from.end => {
                self.ready.remove(&from.first);
                for rest in cut(from, span) {
                    self.ready.insert(rest.first, rest);
                }
                true
            }
            _ => false,
        }
    }

    /// Notes who works on a span, joined with its neighbours.
    fn claim(&mut self, mut span: Span, consumer: u64) {
        if let Some((_, &(before, holder))) = self.claimed.range(..span.first).next_back()
            && (before.end, before.end_offset, holder) == (span.first, span.offset, consumer)
        {
            self.claimed.remove(&before.first);
            (span.first, span.offset) = (before.first, before.offset);
        }
        if let Some(&(after, holder)) = self.claimed.get(&span.end)
            && (after.offset, holder) == (span.end_offset, consumer)
        {
            self.claimed.remove(&after.first);
            (span.end, span.end_offset) = (after.end, after.end_offset);
        }
        self.claimed.insert(span.first, (span, consumer));
    }

    /// Takes a span away from what `consumer` works on; whether it was there.
    fn settle(&mut self, span: Span, consumer: u64) -> bool {
        match self.claimed.range(..=span.first).next_back() {
            Some((_, &(from, holder))) if holder == consumer && span.end <= from.end => {
                self.claimed.remove(&from.first);
                for rest in cut(from, span) {
                    self.claimed.insert(rest.first, (rest, consumer));
                }
                true
            }
            _ => false,
        }
    }

    /// Puts a span back, joined with its neighbours.
    fn give_back(&mut self, mut span: Span) {
        if let Some((_, &before)) = self.ready.range(..span.first).next_back()
            && (before.end, before.end_offset) == (span.first, span.offset)
        {
            self.ready.remove(&before.first);
            (span.first, span.offset) = (before.first, before.offset);
        }
        if let Some(&after) = self.ready.get(&span.end)
            && after.offset == span.end_offset
        {
            self.ready.remove(&after.first);
            (span.end, span.end_offset) = (after.end, after.end_offset);
        }
        self.ready.insert(span.first, span);
    }
}

/// What is left of `from` without `span`.
fn cut(from: Span, span: Span) -> impl Iterator<Item = Span> {
    let left = Span { end: span.first, end_offset: span.offset, ..from };
    let right = Span { first: span.end, offset: span.end_offset, ..from };
    [left, right].into_iter().filter(|s| s.first < s.end && s.offset <= s.end_offset)
}

/// What the journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Someone waits for the disk: what others do must not undo it.
    pub durable: bool,
    pub hosts: BTreeMap<u128, u64>,
    pub segments: BTreeMap<SegmentId, Segment>,
    pub totals: Totals,
}

impl State {
    /// Follows one entry.
    pub fn apply(&mut self, entry: &Entry) {
        match *entry {
            Entry::Moved => {}
            Entry::Format { durable, .. } => self.durable |= durable,
            Entry::Host { boot, offset } => {
                self.hosts.entry(boot).or_insert(offset);
            }
            Entry::Segment { id, sequence, offset, boot } => {
                let new = || Segment { boot, next: sequence, next_offset: offset, ..Segment::default() };
                self.segments.entry(id).or_insert_with(new);
            }
            Entry::Take { id, span } => {
                if self.segments.get_mut(&id).is_some_and(|s| s.give_out(span)) {
                    self.totals.taken += span.count();
                }
            }
            Entry::Claim { id, span, consumer } => {
                if let Some(segment) = self.segments.get_mut(&id)
                    && segment.give_out(span)
                {
                    segment.claim(span, consumer);
                }
            }
            Entry::Ack { id, span, consumer } => {
                if self.segments.get_mut(&id).is_some_and(|s| s.settle(span, consumer)) {
                    self.totals.acknowledged += span.count();
                }
            }
            Entry::Release { id, span, consumer } => {
                if let Some(segment) = self.segments.get_mut(&id)
                    && segment.settle(span, consumer)
                {
                    segment.give_back(span);
                    self.totals.returned += span.count();
                }
            }
            Entry::Fail { id, span, consumer } => {
                let gone = self.segments.get_mut(&id).is_some_and(|s| match consumer {
                    0 => s.give_out(span),
                    _ => s.settle(span, consumer),
                });
                if gone {
                    self.totals.failed += span.count();
                }
            }
            Entry::Dead { consumer } => {
                for segment in self.segments.values_mut() {
                    let spans = segment.claimed.values().filter(|c| c.1 == consumer);
                    for span in spans.map(|c| c.0).collect::<Vec<_>>() {
                        segment.claimed.remove(&span.first);
                        segment.give_back(span);
                        self.totals.returned += span.count();
                    }
                }
            }
            Entry::End { id, torn } => {
                if let Some(segment) = self.segments.get_mut(&id) {
                    segment.ended = true;
                    self.totals.torn += torn;
                }
            }
            Entry::Remove { id } => {
                self.segments.remove(&id);
            }
            Entry::Totals(totals) => self.totals = totals,
            Entry::Held { id, span, consumer } => {
                if let Some(segment) = self.segments.get_mut(&id) {
                    match consumer {
                        0 => drop(segment.ready.insert(span.first, span)),
                        _ => segment.claim(span, consumer),
                    }
                }
            }
        }
    }

    /// Entries that lead to this state.
    pub fn snapshot(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::Totals(self.totals)];
        entries.extend(self.hosts.iter().map(|(&boot, &offset)| Entry::Host { boot, offset }));
        for (&id, s) in &self.segments {
            entries.push(Entry::Segment { id, sequence: s.next, offset: s.next_offset, boot: s.boot });
            entries.extend(s.ready.values().map(|&span| Entry::Held { id, span, consumer: 0 }));
            entries.extend(s.claimed.values().map(|&(span, consumer)| Entry::Held { id, span, consumer }));
            if s.ended {
                entries.push(Entry::End { id, torn: 0 });
            }
        }
        entries
    }

    /// Everyone who works on items.
    pub fn consumers(&self) -> BTreeSet<u64> {
        self.segments.values().flat_map(|s| s.claimed.values().map(|c| c.1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: SegmentId = SegmentId { writer: 1, number: 0 };

    fn span(first: u64, end: u64) -> Span {
        Span { first, end, offset: first * 10, end_offset: end * 10 }
    }

    #[test]
    fn names_of_segments() {
        let id = SegmentId { writer: 0xab, number: 3 };
        assert_eq!(id.name(), "00000000000000ab-00000003.seg");
        assert_eq!(SegmentId::from_name(&id.name()), Some(id));
        for odd in ["", ".seg", "ab-3.seg", "00000000000000AB-00000003.seg", "00000000000000ab-00000003.seg~"]
        {
            assert_eq!(SegmentId::from_name(odd), None, "{odd}");
        }
    }

    #[test]
    fn spans_are_cut_and_joined() {
        let mut state = State::default();
        state.apply(&Entry::Segment { id: ID, sequence: 0, offset: 0, boot: 0 });
        state.apply(&Entry::Claim { id: ID, span: span(0, 10), consumer: 5 });
        state.apply(&Entry::Ack { id: ID, span: span(3, 4), consumer: 5 });
        state.apply(&Entry::Release { id: ID, span: span(7, 8), consumer: 6 });
        state.apply(&Entry::Release { id: ID, span: span(1, 2), consumer: 5 });
        state.apply(&Entry::Release { id: ID, span: span(2, 3), consumer: 5 });
        let segment = &state.segments[&ID];
        assert_eq!(segment.front(), Some(span(1, 3)));
        assert_eq!((segment.ready_items(), segment.claimed_items()), (2, 7));
        assert_eq!((segment.holder(3), segment.holder(4), segment.holder(10)), (None, Some(5), None));
        state.apply(&Entry::Dead { consumer: 5 });
        let segment = &state.segments[&ID];
        assert_eq!(segment.ready.values().copied().collect::<Vec<_>>(), [span(0, 3), span(4, 10)]);
        assert_eq!(state.totals, Totals { acknowledged: 1, returned: 9, ..Totals::default() });
    }

    #[test]
    fn a_lost_entry_is_made_good_by_the_next() {
        let mut state = State::default();
        state.apply(&Entry::Segment { id: ID, sequence: 0, offset: 0, boot: 0 });
        state.apply(&Entry::Take { id: ID, span: span(4, 5) });
        assert_eq!(state.segments[&ID].front().map(|s| (s.first, s.offset)), Some((5, 50)));
    }

    proptest! {
        #[test]
        fn any_history_has_a_snapshot(history in proptest::collection::vec((0u8..8, 0u64..20, 1u64..5, 1u64..3), 0..60)) {
            let mut state = State::default();
            let mut entries = vec![Entry::Segment { id: ID, sequence: 0, offset: 0, boot: 9 }];
            state.apply(&entries[0]);
            for (kind, first, count, consumer) in history {
                // As consumers do: from where items are.
                let start = state.segments[&ID].front().map_or(first, |f| if kind < 3 { f.first } else { first });
                let count = match state.segments[&ID].front() {
                    Some(front) if kind < 3 => count.min(front.end - front.first),
                    _ => count,
                };
                let (id, span) = (ID, span(start, start + count));
                let entry = match kind {
                    0 => Entry::Take { id, span },
                    1 | 2 => Entry::Claim { id, span, consumer },
                    3 => Entry::Ack { id, span, consumer },
                    4 => Entry::Release { id, span, consumer },
                    5 => Entry::Fail { id, span, consumer: consumer - 1 },
                    6 => Entry::Dead { consumer },
                    _ => Entry::Host { boot: u128::from(first), offset: count },
                };
                state.apply(&entry);
                match entries.last().and_then(|last| last.join(&entry)) {
                    Some(joined) => drop(entries.pop().map(|_| entries.push(joined))),
                    None => entries.push(entry),
                }
            }
            // Joined entries say the same.
            let mut same = State::default();
            entries.iter().for_each(|e| same.apply(e));
            prop_assert_eq!(&same, &state);
            let mut copy = State::default();
            state.snapshot().iter().for_each(|e| copy.apply(e));
            prop_assert_eq!(copy, state);
        }
    }
}
