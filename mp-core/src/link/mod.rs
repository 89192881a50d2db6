//! The private link between a pool's parent and one worker: a ring of tasks one way, a ring of results the other.
//!
//! When the worker dies, whenever, the parent still has every task and knows exactly which of them the worker had
//! taken; when the parent dies, the worker learns it elsewhere (the socket it holds), and the memory goes with them.
//!
//! # Design
//!
//! One sparse segment holds two control areas, two tables of slots (32 bytes each) and two areas for bodies.
//!
//! | state                  | who writes             | when                                             |
//! |------------------------|------------------------|--------------------------------------------------|
//! | task body, task slot   | parent                 | before the task is published                     |
//! | `claim` = (head, tail) | parent moves tail      | one addition for a whole batch (publish); one    |
//! |                        |                        | exchange back to head (revoke)                   |
//! |                        | worker moves head      | one exchange per task (claim)                    |
//! | result body and slot   | worker                 | before the result is published                   |
//! | result `tail`          | worker                 | one store for one or more results                |
//! | result `head`          | parent                 | after it has copied the result out               |
//! | the three sleep flags  | the sleeper sets, the waker clears | around a sleep                       |
//!
//! A task is *unclaimed* from publish to claim, *claimed* until its result is published, *done* then. Both steps are
//! one atomic operation on one word, so a `kill -9` between any two instructions of the worker leaves each task in
//! exactly one of the three states: unclaimed ones are intact (the worker never writes to tasks) and can be revoked,
//! claimed ones are those in front of `head` without a result, and a result that was only half written lies behind
//! `tail`, where nobody looks. No lock is held at any time. The slot of a task is read only after it was claimed, so
//! it does not matter that the words may repeat after a revoke and a publish.
//!
//! A burst makes an area grow. Its writer gives what lies beyond the first mebibyte back when all entries are freed and
//! nothing reached so far for a while: then nobody looks there, and whoever writes there again reserves it first.
//!
//! The bookkeeping (which bytes belong to which task) lives in the writer's own memory. What the parent reads from
//! shared memory is checked before it is used, so a worker gone wild is an error of its link, not of the parent.
//!
//! Wake-ups: the sleeper sets its flag, then looks for work once more, then sleeps; the waker publishes, then looks
//! at the flag. With a full fence in the middle of both, at least one sees the other. The worker sleeps on a futex;
//! the parent sleeps in epoll, so its waker is told to ring a bell (an eventfd) instead. A worker that dies between
//! clearing the flag and ringing is noticed by its pidfd: the parent then takes what results there are.

mod control;
mod layout;
mod parent;
mod spans;
mod worker;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

pub use layout::{ResultHeader, TaskHeader};
pub use parent::{Done, ParentSide, ResultReceiver, Revoked, TaskSender, Tasks};
pub use worker::{Task, WorkerHalf, WorkerSide};

use crate::Result;
use layout::{Layout, View};

/// Both ends of a new link, before one of them goes to the worker.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::{link::{Link, ResultHeader, TaskHeader, WorkerHalf}, message::Message};
///
/// let (mut parent, half) = Link::create()?.split();
/// let message = Message::encode(&half)?;          // usually to another process
/// let mut worker = message.decode::<WorkerHalf>()?.into_worker_side()?;
///
/// let header = TaskHeader { id: 1, function: 7, ..TaskHeader::default() };
/// assert!(parent.tasks.try_push(header, &[b"6 * 7"])?, "there is room");
/// parent.tasks.publish();
///
/// let task = worker.next(None)?.unwrap();
/// assert_eq!((task.header.id, task.body), (1, &b"6 * 7"[..]));
/// let ring_the_bell = worker.send(ResultHeader { id: 1, ..ResultHeader::default() }, &[b"42"], None)?;
/// assert!(!ring_the_bell, "the parent was awake");
///
/// let mut body = Vec::new();
/// let (result, done) = parent.results.next(&mut body)?.unwrap();
/// assert_eq!((result.id, &body[..]), (1, &b"42"[..]));
/// parent.tasks.complete(done.unwrap())?;
/// # }
/// # Ok::<(), mp_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Link {
    view: View,
}

impl Link {
    /// Creates the memory of a link: 64 MiB of addresses, of which pages are taken as they are needed.
    ///
    /// # Errors
    /// `Error::Io` when the system is out of descriptors or memory.
    pub fn create() -> Result<Link> {
        Link::with_layout(Layout::default())
    }

    fn with_layout(layout: Layout) -> Result<Link> {
        Ok(Link { view: View::create(layout)? })
    }

    /// The parent's end, and the half that is sent to the worker.
    pub fn split(self) -> (ParentSide, WorkerHalf) {
        let half = WorkerHalf::new(&self.view);
        (ParentSide::new(self.view), half)
    }
}
