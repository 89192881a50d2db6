//! Describing a process before it is started.

use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mp_core::function::{Arguments, Callable, Once, Remote};
use mp_core::message::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::children;
use crate::error::StartError;
use crate::launch::{Plan, START_TIMEOUT, Starting, Work, begin};
use crate::method::{self, StartMethod};
use crate::preparation::{Resource, Settings};
use crate::process::Process;
use crate::stdio::{self, Stdio, Streams};

/// How often a child is asked for anew when the fork server was killed while it made it.
const ATTEMPTS: usize = 3;

/// A process that is not started yet: its function, its arguments, and what to set up for it.
///
/// Made by [`process`] and [`Context::process`](crate::Context::process). Follows the arguments of Python's
/// `multiprocessing.Process`; an unstarted process has no pid, exit code or sentinel to ask for, because it is another
/// type than a started one.
#[must_use = "a process runs only after `start()`"]
pub struct ProcessBuilder<F, A> {
    function: Remote<Once>,
    arguments: A,
    method: Option<StartMethod>,
    name: Option<String>,
    daemon: Option<bool>,
    ends_with_us: bool,
    streams: Arc<Streams>,
    settings: Settings,
    forward_logs: bool,
    start_timeout: Duration,
    of: PhantomData<fn() -> F>,
}

/// A process that will call `function` with `arguments`, started by the default method.
///
/// `function` is a function item or a closure that captures nothing; `arguments` are a tuple of up to 8 values, `()` for
/// none and `(value,)` for one.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// fn add(a: u32, b: u32) -> u32 {
///     a + b
/// }
///
/// let process = mp_context::process(add, (40, 2)).name("adder").start()?;
/// assert_eq!(process.join()?, 42);
/// # Ok(())
/// # }
/// ```
pub fn process<F, A>(function: F, arguments: A) -> ProcessBuilder<F, A>
where
    F: Callable<A>,
    A: Arguments,
    F::Output: Serialize + DeserializeOwned,
{
    ProcessBuilder::new(None, function, arguments)
}

