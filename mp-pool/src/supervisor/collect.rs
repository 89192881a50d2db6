//! Results on their way out of the links, to the calls that they are for.
//!
//! What a worker sends is checked; one that sends nonsense is killed, and its end is then like any other. What a worker
//! sent before it died is taken in like everything else.

use mp_context::get_logger;
use std::time::Instant;

use mp_core::link::{ResultHeader, TaskHeader};
use mp_core::message::SharedFd;
use mp_core::{Error, codec, parcel};

use super::Supervisor;
use super::active::split;
use super::post::SOCKET_LIMIT;
use crate::error::TaskFailure;
use crate::job::Values;
use crate::member::Member;
use crate::wire::{Failure, LONGEST_BODY, RESULT_FILE, split_last_part, status, task};

impl Supervisor {
    /// Takes in the results of a worker; true if there were any.
    pub(super) fn collect(&mut self, position: usize, now: Instant) -> bool {
        let mut done = 0;
        loop {
            let Some(member) = self.seats[position].member.as_mut().filter(|member| !member.broken) else {
                return done > 0;
            };
            match take_result(member, &mut self.scratch) {
                Ok(None) => {
                    member.measure(done, now);
                    return done > 0;
                }
                Ok(Some(taken)) => {
                    done += 1;
                    if let Err(error) = &taken.fds {
                        condemn(member, error);
                    }
                    if taken.task.flags & task::DEFINE == 0 {
                        member.proven = true;
                        self.seats[position].failures = 0;
                        self.reset_deaths();
                        self.shared.count_task();
                        self.finish(position, taken);
                    } else if let Some(active) = self.job(taken.task.function) {
                        active.definition_deaths = 0;
                    }
                }
                Err(error) => condemn(member, &error),
            }
        }
    }

    /// Notes the result of a task.
    fn finish(&mut self, position: usize, taken: Taken) {
        let (number, task) = split(taken.task.id);
        let Some(index) = self.jobs.iter().position(|active| active.number == number) else {
            return taken.discard(&self.scratch);
        };
        let active = &mut self.jobs[index];
        let (job, body) = (&active.job, &self.scratch[..]);
        match (taken.fds, &self.seats[position].member) {
            (Err(error), _) => job.fail(task, TaskFailure::Result(error.to_string())),
            (Ok(fds), _) if taken.result.status == status::VALUE => job.succeed(task, body, fds),
            (Ok(_), None) => job.fail(task, TaskFailure::Result("the worker is gone".into())),
            (Ok(fds), Some(member)) if taken.result.status == status::CUT_SHORT => {
                match split_last_part(body).filter(|(_, count, _)| *count < job.items_of(task)) {
                    Some((values, count, cause)) => {
                        job.cut_short(task, values, fds, count, failure(cause, member))
                    }
                    None => job.fail(task, TaskFailure::Result("what was sent is no result".into())),
                }
            }
            (Ok(_), Some(member)) => job.fail(task, failure(body, member)),
        }
        active.left -= 1;
        if active.left == 0 {
            self.jobs.remove(index);
        }
        // Bodies from files only; those from links come more often.
        if self.scratch.capacity() > 2 * LONGEST_BODY {
            self.scratch = Vec::new();
        }
    }
}

/// A result, with the task that it is for. The task is off the link, even if its descriptors could not be received.
struct Taken {
    task: TaskHeader,
    result: ResultHeader,
    fds: mp_core::Result<Vec<SharedFd>>,
}

impl Taken {
    /// Gives back what the values in `body` carry: nobody waits for them any more.
    fn discard(self, body: &[u8]) {
        // Behind the values of a chunk that was cut short stands a failure, which carries nothing.
        if let (status::VALUE | status::CUT_SHORT, Ok(fds)) = (self.result.status, self.fds) {
            let chunk = if self.task.flags & task::CHUNK == 0 { 1 } else { usize::MAX };
            drop(Values::new(body, fds, chunk));
        }
    }
}

/// The next result of a worker, its body in `body`.
fn take_result(member: &mut Member, body: &mut Vec<u8>) -> mp_core::Result<Option<Taken>> {
    let Some((result, done)) = member.link.results.next(body)? else { return Ok(None) };
    let done = done.ok_or_else(|| Error::Invalid { what: "result", reason: "it is only a part".into() })?;
    let task = member.link.tasks.complete(done)?;
    member.alone &= task.fds == 0;
    let fds = if result.fds > 0 { receive_fds(member, result, body) } else { Ok(Vec::new()) };
    Ok(Some(Taken { task, result, fds }))
}

fn receive_fds(member: &Member, result: ResultHeader, body: &mut Vec<u8>) -> mp_core::Result<Vec<SharedFd>> {
    // The worker sent them before the result.
    let mut message = member.socket.recv_message_timeout(SOCKET_LIMIT)?;
    if message.bytes != result.id.to_le_bytes() || message.fds.len() != result.fds as usize {
        return Err(Error::Invalid { what: "result", reason: "its descriptors are those of another".into() });
    }
    if result.flags & RESULT_FILE != 0 {
        *body = parcel::load(&mut message.fds)?;
    }
    Ok(message.fds.iter().cloned().collect())
}

fn failure(body: &[u8], member: &Member) -> TaskFailure {
    match codec::decode_value::<Failure>(body) {
        Ok(Failure::Panicked(report)) => TaskFailure::Panicked {
            worker: member.name.clone(),
            pid: member.process().map_or(0, |process| process.pid()),
            report: Box::new(report),
        },
        Ok(Failure::Argument(reason)) => TaskFailure::Argument(reason),
        Ok(Failure::Result(reason)) => TaskFailure::Result(reason),
        Err(error) => TaskFailure::Result(error.to_string()),
    }
}

/// Ends a worker that broke its link.
fn condemn(member: &mut Member, error: &Error) {
    get_logger().error(format_args!("worker {} broke its link: {error}", member.name));
    member.broken = true;
    if let Some(process) = member.process() {
        let _ = process.kill();
    }
}
