//! Who works on what: tasks are shared out as they are worked off, and taken back from those that have too many.
//!
//! A worker that dies gets nothing more, as its link is not filled again; what was in it is taken back by its burial.

use mp_context::get_logger;
use std::time::{Duration, Instant};

use mp_core::link::TaskHeader;

use super::active::{Active, split};
use super::post::give;
use super::{Seat, Supervisor};
use crate::error::TaskFailure;
use crate::member::Member;
use crate::wire::{FUNCTIONS, task};

/// Bytes that are put into a link at a time, unless one task has more.
const BATCH_BYTES: usize = 1 << 20;
/// A worker that has just sent a result will soon come to tasks that take less than this together.
const SOON: Duration = Duration::from_micros(50);

impl Supervisor {
    /// Gives tasks to every worker that has room for some.
    pub(super) fn share_out(&mut self, now: Instant) {
        let running = |seat: &Seat| !seat.stopping && seat.member.as_ref().is_some_and(Member::is_ready);
        let workers = self.seats.iter().filter(|seat| running(seat)).count();
        if workers == 0 {
            return;
        }
        let mut waiting: usize = self.jobs.iter().map(Active::waiting).sum();
        let mut donor = None;
        if waiting == 0 {
            donor = self.take_back(now);
            waiting = self.jobs.iter().map(Active::waiting).sum();
        }
        if waiting == 0 {
            return;
        }
        // Those that have nothing come first, who was just relieved last (it may be stopped), and nobody gets more than
        // its share.
        let mut positions: Vec<usize> = (0..self.seats.len()).filter(|i| running(&self.seats[*i])).collect();
        positions.sort_by_key(|i| {
            (Some(*i) == donor, self.seats[*i].member.as_ref().map_or(0, Member::outstanding))
        });
        let share = waiting.div_ceil(workers);
        for position in positions {
            self.fill(position, share, now);
        }
    }

    fn fill(&mut self, position: usize, share: usize, now: Instant) {
        let Some(member) = self.seats[position].member.as_mut() else { return };
        let before = member.outstanding();
        if before * 2 > member.target {
            return;
        }
        if before == 0 {
            member.begin_measure(now);
        }
        let most = share.min(member.target.saturating_sub(before));
        let (mut given, mut bytes) = (0, 0);
        self.turn += 1;
        let turn = self.turn % self.jobs.len().max(1);
        let (later, first) = self.jobs.split_at_mut(turn);
        'jobs: for active in first.iter_mut().chain(later) {
            while given < most && bytes < BATCH_BYTES {
                let Some(task) = active.take() else { continue 'jobs };
                match give(member, active, task) {
                    Ok(true) => {
                        given += 1;
                        bytes += active.job.body(task).len();
                    }
                    Ok(false) => {
                        active.again.push_front(task);
                        break 'jobs;
                    }
                    Err(error) => {
                        active.job.fail(task, TaskFailure::Argument(error.to_string()));
                        active.left -= 1;
                    }
                }
            }
        }
        member.link.tasks.publish();
        self.jobs.retain(|active| active.left > 0);
    }

    /// If a worker has nothing to do, takes back what another has not begun; who that was.
    fn take_back(&mut self, now: Instant) -> Option<usize> {
        if !self.somebody_idles() {
            return None;
        }
        let unbegun = |seat: &mut Seat| {
            let member = seat.member.as_mut()?;
            let count = member.unbegun();
            Some(count).filter(|count| *count > 0 && !member.will_finish_within(SOON, *count, now))
        };
        let counts: Vec<Option<usize>> = self.seats.iter_mut().map(unbegun).collect();
        let donor = (0..counts.len()).filter(|i| counts[*i].is_some()).max_by_key(|i| counts[*i])?;
        revoke(self.seats[donor].member.as_mut()?, &mut self.jobs);
        Some(donor)
    }

    pub(super) fn somebody_idles(&self) -> bool {
        let idles = |member: &Member| member.is_ready() && member.outstanding() == 0;
        self.seats.iter().any(|seat| !seat.stopping && seat.member.as_ref().is_some_and(idles))
    }

    pub(super) fn something_is_unbegun(&mut self) -> bool {
        let mut seats = self.seats.iter_mut().filter(|seat| !seat.stopping);
        seats.any(|seat| seat.member.as_mut().is_some_and(|member| member.unbegun() > 0))
    }
}

/// Takes back what the worker has not begun, to the front of the queues of its calls.
pub(super) fn revoke(member: &mut Member, jobs: &mut [Active]) {
    let tasks: Vec<TaskHeader> = match member.link.tasks.revoke() {
        Ok(revoked) => revoked.tasks().map(|(task, _)| task).collect(),
        Err(error) => {
            get_logger().error(format_args!("worker {} broke its link: {error}", member.name));
            return;
        }
    };
    for header in tasks.iter().rev() {
        if header.flags & task::DEFINE != 0 {
            member.defined[header.function as usize % FUNCTIONS] = None;
            continue;
        }
        let (number, task) = split(header.id);
        if let Some(active) = jobs.iter_mut().find(|active| active.number == number) {
            active.again.push_front(task);
        }
    }
}
