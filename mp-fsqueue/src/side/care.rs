//! Looking after what dead processes left: segments that get no more, claims that nobody works on, files that mean nothing.
//!
//! All under the queue's lock, so that nobody is in the middle of anything; a death here leaves the rest for the next.

use super::Side;
use crate::consumer;
use crate::cursor::Fill;
use crate::error::Result;
use crate::failed;
use crate::host;
use crate::journal::Entry;
use crate::segment::{self, START};
use crate::state::SegmentId;
use crate::sys::{self, File};
use rustix::fs::OFlags;
use std::time::{Duration, Instant};

/// How often the living are looked for while there is no work.
const IDLE_CARE: Duration = Duration::from_millis(10);
/// How often leftovers are looked for.
const TIDY: Duration = Duration::from_secs(30);
impl Side {
    /// Ends segments that have been read and get no more; whether there were some. All writers have just been looked at.
    pub(super) fn end_segments(&mut self) -> Result<bool> {
        let mut ended = false;
        let care = self.cared.is_none_or(|c| c.elapsed() > IDLE_CARE);
        let ids = self.sources.values().map(|s| s.id).collect::<Vec<_>>();
        for id in ids {
            let Some(segment) = self.ledger.state.segments.get(&id) else { continue };
            let missing = self.sources.get(&id.writer).is_some_and(|s| s.file.is_none());
            if missing && !segment.ready.is_empty() && segment.claimed.is_empty() {
                // Nothing is to be had there: a power cut kept the file's end, but not what became of its items.
                self.append(&[Entry::Remove { id }])?;
                self.usage.forget(id);
                (self.dirty, ended) = (true, true);
                continue;
            }
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
    pub(super) fn end_segment(&mut self, id: SegmentId) -> Result<bool> {
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
                let durable = self.ledger.is_durable();
                failed::store(&self.layout, &path, &bytes, durable, self.options.file_mode)?;
            }
        }
        self.append(&[Entry::End { id, torn }])?;
        self.dirty = true;
        self.remove_if_done(id)?;
        Ok(true)
    }

    /// Gives back what dead consumers worked on; whether there was something.
    pub(super) fn care(&mut self) -> Result<bool> {
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
    pub(super) fn ring(&self) {
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
