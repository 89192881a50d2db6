//! The worker's end of a link: it claims tasks and sends results.
//!
//! Killed at any point, it leaves the account exact: a task counts as taken from the moment `next` claimed it to the
//! moment `publish` made its result visible. When the parent dies, both ends simply stay as they are.

use serde::{Deserialize, Serialize};

use super::layout::{Layout, ResultHeader, Side, Slot, TaskHeader, View, broken, length_of};
use super::spans::{LINGER, Spans};
use crate::deadline::Deadline;
use crate::segment::Segment;
use crate::spin::Spin;
use crate::{Error, Result};

/// Results in the ring, and bytes of one, from which on room is taken back early, so that the ring runs empty and
/// begins again with its warm first pages.
const LOOK_AT: usize = 32;
const COLD: usize = 4096;

/// The worker's half of a link on its way to the worker: it travels inside a message, as the one descriptor it holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerHalf {
    segment: Segment,
    layout: Layout,
}

impl WorkerHalf {
    pub(super) fn new(view: &View) -> WorkerHalf {
        WorkerHalf { segment: view.segment().clone(), layout: view.layout }
    }

    /// Becomes the worker of the link; there can be only one.
    ///
    /// # Errors
    /// `Error::Invalid` if somebody else did before, or if the half does not fit its segment.
    pub fn into_worker_side(self) -> Result<WorkerSide> {
        let view = View::new(self.segment, self.layout)?;
        if !view.take() {
            return Err(broken("another worker has taken this link".into()));
        }
        let results = Spans::new(view.layout.area_len(Side::Results), view.layout.slots as usize);
        Ok(WorkerSide { view, spin: Spin::new(), results, head: 0, tail: 0, unpublished: 0 })
    }
}

/// Claims tasks and sends results, one thread at a time.
#[derive(Debug)]
pub struct WorkerSide {
    view: View,
    spin: Spin,
    /// Results that the parent has not copied out yet.
    results: Spans<()>,
    /// The number of the oldest of them.
    head: u32,
    /// The number of the next result to publish.
    tail: u32,
    /// Results pushed, but not published. Their numbers follow `tail`.
    unpublished: u32,
}

/// A claimed task. Its body stays in the link; it is there until the task's result is sent.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// What the parent pushed.
    pub header: TaskHeader,
    /// The body: starts at a multiple of 8 bytes.
    pub body: &'a [u8],
}

