//! The putting side: segment files that only this process writes.
//!
//! A record is written whole, by one system call, behind all others; before that call nobody sees it, and after it everybody
//! does. If the writer dies in the call, what is there is not whole and was promised to nobody. A new segment is created,
//! locked and entered into the journal under the queue's lock, before its first record. The entry also says that the
//! writer's previous segment has come to its end.

use crate::error::{Error, Result};
use crate::host;
use crate::journal::Entry;
use crate::layout::Layout;
use crate::ledger::{Held, Ledger};
use crate::options::Builder;
use crate::record;
use crate::segment::{self, START};
use crate::state::SegmentId;
use crate::sys::{self, File};
use crate::usage::Usage;
use rustix::fs::OFlags;
use std::sync::Arc;
use std::time::Instant;

/// At most so many bytes go into one system call of `put_many`.
const CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Writer {
    pub pid: i32,
    layout: Layout,
    options: Builder,
    ledger: Ledger,
    usage: Usage,
    id: u64,
    number: u32,
    sequence: u64,
    /// The time of the last item: times never go back.
    last: u64,
    clock_offset: u64,
    segment: Option<Open>,
    buffer: Vec<u8>,
}

/// The segment that grows.
#[derive(Debug)]
struct Open {
    file: Arc<File>,
    seed: u32,
    size: u64,
}

impl Writer {
    pub fn open(layout: &Layout, options: &Builder, deadline: Option<Instant>) -> Result<Writer> {
        Ok(Writer {
            pid: host::pid(),
            layout: layout.clone(),
            options: options.clone(),
            ledger: Ledger::open(layout, options.durability.is_durable(), options.file_mode, deadline)?,
            usage: Usage::default(),
            id: sys::random()?,
            number: 0,
            sequence: 0,
            last: 0,
            clock_offset: 0,
            segment: None,
            buffer: Vec::new(),
        })
    }

    /// Writes one record, whose body `encode` appends. Returns the file to sync.
    pub fn put(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        deadline: Option<Instant>,
    ) -> Result<Arc<File>> {
        self.buffer.clear();
        let start = record::begin(&mut self.buffer);
        encode(&mut self.buffer)?;
        let body = self.buffer.len() - start - record::HEADER;
        if body > record::MAX_BODY {
            return Err(segment::too_large(&self.layout.root, body));
        }
        let bytes = record::total(body) as u64;
        let held = self.room_for(bytes, 1, deadline)?;
        let (seed, time) = (self.ensure_segment(bytes, held.as_ref(), deadline)?, self.time());
        record::finish(&mut self.buffer, start, seed, self.sequence, time);
        self.write(&[self.buffer.len()]).map_err(|(_, e)| e)
    }

    /// Writes many records, some by one call. Returns the last file to sync and how many were written, whatever happened.
    pub fn put_many(&mut self, bodies: &[Vec<u8>]) -> (usize, Result<Option<Arc<File>>>) {
        let (mut done, mut file) = (0, None);
        while done < bodies.len() {
            match self.put_some(&bodies[done..]) {
                Ok((count, last)) => (done, file) = (done + count, Some(last)),
                Err((count, e)) => return (done + count, Err(e)),
            }
        }
        (done, Ok(file))
    }

    fn put_some(&mut self, bodies: &[Vec<u8>]) -> Result<(usize, Arc<File>), (usize, Error)> {
        let (mut count, mut bytes) = (0, 0);
        for body in bodies {
            let more = record::total(body.len());
            if count > 0 && (bytes + more > CHUNK || (bytes + more) as u64 > self.options.segment_bytes) {
                break;
            }
            (count, bytes) = (count + 1, bytes + more);
        }
        let bounded = self.options.max_items.is_some() || self.options.max_bytes.is_some();
        if bounded {
            (count, bytes) = (1, record::total(bodies[0].len()));
        }
        let none = |e| (0, e);
        let held = self.room_for(bytes as u64, count as u64, None).map_err(none)?;
        let seed = self.ensure_segment(bytes as u64, held.as_ref(), None).map_err(none)?;
        self.buffer.clear();
        let mut ends = Vec::with_capacity(count);
        for (i, body) in bodies[..count].iter().enumerate() {
            let (start, time) = (record::begin(&mut self.buffer), self.time());
            self.buffer.extend_from_slice(body);
            record::finish(&mut self.buffer, start, seed, self.sequence + i as u64, time);
            ends.push(self.buffer.len());
        }
        self.write(&ends).map(|file| (count, file))
    }

