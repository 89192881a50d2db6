//! What can go wrong in a pool: with a task, with a worker, with the pool itself.

use std::fmt;
use std::sync::Arc;

use mp_context::{PanicReport, StartError, signal_name};

/// A worker that ended while it was needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLost {
    /// Name of the worker.
    pub name: String,
    /// Its pid.
    pub pid: u32,
    /// How it ended, as [`Process::exit_code`](mp_context::Process::exit_code) counts: minus the number of a signal.
    pub exit_code: Option<i32>,
    /// Position of the first item that it was working on, if it was working on one.
    pub item: Option<usize>,
    /// Whether that item is given to another worker.
    pub retried: bool,
}

impl fmt::Display for WorkerLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} (pid {}) ", self.name, self.pid)?;
        match self.exit_code {
            Some(code) if code < 0 => write!(f, "was killed by signal {} ({})", -code, signal_name(-code))?,
            Some(code) => write!(f, "exited with code {code}")?,
            None => f.write_str("broke its link")?,
        }
        match (self.item, self.retried) {
            (Some(item), true) => write!(f, " while it worked on item {item}, which is tried again"),
            (Some(item), false) => write!(f, " while it worked on item {item}"),
            (None, _) => Ok(()),
        }
    }
}

/// Why an item has no result. `{:#}` adds the stack of a remote panic.
#[derive(Clone, Debug)]
pub struct TaskError {
    /// Position of the item among those of the call.
    pub item: usize,
    /// Rust path of the function.
    pub function: String,
    /// What happened.
    pub cause: TaskFailure,
}

/// What happened to a task.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskFailure {
    /// The function panicked; the worker goes on.
    Panicked {
        /// Name of the worker.
        worker: String,
        /// Its pid.
        pid: u32,
        /// What happened there.
        report: Box<PanicReport>,
    },
    /// The worker died; another takes its place.
    WorkerLost(WorkerLost),
    /// The item could not be decoded by the worker, or the function could not be called there.
    Argument(String),
    /// The result could not be sent, or not be decoded here.
    Result(String),
    /// An item before it in the same chunk failed, so it was not tried.
    Skipped,
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {} of {}: ", self.item, self.function)?;
        match &self.cause {
            TaskFailure::Panicked { worker, pid, report } => {
                write!(f, "worker {worker} (pid {pid}) ")?;
                fmt::Display::fmt(report, f)
            }
            TaskFailure::WorkerLost(lost) => fmt::Display::fmt(lost, f),
            TaskFailure::Argument(reason) | TaskFailure::Result(reason) => f.write_str(reason),
            TaskFailure::Skipped => f.write_str("not tried, as an item before it in its chunk failed"),
        }
    }
}

impl std::error::Error for TaskError {}

/// Why a call to a pool failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// An argument makes no sense.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The argument.
        what: &'static str,
        /// Why it is refused.
        reason: String,
    },
    /// A worker could not be started.
    #[error("cannot start a worker: {0}")]
    Start(#[from] StartError),
    /// An item, or the captured values, could not be encoded; nothing was run.
    #[error("cannot send {what} to the workers: {source}")]
    Encode {
        /// Which value.
        what: String,
        /// Why.
        source: Arc<mp_core::Error>,
    },
    /// An item has no result. All others were run, except those after it in its chunk;
    /// [`Call::try_map`](crate::Call::try_map) gives theirs too.
    #[error(transparent)]
    Task(#[from] Box<TaskError>),
    /// Workers die as fast as they are started, before they have done anything.
    #[error("the workers of the pool keep dying, {count} in a row; the last: {reason}")]
    WorkersKeepDying {
        /// How many died in a row.
        count: u32,
        /// What became of the last.
        reason: String,
    },
    /// The pool was closed and takes no more tasks.
    #[error("the pool is closed")]
    Closed,
    /// The pool was terminated, and the tasks with it.
    #[error("the pool was terminated")]
    Terminated,
    /// The pool still takes tasks: close or terminate it before joining.
    #[error("the pool still runs: close or terminate it before joining")]
    StillRunning,
    /// The pool was made by another process; only there are its workers.
    #[error("this pool belongs to process {owner}, and this is process {own}", own = std::process::id())]
    NotOurs {
        /// Pid of the process that made it.
        owner: u32,
    },
    /// The system refuses something.
    #[error("pool: {0}")]
    System(Arc<mp_core::Error>),
}

impl From<mp_core::Error> for PoolError {
    fn from(error: mp_core::Error) -> Self {
        PoolError::System(Arc::new(error))
    }
}

/// Called with each worker that is lost.
pub(crate) type OnLost = dyn Fn(&WorkerLost) + Send + Sync;
