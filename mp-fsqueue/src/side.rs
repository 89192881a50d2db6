//! The getting side of one process: which item is next, and who has it.
//!
//! Per writer there is one place to read: what came back first, then what follows in the oldest segment that has not ended.
//! Of the items there, the one that was put first is next. Items that were put after the last look at all writers are not
//! given out before another look, so that no writer's item overtakes one whose `put` was over before its own began.
//!
//! Everything is decided under the queue's lock and done when its journal entry is written. Before that, a death changes
//! nothing; after it, the item has been given out. Files are removed before the journal forgets them.

use crate::consumer::{self, Me};
use crate::cursor::{Cursor, Fill};
use crate::error::{Error, ItemId, Result};
use crate::failed;
use crate::host;
use crate::journal::Entry;
use crate::layout::Layout;
use crate::ledger::{Held, Ledger};
use crate::options::Builder;
use crate::record;
use crate::segment::{self, START};
use crate::state::{SegmentId, Span};
use crate::sys::{self, File};
use crate::usage::{Usage, Waiting};
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often writers and consumers are looked at while there is work, and while there is none.
const CARE: Duration = Duration::from_millis(100);
const IDLE_CARE: Duration = Duration::from_millis(10);
/// How often leftovers are looked for.
const TIDY: Duration = Duration::from_secs(30);
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
    file: Option<File>,
    cursor: Cursor,
}

