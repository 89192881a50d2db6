//! One worker as the pool sees it: its process, its link, and what it is working on.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mp_context::{Context, Process, StartError, StartMethod, StartingProcess};
use mp_core::connection::Connection;
use mp_core::handle::Handle;
use mp_core::link::{Link, ParentSide};

use crate::error::PoolError;
use crate::wire::FUNCTIONS;
use crate::worker;

/// Work that a worker should have in its link, so that it never waits for the pool.
const BUFFERED: Duration = Duration::from_micros(400);
/// Tasks in a link at first, and at least: one to work on and one to go on with.
const FEWEST: usize = 2;
/// Tasks in a link at most.
const MOST: usize = 512;

/// How long a worker may take until it is ready.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);
/// A worker that ran for this long was able to work, even if it never got a task.
const GROWN_UP: Duration = Duration::from_secs(1);

/// A worker. It ends when this is dropped, if it has not before.
pub(crate) struct Member {
    pub name: String,
    pub state: State,
    pub link: ParentSide,
    /// For descriptors, beside the link.
    pub socket: Connection,
    /// The functions that it knows, by number modulo their count.
    pub defined: [Option<u32>; FUNCTIONS],
    /// Whether it has a task with descriptors: then it has no other.
    pub alone: bool,
    /// Whether it broke its link: it gets nothing and is heard no more, until it is seen to be dead.
    pub broken: bool,
    /// How many tasks it should have.
    pub target: usize,
    /// Whether it has finished any task.
    pub proven: bool,
    /// When it was asked for, or was ready.
    begun: Instant,
    /// When the present count of results began, and that count.
    since: Instant,
    done: u32,
}

pub(crate) enum State {
    Starting(Box<StartingProcess<()>>),
    Running(Process<()>),
    /// Its end is dealt with.
    Gone,
}

impl Member {
    /// Asks for a worker process.
    pub fn start(settings: WorkerSettings, name: String, bell: &OwnedFd) -> Result<Member, PoolError> {
        let (link, half) = Link::create()?.split();
        let (socket, worker_socket) = Connection::pair()?;
        let bell =
            bell.try_clone().map_err(|error| mp_core::Error::io("duplicating the bell of a pool", error))?;
        let starting = settings
            .context
            .process(worker::run, (half, worker_socket, Handle(bell)))
            .name(name.clone())
            .terminate_at_exit(true)
            .daemon(false)
            .forward_logs(settings.forward_logs)
            .start_timeout(START_LIMIT)
            .begin_start()?;
        Ok(Member {
            name,
            state: State::Starting(Box::new(starting)),
            link,
            socket,
            defined: [None; FUNCTIONS],
            alone: false,
            broken: false,
            target: FEWEST,
            proven: false,
            begun: Instant::now(),
            since: Instant::now(),
            done: 0,
        })
    }

    /// Waits until it is ready, if it is not.
    pub fn finish_start(&mut self) -> Result<(), StartError> {
        if let State::Starting(starting) = std::mem::replace(&mut self.state, State::Gone) {
            self.state = State::Running(starting.finish()?);
            self.begun = Instant::now();
        }
        Ok(())
    }

    /// Itself, when it is ready.
    pub fn ready(mut self) -> Result<Member, PoolError> {
        self.finish_start()?;
        Ok(self)
    }

    /// When to give up waiting for its start, if it starts.
    pub fn start_deadline(&self) -> Option<Instant> {
        matches!(self.state, State::Starting(_)).then(|| self.begun + START_LIMIT)
    }

    /// Whether it was ever able to work.
    pub fn has_lived(&self) -> bool {
        self.proven || (self.process().is_some() && self.begun.elapsed() >= GROWN_UP)
    }

    /// Whether it can be given tasks.
    pub fn is_ready(&self) -> bool {
        self.process().is_some() && !self.broken
    }

    /// Tasks that it could be relieved of; none if it broke its link.
    pub fn unbegun(&mut self) -> usize {
        let outstanding = self.outstanding();
        // Descriptors that were sent are not taken back.
        if outstanding == 0 || self.alone || !self.is_ready() {
            return 0;
        }
        self.link.tasks.claimed_len().map_or(0, |claimed| outstanding - claimed)
    }

    pub fn process(&self) -> Option<&Process<()>> {
        match &self.state {
            State::Running(process) => Some(process),
            _ => None,
        }
    }

    /// Tasks in its link, the one it works on included.
    pub fn outstanding(&self) -> usize {
        self.link.tasks.outstanding().len()
    }

