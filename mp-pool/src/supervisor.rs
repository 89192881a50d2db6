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

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mp_context::{Context, catch, get_logger};
use mp_core::link::{ResultHeader, TaskHeader};
use mp_core::message::{Fds, Message, SharedFd};
use mp_core::{Error, codec, parcel};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::error::{OnLost, PoolError, TaskFailure, WorkerLost};
use crate::job::Ticket;
use crate::member::{Member, State, fd_of, replacement_context};
use crate::shared::{Command, Shared};
use crate::wire::{Cause, FUNCTIONS, Failure, LONGEST_BODY, RESULT_FILE, status, task};

/// Workers that may die in a row before they have done anything, until the pool gives up.
const MOST_DEATHS: u32 = 10;
/// The same if they were ready and killed by a signal: somebody is after them, and may be done with it one day.
const MOST_KILLS: u32 = 40;
/// How long a terminated worker may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes that are put into a link at a time, unless one task has more.
const BATCH_BYTES: usize = 1 << 20;
/// How long the descriptors of one task may take through the socket.
const SOCKET_LIMIT: Duration = Duration::from_secs(5);
/// Workers that may die in a row while they take over the function of a call, until the call fails.
const MOST_DEFINITION_DEATHS: u32 = 3;
/// How often workers are looked at while one idles and another has tasks that it will soon begin.
const RECHECK: Duration = Duration::from_millis(1);
/// A worker that has just sent a result will soon come to tasks that take less than this together.
const SOON: Duration = Duration::from_micros(50);

/// The event of the bell; those of workers are their positions.
const BELL: u64 = u64::MAX;

pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    context: Context,
    on_lost: Option<Arc<OnLost>>,
    seats: Vec<Seat>,
    /// Calls that are not finished, oldest first.
    jobs: Vec<Active>,
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

/// A call that is not finished.
struct Active {
    job: Ticket,
    number: u32,
    /// The first task that was never handed out.
    next: usize,
    /// Tasks to hand out again, before all others.
    again: VecDeque<usize>,
    /// How many workers died of a task.
    deaths: HashMap<usize, u32>,
    /// How many died in a row of the function itself, before any task.
    definition_deaths: u32,
    left: usize,
}

impl Seat {
    /// When something is to be done about it: a start, or giving up on one.
    fn due(&self) -> Option<Instant> {
        self.due.or_else(|| self.member.as_ref().and_then(Member::start_deadline))
    }
}

impl Active {
    fn waiting(&self) -> usize {
        self.again.len() + (self.job.len() - self.next)
    }

    fn take(&mut self) -> Option<usize> {
        self.again.pop_front().or_else(|| {
            let next = self.next;
            (next < self.job.len()).then(|| {
                self.next += 1;
                next
            })
        })
    }
}

impl Supervisor {
    pub fn new(
        shared: Arc<Shared>,
        context: Context,
        members: Vec<Member>,
        on_lost: Option<Arc<OnLost>>,
    ) -> Result<Supervisor, PoolError> {
        let failed = |error: Errno| Error::io("creating the epoll of a pool", error);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&epoll, &shared.bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)
            .map_err(failed)?;
        let mut supervisor = Supervisor {
            shared,
            context: replacement_context(context),
            on_lost,
            seats: Vec::new(),
            jobs: Vec::new(),
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
        let left = job.len();
        let active = Active {
            job,
            number: self.next_job,
            next: 0,
            again: VecDeque::new(),
            deaths: HashMap::new(),
            definition_deaths: 0,
            left,
        };
        self.jobs.push(active);
    }

