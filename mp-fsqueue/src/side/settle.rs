//! What becomes of items that were given out: acknowledged, given back, or kept in the quarantine.
//!
//! A claim is settled when its journal entry is written. An item is copied to the quarantine before that: a death in between
//! leaves it claimed by the dead, and so it comes back, though a copy is there.

use super::{Place, Side, Undecodable, item_id};
use crate::consumer::Me;
use crate::error::{Error, Result};
use crate::failed;
use crate::journal::Entry;
use crate::record;
use crate::state::{SegmentId, Span};
use crate::sys::File;
use rustix::fs::OFlags;
use std::path::PathBuf;

impl Side {
    /// The consumer of this process. Call it with the queue's lock.
    pub(super) fn consumer(&mut self) -> Result<u64> {
        if let Some(me) = &self.me {
            return Ok(me.id);
        }
        let me = Me::enter(&self.layout, self.options.file_mode)?;
        let id = me.id;
        self.me = Some(me);
        Ok(id)
    }

    /// Settles claims of this process: all, or none with an error. Call it with the queue's lock.
    pub fn settle(&mut self, places: &[Place], entry: fn(SegmentId, Span, u64) -> Entry) -> Result<()> {
        let me = self.check_claims(places)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(places.len());
        let mut joined: Vec<Place> = Vec::new();
        for place in places {
            match joined.last_mut() {
                Some((id, span))
                    if *id == place.0 && span.end == place.1.first && span.end_offset == place.1.offset =>
                {
                    (span.end, span.end_offset) = (place.1.end, place.1.end_offset);
                }
                _ => joined.push(*place),
            }
        }
        entries.extend(joined.iter().map(|(id, span)| entry(*id, *span, me)));
        let returned = self.ledger.state.totals.returned;
        self.append(&entries)?;
        self.dirty = true;
        if self.ledger.state.totals.returned > returned {
            self.ring();
        }
        joined.iter().try_for_each(|(id, _)| self.remove_if_done(*id))
    }

    fn check_claims(&mut self, places: &[Place]) -> Result<u64> {
        let me = self.me.as_ref().map_or(0, |me| me.id);
        for (id, span) in places {
            let holder = self.ledger.state.segments.get(id).and_then(|s| s.holder(span.first));
            if holder != Some(me) || me == 0 {
                return Err(Error::ClaimLost { item: item_id(*id, span.first) });
            }
        }
        if let Some(me) = &mut self.me {
            me.beat()?;
        }
        Ok(me)
    }

    /// Moves a claimed item to the quarantine. Call it with the queue's lock.
    pub fn fail(&mut self, place: Place, reason: &str) -> Result<PathBuf> {
        self.check_claims(&[place])?;
        let (id, span) = place;
        let path = self.layout.segment(id);
        let file = File::open(&path, OFlags::RDONLY, 0)?;
        let mut bytes = vec![0; (span.end_offset - span.offset) as usize];
        let got = file.read_at(&mut bytes, span.offset)?;
        bytes.truncate(got);
        let (body, whole) = match record::parse(&bytes, record::seed(id.writer, id.number)) {
            record::Parsed::Whole(head) => (&bytes[record::HEADER..record::HEADER + head.body], true),
            _ => (&bytes[..], false),
        };
        let kept = failed::keep(&self.layout, place, reason, (body, whole), self.manner())?;
        self.settle(&[place], |id, span, consumer| Entry::Fail { id, span, consumer })?;
        Ok(kept)
    }

    /// Keeps an item that was given out and did not reach its consumer. Call it with the queue's lock.
    pub fn keep(&self, place: Place, reason: &str, body: &[u8]) -> Result<PathBuf> {
        // The disk has just failed to do more.
        failed::keep(&self.layout, place, reason, (body, true), (false, self.options.file_mode))
    }

    fn manner(&self) -> (bool, Option<u32>) {
        (self.ledger.is_durable(), self.options.file_mode)
    }

    /// Moves the item that the writer's cursor stands on to the quarantine; the error to tell.
    pub(super) fn reject(&mut self, place: Place, bad: Undecodable) -> Result<Error> {
        let (id, span) = place;
        let reason = bad.reason();
        let body = self.sources.get(&id.writer).and_then(|s| s.cursor.item()).map(|i| i.1.to_vec());
        let kept =
            failed::keep(&self.layout, place, &reason, (&body.unwrap_or_default(), true), self.manner())?;
        self.note(Entry::Fail { id, span, consumer: 0 }, id)?;
        Ok(bad.error(place, kept))
    }

    pub(super) fn quarantine_damage(&mut self, writer: u64, span: Span, why: &'static str) -> Result<()> {
        let Some(source) = self.sources.get(&writer) else { return Ok(()) };
        let (id, Some(file)) = (source.id, &source.file) else { return Ok(()) };
        let mut bytes = vec![0; (span.end_offset - span.offset) as usize];
        let got = file.read_at(&mut bytes, span.offset)?;
        bytes.truncate(got);
        let kept = failed::keep(&self.layout, (id, span), why, (&bytes, false), self.manner())?;
        self.append(&[Entry::Fail { id, span, consumer: 0 }])?;
        self.dirty = true;
        self.damage
            .insert(0, Error::Damaged { path: self.layout.segment(id), offset: span.offset, why, kept });
        self.damage.truncate(64);
        self.remove_if_done(id)
    }
}
