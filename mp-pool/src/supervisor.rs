//! The one thread of a pool: hands tasks out, collects results, replaces workers that died.
//!
//! # Design
//!
//! Every worker has a link of its own (see [`mp_core::link`]), so nothing that one worker does or dies of can touch
//! another. This thread alone writes to the links; callers leave their jobs in an inbox and ring its bell, an eventfd,
//! as do workers whose results it does not see by itself. It sleeps in one epoll on the bell and the ends of all
//! workers, and only when there is nothing to do.
//!
//! Tasks are handed out as they are worked off: each link holds about as much work as keeps its worker busy until the
//! next look, two tasks at least. When a worker runs dry while others still have tasks that they have not begun,
//! those are taken back and shared out anew, so no task waits behind a slow one. When a worker dies, what it had not
//! begun goes to the others; the task that it was in is tried again as often as its call allows, and fails then.
//!
//! Every worker has one end: its death is seen in the epoll, what it left is collected, it is buried, and its place is
//! filled again. One that breaks its link is killed, and then goes the same way. However this thread itself ends, even
//! by a panic, the calls that it holds fail (see [`Ticket`]) and its workers end (see [`Member`]).
mod active;
mod burial;
mod collect;
mod hand_out;
mod post;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mp_context::get_logger;
use mp_core::Error;
use mp_core::deadline::Deadline;
use mp_core::link::TaskHeader;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use self::active::Active;
use crate::error::{OnLost, PoolError};
use crate::job::Ticket;
use crate::member::{Member, State, WorkerSettings, fd_of};
use crate::shared::{Command, Shared};
use crate::wire::task;

/// How long a terminated worker may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(1);
/// How often workers are looked at while one idles and another has tasks that it will soon begin.
const RECHECK: Duration = Duration::from_millis(1);

/// The event of the bell; those of workers are their positions.
const BELL: u64 = u64::MAX;

pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    settings: WorkerSettings,
    on_lost: Option<Arc<OnLost>>,
    seats: Vec<Seat>,
    /// Calls that are not finished, oldest first.
    jobs: Vec<Active>,
    /// Calls that were given up. What they carry is not given back while a worker may still come to it.
    given_up: Vec<Active>,
    next_job: u32,
    /// Whose tasks are next; calls take turns.
    turn: usize,
    epoll: OwnedFd,
    closing: bool,
    broken: Option<PoolError>,
    deaths_in_row: u32,
    /// How many of them were killed when they were ready.
    kills_in_row: u32,
    scratch: Vec<u8>,
}

/// A place for a worker.
struct Seat {
    member: Option<Member>,
    /// When the next worker for it is to be started.
    due: Option<Instant>,
    /// Workers of it that died in a row before they had done anything.
    failures: u32,
    stopping: bool,
}

impl Seat {
    /// When something is to be done about it: a start, or giving up on one.
    fn due(&self) -> Option<Instant> {
        self.due.or_else(|| self.member.as_ref().and_then(Member::start_deadline))
    }
}

