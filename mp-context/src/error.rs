//! What can go wrong when a process starts, and how a process can end badly.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::method::StartMethod;

/// Why a process could not be started. Whatever the reason, no process is left behind.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no start method of this name.
    #[error("there is no start method {name:?}; this system has forkserver, spawn and fork")]
    UnknownMethod {
        /// The name that was given.
        name: String,
    },
    /// The default start method was fixed before.
    #[error("the start method of process {pid} is already set to {set}", pid = std::process::id())]
    MethodIsSet {
        /// The method in force.
        set: StartMethod,
    },
    /// The method of a concrete context cannot be changed.
    #[error("the start method of the {set} context cannot be changed")]
    FixedMethod {
        /// Its method.
        set: StartMethod,
    },
    /// Only a forked child can run a closure with what it captures.
    #[error("a child of the {method} context cannot run a closure that captures; only the fork context can")]
    CannotCapture {
        /// Method of the context.
        method: StartMethod,
    },
    /// Daemonic processes have no children.
    #[error("daemonic process {name:?} (pid {pid}) is not allowed to have children", pid = std::process::id())]
    DaemonicParent {
        /// Name of the daemonic process.
        name: String,
    },
    /// The function or its arguments cannot be sent.
    #[error("cannot send {function} and its arguments to process {process:?}: {source}")]
    Arguments {
        /// Name of the process.
        process: String,
        /// Rust path of the function.
        function: String,
        /// What is wrong.
        source: Arc<mp_core::Error>,
    },
    /// The system, or the program, does not let the process start.
    #[error("cannot start process {process:?} with method {method}: {source}")]
    System {
        /// Name of the process.
        process: String,
        /// How it was to be started.
        method: StartMethod,
        /// What is wrong.
        source: Arc<mp_core::Error>,
    },
    /// The child refused: another build of the program, arguments that do not decode, settings it may not have.
    #[error("process {process:?} could not begin: {reason}")]
    Refused {
        /// Name of the process.
        process: String,
        /// What the child says.
        reason: String,
    },
    /// The child ended before it was ready.
    #[error("process {process:?} died before it was ready: {how}")]
    Died {
        /// Name of the process.
        process: String,
        /// How it ended, in words.
        how: String,
    },
    /// The child was not ready in time, and was killed.
    #[error("process {process:?} was not ready within {limit:?} and was killed{hint}")]
    Timeout {
        /// Name of the process.
        process: String,
        /// The limit.
        limit: Duration,
        /// What is known about the cause, as the end of a sentence; often empty.
        hint: String,
    },
}

/// A panic in another process, told so that it can be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PanicReport {
    /// What it said.
    pub message: String,
    /// File, line and column.
    pub location: String,
    /// Name of the thread; the process's main thread is called `main`.
    pub thread: String,
    /// The stack at the panic; empty if the variable `RUST_BACKTRACE` is `0`.
    pub backtrace: String,
}

impl fmt::Display for PanicReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked at {}: {}", self.location, self.message)?;
        if f.alternate() && !self.backtrace.is_empty() {
            write!(f, "\nstack of thread '{}' there:\n{}", self.thread, self.backtrace.trim_end())?;
        }
        Ok(())
    }
}

/// How a process ended without a result.
///
/// `{}` is one line, `{:#}` adds the remote stack. Follows Python's `ProcessError` and `RemoteTraceback`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Its function panicked.
    #[error(fmt = fmt_panicked)]
    Panicked {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
        /// What happened there.
        report: Box<PanicReport>,
    },
    /// It exited by itself, without a result.
    #[error("process {name:?} (pid {pid}) exited with code {code} before its function returned")]
    Exited {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
        /// Its exit code.
        code: i32,
    },
    /// A signal ended it.
    #[error("process {name:?} (pid {pid}) was killed by signal {signal} ({})", signal_name(*signal))]
    Killed {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
        /// Number of the signal.
        signal: i32,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// It ended without a result, and nobody can say how: its server was killed on a kernel older than 6.15.
    #[error("process {name:?} (pid {pid}) ended without a result, and its exit status is lost")]
    Vanished {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
    },
    /// Its function returned, but the result cannot be sent or understood.
    #[error("the result of process {name:?} (pid {pid}) is lost: {reason}")]
    Result {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// It still runs after the time limit.
    #[error("process {name:?} (pid {pid}) still runs")]
    Timeout {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
    },
    /// The handle was closed.
    #[error("the handle of process {name:?} is closed")]
    Closed {
        /// Name of the process.
        name: String,
    },
    /// The process cannot be closed: it still runs.
    #[error("process {name:?} (pid {pid}) is still running; join or terminate it before closing")]
    StillRunning {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
    },
    /// The handle came here by a fork; only the process that started a process can wait for it.
    #[error("process {name:?} (pid {pid}) is not a child of process {own}", own = std::process::id())]
    NotAChild {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
    },
    /// A system call failed.
    #[error("process {name:?} (pid {pid}): {source}")]
    System {
        /// Name of the process.
        name: String,
        /// Its pid.
        pid: u32,
        /// What failed.
        source: Arc<mp_core::Error>,
    },
}

fn fmt_panicked(name: &str, pid: &u32, report: &PanicReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "process {name:?} (pid {pid}) ")?;
    fmt::Display::fmt(report, f)
}

/// Name of a signal, such as `SIGKILL`.
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    let name = usize::try_from(signal - 1).ok().and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("SIG{signal}"), |name| (*name).to_owned())
}
