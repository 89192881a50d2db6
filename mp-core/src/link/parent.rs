//! The parent's end of a link: it sends tasks, takes unclaimed ones back, and receives results.
//!
//! After the worker's death everything is still here: take the results there are, revoke what was unclaimed, and
//! [`TaskSender::claimed`] are exactly the tasks that died with it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::layout::{ResultHeader, Side, Slot, TaskHeader, View, broken, length_of};
use super::spans::Spans;
use crate::deadline::Deadline;
use crate::{Error, Result};

/// Both directions of the parent's end. They may go to two threads.
#[derive(Debug)]
pub struct ParentSide {
    /// Sends tasks.
    pub tasks: TaskSender,
    /// Receives results.
    pub results: ResultReceiver,
}

impl ParentSide {
    pub(super) fn new(view: View) -> ParentSide {
        static LINKS: AtomicU64 = AtomicU64::new(0);
        let link = LINKS.fetch_add(1, Relaxed);
        let slots = view.layout.slots as usize;
        let entries = Spans::new(view.layout.area_len(Side::Tasks), slots);
        ParentSide {
            tasks: TaskSender { view: view.clone(), link, entries, tail: 0, unpublished: 0, taken: 0 },
            results: ResultReceiver { view, link, head: 0, tail: 0 },
        }
    }
}

/// Sends tasks to one worker and knows which of them it has taken.
///
/// No system call on the way unless the worker sleeps or a body needs pages that were never used; no allocation.
#[derive(Debug)]
pub struct TaskSender {
    view: View,
    link: u64,
    /// All tasks without a result, oldest first: header and length of the body.
    entries: Spans<(TaskHeader, usize)>,
    /// The number of the next task to publish.
    tail: u32,
    /// Tasks pushed, but not published. Their numbers follow `tail`.
    unpublished: u32,
    /// How many of `entries` the worker is known to have taken: a lower bound.
    taken: u32,
}

/// Proof that a task is finished: its result has arrived. To be given to [`TaskSender::complete`].
#[derive(Debug)]
#[must_use = "the task's memory is in use until it is completed"]
pub struct Done {
    link: u64,
    id: u64,
}

impl TaskSender {
    /// The longest body that can ever be sent, in bytes.
    pub fn max_entry(&self) -> usize {
        self.view.layout.area_len(Side::Tasks)
    }

    /// Writes a task with the parts as its body; the worker sees it after [`TaskSender::publish`]. False, and nothing
    /// happened, while there is no room.
    ///
    /// # Errors
    /// `Error::TooLong` if the body is longer than [`TaskSender::max_entry`], `Error::Io` if the system has no memory.
    pub fn try_push(&mut self, header: TaskHeader, parts: &[&[u8]]) -> Result<bool> {
        let length = length_of(parts);
        let Some(span) = self.view.place(Side::Tasks, &mut self.entries, length)? else { return Ok(false) };
        let number = self.tail.wrapping_add(self.unpublished);
        // SAFETY: `self` is the only writer of tasks; the place is fresh and reserved; fewer tasks than slots are in
        // use and their numbers follow one another, so this slot is free.
        unsafe { self.view.write(Side::Tasks, number, span, Slot::task(header, span, length), parts) };
        self.entries.push(span, (header, length));
        self.unpublished += 1;
        Ok(true)
    }

    /// Hands all pushed tasks to the worker, in one step. True if it had to be woken.
    pub fn publish(&mut self) -> bool {
        if self.unpublished == 0 {
            return false;
        }
        let count = std::mem::take(&mut self.unpublished);
        self.tail = self.tail.wrapping_add(count);
        self.view.tasks().publish(count)
    }

    /// Takes back all tasks that the worker has not claimed, published or not, oldest first, with their bodies. From
    /// here on it never sees them. Those that are not looked at are dropped with the iterator.
    ///
    /// # Errors
    /// `Error::Invalid` if the worker broke the link's state; all tasks are then to be treated as claimed.
    pub fn revoke(&mut self) -> Result<Revoked<'_>> {
        let before = self.view.tasks().revoke();
        let published = self.entries.len() as u32 - self.unpublished;
        if before.tail != self.tail || before.len() > published {
            return Err(self.claim_is_broken(before.head, before.tail));
        }
        self.taken = published - before.len();
        self.tail = before.head;
        self.unpublished = 0;
        let range = self.taken as usize..self.entries.len();
        Ok(Revoked { sender: self, range })
    }

    /// How many tasks the worker has taken and sent no result for (that was completed).
    ///
    /// # Errors
    /// `Error::Invalid` if the worker broke the link's state.
    pub fn claimed_len(&mut self) -> Result<usize> {
        let now = self.view.tasks().peek();
        let published = self.entries.len() as u32 - self.unpublished;
        if now.tail != self.tail || now.len() > published {
            return Err(self.claim_is_broken(now.head, now.tail));
        }
        self.taken = published - now.len();
        Ok(self.taken as usize)
    }

    /// The tasks that the worker has taken and that are not completed, oldest first, with their bodies. After its
    /// death, and once all its results are received and completed, these are the ones that died with it.
    ///
    /// # Errors
    /// `Error::Invalid` if the worker broke the link's state.
    pub fn claimed(&mut self) -> Result<Tasks<'_>> {
        let claimed = self.claimed_len()?;
        Ok(Tasks { sender: self, range: 0..claimed })
    }

    /// All tasks that are not completed, oldest first, with their bodies; it needs nothing from the worker.
    pub fn outstanding(&self) -> Tasks<'_> {
        Tasks { sender: self, range: 0..self.entries.len() }
    }

    /// Forgets the oldest task and gives its room back; its header.
    ///
    /// # Errors
    /// `Error::Invalid` if the oldest task is another one or was never claimed: the worker broke the protocol.
    pub fn complete(&mut self, done: Done) -> Result<TaskHeader> {
        let oldest = self.entries.front().map(|&(header, _)| header);
        let header = match oldest {
            Some(header) if header.id == done.id && self.link == done.link => header,
            _ => {
                let id = done.id;
                return Err(broken(format!(
                    "a result for task {id}, but the oldest task there is {oldest:?}"
                )));
            }
        };
        if self.taken == 0 && self.claimed_len()? == 0 {
            return Err(broken(format!("a result for task {}, which was never claimed", done.id)));
        }
        self.entries.pop();
        self.taken -= 1;
        Ok(header)
    }

    /// Gives memory of the task area back that a burst needed and nothing since; when to call this again, if there is
    /// such memory and nothing happens until then.
    pub fn trim(&mut self, now: Deadline) -> Option<Deadline> {
        self.view.trim(Side::Tasks, &mut self.entries, now)
    }

    /// Whether the worker sleeps, as far as can be seen at this moment.
    pub fn is_worker_asleep(&self) -> bool {
        self.view.tasks().is_worker_asleep()
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    fn claim_is_broken(&self, head: u32, tail: u32) -> Error {
        broken(format!("the claim word says {head}..{tail}, but the tasks end at {}", self.tail))
    }

    fn task(&self, index: usize) -> Option<(TaskHeader, &[u8])> {
        let &(span, (header, length)) = self.entries.get(index)?;
        let slot = Slot::task(header, span, length);
        let body = self.view.body(Side::Tasks, &slot).ok()?;
        // SAFETY: in bounds, written by `try_push`. Only `self` writes to tasks, never to one in `entries`, and `self`
        // is borrowed for as long as the body.
        Some((header, unsafe { &*body }))
    }
}

