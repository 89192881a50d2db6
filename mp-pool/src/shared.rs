//! What a pool's handle and its thread share.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use mp_context::{Context, StartMethod};
use mp_core::Error;
use rustix::event::{EventfdFlags, eventfd};

use crate::error::PoolError;
use crate::job::Ticket;
use crate::lock;

/// How long the exit of the process waits for a pool: what its thread waits for may never come then.
const EXIT_LIMIT: Duration = Duration::from_secs(2);

/// What a handle asks of the thread.
pub(crate) enum Command {
    Run(Ticket),
    Close,
    Terminate,
    /// Terminate, and leave the callers waiting: the process exits.
    Exit,
}

pub(crate) struct Shared {
    /// Wakes the thread.
    pub bell: OwnedFd,
    inbox: Mutex<Inbox>,
    ended: Condvar,
    /// The thread.
    server: OnceLock<ThreadId>,
    named: AtomicU64,
    tasks: AtomicU64,
    losses: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    commands: Vec<Command>,
    stage: Stage,
    /// The thread and all workers are gone.
    ended: bool,
}

/// How far the life of a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Open,
    Closed,
    Terminated,
}

impl Inbox {
    fn check_open(&self) -> Result<(), PoolError> {
        match self.stage {
            Stage::Closed => Err(PoolError::Closed),
            Stage::Open if !self.ended => Ok(()),
            Stage::Open | Stage::Terminated => Err(PoolError::Terminated),
        }
    }
}

impl Shared {
    pub fn new() -> Result<Shared, PoolError> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::io("creating the bell of a pool", error))?;
        Ok(Shared {
            bell,
            inbox: Mutex::default(),
            ended: Condvar::new(),
            server: OnceLock::new(),
            named: AtomicU64::new(0),
            tasks: AtomicU64::new(0),
            losses: AtomicU64::new(0),
        })
    }

    /// Leaves a job for the thread.
    pub fn submit(&self, job: Ticket) -> Result<(), PoolError> {
        let mut inbox = lock(&self.inbox);
        inbox.check_open()?;
        inbox.commands.push(Command::Run(job));
        drop(inbox);
        self.ring();
        Ok(())
    }

    /// Whether the pool takes jobs.
    pub fn check_open(&self) -> Result<(), PoolError> {
        lock(&self.inbox).check_open()
    }

    pub fn close(&self) {
        let mut inbox = lock(&self.inbox);
        if inbox.stage == Stage::Open {
            inbox.stage = Stage::Closed;
            inbox.commands.push(Command::Close);
        }
        drop(inbox);
        self.ring();
    }

    pub fn terminate(&self) {
        let mut inbox = lock(&self.inbox);
        if inbox.stage != Stage::Terminated {
            inbox.stage = Stage::Terminated;
            inbox.commands.push(Command::Terminate);
        }
        drop(inbox);
        self.ring();
    }

    /// Ends the workers, as the process exits; callers, if any thread still runs, are to hear nothing of it.
    pub fn exit(&self) {
        let mut inbox = lock(&self.inbox);
        inbox.stage = Stage::Terminated;
        inbox.commands.insert(0, Command::Exit);
        drop(inbox);
        self.ring();
        if !self.is_served_here() {
            let limit = Instant::now() + EXIT_LIMIT;
            let mut inbox = lock(&self.inbox);
            while !inbox.ended && Instant::now() < limit {
                let rest = limit.saturating_duration_since(Instant::now());
                inbox = self.ended.wait_timeout(inbox, rest).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    pub fn stage(&self) -> Stage {
        lock(&self.inbox).stage
    }

    pub fn has_ended(&self) -> bool {
        lock(&self.inbox).ended
    }

    /// Notes that this thread is the one that serves.
    pub fn serve_here(&self) {
        let _ = self.server.set(std::thread::current().id());
    }

    /// Whether this is the thread that serves, which must not wait for itself.
    pub fn is_served_here(&self) -> bool {
        self.server.get() == Some(&std::thread::current().id())
    }

    /// Waits until all is over.
    pub fn wait_end(&self) {
        let mut inbox = lock(&self.inbox);
        while !inbox.ended {
            inbox = self.ended.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ring(&self) {
        // A counter that is full has been rung often enough.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub fn quiet_bell(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    pub fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut lock(&self.inbox).commands)
    }

    /// Called by the thread as its last act: nobody is to wait for it any more.
    pub fn end(&self) {
        let mut inbox = lock(&self.inbox);
        inbox.ended = true;
        inbox.commands.clear();
        self.ended.notify_all();
    }

    /// Name of the next worker.
    pub fn next_name(&self, context: Context) -> String {
        let kind = match context.start_method() {
            StartMethod::Spawn => "Spawn",
            StartMethod::ForkServer => "ForkServer",
            StartMethod::Fork => "Fork",
        };
        format!("{kind}PoolWorker-{}", self.named.fetch_add(1, Relaxed) + 1)
    }

    pub fn count_task(&self) {
        self.tasks.fetch_add(1, Relaxed);
    }

    pub fn count_loss(&self) {
        self.losses.fetch_add(1, Relaxed);
    }

    pub fn tasks(&self) -> u64 {
        self.tasks.load(Relaxed)
    }

    pub fn losses(&self) -> u64 {
        self.losses.load(Relaxed)
    }
}
