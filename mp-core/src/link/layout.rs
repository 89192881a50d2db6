//! Where things lie in a link's segment, and the only code that reads and writes there.
//!
//! The sizes are fixed at creation and travel with the worker's half; the receiver checks them against the segment it got.
//! Slots and bodies are plain bytes: whatever a dying or broken process leaves in them, reading them is harmless.

use std::mem::size_of;

use bytemuck::{Pod, Zeroable};
use crossbeam_utils::CachePadded;
use serde::{Deserialize, Serialize};

use super::control::{ResultControl, TaskControl};
use super::spans::{ALIGN, KEPT, Span, Spans};
use crate::deadline::Deadline;
use crate::futex::AtomicU32;
use crate::segment::Segment;
use crate::{Error, Result};

/// What a task carries besides its body. All but the id is free for the pool to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskHeader {
    /// The parent's name for the task; the result bears it.
    pub id: u64,
    /// Which function.
    pub function: u32,
    /// Descriptors that come with it by another way.
    pub fds: u32,
    /// Marks for the worker.
    pub flags: u32,
}

/// What a result carries besides its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultHeader {
    /// The id of the task.
    pub id: u64,
    /// How it went.
    pub status: u32,
    /// Descriptors that come with it by another way.
    pub fds: u32,
    /// Marks for the parent; the topmost bit is [`ResultHeader::MORE`].
    pub flags: u32,
}

impl ResultHeader {
    /// In `flags`: this is not the task's result but comes before it (or belongs to no task). The task stays claimed.
    pub const MORE: u32 = 1 << 31;
}

/// A task or a result, as it stands in the slot table.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Slot {
    id: u64,
    offset: u32,
    length: u32,
    /// Function or status.
    code: u32,
    fds: u32,
    flags: u32,
    unused: u32,
}

impl Slot {
    pub fn task(header: TaskHeader, span: Span, length: usize) -> Slot {
        let TaskHeader { id, function: code, fds, flags } = header;
        Slot { id, offset: span.start as u32, length: length as u32, code, fds, flags, unused: 0 }
    }

    pub fn result(header: ResultHeader, span: Span, length: usize) -> Slot {
        let ResultHeader { id, status: code, fds, flags } = header;
        Slot { id, offset: span.start as u32, length: length as u32, code, fds, flags, unused: 0 }
    }

    pub fn task_header(&self) -> TaskHeader {
        TaskHeader { id: self.id, function: self.code, fds: self.fds, flags: self.flags }
    }

    pub fn result_header(&self) -> ResultHeader {
        ResultHeader { id: self.id, status: self.code, fds: self.fds, flags: self.flags }
    }
}

/// The sizes of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    /// Slots in each of the two tables, a power of two.
    pub slots: u32,
    /// Bytes for task bodies, and for result bodies.
    pub task_bytes: u32,
    pub result_bytes: u32,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { slots: 1024, task_bytes: 32 << 20, result_bytes: 32 << 20 }
    }
}

/// The words at the start of the segment.
#[derive(Default)]
#[repr(C)]
struct Control {
    tasks: TaskControl,
    results: ResultControl,
    /// Not zero once somebody is the worker.
    taken: CachePadded<AtomicU32>,
}

/// Where the slot tables begin.
const TABLES: usize = 4096;
/// Memory is reserved in steps of this, and the areas begin at multiples of it.
const STEP: usize = 64 << 10;

#[cfg(not(loom))]
const _: () = assert!(size_of::<Control>() <= TABLES && size_of::<Slot>() == 32);

impl Layout {
    fn is_valid(&self) -> bool {
        let bytes = |bytes: u32| {
            bytes as usize >= ALIGN && (bytes as usize).is_multiple_of(ALIGN) && bytes <= 1 << 30
        };
        self.slots.is_power_of_two()
            && self.slots <= 1 << 16
            && bytes(self.task_bytes)
            && bytes(self.result_bytes)
    }

    fn table(&self, side: Side) -> usize {
        TABLES + if side == Side::Tasks { 0 } else { self.slots as usize * size_of::<Slot>() }
    }

    fn area(&self, side: Side) -> usize {
        let first = (TABLES + 2 * self.slots as usize * size_of::<Slot>()).next_multiple_of(STEP);
        if side == Side::Tasks { first } else { (first + self.task_bytes as usize).next_multiple_of(STEP) }
    }

    pub fn area_len(&self, side: Side) -> usize {
        (if side == Side::Tasks { self.task_bytes } else { self.result_bytes }) as usize
    }

    fn len(&self) -> usize {
        self.area(Side::Results) + self.area_len(Side::Results)
    }
}

/// One of the two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Tasks,
    Results,
}

/// A link's segment as mapped in this process.
#[derive(Clone, Debug)]
pub(super) struct View {
    segment: Segment,
    pub layout: Layout,
}

impl View {
    pub fn create(layout: Layout) -> Result<View> {
        let segment = Segment::create_sparse("multiprocess-link", layout.len())?;
        segment.reserve(0..layout.area(Side::Tasks))?;
        View::new(segment, layout)
    }

    /// Looks at a segment that came with a message.
    pub fn new(segment: Segment, layout: Layout) -> Result<View> {
        if !layout.is_valid() || layout.len() > segment.len() {
            return Err(broken(format!("{layout:?} does not fit into {} bytes", segment.len())));
        }
        Ok(View { segment, layout })
    }

    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    fn control(&self) -> &Control {
        // SAFETY: the segment is longer than `Control` (`new`), aligned to a page, lives as long as `self`, and holds
        // nothing else there. `Control` is made of atomics, valid for all bytes, which other processes may write.
        unsafe { self.segment.as_ptr().cast::<Control>().as_ref() }
    }

