//! The fork server, seen from the process that uses it.
//!
//! One server per process, started with the first child that needs it, and anew when it is found dead: a child that
//! was asked for in vain is asked for again.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Mutex;

use mp_core::connection::Connection;
use mp_core::function::{Callable, Once, Remote};
use mp_core::message::Message;
use mp_core::process::entry::Hello;
use mp_core::process::environment::EnvironmentChange;
use mp_core::process::{lifeline, pidfd};
use mp_core::{Error, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::child::lock;
use crate::launch::{end, spawn_program};
use crate::preparation::Settings;
use crate::server::{self, OnError, Setup};
use crate::stdio::{Stdio, Streams};

/// What the server needs to make a child.
#[derive(Debug)]
pub(crate) struct Request {
    pub socket: OwnedFd,
    pub lifeline: OwnedFd,
    pub streams: [OwnedFd; 3],
}

/// A running server.
#[derive(Debug)]
struct Server {
    socket: Connection,
    pid: u32,
    pidfd: OwnedFd,
    /// As long as this is open, the server lives.
    _lifeline: OwnedFd,
    /// What its children inherit, to tell them what is different by now.
    environment: Vec<(OsString, OsString)>,
    current_dir: Option<PathBuf>,
}

static SERVER: Mutex<Option<Server>> = Mutex::new(None);
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
/// `send` sends the child its messages, given what it has to change about itself in this process.
pub(crate) fn start(
    request: Request,
    settings: Settings,
    send: impl FnOnce(Settings) -> Result<()>,
) -> Result<OwnedFd> {
    let mut running = lock(&SERVER);
    if let Some(server) = running.take_if(|server| pidfd::has_ended(std::os::fd::AsFd::as_fd(&server.pidfd))) {
        log::warn!("the fork server (ended: {:?}) is started anew", pidfd::reap(&server.pidfd));
    }
    let server = match &mut *running {
        Some(server) => server,
        none => none.insert(Server::start()?),
    };
    send(server.changes(settings))?;
    let (status, status_write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::io("creating the status pipe of a child", error))?;
    let mut message = Message::default();
    let Request { socket, lifeline, streams: [stdin, stdout, stderr] } = request;
    for fd in [socket, lifeline, status_write, stdin, stdout, stderr] {
        message.fds.attach(fd.into());
    }
    server.socket.send_message(message)?;
    Ok(status)
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
    fn start() -> Result<Server> {
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
        let server = Server { socket, pid, pidfd, _lifeline: lifeline, environment, current_dir };
        let reason = match server.socket.recv::<Hello>() {
            Ok(Hello::Ready { .. }) => {
                log::info!("the fork server (pid {pid}) is started");
                return Ok(server);
            }
            Ok(Hello::Refused { reason }) => reason,
            Err(error) => format!("it ended before it was ready ({error})"),
        };
        // Its socket is closed a moment before it is dead.
        end(&server.pidfd);
        Err(Error::Invalid { what: "start of the fork server", reason })
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
        // One that ended must not stay behind as a zombie; one that we forked away from is not ours.
        let _ = pidfd::reap(&self.pidfd);
    }
}