impl<F, A> ProcessBuilder<F, A>
where
    F: Callable<A>,
    A: Arguments,
    F::Output: Serialize + DeserializeOwned,
{
    pub(crate) fn new(method: Option<StartMethod>, function: F, arguments: A) -> Self {
        ProcessBuilder {
            function: Remote::call(function),
            arguments,
            method,
            name: None,
            daemon: None,
            ends_with_us: false,
            streams: Arc::default(),
            settings: Settings::default(),
            forward_logs: true,
            start_timeout: START_TIMEOUT,
            of: PhantomData,
        }
    }

    /// Its name, for people. The default tells the method and the place in the family: `SpawnProcess-2:1` is the first
    /// child of the second child.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it is daemonic: terminated when this process exits, and without children of its own. The default is
    /// that of this process.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = Some(daemon);
        self
    }

    /// Sets a variable of its environment; this process's own is not changed.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.settings.set_variable(name.into(), value.into());
        self
    }

    /// Leaves a variable of this process out of its environment.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.settings.remove_variable(name.into());
        self
    }

    /// The folder it works in; the default is that of this process.
    pub fn current_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.current_dir = Some(path.into());
        self
    }

    /// Its standard input; the default is [`Stdio::null`].
    pub fn stdin(self, stream: impl Into<Stdio>) -> Self {
        self.streams(|streams| streams.stdin = stream.into())
    }

    /// Its standard output; the default is [`Stdio::inherit`].
    pub fn stdout(self, stream: impl Into<Stdio>) -> Self {
        self.streams(|streams| streams.stdout = stream.into())
    }

    /// Its standard error stream; the default is [`Stdio::inherit`].
    pub fn stderr(self, stream: impl Into<Stdio>) -> Self {
        self.streams(|streams| streams.stderr = stream.into())
    }

    fn streams(mut self, change: impl FnOnce(&mut Streams)) -> Self {
        if let Some(streams) = Arc::get_mut(&mut self.streams) {
            change(streams);
        }
        self
    }

    /// The CPUs it may run on, counted from 0.
    pub fn cpu_affinity(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.settings.cpu_affinity = Some(cpus.into_iter().collect());
        self
    }

    /// How much nicer than this process it is to others, as `nice(2)` counts.
    pub fn nice(mut self, increment: i32) -> Self {
        self.settings.nice = Some(increment);
        self
    }

    /// Whether it is terminated, rather than waited for, when this process exits. Daemonic processes always are; this
    /// is for helpers that may have children of their own.
    pub fn terminate_at_exit(mut self, terminate: bool) -> Self {
        self.ends_with_us = terminate;
        self
    }

    /// Limits a resource: the soft and the hard limit, `None` for none.
    pub fn limit(mut self, resource: Resource, soft: Option<u64>, hard: Option<u64>) -> Self {
        self.settings.limits.push((resource, soft, hard));
        self
    }

    /// Whether its log records come to the logger that this process has installed with the `log` crate; the default is
    /// true.
    ///
    /// It matters for spawn and forkserver, if this process has a logger when it starts the child. Records of the levels
    /// that are enabled here at that time, and of the child's own children, are given to the logger with target, level,
    /// module, file and line as they were, and with name and pid of the child before the message:
    /// `[SpawnProcess-1 4711] message`. Key-values are not sent; messages are cut at 64 KiB. Those of one child come in
    /// their order, and before a join returns, unless the logger takes longer than a second for what was left. The child
    /// is never held up for long: after a second without room for a record it drops records, and tells how many
    /// with the next that goes through.
    ///
    /// The child's place for a logger is taken then. A child that installs one of its own is started with `false`; one
    /// that was there before, from a preload hook of the fork server, is left alone. A forked child logs with its copy of
    /// this process's logger in any case. While there are children whose records come here, a thread named `mp-log`
    /// receives them, so this process cannot be forked.
    pub fn forward_logs(mut self, forward: bool) -> Self {
        self.forward_logs = forward;
        self
    }

    /// How long it may take until it is ready to call its function, 60 seconds by default.
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.start_timeout = limit;
        self
    }

    /// Starts it, and waits until it is about to call its function.
    ///
    /// # Errors
    /// [`StartError`], and no process is left behind: the arguments cannot be encoded or, by the child, decoded; the
    /// system refuses; the child died early, or was not ready in time.
    pub fn start(self) -> Result<Process<F::Output>, StartError> {
        let plan = self.plan();
        for _ in 1..ATTEMPTS {
            match self.begin(&plan).and_then(Starting::finish) {
                Err(StartError::Died { .. }) if plan.method == StartMethod::ForkServer => {}
                finished => return finished.map(Process::new),
            }
        }
        self.begin(&plan)?.finish().map(Process::new)
    }

    /// Asks for the process without waiting until it is ready, so that several can be asked for at once.
    ///
    /// # Errors
    /// As for [`ProcessBuilder::start`], as far as they show by then.
    pub fn begin_start(self) -> Result<StartingProcess<F::Output>, StartError> {
        let starting = self.begin(&self.plan())?;
        Ok(StartingProcess { starting, of: PhantomData })
    }

    fn plan(&self) -> Plan {
        let plan = Plan::new(self.method.unwrap_or_else(method::fix), self.name.clone());
        let daemon = self.daemon.unwrap_or(plan.daemon);
        Plan {
            daemon,
            ends_with_us: daemon || self.ends_with_us,
            streams: self.streams.clone(),
            settings: self.settings.clone(),
            forward_logs: self.forward_logs,
            start_timeout: self.start_timeout,
            ..plan
        }
    }

    fn begin(&self, plan: &Plan) -> Result<Starting, StartError> {
        stdio::fill_gaps();
        let mut arguments = Message::default();
        self.arguments.encode(&mut arguments.bytes, &mut arguments.fds).map_err(|source| {
            StartError::Arguments {
                process: plan.name.clone(),
                function: self.function.name().to_owned(),
                source: Arc::new(source),
            }
        })?;
        begin(plan, Work::Call { function: &self.function, arguments })
    }
}

impl<F, A> fmt::Debug for ProcessBuilder<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("unnamed");
        write!(f, "<Process name={name:?} function={} initial>", self.function.name())
    }
}

/// A process that was asked for and may not be ready yet.
#[derive(Debug)]
#[must_use = "a process that nobody waits for is ended"]
pub struct StartingProcess<R> {
    starting: Starting,
    of: PhantomData<fn() -> R>,
}

/// Becomes readable when [`StartingProcess::finish`] will not wait any more.
impl<R> AsFd for StartingProcess<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.starting.as_fd()
    }
}

impl<R: DeserializeOwned> StartingProcess<R> {
    /// Waits until it is ready.
    ///
    /// # Errors
    /// As for [`ProcessBuilder::start`].
    pub fn finish(self) -> Result<Process<R>, StartError> {
        self.starting.finish().map(Process::new)
    }
}

/// The live children of this process, in the order in which they were started.
///
/// Takes note of those that have ended, and takes their zombies away. Follows Python's
/// `multiprocessing.active_children`.
pub fn active_children() -> Vec<Process<()>> {
    children::alive().into_iter().map(Process::new).collect()
}