    /// Whether it will have done `count` more tasks within `limit`, if they take as long as the last ones did.
    pub fn will_finish_within(&self, limit: Duration, count: usize, now: Instant) -> bool {
        let recent = now.saturating_duration_since(self.since) < limit;
        let per_task = BUFFERED / self.target.max(1) as u32;
        recent && per_task * (count as u32) < limit
    }

    /// Begins to measure how fast it is.
    pub fn begin_measure(&mut self, now: Instant) {
        self.since = now;
        self.done = 0;
    }

    /// Notes `done` more results and adapts the target to how long a task takes.
    pub fn measure(&mut self, done: u32, now: Instant) {
        self.done += done;
        let elapsed = now.saturating_duration_since(self.since);
        if self.done == 0 {
            return;
        }
        let per_task = elapsed.as_nanos() / u128::from(self.done);
        let wanted = BUFFERED.as_nanos().checked_div(per_task).map_or(MOST, |count| count as usize);
        // At most fourfold at a time: a few quick tasks do not make all of them quick.
        self.target = wanted.clamp(FEWEST, MOST).min(self.target * 4);
        if elapsed > BUFFERED || self.done as usize > MOST {
            self.begin_measure(now);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let State::Running(process) = &self.state
            && !process.done()
        {
            let _ = process.kill();
            let _ = process.join();
        }
    }
}

/// How the workers of a pool are started.
#[derive(Clone, Copy)]
pub(crate) struct WorkerSettings {
    pub context: Context,
    /// Whether their log records come to this process's logger.
    pub forward_logs: bool,
}

impl WorkerSettings {
    /// Those of replacements: a pool has a thread, and a process with threads cannot be forked.
    pub fn of_replacements(self) -> WorkerSettings {
        match self.context.start_method() {
            StartMethod::Fork => WorkerSettings { context: Context::forkserver(), ..self },
            _ => self,
        }
    }
}

/// What to poll for this worker: the first word of one that starts, the end of one that runs.
pub(crate) fn fd_of(state: &State) -> Option<std::os::fd::BorrowedFd<'_>> {
    match state {
        State::Starting(starting) => Some(starting.as_fd()),
        State::Running(process) => Some(process.sentinel()),
        State::Gone => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// One without a process.
    fn member(now: Instant) -> Member {
        Member {
            name: "nobody".into(),
            state: State::Gone,
            link: Link::create().unwrap().split().0,
            socket: Connection::pair().unwrap().0,
            defined: [None; FUNCTIONS],
            alone: false,
            broken: false,
            target: FEWEST,
            proven: false,
            begun: now,
            since: now,
            done: 0,
        }
    }

    #[test]
    fn quick_tasks_raise_the_target_step_by_step() {
        let mut now = Instant::now();
        let mut member = member(now);
        let mut targets = vec![member.target];
        while member.target < MOST {
            member.begin_measure(now);
            now += MICROSECOND / 2 * member.target as u32;
            member.measure(member.target as u32, now);
            targets.push(member.target);
            assert!(targets.len() < 20, "it never gets there: {targets:?}");
        }
        assert!(targets.windows(2).all(|pair| pair[1] <= pair[0] * 4), "{targets:?}");
        member.measure(1000, now);
        assert_eq!(member.target, MOST);
    }

    #[test]
    fn slow_tasks_lower_the_target_at_once() {
        let now = Instant::now();
        let mut member = member(now);
        member.target = MOST;
        member.measure(0, now + BUFFERED * 100);
        assert_eq!(member.target, MOST, "nothing was learned");
        member.measure(1, now + BUFFERED * 2);
        assert_eq!(member.target, FEWEST);
        // That count is over; the next begins.
        member.measure(4, now + BUFFERED * 3);
        assert_eq!(member.target, 4);
    }

    #[test]
    fn the_target_is_what_keeps_it_busy() {
        let now = Instant::now();
        let mut member = member(now);
        member.target = MOST;
        member.measure(10, now + MICROSECOND * 40);
        assert_eq!(member.target, 100);
        assert!(member.will_finish_within(MICROSECOND * 50, 10, now + MICROSECOND * 40));
        assert!(!member.will_finish_within(MICROSECOND * 50, 20, now + MICROSECOND * 40), "too many");
        assert!(!member.will_finish_within(MICROSECOND * 50, 10, now + MICROSECOND * 60), "too long ago");
    }

    #[test]
    fn nobody_gets_tasks_and_nothing_is_taken_from_it() {
        let mut member = member(Instant::now());
        assert!(!member.is_ready() && !member.has_lived());
        assert_eq!((member.outstanding(), member.unbegun(), member.start_deadline()), (0, 0, None));
    }
}
