//! What becomes of the tasks of a worker that died, and of its place.
//!
//! What it had not begun goes to the others, what it was in is tried again or fails; the place is filled at once if the
//! worker had been of use, later if it had not, and never again when all of them die like that.

use std::time::{Duration, Instant};

use mp_context::{catch, get_logger};
use mp_core::link::TaskHeader;

use super::active::split;
use super::hand_out::revoke;
use super::{Supervisor, unwatch};
use crate::error::{PoolError, TaskFailure, WorkerLost};
use crate::wire::task;

/// Workers that may die in a row before they have done anything, until the pool gives up.
const MOST_DEATHS: u32 = 10;
/// The same if they were ready and killed by a signal: somebody is after them, and may be done with it one day.
const MOST_KILLS: u32 = 40;
/// Workers that may die in a row while they take over the function of a call, until the call fails.
const MOST_DEFINITION_DEATHS: u32 = 3;

impl Supervisor {
    /// Deals with what a worker leaves behind, and sees to its successor.
    pub(super) fn bury(&mut self, position: usize, exit_code: Option<i32>) {
        let Some(mut member) = self.seats[position].member.take() else { return };
        // Others may have the descriptor, too, so that it stays open.
        unwatch(&self.epoll, &member.state);
        if self.seats[position].stopping {
            return;
        }
        revoke(&mut member, &mut self.jobs);
        let (name, pid) = (member.name.clone(), member.process().map_or(0, |process| process.pid()));
        let exit_code = exit_code.filter(|_| !member.broken);
        let mut lost = WorkerLost { name, pid, exit_code, item: None, retried: false };
        // Before any caller hears of it.
        self.shared.count_loss();
        let begun: Vec<TaskHeader> = member.link.tasks.outstanding().map(|(task, _)| task).collect();
        for task in &begun {
            if task.flags & task::DEFINE != 0 {
                self.lose_definition(task.function, &lost);
            } else {
                self.lose(task.id, &mut lost);
            }
        }
        get_logger().warn(&lost);
        if let Some(on_lost) = &self.on_lost
            && let Err(report) = catch(|| on_lost(&lost))
        {
            get_logger().error(format_args!("what is called when a worker is lost {report}"));
        }
        if member.has_lived() || !begun.is_empty() {
            self.reset_deaths();
            self.seats[position].failures = 0;
            self.seats[position].due = Some(Instant::now());
        } else {
            self.kills_in_row += u32::from(exit_code.is_some_and(|code| code < 0));
            self.note_early_death(position, lost.to_string());
        }
    }

    /// A worker died while it worked on a task: it is tried again, or fails.
    fn lose(&mut self, id: u64, lost: &mut WorkerLost) {
        let (number, task) = split(id);
        let Some(active) = self.jobs.iter_mut().find(|active| active.number == number) else { return };
        let deaths = active.deaths.entry(task).or_default();
        *deaths += 1;
        lost.item = Some(active.job.first_item(task));
        lost.retried = *deaths <= active.job.retries;
        if lost.retried {
            active.again.push_front(task);
        } else {
            active.job.fail(task, TaskFailure::WorkerLost(lost.clone()));
            active.left -= 1;
            self.jobs.retain(|active| active.left > 0);
        }
    }

    /// A worker died while it took over the function of a call. If they all do, the call fails.
    fn lose_definition(&mut self, number: u32, lost: &WorkerLost) {
        let Some(active) = self.job(number) else { return };
        active.definition_deaths += 1;
        if active.definition_deaths < MOST_DEFINITION_DEATHS {
            return;
        }
        while let Some(task) = active.take() {
            let item = Some(active.job.first_item(task));
            active.job.fail(task, TaskFailure::WorkerLost(WorkerLost { item, ..lost.clone() }));
            active.left -= 1;
        }
        self.jobs.retain(|active| active.left > 0);
    }

    /// A worker died before it did anything: the next one waits a while, and the pool gives up if nobody does anything.
    pub(super) fn note_early_death(&mut self, position: usize, reason: String) {
        self.deaths_in_row += 1;
        let count = self.deaths_in_row;
        if count >= MOST_KILLS || count - self.kills_in_row >= MOST_DEATHS {
            let error = PoolError::WorkersKeepDying { count, reason };
            self.give_up(&error);
            self.broken = Some(error);
            self.seats.iter_mut().for_each(|seat| seat.due = None);
            return;
        }
        get_logger().warn(format_args!("a worker died before it did anything ({count} in a row): {reason}"));
        let seat = &mut self.seats[position];
        seat.failures += 1;
        let pause = Duration::from_millis(10 << (seat.failures.max(count) - 1).min(8));
        seat.due = Some(Instant::now() + pause);
    }

    /// Somebody did something: whatever died before is no row any more.
    pub(super) fn reset_deaths(&mut self) {
        (self.deaths_in_row, self.kills_in_row) = (0, 0);
    }
}
