//! The fork server, seen from the process that uses it.
//!
//! One server per process, started with the first child that needs it, and anew when it is found dead: a child that
//! was asked for in vain is asked for again.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mp_core::connection::Connection;
use mp_core::function::{Callable, Once, Remote};
use mp_core::message::Message;
use mp_core::process::entry::Hello;
use mp_core::process::environment::EnvironmentChange;
use mp_core::process::{lifeline, pidfd};
use mp_core::wait::wait_ready;
use mp_core::{Error, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use crate::child::{lock, with_head};
use crate::launch::spawn_program;
use crate::logging::get_logger;
use crate::preparation::Settings;
use crate::server::{self, Asked, OnError, Setup};
use crate::stdio::{Stdio, Streams};

/// What the server needs to make a child.
#[derive(Debug)]
pub(crate) struct Request {
    pub socket: OwnedFd,
    pub lifeline: OwnedFd,
    pub streams: [Option<OwnedFd>; 3],
}

/// A running server.
#[derive(Debug)]
struct Server {
    socket: Connection,
    pid: u32,
    pidfd: OwnedFd,
    /// Pid of its user.
    parent: u32,
    /// As long as this is open, the server lives.
    _lifeline: OwnedFd,
    /// What its children inherit, to tell them what is different by now.
    environment: Vec<(OsString, OsString)>,
    current_dir: Option<PathBuf>,
}

static SERVER: Mutex<Option<Arc<Server>>> = Mutex::new(None);
static PRELOAD: Mutex<(Vec<Remote<Once>>, OnError)> = Mutex::new((Vec::new(), OnError::Ignore));

/// Has the fork server run `hook` once, when it starts, before it makes any child.
///
/// Every child made by it then begins with what the hook left behind: tables that were read, libraries that were
/// loaded. The hook must end without threads, as the server copies itself. What it returns (nothing, or a `Result`)
/// and whether it panicked is treated as `on_error` says. Several hooks run in the order in which they were set. It has
/// no effect on a server that runs already. Follows Python's `multiprocessing.set_forkserver_preload`.
pub fn set_forkserver_preload<F>(hook: F, on_error: OnError)
where
    F: Callable<()>,
    F::Output: PreloadOutcome,
{
    // A closure around something without bytes has no bytes either, so it can travel.
    let hook = Remote::call(move || hook.call(()).into_outcome());
    let mut preload = lock(&PRELOAD);
    preload.0.push(hook);
    preload.1 = on_error;
}

/// What a preload hook may return.
pub trait PreloadOutcome {
    /// The error in words, if it is one.
    fn into_outcome(self) -> std::result::Result<(), String>;
}

impl PreloadOutcome for () {
    fn into_outcome(self) -> std::result::Result<(), String> {
        Ok(())
    }
}

impl<E: std::fmt::Display> PreloadOutcome for std::result::Result<(), E> {
    fn into_outcome(self) -> std::result::Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// Has the server make a child; returns where its exit status will come from.
///
/// `tell` writes the letter to the child, given what it has to change about itself in this process, or sends the child
/// all of that and returns none.
///
/// # Errors
/// [`Error::EndOfFile`] when the server was killed meanwhile: the next one may do better. [`Error::Timeout`] when it
/// does not take the request, or was to be started and was not ready, by the `deadline`.
pub(crate) fn start(
    request: Request,
    settings: Settings,
    deadline: Option<Instant>,
    tell: impl FnOnce(Settings) -> Result<Option<Message>>,
) -> Result<OwnedFd> {
    let server = running(deadline)?;
    let mut message = tell(server.changes(settings))?.unwrap_or_default();
    // Whether the status is there is found by reading it.
    let (status, status_write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|error| Error::io("creating the status pipe of a child", error))?;
    let Request { socket, lifeline, streams } = request;
    let first = message.fds.len() as u32;
    let given = streams.each_ref().map(Option::is_some);
    for fd in [socket, lifeline, status_write].into_iter().chain(streams.into_iter().flatten()) {
        message.fds.attach(fd.into());
    }
    let message = with_head(&Asked { first, given }, message)?;
    // The server's lock is free by now: one that does not take requests delays nobody for longer than asked for.
    server.socket.send_message_timeout(message, rest(deadline)).map_err(unless_gone)?;
    Ok(status)
}

/// The running server, started if there is none.
fn running(deadline: Option<Instant>) -> Result<Arc<Server>> {
    let mut running = lock(&SERVER);
    if running.take_if(|server| server.is_gone()).is_some() {
        get_logger().warn("the fork server has ended and is started anew");
    }
    match &*running {
        Some(server) => Ok(server.clone()),
        None => Ok(running.insert(Arc::new(Server::start(deadline)?)).clone()),
    }
}

fn rest(deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
}

/// A broken pipe to the server is nothing but its death.
fn unless_gone(error: Error) -> Error {
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Error::EndOfFile { what: "fork server" }
        }
        Error::Truncated { .. } | Error::EndOfFile { .. } => Error::EndOfFile { what: "fork server" },
        error => error,
    }
}

