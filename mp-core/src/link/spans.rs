//! Where entries lie in an area that is written and freed first in, first out.
//!
//! This is the writer's own bookkeeping, in its own memory: no other process can disturb it, and it dies with its owner.

use std::collections::VecDeque;
use std::time::Duration;

use crate::deadline::Deadline;

/// Bytes at the start of an area that stay backed by memory for ever.
pub(super) const KEPT: usize = 1 << 20;
/// How long memory beyond them stays after it was last used: getting it again costs more than writing to it.
pub(super) const LINGER: Duration = Duration::from_millis(100);

/// Entries start at multiples of this, and take at least as much.
pub(super) const ALIGN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
}

/// The entries in an area of `size` bytes, oldest first, each with a `T`.
///
/// They go on where the last one ended and start over at the beginning when the area is empty, so that its first pages
/// stay warm. Bytes beyond `reserved` are not backed by memory; they are taken last.
#[derive(Debug)]
pub(super) struct Spans<T> {
    size: usize,
    reserved: usize,
    entries: VecDeque<(Span, T)>,
    /// Whether an entry reached beyond [`KEPT`] since `unused` was noted.
    far: bool,
    /// When nothing did so any more.
    unused: Deadline,
}

impl<T> Spans<T> {
    pub fn new(size: usize, entries: usize) -> Spans<T> {
        let entries = VecDeque::with_capacity(entries);
        Spans { size, reserved: 0, entries, far: false, unused: Deadline::FAR }
    }

    /// The place of the next entry; none if there is no room now.
    pub fn place(&self, length: usize) -> Option<Span> {
        let length = length.max(1).checked_next_multiple_of(ALIGN)?;
        let at = |start: usize, limit: usize| {
            let end = start.checked_add(length)?;
            (end <= limit).then_some(Span { start, end })
        };
        match (self.entries.front(), self.entries.back()) {
            (Some((front, _)), Some((back, _))) if back.start < front.start => at(back.end, front.start),
            (Some((front, _)), Some((back, _))) => {
                at(back.end, self.reserved).or_else(|| at(0, front.start)).or_else(|| at(back.end, self.size))
            }
            _ => at(0, self.size),
        }
    }

    /// Bytes from the start of the area that are backed by memory.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// Notes that the bytes before `end` are backed by memory now.
    pub fn set_reserved(&mut self, end: usize) {
        self.reserved = end;
    }

    /// Whether there is more memory than is kept for ever.
    pub fn has_grown(&self) -> bool {
        self.reserved > KEPT
    }

    /// When the memory beyond [`KEPT`] is to be given back, if nothing happens until then; not after `now` if it is
    /// time. None while there is none, or it is in use.
    pub fn spare_from(&mut self, now: Deadline) -> Option<Deadline> {
        if !self.has_grown() || !self.entries.is_empty() {
            return None;
        }
        if std::mem::take(&mut self.far) {
            self.unused = now;
        }
        Some(self.unused.saturating_add(LINGER))
    }

    /// Lets the memory beyond [`KEPT`] stay a while longer.
    pub fn keep_longer(&mut self) {
        self.far = true;
    }

    pub fn push(&mut self, span: Span, entry: T) {
        self.far |= span.end > KEPT;
        self.entries.push_back((span, entry));
    }

    pub fn pop(&mut self) -> Option<T> {
        self.entries.pop_front().map(|(_, entry)| entry)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, index: usize) -> Option<&(Span, T)> {
        self.entries.get(index)
    }

    pub fn front(&self) -> Option<&T> {
        self.entries.front().map(|(_, entry)| entry)
    }

    /// Takes back all entries from `index` on.
    pub fn truncate(&mut self, index: usize) {
        self.entries.truncate(index);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn starts_over_when_empty_and_before_fresh_pages() {
        let mut spans = Spans::new(1024, 4);
        let first = spans.place(100).unwrap();
        assert_eq!(first, Span { start: 0, end: 104 });
        spans.set_reserved(256);
        spans.push(first, ());
        let second = spans.place(100).unwrap();
        spans.push(second, ());
        spans.pop();
        assert_eq!(spans.place(100).unwrap().start, 0, "the first bytes again, not those beyond 256");
        assert_eq!(spans.place(200).unwrap().start, 208, "too long for the front: fresh bytes");
        spans.pop();
        assert_eq!(spans.place(1024), Some(Span { start: 0, end: 1024 }));
        assert_eq!(spans.place(1025), None);
        assert_eq!(spans.place(usize::MAX), None);
    }

    proptest! {
        #[test]
        fn entries_never_overlap(steps in prop::collection::vec((any::<u8>(), 0usize..300), 1..400)) {
            let mut spans = Spans::new(1024, 4);
            for (step, length) in steps {
                match step % 4 {
                    0 | 1 => if let Some(span) = spans.place(length) {
                        prop_assert!(span.end <= 1024 && span.end - span.start >= length);
                        prop_assert_eq!(span.start % ALIGN, 0);
                        for (other, _) in &spans.entries {
                            prop_assert!(span.end <= other.start || other.end <= span.start, "{:?} {:?}", span, other);
                        }
                        spans.set_reserved(spans.reserved().max(span.end));
                        spans.push(span, ());
                    } else {
                        prop_assert!(spans.len() > 0, "an empty area has room for {}", length);
                    },
                    2 => { spans.pop(); }
                    _ => spans.truncate(spans.len().saturating_sub(length % 3)),
                }
            }
        }
    }
}