    pub fn tasks(&self) -> &TaskControl {
        &self.control().tasks
    }

    pub fn results(&self) -> &ResultControl {
        &self.control().results
    }

    /// Becomes the worker: true for the first caller in any process.
    pub fn take(&self) -> bool {
        self.control().taken.swap(1, crate::futex::Ordering::Relaxed) == 0
    }

    fn slot(&self, side: Side, number: u32) -> *mut Slot {
        let index = (number & (self.layout.slots - 1)) as usize;
        let offset = self.layout.table(side) + index * size_of::<Slot>();
        // SAFETY: index < slots, so the slot is in its table, which `new` found to be in the segment.
        unsafe { self.segment.as_ptr().as_ptr().add(offset).cast() }
    }

    /// Copies a slot out.
    ///
    /// # Safety
    /// The entry has been published (claimed, for a task) and not been given back.
    pub unsafe fn read_slot(&self, side: Side, number: u32) -> Slot {
        // SAFETY: in bounds and aligned (`slot`), plain data, read once. By the caller's promise its writer is done; one
        // that breaks the protocol makes the numbers wrong, which `body` and the callers check.
        unsafe { self.slot(side, number).read_volatile() }
    }

    /// Writes an entry: its parts as the body, then its slot.
    ///
    /// # Safety
    /// The caller is the only writer of this side; `span` comes from its [`Spans`] and holds all `parts`, its bytes are
    /// reserved, and `number` is not in use.
    pub unsafe fn write(&self, side: Side, number: u32, span: Span, slot: Slot, parts: &[&[u8]]) {
        // SAFETY: spans lie within the area, which lies within the segment.
        let mut to = unsafe { self.segment.as_ptr().as_ptr().add(self.layout.area(side) + span.start) };
        for part in parts {
            // SAFETY: the parts fit into the span and no other side reads or writes it before it is published; the
            // segment is memory of its own, so a part cannot overlap with the span.
            unsafe {
                to.copy_from_nonoverlapping(part.as_ptr(), part.len());
                to = to.add(part.len());
            }
        }
        // SAFETY: in bounds and aligned (`slot`); nobody reads this slot before it is published.
        unsafe { self.slot(side, number).write(slot) }
    }

    /// The place of a slot's body, if it lies within its area.
    pub fn body(&self, side: Side, slot: &Slot) -> Result<*const [u8]> {
        let (offset, length) = (slot.offset as usize, slot.length as usize);
        // Both come from 32 bits: the sum cannot overflow.
        if offset + length > self.layout.area_len(side) {
            return Err(broken(format!("a body of {length} bytes at {offset} is out of bounds")));
        }
        // SAFETY: just checked; the area lies within the segment.
        let start = unsafe { self.segment.as_ptr().as_ptr().add(self.layout.area(side) + offset) };
        Ok(std::ptr::slice_from_raw_parts(start, length))
    }

    /// A place for an entry of `length` bytes, backed by memory; none while there is no room.
    ///
    /// # Errors
    /// `Error::TooLong` if it could never fit, `Error::Io` when the system has no memory.
    pub fn place<T>(&self, side: Side, spans: &mut Spans<T>, length: usize) -> Result<Option<Span>> {
        let limit = self.layout.area_len(side);
        if length > limit {
            let what = if side == Side::Tasks { "a task" } else { "a result" };
            return Err(Error::TooLong { what, length: length as u64, limit: limit as u64 });
        }
        if spans.len() >= self.layout.slots as usize {
            return Ok(None);
        }
        if spans.len() == 0 && spans.has_grown() {
            self.trim(side, spans, Deadline::now());
        }
        let Some(span) = spans.place(length) else { return Ok(None) };
        if span.end > spans.reserved() {
            self.reserve(side, spans, span.end)?;
        }
        Ok(Some(span))
    }

    #[cold]
    fn reserve<T>(&self, side: Side, spans: &mut Spans<T>, end: usize) -> Result<()> {
        let area = self.layout.area(side);
        let end = end.next_multiple_of(STEP).min(self.layout.area_len(side));
        self.segment.reserve(area + spans.reserved()..area + end)?;
        spans.set_reserved(end);
        Ok(())
    }

    /// Gives memory back that nothing needed for a while; when to look again, if there is such memory.
    ///
    /// Only the area's writer calls this, when all entries are freed: then the reader looks at none of its bytes, and
    /// the next entry there reserves them anew.
    pub fn trim<T>(&self, side: Side, spans: &mut Spans<T>, now: Deadline) -> Option<Deadline> {
        let due = spans.spare_from(now)?;
        if due > now {
            return Some(due);
        }
        let area = self.layout.area(side);
        if self.segment.release(area + KEPT..area + spans.reserved()).is_ok() {
            spans.set_reserved(KEPT);
        } else {
            // The system knows best; another time.
            spans.keep_longer();
        }
        spans.spare_from(now)
    }
}

/// The other side did something that it never does.
#[cold]
pub(super) fn broken(reason: String) -> Error {
    Error::Invalid { what: "state of a pool link", reason }
}

/// The summed length of the parts of a body.
pub(super) fn length_of(parts: &[&[u8]]) -> usize {
    parts.iter().fold(0, |length, part| length.saturating_add(part.len()))
}