impl Side {
    pub fn open(layout: &Layout, options: &Builder) -> Result<Side> {
        let ledger = Ledger::open(layout, options.durability.is_durable(), options.file_mode)?;
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
            let _held = side.ledger.hold()?;
            // What cannot be tidied up is no reason not to open.
            let _ = side.tidy();
            side.tidied = Some(Instant::now());
        }
        Ok(side)
    }

    /// Takes the queue's lock, until `deadline` at most.
    pub fn hold(&mut self, deadline: Option<Instant>) -> Result<Held> {
        match self.ledger.hold_until(deadline)? {
            Some(held) => Ok(held),
            None => Err(self.empty()),
        }
    }

    pub fn empty(&self) -> Error {
        Error::Empty { path: self.layout.root.clone() }
    }

    /// Gives the next item out for ever, if `decode` can make something of it. An item that cannot be decoded is moved to
    /// the quarantine. Call it with the queue's lock.
    pub fn take<R>(&mut self, decode: &mut dyn FnMut(&[u8]) -> Result<R, Undecodable>) -> Result<Option<R>> {
        let Some((place, result)) = self.look(decode)? else { return Ok(None) };
        match result {
            Ok(value) => {
                self.note(Entry::Take { id: place.0, span: place.1 }, place.0)?;
                Ok(Some(value))
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
    #[expect(clippy::type_complexity, reason = "the place and what was made of the item")]
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
            let mut broken = None;
            for (&writer, source) in &mut self.sources {
                match source.fill(&self.layout, self.remote) {
                    Ok(Fill::Item { time }) if best.is_none_or(|b| time < b.0) => best = Some((time, writer)),
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
            match best {
                Some((time, writer)) if looked || time <= self.scanned || self.is_foreign(writer) => {
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
            if best.is_some() && self.cared.is_none_or(|c| c.elapsed() > CARE) {
                self.care()?;
            }
        }
    }

    fn is_foreign(&self, writer: u64) -> bool {
        self.sources.get(&writer).is_some_and(|s| s.boot != host::boot_id())
    }

    /// Puts the cursors where the journal says.
    fn follow(&mut self) -> Result<()> {
        let mut found = BTreeMap::new();
        let mut done = Vec::new();
        for (&id, segment) in &self.ledger.state.segments {
            if segment.is_done() {
                done.push(id);
            }
            if let (false, Some(front)) = (found.contains_key(&id.writer), segment.front()) {
                found.insert(id.writer, (id, front, segment.boot));
            }
        }
        self.sources.retain(|writer, source| found.get(writer).is_some_and(|f| f.0 == source.id));
        for (writer, (id, front, boot)) in found {
            match self.sources.get_mut(&writer) {
                Some(source) => source.cursor.align(front),
                None => {
                    let cursor =
                        Cursor::new(front, record::seed(id.writer, id.number), self.options.read_buffer);
                    self.sources.insert(writer, Source { id, boot, file: None, cursor });
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
            if self.options.durability.is_durable() {
                sys::sync_dir(&self.layout.segments())?;
            }
            self.append(&[Entry::Remove { id }])?;
            self.usage.forget(id);
            self.dirty = true;
        }
        Ok(())
    }

    /// Ends segments that have been read and get no more; whether there were some. All writers have just been looked at.
    fn end_segments(&mut self) -> Result<bool> {
        let mut ended = false;
        let care = self.cared.is_none_or(|c| c.elapsed() > IDLE_CARE);
        let ids = self.sources.values().map(|s| s.id).collect::<Vec<_>>();
        for id in ids {
            let Some(segment) = self.ledger.state.segments.get(&id) else { continue };
            if segment.ended || !segment.ready.is_empty() {
                continue;
            }
            let next = SegmentId { writer: id.writer, number: id.number.saturating_add(1) };
            let last = SegmentId { writer: id.writer, number: u32::MAX };
            let followed = self.ledger.state.segments.range(next..=last).next().is_some();
            if followed || (care && self.is_abandoned(id)?) {
                ended |= self.end_segment(id)?;
            }
        }
        if care {
            ended |= self.care()?;
        }
        Ok(ended)
    }

    /// Whether a segment's writer is gone.
    fn is_abandoned(&self, id: SegmentId) -> Result<bool> {
        let Some(source) = self.sources.get(&id.writer) else { return Ok(false) };
        let Some(file) = &source.file else { return Ok(true) };
        if file.is_locked()? {
            return Ok(false);
        }
        let sure = !self.remote || source.boot == host::boot_id();
        if sure { Ok(true) } else { consumer::is_stale(file, self.options.stale_after) }
    }

    /// Looks a last time at a segment that gets no more, and ends it if nothing is there.
    fn end_segment(&mut self, id: SegmentId) -> Result<bool> {
        let Some(source) = self.sources.get_mut(&id.writer) else { return Ok(false) };
        source.cursor.refresh();
        if source.fill(&self.layout, self.remote)? != Fill::Nothing {
            return Ok(true);
        }
        let mut torn = 0;
        if let Some(file) = &source.file {
            let (from, size) = (source.cursor.span().offset, file.size()?);
            torn = size.saturating_sub(from);
            let mut bytes = vec![0; torn as usize];
            let got = file.read_at(&mut bytes, from)?;
            bytes.truncate(got);
            // Promised to nobody, unless somebody cut the file; so it is kept aside. Zeros are what a power cut leaves.
            if bytes.iter().any(|b| *b != 0) {
                let name = format!("{:016x}-{:08x}-{from}.torn", id.writer, id.number);
                let path = self.layout.failed().join(name);
                let durable = self.options.durability.is_durable();
                failed::store(&self.layout, &path, &bytes, durable, self.options.file_mode)?;
            }
        }
        self.append(&[Entry::End { id, torn }])?;
        self.dirty = true;
        self.remove_if_done(id)?;
        Ok(true)
    }

    /// Gives back what dead consumers worked on; whether there was something.
    fn care(&mut self) -> Result<bool> {
        self.cared = Some(Instant::now());
        if let Some(me) = &mut self.me {
            me.beat()?;
        }
        let returned = self.requeue_dead(self.options.stale_after)?;
        if self.tidied.is_none_or(|t| t.elapsed() > TIDY) {
            self.tidied = Some(Instant::now());
            self.tidy()?;
        }
        Ok(returned > 0 || self.dirty)
    }

    /// Gives back what dead consumers worked on. Call it with the queue's lock.
    pub fn requeue_dead(&mut self, stale_after: Duration) -> Result<u64> {
        let before = self.ledger.state.totals.returned;
        for consumer in self.ledger.state.consumers() {
            if self.me.as_ref().is_some_and(|me| me.id == consumer)
                || !consumer::is_dead(&self.layout, consumer, self.remote, stale_after)?
            {
                continue;
            }
            self.append(&[Entry::Dead { consumer }])?;
            self.dirty = true;
            sys::remove(&self.layout.consumer(consumer))?;
        }
        let returned = self.ledger.state.totals.returned - before;
        if returned > 0 {
            self.ring();
        }
        Ok(returned)
    }

    /// Wakes those who wait for items.
    fn ring(&self) {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        // They look by themselves soon, if this fails.
        if let Ok(bell) = File::open(&self.layout.bell(), flags, self.options.file_mode.unwrap_or(0o666)) {
            let _ = bell.write_at(b"!", 0);
        }
    }

    /// Removes what dead processes left, and finds segments that a damaged journal does not know any more; how many files
    /// are gone. What cannot be looked at stays, and shows in the statistics. Call it with the queue's lock.
    pub fn tidy(&mut self) -> Result<u64> {
        let mut removed = 0;
        for name in sys::list(&self.layout.segments())? {
            let path = self.layout.segments().join(&name);
            let Some(id) = segment::id_of(&path) else { continue };
            if !self.ledger.state.segments.contains_key(&id) {
                match self.examine(id) {
                    Ok(Unknown::Empty) => {
                        sys::remove(&path)?;
                        removed += 1;
                    }
                    Ok(Unknown::Items { sequence, boot }) => {
                        self.append(&[Entry::Segment { id, sequence, offset: START, boot }])?;
                        self.dirty = true;
                    }
                    Ok(Unknown::Foreign) | Err(_) => {}
                }
            }
        }
        let busy = self.ledger.state.consumers();
        for name in sys::list(&self.layout.consumers())? {
            let id = name.to_str().and_then(|n| u64::from_str_radix(n, 16).ok());
            let Some(id) = id.filter(|id| !busy.contains(id) && self.layout.consumer(*id).ends_with(&name))
            else {
                continue;
            };
            let mine = self.me.as_ref().is_some_and(|me| me.id == id);
            if !mine
                && let Ok(true) = consumer::is_dead(&self.layout, id, self.remote, self.options.stale_after)
            {
                sys::remove(&self.layout.consumer(id))?;
                removed += 1;
            }
        }
        for name in sys::list(&self.layout.failed())? {
            let path = self.layout.failed().join(name);
            // These are written under the lock, which we have.
            if path.extension().is_some_and(|e| e == "new") && path.is_file() {
                sys::remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// What a segment is that the journal does not know.
    fn examine(&self, id: SegmentId) -> Result<Unknown> {
        let file = File::open(&self.layout.segment(id), OFlags::RDONLY, 0)?;
        if file.is_locked()? || (self.remote && !consumer::is_stale(&file, self.options.stale_after)?) {
            return Ok(Unknown::Foreign);
        }
        let mut header = [0; START as usize];
        let got = file.read_at(&mut header, 0)?;
        Ok(match segment::read_header(&header[..got], id) {
            // No put into it has returned.
            _ if file.size()? <= START => Unknown::Empty,
            Some((sequence, boot)) => Unknown::Items { sequence, boot },
            None => Unknown::Foreign,
        })
    }

    /// The consumer of this process. Call it with the queue's lock.
    fn consumer(&mut self) -> Result<u64> {
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

    fn manner(&self) -> (bool, Option<u32>) {
        (self.options.durability.is_durable(), self.options.file_mode)
    }

    /// Moves the item that the writer's cursor stands on to the quarantine; the error to tell.
    fn reject(&mut self, place: Place, bad: Undecodable) -> Result<Error> {
        let (id, span) = place;
        let item = item_id(id, span.first);
        let reason = format!("no {}: {}", bad.type_name, bad.source);
        let body = self.sources.get(&id.writer).and_then(|s| s.cursor.item()).map(|i| i.1.to_vec());
        let kept =
            failed::keep(&self.layout, place, &reason, (&body.unwrap_or_default(), true), self.manner())?;
        self.note(Entry::Fail { id, span, consumer: 0 }, id)?;
        Ok(Error::Decode { item, type_name: bad.type_name, kept, source: bad.source })
    }

    fn quarantine_damage(&mut self, writer: u64, span: Span, why: &'static str) -> Result<()> {
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

/// A segment that is not in the journal.
enum Unknown {
    /// Its writer died before its first item.
    Empty,
    /// The journal has lost it.
    Items { sequence: u64, boot: u128 },
    /// Not ours, in use, or damaged beyond recognition.
    Foreign,
}

/// Why bytes are no value.
#[derive(Debug)]
pub(crate) struct Undecodable {
    pub type_name: &'static str,
    pub source: rmp_serde::decode::Error,
}

pub(crate) fn item_id(id: SegmentId, sequence: u64) -> ItemId {
    ItemId { writer: id.writer, segment: id.number, sequence }
}