    /// Takes in the results of a worker; true if there were any.
    fn collect(&mut self, position: usize, now: Instant) -> bool {
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

    fn reset_deaths(&mut self) {
        (self.deaths_in_row, self.kills_in_row) = (0, 0);
    }

    fn job(&mut self, number: u32) -> Option<&mut Active> {
        self.jobs.iter_mut().find(|active| active.number == number)
    }

    /// Notes the result of a task.
    fn finish(&mut self, position: usize, taken: Taken) {
        let (number, task) = split(taken.task.id);
        let Some(index) = self.jobs.iter().position(|active| active.number == number) else { return };
        let active = &mut self.jobs[index];
        match (taken.fds, &self.seats[position].member) {
            (Ok(fds), _) if taken.result.status == status::VALUE => {
                active.job.succeed(task, &self.scratch, fds)
            }
            (Ok(_), Some(member)) => {
                let (item, cause) = failure(&self.scratch, member);
                active.job.fail(task, item, cause);
            }
            (Ok(_), None) => active.job.fail(task, 0, TaskFailure::Result("the worker is gone".into())),
            (Err(error), _) => active.job.fail(task, 0, TaskFailure::Result(error.to_string())),
        }
        active.left -= 1;
        if active.left == 0 {
            self.jobs.remove(index);
        }
    }

    /// Gives tasks to every worker that has room for some.
    fn share_out(&mut self, now: Instant) {
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
                        active.job.fail(task, 0, TaskFailure::Argument(error.to_string()));
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
            // Somebody idles while another has a few quick tasks left: look again soon, in case one of them is slow.
            let soon = (self.somebody_idles() && self.something_is_unbegun()).then_some(RECHECK);
            let timeout = [due, soon].into_iter().flatten().min();
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

    fn somebody_idles(&self) -> bool {
        let idles = |member: &Member| member.is_ready() && member.outstanding() == 0;
        self.seats.iter().any(|seat| !seat.stopping && seat.member.as_ref().is_some_and(idles))
    }

    fn something_is_unbegun(&mut self) -> bool {
        let mut seats = self.seats.iter_mut().filter(|seat| !seat.stopping);
        seats.any(|seat| seat.member.as_mut().is_some_and(|member| member.unbegun() > 0))
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

    /// Deals with what a worker leaves behind, and sees to its successor.
    fn bury(&mut self, position: usize, exit_code: Option<i32>) {
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
            active.job.fail(task, 0, TaskFailure::WorkerLost(lost.clone()));
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
            active.job.fail(task, 0, TaskFailure::WorkerLost(WorkerLost { item, ..lost.clone() }));
            active.left -= 1;
        }
        self.jobs.retain(|active| active.left > 0);
    }

    /// A worker died before it did anything: the next one waits a while, and the pool gives up if nobody does anything.
    fn note_early_death(&mut self, position: usize, reason: String) {
        self.deaths_in_row += 1;
        let count = self.deaths_in_row;
        if count >= MOST_KILLS || count - self.kills_in_row >= MOST_DEATHS {
            let error = PoolError::WorkersKeepDying { count, reason };
            self.jobs.drain(..).for_each(|active| active.job.abort(error.clone()));
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
            let started = Member::start(self.context, self.shared.next_name(self.context), &self.shared.bell);
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
        self.jobs.clear();
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
        self.jobs.clear();
        self.seats.clear();
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

/// Ends a worker that broke its link.
fn condemn(member: &mut Member, error: &Error) {
    get_logger().error(format_args!("worker {} broke its link: {error}", member.name));
    member.broken = true;
    if let Some(process) = member.process() {
        let _ = process.kill();
    }
}

fn split(id: u64) -> (u32, usize) {
    ((id >> 32) as u32, (id & 0xffff_ffff) as usize)
}

/// Puts a task into a link, after its function if that is not known there; false if there is no room.
fn give(member: &mut Member, active: &Active, task: usize) -> mp_core::Result<bool> {
    let job = &*active.job;
    let place = active.number as usize % FUNCTIONS;
    if member.defined[place] != Some(active.number) {
        let flags = task::DEFINE;
        // No task has this id: a call has fewer tasks.
        let id = u64::from(active.number) << 32 | u64::from(u32::MAX);
        let header = TaskHeader { id, function: active.number, flags, ..TaskHeader::default() };
        if !push(member, header, &job.function.definition, &job.function.fds)? {
            return Ok(false);
        }
        member.defined[place] = Some(active.number);
    }
    let flags = if job.chunk == 1 { 0 } else { task::CHUNK };
    let id = u64::from(active.number) << 32 | task as u64;
    push(member, TaskHeader { id, function: active.number, flags, fds: 0 }, job.body(task), job.fds(task))
}

/// Puts something into a link, its descriptors into the socket beside it.
fn push(member: &mut Member, mut header: TaskHeader, body: &[u8], fds: &[SharedFd]) -> mp_core::Result<bool> {
    if member.alone {
        return Ok(false);
    }
    if fds.is_empty() && body.len() <= LONGEST_BODY {
        return member.link.tasks.try_push(header, &[body]);
    }
    if member.outstanding() > 0 {
        return Ok(false);
    }
    let mut table = Fds::new();
    fds.iter().for_each(|fd| _ = table.attach(fd.clone()));
    let mut inline = body;
    if body.len() > LONGEST_BODY {
        table.attach(parcel::store(body)?.into());
        header.flags |= task::FILE;
        inline = &[];
    }
    header.fds = table.len() as u32;
    if !member.link.tasks.try_push(header, &[inline])? {
        return Ok(false);
    }
    let message = Message { bytes: header.id.to_le_bytes().to_vec(), fds: table };
    if let Err(error) = member.socket.send_message_timeout(message, SOCKET_LIMIT) {
        // The worker has not seen it: it was not published, and it is the only one.
        drop(member.link.tasks.revoke()?);
        let is_dead = member.process().is_none_or(|process| process.done());
        // Of the dead nothing is expected; their end is dealt with in its own time.
        return if is_dead { Ok(false) } else { Err(error) };
    }
    member.alone = true;
    Ok(true)
}

/// Takes back what the worker has not begun, to the front of the queues of its calls.
fn revoke(member: &mut Member, jobs: &mut [Active]) {
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

/// A result, with the task that it is for. The task is off the link, even if its descriptors could not be received.
struct Taken {
    task: TaskHeader,
    result: ResultHeader,
    fds: mp_core::Result<Vec<SharedFd>>,
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

fn failure(body: &[u8], member: &Member) -> (usize, TaskFailure) {
    match codec::decode_value::<Failure>(body) {
        Ok(Failure { item, cause }) => {
            let cause = match cause {
                Cause::Panicked(report) => TaskFailure::Panicked {
                    worker: member.name.clone(),
                    pid: member.process().map_or(0, |process| process.pid()),
                    report: Box::new(report),
                },
                Cause::Argument(reason) => TaskFailure::Argument(reason),
                Cause::Result(reason) => TaskFailure::Result(reason),
            };
            (item as usize, cause)
        }
        Err(error) => (0, TaskFailure::Result(error.to_string())),
    }
}