/// Why the server may not have done what it was asked for, as the end of a sentence; empty if there is nothing to see.
pub(crate) fn trouble() -> String {
    // Whoever holds the lock now is starting a server, which is not stopped then.
    let Some(pid) = SERVER.try_lock().ok().and_then(|server| Some(server.as_ref()?.pid)) else {
        return String::new();
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    match stat.rsplit_once(") ") {
        Some((_, state)) if state.starts_with(['T', 't']) => {
            format!(": the fork server (pid {pid}) is stopped")
        }
        _ => String::new(),
    }
}

/// For a forked child: the server of its parent is none of its own.
pub(crate) fn disown() {
    drop(lock(&SERVER).take());
}

/// Pid of the fork server, if this process has a running one.
#[doc(hidden)]
pub fn server_pid() -> Option<u32> {
    lock(&SERVER).as_ref().map(|server| server.pid)
}

impl Server {
    fn start(deadline: Option<Instant>) -> Result<Server> {
        let (socket, server_socket) = Connection::pair()?;
        let (server_lifeline, lifeline) = lifeline::create()?;
        let streams = Streams { stdin: Stdio::null(), ..Streams::default() }.open();
        let streams = streams.map_err(|error| Error::io("opening the standard streams", error))?;
        let environment: Vec<_> = std::env::vars_os().collect();
        let current_dir = std::env::current_dir().ok();
        let main = Remote::main(server::serve);
        let (hooks, on_error) = lock(&PRELOAD).clone();
        socket.send(&Setup { hooks, on_error })?;
        let (pid, pidfd) = spawn_program(&main, &environment, &streams, &server_socket, &server_lifeline)?;
        drop((server_socket, server_lifeline));
        // From here on it is killed and taken away if anything fails.
        let server = Server {
            socket,
            pid,
            pidfd,
            parent: std::process::id(),
            _lifeline: lifeline,
            environment,
            current_dir,
        };
        let hello = server.socket.recv_message_timeout(rest(deadline)).and_then(Message::decode);
        match hello.map_err(unless_gone)? {
            Hello::Ready { .. } => {
                get_logger().info(format_args!("the fork server (pid {pid}) is started"));
                Ok(server)
            }
            Hello::Refused { reason } => Err(Error::Invalid { what: "fork server", reason }),
        }
    }

    /// Whether it can make no more children. A process that is killed closes its socket some time before it counts as
    /// ended; and once it is ready the server says nothing, so all that can be heard there is its end.
    fn is_gone(&self) -> bool {
        let ends = [self.socket.as_fd(), self.pidfd.as_fd()];
        !matches!(wait_ready(&ends, Some(Duration::ZERO)), Ok(none) if none.is_empty())
    }

    /// `settings`, on top of what has changed in this process since the server was started.
    fn changes(&self, settings: Settings) -> Settings {
        let environment: Vec<_> = std::env::vars_os().collect();
        let current_dir = std::env::current_dir().ok().filter(|path| Some(path) != self.current_dir.as_ref());
        let own = EnvironmentChange::between(&self.environment, &environment);
        let EnvironmentChange { set, removed } = settings.environment;
        let current_dir = settings.current_dir.or(current_dir);
        let mut changed = Settings { environment: own, current_dir, ..settings };
        removed.into_iter().for_each(|name| changed.remove_variable(name));
        set.into_iter().for_each(|(name, value)| changed.set_variable(name, value));
        changed
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that could not be used must leave no zombie; one that this process was forked away from is not ours.
        if self.parent == std::process::id() {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            pidfd::wait_and_reap(&self.pidfd);
        }
    }
}