impl WorkerSide {
    /// Claims the oldest task; none if none comes before the deadline.
    ///
    /// # Errors
    /// `Error::Invalid` if the parent broke the link's state.
    pub fn next(&mut self, deadline: Option<Deadline>) -> Result<Option<Task<'_>>> {
        let tasks = self.view.tasks();
        let number = loop {
            if let Some(number) = tasks.claim() {
                break number;
            }
            if self.spin.until(|| tasks.peek().len() != 0) {
                continue;
            }
            if !tasks.sleep(deadline) {
                match tasks.claim() {
                    Some(number) => break number,
                    None => return Ok(None),
                }
            }
        };
        self.task(number).map(Some)
    }

    /// Claims the oldest task if there is one now.
    ///
    /// # Errors
    /// As [`WorkerSide::next`].
    pub fn try_next(&mut self) -> Result<Option<Task<'_>>> {
        self.view.tasks().claim().map(|number| self.task(number)).transpose()
    }

    fn task(&self, number: u32) -> Result<Task<'_>> {
        // SAFETY: just claimed, and the parent leaves it alone until it has the result.
        let slot = unsafe { self.view.read_slot(Side::Tasks, number) };
        let body = self.view.body(Side::Tasks, &slot)?;
        // SAFETY: in bounds. The parent frees the body when it has the task's result (it needs a `Done` for that), and
        // no result is sent while the body is borrowed, as that takes `&mut self`.
        Ok(Task { header: slot.task_header(), body: unsafe { &*body } })
    }

    /// The longest body of a result that can ever be sent, in bytes.
    pub fn max_entry(&self) -> usize {
        self.view.layout.area_len(Side::Results)
    }

    /// Sends a result, after waiting for room if need be. True if the parent sleeps: the caller then rings its bell.
    ///
    /// # Errors
    /// `Error::TooLong` if it is longer than [`WorkerSide::max_entry`], `Error::Io` if the system has no memory,
    /// `Error::Timeout` if there is no room before the deadline; nothing was sent then.
    #[must_use = "the parent may sleep until its bell is rung"]
    pub fn send(
        &mut self,
        header: ResultHeader,
        parts: &[&[u8]],
        deadline: Option<Deadline>,
    ) -> Result<bool> {
        while !self.try_push(header, parts)? {
            self.wait_room(deadline)?;
        }
        Ok(self.publish())
    }

    /// Writes a result with the parts as its body; the parent sees it after [`WorkerSide::publish`]. False, and nothing
    /// happened, while there is no room: then publish what was pushed, ring the bell, and [`WorkerSide::wait_room`].
    ///
    /// # Errors
    /// `Error::TooLong` if it is longer than [`WorkerSide::max_entry`], `Error::Io` if the system has no memory.
    pub fn try_push(&mut self, header: ResultHeader, parts: &[&[u8]]) -> Result<bool> {
        let length = length_of(parts);
        // The parent's word is looked at now and then only: each look costs a transfer between the CPUs.
        if self.results.len() >= LOOK_AT || length > COLD || self.results.has_grown() {
            self.free()?;
        }
        let span = match self.view.place(Side::Results, &mut self.results, length)? {
            Some(span) => span,
            None => {
                self.free()?;
                match self.view.place(Side::Results, &mut self.results, length)? {
                    Some(span) => span,
                    None => return Ok(false),
                }
            }
        };
        let number = self.tail.wrapping_add(self.unpublished);
        // SAFETY: `self` is the only writer of results; the place is fresh and reserved; fewer results than slots are
        // in use and their numbers follow one another, so this slot is free.
        unsafe { self.view.write(Side::Results, number, span, Slot::result(header, span, length), parts) };
        self.results.push(span, ());
        self.unpublished += 1;
        Ok(true)
    }

    /// Makes all pushed results visible. True if the parent sleeps: the caller then rings its bell.
    #[must_use = "the parent may sleep until its bell is rung"]
    pub fn publish(&mut self) -> bool {
        if self.unpublished == 0 {
            return false;
        }
        self.tail = self.tail.wrapping_add(std::mem::take(&mut self.unpublished));
        self.view.results().publish(self.tail)
    }

    /// Waits until the parent has taken at least one result since the last push.
    ///
    /// # Errors
    /// `Error::Timeout` if it does not before the deadline; `Error::Invalid` if there are results that were pushed but
    /// not published (the parent would never take them), or if all were taken.
    pub fn wait_room(&mut self, deadline: Option<Deadline>) -> Result<()> {
        if self.unpublished > 0 || self.results.len() == 0 {
            let reason = "waiting for room that no result will free; publish first".into();
            return Err(Error::Invalid { what: "wait on a pool link", reason });
        }
        let (results, seen) = (self.view.results(), self.head);
        while results.head() == seen {
            if self.spin.until(|| results.head() != seen) {
                break;
            }
            if !results.sleep_for_room(seen, deadline) && results.head() == seen {
                return Err(Error::Timeout { what: "waiting for room for a result" });
            }
        }
        self.free()
    }

    /// Gives memory of the result area back that a burst needed and nothing since; when to call this again, if there is
    /// such memory and nothing happens until then.
    ///
    /// # Errors
    /// `Error::Invalid` if the parent broke the link's state.
    pub fn trim(&mut self, now: Deadline) -> Result<Option<Deadline>> {
        if !self.results.has_grown() {
            return Ok(None);
        }
        self.free()?;
        if self.results.len() > 0 {
            // The parent has not come to them yet.
            return Ok(Some(now.saturating_add(LINGER)));
        }
        Ok(self.view.trim(Side::Results, &mut self.results, now))
    }

    /// Whether [`WorkerSide::trim`] may have something to do: it is then to be called before a long wait.
    pub fn has_grown(&self) -> bool {
        self.results.has_grown()
    }

    /// Takes back the room of results that the parent has copied out.
    fn free(&mut self) -> Result<()> {
        let head = self.view.results().head();
        let freed = head.wrapping_sub(self.head);
        if freed as usize > self.results.len() - self.unpublished as usize {
            return Err(broken(format!(
                "the parent took results up to {head}, but they end at {}",
                self.tail
            )));
        }
        for _ in 0..freed {
            self.results.pop();
        }
        self.head = head;
        Ok(())
    }
}
