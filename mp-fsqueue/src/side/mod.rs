//! The getting side of one process: which item is next, and who has it.
//!
//! Per writer there is one place to read: what came back first, then what follows in the oldest segment that has not ended.
//! Of the items there, the one that was put first is next. Items that were put after the last look at all writers are not
//! given out before another look, so that no writer's item overtakes one whose `put` was over before its own began.
//!
//! Everything is decided under the queue's lock and done when its journal entry is written. Before that, a death changes
//! nothing; after it, the item has been given out. Files are removed before the journal forgets them.

mod care;
mod settle;

use crate::consumer::Me;
use crate::cursor::{Cursor, Fill};
use crate::error::{Error, ItemId, Result};
use crate::host;
use crate::journal::Entry;
use crate::layout::Layout;
use crate::ledger::Ledger;
use crate::options::Builder;
use crate::record;
use crate::state::{SegmentId, Span};
use crate::sys::{self, File};
use crate::usage::{Usage, Waiting};
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the living are looked for while there is work.
const CARE: Duration = Duration::from_millis(100);
/// Bytes that one call takes out at most, beside its first item.
const BATCH_BYTES: u64 = 4 << 20;

/// An item's place.
pub(crate) type Place = (SegmentId, Span);

#[derive(Debug)]
pub(crate) struct Side {
    pub pid: i32,
    pub layout: Layout,
    options: Builder,
    pub ledger: Ledger,
    remote: bool,
    sources: BTreeMap<u64, Source>,
    /// The journal's changes that `sources` know.
    seen: u64,
    dirty: bool,
    /// When all writers were looked at.
    scanned: u64,
    cared: Option<Instant>,
    tidied: Option<Instant>,
    me: Option<Me>,
    usage: Usage,
    /// What was found damaged, for the next caller.
    damage: Vec<Error>,
    /// Items of a batch that are not in the journal yet.
    unwritten: usize,
}

/// Where the items of one writer come from.
#[derive(Debug)]
struct Source {
    id: SegmentId,
    boot: u128,
    /// The writer has gone on to another segment.
    followed: bool,
    file: Option<File>,
    cursor: Cursor,
}

impl Side {
    pub fn open(layout: &Layout, options: &Builder, deadline: Option<Instant>) -> Result<Side> {
        let ledger = Ledger::open(layout, options.durability.is_durable(), options.file_mode, deadline)?;
        let mut side = Side {
            pid: host::pid(),
            layout: layout.clone(),
            options: options.clone(),
            remote: ledger.is_remote(),
            ledger,
            sources: BTreeMap::new(),
            seen: u64::MAX,
            dirty: true,
            scanned: 0,
            cared: None,
            tidied: None,
            me: None,
            usage: Usage::default(),
            damage: Vec::new(),
            unwritten: 0,
        };
        if !side.ledger.is_read_only() {
            let _held = side.ledger.hold(deadline)?;
            // What cannot be tidied up is no reason not to open.
            let _ = side.tidy();
            side.tidied = Some(Instant::now());
        }
        Ok(side)
    }

    pub fn empty(&self) -> Error {
        Error::Empty { path: self.layout.root.clone() }
    }

    /// Gives the next item out for ever, if `decode` can make something of it. An item that cannot be decoded is moved to
    /// the quarantine. Call it with the queue's lock.
    pub fn take<R>(
        &mut self,
        decode: &mut dyn FnMut(&[u8]) -> Result<R, Undecodable>,
    ) -> Result<Option<(R, Place)>> {
        let Some((place, result)) = self.look(decode)? else { return Ok(None) };
        match result {
            Ok(value) => {
                self.note(Entry::Take { id: place.0, span: place.1 }, place.0)?;
                Ok(Some((value, place)))
            }
            Err(bad) => Err(self.reject(place, bad)?),
        }
    }

    /// Gives out up to `limit` items: for ever, or to the consumer of this process. Undecodable ones go to `bad`. What was
    /// given out before an error is returned, with the error in `bad`.
    pub fn take_many<R>(
        &mut self,
        limit: usize,
        claim: bool,
        decode: &mut dyn FnMut(&[u8]) -> Result<R, Undecodable>,
        bad: &mut Vec<Error>,
    ) -> Result<Vec<(R, Place)>> {
        let consumer = if claim { Some(self.consumer()?) } else { None };
        let mut taken = Vec::new();
        self.unwritten = 0;
        let result =
            self.fill_batch(limit, consumer, decode, &mut taken, bad).and_then(|()| self.ledger.flush());
        if let Err(e) = result {
            // What is not in the journal was not given out.
            self.dirty = true;
            taken.truncate(taken.len().saturating_sub(self.unwritten));
            if taken.is_empty() && bad.is_empty() {
                return Err(e);
            }
            bad.push(e);
        }
        self.unwritten = 0;
        Ok(taken)
    }