    /// Checks the bounds; with bounds, the queue's lock is held until the item is there.
    fn room_for(&mut self, bytes: u64, items: u64, deadline: Option<Instant>) -> Result<Option<Held>> {
        let (max_items, max_bytes) = (self.options.max_items, self.options.max_bytes);
        if max_items.is_none() && max_bytes.is_none() {
            return Ok(None);
        }
        let held = self.ledger.hold(deadline)?;
        let now = self.usage.measure(&self.layout, &self.ledger.state)?;
        if max_items.is_some_and(|max| now.items + items > max)
            || max_bytes.is_some_and(|max| now.bytes + bytes > max)
        {
            return Err(Error::Full { path: self.layout.root.clone(), items: now.items, bytes: now.bytes });
        }
        Ok(Some(held))
    }

    /// Nanoseconds that never go back within a writer, nor within a host.
    fn time(&mut self) -> u64 {
        self.last = self.last.max(host::since_boot().wrapping_add(self.clock_offset));
        self.last
    }

    /// Makes sure that there is a segment with room; returns what its checksums start from.
    fn ensure_segment(&mut self, bytes: u64, held: Option<&Held>, deadline: Option<Instant>) -> Result<u32> {
        let limit = self.options.segment_bytes;
        match &self.segment {
            Some(open) if open.size == START || open.size + bytes <= limit => Ok(open.seed),
            _ => {
                let _held = if held.is_none() { Some(self.ledger.hold(deadline)?) } else { None };
                self.begin_segment()
            }
        }
    }

    /// Begins a segment. Call it with the queue's lock.
    fn begin_segment(&mut self) -> Result<u32> {
        if let (Some(old), true) = (&self.segment, self.options.durability.is_durable()) {
            old.file.sync()?;
        }
        self.clock_offset = self.ledger.clock_offset()?;
        let id = SegmentId { writer: self.id, number: self.number };
        let path = self.layout.segment(id);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = File::open(&path, flags, self.options.file_mode.unwrap_or(0o666))?;
        match self.enter(id, &file) {
            Ok(()) => {
                self.number += 1;
                let seed = record::seed(id.writer, id.number);
                // The old file's lock ends with its descriptor; a thread that still syncs it keeps it a little longer.
                self.segment = Some(Open { file: Arc::new(file), seed, size: START });
                Ok(seed)
            }
            Err(e) => {
                let _ = sys::remove(&path);
                Err(e)
            }
        }
    }

    fn enter(&mut self, id: SegmentId, file: &File) -> Result<()> {
        if let Some(mode) = self.options.file_mode {
            file.chmod(mode)?;
        }
        file.lock()?;
        let boot = host::boot_id();
        file.write_at(&segment::header(id, self.sequence, boot), 0).map_err(|(_, e)| e)?;
        if self.options.durability.is_durable() {
            file.sync()?;
            sys::sync_dir(&self.layout.segments())?;
        }
        self.ledger.append(&[Entry::Segment { id, sequence: self.sequence, offset: START, boot }])?;
        self.ledger.sync()
    }

    /// Writes the records that end at `ends` in the buffer. Of a write that fails in the middle, the whole records stay.
    fn write(&mut self, ends: &[usize]) -> Result<Arc<File>, (usize, Error)> {
        let Some(open) = &mut self.segment else {
            return Err((0, Error::io("find", &self.layout.segments(), rustix::io::Errno::NOENT)));
        };
        match open.file.write_at(&self.buffer, open.size) {
            Ok(()) => {
                open.size += self.buffer.len() as u64;
                self.sequence += ends.len() as u64;
                let file = open.file.clone();
                self.shrink();
                Ok(file)
            }
            Err((written, e)) => {
                let whole = ends.iter().take_while(|end| **end <= written).count();
                let size = open.size + whole.checked_sub(1).map_or(0, |last| ends[last] as u64);
                self.sequence += whole as u64;
                open.size = size;
                // Go on in a new file: if the disk is full, this one can go when its items are done; and if the end could not
                // be cut off, nothing may be written behind it.
                if open.file.truncate(size).is_err() || size > START {
                    self.segment = None;
                }
                Err((whole, e))
            }
        }
    }

    /// After a failed sync nobody knows what is on the disk: go on in a new file.
    pub fn abandon(&mut self) {
        self.segment = None;
    }

    /// One large item must not take its memory for ever.
    fn shrink(&mut self) {
        if self.buffer.capacity() > 4 * CHUNK {
            self.buffer = Vec::new();
        }
    }
}