impl Supervisor {
    pub fn new(
        shared: Arc<Shared>,
        settings: WorkerSettings,
        members: Vec<Member>,
        on_lost: Option<Arc<OnLost>>,
    ) -> Result<Supervisor, PoolError> {
        let failed = |error: Errno| Error::io("creating the epoll of a pool", error);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&epoll, &shared.bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)
            .map_err(failed)?;
        let mut supervisor = Supervisor {
            shared,
            settings: settings.of_replacements(),
            on_lost,
            seats: Vec::new(),
            jobs: Vec::new(),
            given_up: Vec::new(),
            next_job: 0,
            turn: 0,
            epoll,
            closing: false,
            broken: None,
            deaths_in_row: 0,
            kills_in_row: 0,
            scratch: Vec::new(),
        };
        for (position, member) in members.into_iter().enumerate() {
            watch(&supervisor.epoll, position, &member.state)?;
            supervisor.seats.push(Seat { member: Some(member), due: None, failures: 0, stopping: false });
        }
        Ok(supervisor)
    }

    /// Serves until the pool is closed and empty, or terminated.
    pub fn run(mut self) {
        self.shared.serve_here();
        let mut events = Vec::with_capacity(64);
        loop {
            for command in self.shared.take_commands() {
                match command {
                    Command::Run(job) => self.accept(job),
                    Command::Close => self.closing = true,
                    Command::Terminate => return self.terminate(),
                    Command::Exit => {
                        std::mem::forget(std::mem::take(&mut self.jobs));
                        return self.terminate();
                    }
                }
            }
            let now = Instant::now();
            let mut busy = false;
            for position in 0..self.seats.len() {
                busy |= self.collect(position, now);
            }
            self.start_due(now);
            self.share_out(now);
            if self.closing && self.jobs.is_empty() && self.stop_all() {
                return;
            }
            if !busy {
                self.sleep(&mut events, now);
                for event in events.drain(..) {
                    match event.data.u64() {
                        BELL => self.shared.quiet_bell(),
                        position => self.look_after(position as usize),
                    }
                }
            }
        }
    }

    fn accept(&mut self, job: Ticket) {
        if let Some(error) = &self.broken {
            return job.abort(error.clone());
        }
        self.next_job = self.next_job.wrapping_add(1);
        self.jobs.push(Active::new(job, self.next_job));
    }

    /// Tells all callers of `error`.
    fn give_up(&mut self, error: &PoolError) {
        self.jobs.iter().for_each(|active| active.job.abort(error.clone()));
        self.given_up.append(&mut self.jobs);
    }

    fn job(&mut self, number: u32) -> Option<&mut Active> {
        self.jobs.iter_mut().find(|active| active.number == number)
    }

    /// Sleeps until the bell rings, a worker starts or ends, or something is due.
    fn sleep(&mut self, events: &mut Vec<epoll::Event>, now: Instant) {
        let mut asleep = true;
        for seat in &mut self.seats {
            if let Some(member) = seat.member.as_mut().filter(|member| !member.broken) {
                asleep &= member.link.results.prepare_sleep();
            }
        }
        if asleep {
            let due = self.seats.iter().filter_map(Seat::due).min();
            let due = due.map(|due| due.saturating_duration_since(now));
            let trim = self.trim_links();
            // Somebody idles while another has a few quick tasks left: look again soon, in case one of them is slow.
            let soon = (self.somebody_idles() && self.something_is_unbegun()).then_some(RECHECK);
            let timeout = [due, soon, trim].into_iter().flatten().min();
            let timeout =
                timeout.map(|t| Timespec { tv_sec: t.as_secs() as _, tv_nsec: t.subsec_nanos() as _ });
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref());
            if let Err(error) = waited
                && error != Errno::INTR
            {
                get_logger().error(format_args!("the epoll of a pool fails: {error}"));
            }
        }
        for seat in &mut self.seats {
            if let Some(member) = &mut seat.member {
                member.link.results.cancel_sleep();
            }
        }
    }

    /// Gives back what bursts left behind in the links; how long until there may be more of it.
    fn trim_links(&mut self) -> Option<Duration> {
        let now = Deadline::now();
        let members = self.seats.iter_mut().filter_map(|seat| seat.member.as_mut());
        members.filter_map(|member| member.link.tasks.trim(now)).min().map(Deadline::remaining)
    }

    /// Something happened to a worker: it is ready, or it has ended.
    fn look_after(&mut self, position: usize) {
        let Some(member) = self.seats.get_mut(position).and_then(|seat| seat.member.as_mut()) else { return };
        match &member.state {
            State::Starting(_) => {
                // From now on its end is what matters.
                unwatch(&self.epoll, &member.state);
                let ready = member.finish_start().map_err(PoolError::from);
                if let Err(error) = ready.and_then(|()| watch(&self.epoll, position, &member.state)) {
                    self.seats[position].member = None;
                    self.note_early_death(position, error.to_string());
                }
            }
            State::Running(process) if process.done() => {
                let code = process.exit_code();
                self.collect(position, Instant::now());
                self.bury(position, code);
            }
            State::Running(_) | State::Gone => {}
        }
    }

    fn start_due(&mut self, now: Instant) {
        for position in 0..self.seats.len() {
            let deadline = self.seats[position].member.as_ref().and_then(Member::start_deadline);
            if deadline.is_some_and(|deadline| deadline <= now) {
                self.look_after(position);
            }
            if self.seats[position].due.is_none_or(|due| due > now) {
                continue;
            }
            self.seats[position].due = None;
            if self.broken.is_some() || (self.closing && self.jobs.is_empty()) {
                continue;
            }
            let name = self.shared.next_name(self.settings.context);
            let started = Member::start(self.settings, name, &self.shared.bell);
            match started.and_then(|member| watch(&self.epoll, position, &member.state).map(|()| member)) {
                Ok(member) => self.seats[position].member = Some(member),
                Err(error) => self.note_early_death(position, error.to_string()),
            }
        }
    }

    /// Lets all workers end, and says whether they have.
    fn stop_all(&mut self) -> bool {
        for seat in &mut self.seats {
            seat.due = None;
            let Some(member) = &mut seat.member else { continue };
            if let State::Starting(_) = member.state {
                unwatch(&self.epoll, &member.state);
                seat.member = None;
                continue;
            }
            if seat.stopping {
                continue;
            }
            let stop = TaskHeader { flags: task::STOP, ..TaskHeader::default() };
            // Its link is empty, so there is room.
            if member.link.tasks.try_push(stop, &[]).unwrap_or(false) {
                member.link.tasks.publish();
            } else if let Some(process) = member.process() {
                let _ = process.terminate();
            }
            seat.stopping = true;
        }
        self.seats.iter().all(|seat| seat.member.is_none())
    }

    fn terminate(mut self) {
        self.give_up(&PoolError::Terminated);
        let members: Vec<Member> = self.seats.drain(..).filter_map(|seat| seat.member).collect();
        let processes = || members.iter().filter_map(Member::process);
        processes().for_each(|process| _ = process.terminate());
        let deadline = Instant::now() + GRACE;
        for process in processes() {
            let rest = deadline.saturating_duration_since(Instant::now());
            if process.join_timeout(rest).is_err() && !process.done() {
                let _ = process.kill();
                let _ = process.join();
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.give_up(&PoolError::Terminated);
        self.seats.clear();
        self.given_up.clear();
        self.shared.end();
    }
}

fn watch(epoll: &OwnedFd, position: usize, state: &State) -> Result<(), PoolError> {
    let Some(fd) = fd_of(state) else { return Ok(()) };
    epoll::add(epoll, fd, epoll::EventData::new_u64(position as u64), epoll::EventFlags::IN)
        .map_err(|error| Error::io("watching a worker", error).into())
}

fn unwatch(epoll: &OwnedFd, state: &State) {
    if let Some(fd) = fd_of(state) {
        let _ = epoll::delete(epoll, fd);
    }
}