    fn fill_batch<R>(
        &mut self,
        limit: usize,
        consumer: Option<u64>,
        decode: &mut dyn FnMut(&[u8]) -> Result<R, Undecodable>,
        taken: &mut Vec<(R, Place)>,
        bad: &mut Vec<Error>,
    ) -> Result<()> {
        let mut bytes = 0;
        while taken.len() < limit && bytes < BATCH_BYTES {
            let Some((place, result)) = self.look(decode)? else { return Ok(()) };
            let (id, span) = place;
            match result {
                Ok(value) => {
                    bytes += span.end_offset - span.offset;
                    let entry = match consumer {
                        Some(consumer) => Entry::Claim { id, span, consumer },
                        None => Entry::Take { id, span },
                    };
                    self.ledger.stage(entry);
                    self.unwritten += 1;
                    taken.push((value, place));
                    self.follow_one(id)?;
                }
                Err(wrong) => {
                    self.flush()?;
                    bad.push(self.reject(place, wrong)?);
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, entries: &[Entry]) -> Result<()> {
        entries.iter().for_each(|e| self.ledger.stage(*e));
        self.flush()
    }

    /// Writes down what was staged.
    fn flush(&mut self) -> Result<()> {
        self.ledger.flush()?;
        self.unwritten = 0;
        Ok(())
    }

    /// The next item, decoded, without giving it out.
    fn look<R>(
        &mut self,
        decode: &mut dyn FnMut(&[u8]) -> Result<R, Undecodable>,
    ) -> Result<Option<(Place, Result<R, Undecodable>)>> {
        let Some(writer) = self.pick()? else { return Ok(None) };
        let Some(source) = self.sources.get(&writer) else { return Ok(None) };
        let Some((span, body)) = source.cursor.item() else { return Ok(None) };
        Ok(Some(((source.id, span), decode(body))))
    }

    /// Whether an item waits. Call it with the queue's lock.
    pub fn has_item(&mut self) -> Result<bool> {
        self.pick().map(|p| p.is_some())
    }

    /// What was found damaged since the last call.
    pub fn damage(&mut self) -> Option<Error> {
        self.damage.pop()
    }

    /// The writer of the next item, whose cursor then stands on it.
    fn pick(&mut self) -> Result<Option<u64>> {
        let mut looked = false;
        loop {
            if self.dirty || self.seen != self.ledger.changes {
                self.follow()?;
            }
            let mut best: Option<(u64, u64)> = None;
            let mut damaged: Option<(u64, Span, &'static str)> = None;
            let (mut finished, mut broken) = (None, None);
            for (&writer, source) in &mut self.sources {
                match source.fill(&self.layout, self.remote) {
                    Ok(Fill::Item { time }) if best.is_none_or(|b| time < b.0) => best = Some((time, writer)),
                    Ok(Fill::Nothing) if source.followed => finished = Some(source.id),
                    Ok(Fill::Item { .. } | Fill::Nothing) => {}
                    Ok(Fill::Damage(span, why)) => damaged = Some((writer, span, why)),
                    // Other writers' items are not affected.
                    Err(e) => broken = Some(e),
                }
            }
            if let Some((writer, span, why)) = damaged {
                self.quarantine_damage(writer, span, why)?;
                continue;
            }
            // What follows in the writer's next segment may be older than what others have.
            if let Some(id) = finished
                && self.ledger.state.segments.get(&id).is_some_and(|s| !s.ended && s.ready.is_empty())
                && self.end_segment(id)?
            {
                continue;
            }
            match best {
                Some((time, writer))
                    if looked
                        || ((time <= self.scanned || self.is_foreign(writer)) && !self.care_is_due()) =>
                {
                    return Ok(Some(writer));
                }
                _ if looked => {
                    if self.end_segments()? {
                        continue;
                    }
                    return broken.map_or(Ok(None), Err);
                }
                _ => {}
            }
            looked = true;
            self.scanned = match self.ledger.state.hosts.get(&host::boot_id()) {
                Some(offset) => host::since_boot().wrapping_add(*offset),
                None => 0,
            };
            self.sources.values_mut().for_each(|s| s.cursor.refresh());
            if best.is_some() && self.care_is_due() {
                self.care()?;
            }
        }
    }

    /// However much waits, what dead consumers had comes back soon.
    fn care_is_due(&self) -> bool {
        self.cared.is_none_or(|c| c.elapsed() > CARE)
    }

    fn is_foreign(&self, writer: u64) -> bool {
        self.sources.get(&writer).is_some_and(|s| s.boot != host::boot_id())
    }

    /// Puts the cursors where the journal says.
    fn follow(&mut self) -> Result<()> {
        let mut found = BTreeMap::<u64, (SegmentId, Span, u128, bool)>::new();
        let mut done = Vec::new();
        for (&id, segment) in &self.ledger.state.segments {
            if segment.is_done() {
                done.push(id);
            }
            match (found.get_mut(&id.writer), segment.front()) {
                (Some((.., followed)), _) => *followed = true,
                (None, Some(front)) => drop(found.insert(id.writer, (id, front, segment.boot, false))),
                (None, None) => {}
            }
        }
        self.sources.retain(|writer, source| found.get(writer).is_some_and(|f| f.0 == source.id));
        for (writer, (id, front, boot, followed)) in found {
            match self.sources.get_mut(&writer) {
                Some(source) => {
                    source.cursor.align(front);
                    source.followed = followed;
                }
                None => {
                    let cursor =
                        Cursor::new(front, record::seed(id.writer, id.number), self.options.read_buffer);
                    self.sources.insert(writer, Source { id, boot, followed, file: None, cursor });
                }
            }
        }
        (self.seen, self.dirty) = (self.ledger.changes, false);
        // Somebody died before it could remove these.
        done.into_iter().try_for_each(|id| self.remove_if_done(id))
    }

    /// Writes down what happened to one segment, and follows it.
    fn note(&mut self, entry: Entry, id: SegmentId) -> Result<()> {
        self.ledger.stage(entry);
        self.flush()?;
        self.follow_one(id)
    }

    /// Goes on in a segment after its front was given out.
    fn follow_one(&mut self, id: SegmentId) -> Result<()> {
        match (self.sources.get_mut(&id.writer), self.ledger.state.segments.get(&id)) {
            (Some(source), Some(segment)) if source.id == id && !self.dirty => match segment.front() {
                Some(front) => {
                    source.cursor.advance();
                    source.cursor.align(front);
                }
                None => self.dirty = true,
            },
            _ => self.dirty = true,
        }
        self.remove_if_done(id)
    }

    fn remove_if_done(&mut self, id: SegmentId) -> Result<()> {
        if self.ledger.state.segments.get(&id).is_some_and(|s| s.is_done()) {
            self.flush()?;
            sys::remove(&self.layout.segment(id))?;
            if self.ledger.is_durable() {
                sys::sync_dir(&self.layout.segments())?;
            }
            self.append(&[Entry::Remove { id }])?;
            self.usage.forget(id);
            self.dirty = true;
        }
        Ok(())
    }

    /// How much waits. Call it with the queue's lock.
    pub fn waiting(&mut self) -> Result<Waiting> {
        self.usage.measure(&self.layout, &self.ledger.state)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // A forked child leaves its parent's file alone.
        if let Some(me) = self.me.take_if(|_| self.pid == host::pid()) {
            let _ = sys::remove(&self.layout.consumer(me.id));
        }
    }
}

impl Source {
    fn fill(&mut self, layout: &Layout, remote: bool) -> Result<Fill> {
        let file = match &self.file {
            Some(file) => file,
            None => match File::find(&layout.segment(self.id), OFlags::RDONLY)? {
                Some(file) => self.file.insert(file),
                // Somebody removed it; its writer's next segment goes on.
                None => return Ok(Fill::Nothing),
            },
        };
        self.cursor.fill(file, remote)
    }
}

/// Why bytes are no value.
#[derive(Debug)]
pub(crate) struct Undecodable {
    pub type_name: &'static str,
    pub source: rmp_serde::decode::Error,
}

impl Undecodable {
    /// What the quarantine says.
    pub fn reason(&self) -> String {
        format!("no {}: {}", self.type_name, self.source)
    }

    pub fn error(self, (id, span): Place, kept: PathBuf) -> Error {
        Error::Decode { item: item_id(id, span.first), type_name: self.type_name, kept, source: self.source }
    }
}

pub(crate) fn item_id(id: SegmentId, sequence: u64) -> ItemId {
    ItemId { writer: id.writer, segment: id.number, sequence }
}
