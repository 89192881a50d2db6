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

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mp_context::Context;
use mp_core::link::{ResultHeader, TaskHeader};
use mp_core::message::{Fds, Message, SharedFd};
use mp_core::{Error, codec, parcel};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::error::{OnLost, PoolError, TaskFailure, WorkerLost};
use crate::job::SharedJob;
use crate::member::{Member, State, fd_of, replacement_context};
use crate::shared::{Command, Shared};
use crate::wire::{Cause, FUNCTIONS, Failure, LONGEST_BODY, RESULT_FILE, status, task};

/// Workers that may die in a row before they have done anything, until the pool gives up.
const MOST_DEATHS: u32 = 10;
/// How long a terminated worker may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes that are put into a link at a time, unless one task has more.
const BATCH_BYTES: usize = 1 << 20;
/// Tasks with descriptors that a link may hold: a socket takes only so many.
const MOST_WITH_FDS: usize = 4;
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
    epoll: OwnedFd,
    closing: bool,
    broken: Option<PoolError>,
    deaths_in_row: u32,
    scratch: Vec<u8>,
}

/// A place for a worker.
struct Seat {
    member: Option<Member>,
    /// When the next worker for it is to be started.
    due: Option<Instant>,
    stopping: bool,
}

/// A call that is not finished.
struct Active {
    job: SharedJob,
    number: u32,
    /// The first task that was never handed out.
    next: usize,
    /// Tasks to hand out again, before all others.
    again: VecDeque<usize>,
    /// How many workers died of a task.
    deaths: HashMap<usize, u32>,
    left: usize,
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
            epoll,
            closing: false,
            broken: None,
            deaths_in_row: 0,
            scratch: Vec::new(),
        };
        for (position, member) in members.into_iter().enumerate() {
            supervisor.watch(position, &member.state)?;
            supervisor.seats.push(Seat { member: Some(member), due: None, stopping: false });
        }
        Ok(supervisor)
    }

    /// Serves until the pool is closed and empty, or terminated.
    pub fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            for command in self.shared.take_commands() {
                match command {
                    Command::Run(job) => self.accept(job),
                    Command::Close => self.closing = true,
                    Command::Terminate => return self.terminate(),
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

    fn accept(&mut self, job: SharedJob) {
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
            left,
        };
        self.jobs.push(active);
    }

    /// Takes in the results of a worker; true if there were any.
    fn collect(&mut self, position: usize, now: Instant) -> bool {
        let mut done = 0;
        loop {
            let Some(member) = self.seats[position].member.as_mut() else { return false };
            match take_result(member, &mut self.scratch) {
                Ok(None) => {
                    member.measure(done, now);
                    return done > 0;
                }
                Ok(Some((task, result, fds))) => {
                    done += 1;
                    if task.flags & task::DEFINE == 0 {
                        member.proven = true;
                        self.deaths_in_row = 0;
                        self.shared.count_task();
                        self.finish(position, task.id, result, fds);
                    }
                }
                Err(error) => {
                    log::error!("worker {} broke its link: {error}", member.name);
                    if let Some(process) = member.process() {
                        let _ = process.kill();
                    }
                    self.bury(position, None);
                    return done > 0;
                }
            }
        }
    }

    /// Notes the result of a task.
    fn finish(&mut self, position: usize, id: u64, result: ResultHeader, fds: Vec<SharedFd>) {
        let (number, task) = split(id);
        let Some(index) = self.jobs.iter().position(|active| active.number == number) else { return };
        let active = &mut self.jobs[index];
        if result.status == status::VALUE {
            active.job.succeed(task, &self.scratch, fds);
        } else {
            let (item, cause) = self.seats[position].member.as_ref().map_or_else(
                || (0, TaskFailure::Result("the worker is gone".into())),
                |member| failure(&self.scratch, member),
            );
            active.job.fail(task, item, cause);
        }
        active.left -= 1;
        if active.left == 0 {
            self.jobs.remove(index);
        }
    }

    /// Gives tasks to every worker that has room for some.
    fn share_out(&mut self, now: Instant) {
        let running =
            |seat: &Seat| !seat.stopping && seat.member.as_ref().is_some_and(|m| m.process().is_some());
        let workers = self.seats.iter().filter(|seat| running(seat)).count();
        if workers == 0 {
            return;
        }
        let mut waiting: usize = self.jobs.iter().map(Active::waiting).sum();
        if waiting == 0 {
            if !self.take_back(now) {
                return;
            }
            waiting = self.jobs.iter().map(Active::waiting).sum();
        }
        // Those that have nothing come first, and nobody gets more than its share.
        let mut positions: Vec<usize> = (0..self.seats.len()).filter(|i| running(&self.seats[*i])).collect();
        positions.sort_by_key(|i| self.seats[*i].member.as_ref().map_or(0, Member::outstanding));
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
        'jobs: for active in &mut self.jobs {
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

    /// If a worker has nothing to do, takes back what another has not begun; true if there is something to share now.
    fn take_back(&mut self, now: Instant) -> bool {
        let idle = |seat: &Seat| {
            let member = seat.member.as_ref();
            !seat.stopping
                && member.is_some_and(|member| member.process().is_some() && member.outstanding() == 0)
        };
        if !self.seats.iter().any(idle) {
            return false;
        }
        let unbegun = |seat: &mut Seat| {
            let member = seat.member.as_mut()?;
            let claimed = member.link.tasks.claimed_len().ok()?;
            Some(member.outstanding() - claimed)
                .filter(|count| *count > 0 && !member.will_finish_within(SOON, *count, now))
        };
        let counts: Vec<Option<usize>> = self.seats.iter_mut().map(unbegun).collect();
        let Some(donor) = (0..counts.len()).filter(|i| counts[*i].is_some()).max_by_key(|i| counts[*i])
        else {
            return false;
        };
        let Some(member) = self.seats[donor].member.as_mut() else { return false };
        revoke(member, &mut self.jobs)
    }

    /// Sleeps until the bell rings, a worker starts or ends, or something is due.
    fn sleep(&mut self, events: &mut Vec<epoll::Event>, now: Instant) {
        let mut asleep = true;
        for seat in &mut self.seats {
            if let Some(member) = &mut seat.member {
                asleep &= member.link.results.prepare_sleep();
            }
        }
        if asleep {
            let due = self.seats.iter().filter_map(|seat| seat.due).min();
            let due = due.map(|due| due.saturating_duration_since(now));
            // Somebody idles while another has a few quick tasks left: look again soon, in case one of them is slow.
            let soon = self.has_idle_and_unbegun().then_some(Duration::from_millis(1));
            let timeout = [due, soon].into_iter().flatten().min();
            let timeout =
                timeout.map(|t| Timespec { tv_sec: t.as_secs() as _, tv_nsec: t.subsec_nanos() as _ });
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref());
            if let Err(error) = waited
                && error != Errno::INTR
            {
                log::error!("the epoll of a pool fails: {error}");
            }
        }
        for seat in &mut self.seats {
            if let Some(member) = &mut seat.member {
                member.link.results.cancel_sleep();
            }
        }
    }

    fn has_idle_and_unbegun(&mut self) -> bool {
        let idle = self.seats.iter().any(|seat| seat.member.as_ref().is_some_and(|m| m.outstanding() == 0));
        idle && self.seats.iter().any(|seat| seat.member.as_ref().is_some_and(|m| m.outstanding() > 1))
    }

    /// Something happened to a worker: it is ready, or it has ended.
    fn look_after(&mut self, position: usize) {
        let Some(member) = self.seats.get_mut(position).and_then(|seat| seat.member.as_mut()) else { return };
        match &member.state {
            State::Starting(_) => match member.finish_start() {
                Ok(()) => {
                    let member = self.seats[position].member.take();
                    if let Some(member) = member {
                        if let Err(error) = self.watch(position, &member.state) {
                            log::error!("{error}");
                        }
                        self.seats[position].member = Some(member);
                    }
                }
                Err(error) => {
                    self.seats[position].member = None;
                    self.note_early_death(position, error.to_string());
                }
            },
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
        if self.seats[position].stopping {
            return;
        }
        revoke(&mut member, &mut self.jobs);
        let (name, pid) = (member.name.clone(), member.process().map_or(0, |process| process.pid()));
        let mut lost = WorkerLost { name, pid, exit_code, item: None, retried: false };
        let victims: Vec<u64> = member
            .link
            .tasks
            .outstanding()
            .filter(|(task, _)| task.flags & (task::DEFINE | task::STOP) == 0)
            .map(|(task, _)| task.id)
            .collect();
        for id in &victims {
            self.lose(*id, &mut lost);
        }
        log::warn!("{lost}");
        self.shared.count_loss();
        if let Some(on_lost) = &self.on_lost {
            on_lost(&lost);
        }
        if member.proven || !victims.is_empty() {
            self.deaths_in_row = 0;
            self.seats[position].due = Some(Instant::now());
        } else {
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

    /// A worker died before it did anything: the next one waits a while, and at some point the pool gives up.
    fn note_early_death(&mut self, position: usize, reason: String) {
        self.deaths_in_row += 1;
        let count = self.deaths_in_row;
        if count >= MOST_DEATHS {
            let error = PoolError::WorkersKeepDying { count, reason };
            self.jobs.drain(..).for_each(|active| active.job.abort(error.clone()));
            self.broken = Some(error);
            return;
        }
        log::warn!("a worker died before it did anything ({count} in a row): {reason}");
        let pause = Duration::from_millis(10 << (count - 1).min(7));
        self.seats[position].due = Some(Instant::now() + pause);
    }

    fn start_due(&mut self, now: Instant) {
        for position in 0..self.seats.len() {
            if self.seats[position].due.is_none_or(|due| due > now) || self.broken.is_some() {
                continue;
            }
            self.seats[position].due = None;
            if self.closing && self.jobs.is_empty() {
                continue;
            }
            let started = Member::start(self.context, self.shared.next_name(self.context), &self.shared.bell);
            match started.and_then(|member| self.watch(position, &member.state).map(|()| member)) {
                Ok(member) => self.seats[position].member = Some(member),
                Err(error) => self.note_early_death(position, error.to_string()),
            }
        }
    }

    fn watch(&self, position: usize, state: &State) -> Result<(), PoolError> {
        let Some(fd) = fd_of(state) else { return Ok(()) };
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(position as u64), epoll::EventFlags::IN)
            .map_err(|error| Error::io("watching a worker", error).into())
    }

    /// Lets all workers end, and says whether they have.
    fn stop_all(&mut self) -> bool {
        for seat in &mut self.seats {
            seat.due = None;
            let Some(member) = &mut seat.member else { continue };
            if seat.stopping || member.process().is_none() {
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
        for active in self.jobs.drain(..) {
            active.job.abort(PoolError::Terminated);
        }
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
        // However this thread ends, no caller waits for it any more.
        self.jobs.drain(..).for_each(|active| active.job.abort(PoolError::Terminated));
        self.shared.end();
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
        let id = u64::from(active.number) << 32;
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
    if fds.is_empty() && body.len() <= LONGEST_BODY {
        return member.link.tasks.try_push(header, &[body]);
    }
    if member.outstanding() >= MOST_WITH_FDS {
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
    // If the worker is dead, its end is noticed elsewhere.
    let _ = member.socket.send_message(Message { bytes: header.id.to_le_bytes().to_vec(), fds: table });
    Ok(true)
}

/// Takes back what the worker has not begun, to the front of the queues of its calls; true if there was anything.
fn revoke(member: &mut Member, jobs: &mut [Active]) -> bool {
    let tasks: Vec<TaskHeader> = match member.link.tasks.revoke() {
        Ok(revoked) => revoked.tasks().map(|(task, _)| task).collect(),
        Err(error) => {
            log::error!("worker {} broke its link: {error}", member.name);
            return false;
        }
    };
    let mut any = false;
    for header in tasks.iter().rev() {
        if header.flags & task::DEFINE != 0 {
            member.defined[header.function as usize % FUNCTIONS] = None;
            continue;
        }
        let (number, task) = split(header.id);
        if let Some(active) = jobs.iter_mut().find(|active| active.number == number) {
            active.again.push_front(task);
            any = true;
        }
    }
    any
}

/// The next result of a worker, its body in `body`, with the task that it is for.
fn take_result(
    member: &mut Member,
    body: &mut Vec<u8>,
) -> mp_core::Result<Option<(TaskHeader, ResultHeader, Vec<SharedFd>)>> {
    let Some((header, done)) = member.link.results.next(body)? else { return Ok(None) };
    let done = done.ok_or_else(|| Error::Invalid { what: "result", reason: "it is only a part".into() })?;
    let task = member.link.tasks.complete(done)?;
    let mut fds = Vec::new();
    if header.fds > 0 {
        // The worker sent them before the result.
        let mut message = member.socket.recv_message_timeout(Duration::from_secs(5))?;
        if message.bytes != header.id.to_le_bytes() || message.fds.len() != header.fds as usize {
            return Err(Error::Invalid {
                what: "result",
                reason: "its descriptors are those of another".into(),
            });
        }
        if header.flags & RESULT_FILE != 0 {
            *body = parcel::load(&mut message.fds)?;
        }
        fds = message.fds.iter().cloned().collect();
    }
    Ok(Some((task, header, fds)))
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
