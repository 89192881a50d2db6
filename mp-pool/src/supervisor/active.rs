//! A call under way, as the thread of the pool sees it: which of its tasks are still to be handed out.
//!
//! Tasks are handed out in order; those that a worker gives back or dies of come again before all others.

use std::collections::{HashMap, VecDeque};

use crate::job::Ticket;

/// A call that is not finished.
pub(super) struct Active {
    pub(super) job: Ticket,
    pub(super) number: u32,
    /// The first task that was never handed out.
    pub(super) next: usize,
    /// Tasks to hand out again, before all others.
    pub(super) again: VecDeque<usize>,
    /// How many workers died of a task.
    pub(super) deaths: HashMap<usize, u32>,
    /// How many died in a row of the function itself, before any task.
    pub(super) definition_deaths: u32,
    pub(super) left: usize,
}

impl Active {
    /// The call `job` under a number that no other call has.
    pub(super) fn new(job: Ticket, number: u32) -> Active {
        let left = job.len();
        Active {
            job,
            number,
            next: 0,
            again: VecDeque::new(),
            deaths: HashMap::new(),
            definition_deaths: 0,
            left,
        }
    }

    /// How many tasks wait to be handed out.
    pub(super) fn waiting(&self) -> usize {
        self.again.len() + (self.job.len() - self.next)
    }

    /// The next task to hand out.
    pub(super) fn take(&mut self) -> Option<usize> {
        self.again.pop_front().or_else(|| {
            let next = self.next;
            (next < self.job.len()).then(|| {
                self.next += 1;
                next
            })
        })
    }
}

/// What a task is called in a link.
pub(super) fn join(number: u32, task: u32) -> u64 {
    u64::from(number) << 32 | u64::from(task)
}

/// The number of the call, and the task.
pub(super) fn split(id: u64) -> (u32, usize) {
    ((id >> 32) as u32, (id & 0xffff_ffff) as usize)
}