/// Tasks with their bodies, oldest first; see [`TaskSender::claimed`].
#[derive(Debug)]
pub struct Tasks<'a> {
    sender: &'a TaskSender,
    range: Range<usize>,
}

impl<'a> Iterator for Tasks<'a> {
    type Item = (TaskHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.sender.task(self.range.next()?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.range.size_hint()
    }
}

impl ExactSizeIterator for Tasks<'_> {}

/// Tasks that the worker will not get, oldest first; see [`TaskSender::revoke`].
#[derive(Debug)]
pub struct Revoked<'a> {
    sender: &'a mut TaskSender,
    range: Range<usize>,
}

impl Revoked<'_> {
    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "a count, not a collection")]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Them, with their bodies. They are gone from the link when `self` is dropped.
    pub fn tasks(&self) -> Tasks<'_> {
        Tasks { sender: self.sender, range: self.range.clone() }
    }
}

impl Drop for Revoked<'_> {
    fn drop(&mut self) {
        self.sender.entries.truncate(self.range.start);
    }
}

/// Receives the results of one worker.
#[derive(Debug)]
pub struct ResultReceiver {
    view: View,
    link: u64,
    /// The number of the next result.
    head: u32,
    /// Results up to here are known to be published.
    tail: u32,
}

impl ResultReceiver {
    /// The next result, if there is one: its body replaces what is in `body`. With it comes a [`Done`], unless it is
    /// marked [`ResultHeader::MORE`].
    ///
    /// Call it until there is none: then a worker that waits for room is surely woken.
    ///
    /// # Errors
    /// `Error::Invalid` if the worker broke the link's state, `Error::Io` if there is no memory for the body. The
    /// result is not consumed then.
    pub fn next(&mut self, body: &mut Vec<u8>) -> Result<Option<(ResultHeader, Option<Done>)>> {
        let control = self.view.results();
        if self.tail == self.head {
            let tail = control.tail();
            if tail == self.head {
                control.drained();
                return Ok(None);
            }
            if tail.wrapping_sub(self.head) > self.view.layout.slots {
                return Err(broken(format!("results up to {tail}, but they begin at {}", self.head)));
            }
            self.tail = tail;
        }
        // SAFETY: published, as the tail is beyond it, and not given back before `consume` below.
        let slot = unsafe { self.view.read_slot(Side::Results, self.head) };
        let from = self.view.body(Side::Results, &slot)?;
        body.clear();
        body.try_reserve(from.len()).map_err(|_| {
            Error::io(format!("receiving a result of {} bytes", from.len()), rustix::io::Errno::NOMEM)
        })?;
        // SAFETY: the source is in bounds and the worker leaves it alone until `consume`; the destination has room for
        // it, is not shared, and holds that many bytes afterwards.
        unsafe {
            body.as_mut_ptr().copy_from_nonoverlapping(from.cast(), from.len());
            body.set_len(from.len());
        }
        self.head = self.head.wrapping_add(1);
        control.consume(self.head);
        let header = slot.result_header();
        let done =
            (header.flags & ResultHeader::MORE == 0).then_some(Done { link: self.link, id: header.id });
        Ok(Some((header, done)))
    }

    /// Whether [`ResultReceiver::next`] would return something.
    pub fn is_ready(&self) -> bool {
        self.view.results().tail() != self.head
    }

    /// Asks the worker for the bell. False if there is a result by now, so that the parent must not sleep; the worker
    /// is then not asked any more.
    #[must_use]
    pub fn prepare_sleep(&mut self) -> bool {
        self.view.results().prepare_sleep(self.head)
    }

    /// Does not want the bell any more. The worker may ring it all the same, once.
    pub fn cancel_sleep(&mut self) {
        self.view.results().cancel_sleep();
    }
}
