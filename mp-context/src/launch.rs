//! Starting a child, in two steps: ask for it, then hear that it is ready. Between the two, others can be asked for.
//!
//! # Design
//!
//! The child's end of a socket pair is held by nobody but the child (or, on the way, the fork server), so the end of
//! that stream before its first word means that there is no child and never will be: no wait can outlast it. Both
//! messages to the child fit into the socket's buffer (see [`mp_core::parcel`]), so they are sent before it exists. A child
//! of the fork server gets them with the request for it, if they are short (see [`letter`]).

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use mp_core::connection::Connection;
use mp_core::function::{Main, Once, Remote};
use mp_core::message::{Fds, Message};
use mp_core::process::entry::Hello;
use mp_core::process::fork::{Forked, fork};
use mp_core::process::pidfd::{self, ExitStatus};
use mp_core::process::spawn::{Spawn, spawn};
use mp_core::process::{entry, exit, lifeline};
use mp_core::{Error, parcel};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;

use crate::bootstrap::{self, Leave, Orders};
use crate::child::{Child, lock, tell, with_head};
use crate::children;
use crate::current::current_process;
use crate::error::StartError;
use crate::forkserver;
use crate::forward;
use crate::letter;
use crate::line::Line;
use crate::logging::{Inheritance, get_logger};
use crate::method::{self, StartMethod};
use crate::preparation::{Call, Preparation, Settings};
use crate::stdio::Streams;

/// How long a child may take to be ready, unless something else is wanted.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What to start, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    pub method: StartMethod,
    pub name: String,
    pub identity: Vec<u32>,
    pub daemon: bool,
    pub ends_with_us: bool,
    pub streams: Arc<Streams>,
    pub settings: Settings,
    pub forward_logs: bool,
    pub start_timeout: Duration,
}

/// A child that was asked for.
#[derive(Debug)]
pub(crate) struct Starting {
    socket: Connection,
    lifeline: OwnedFd,
    /// The process, if we made it ourselves.
    process: Option<Unready>,
    status: Option<OwnedFd>,
    line: Option<Arc<Line>>,
    deadline: Option<Instant>,
    about: About,
}

/// A process that is not handed out yet; ended when dropped. (One that the fork server made hangs on its lifeline.)
#[derive(Debug)]
struct Unready {
    pid: u32,
    pidfd: Option<OwnedFd>,
}

impl Unready {
    fn end(&mut self) -> ExitStatus {
        let Some(pidfd) = self.pidfd.take() else { return ExitStatus::Unknown };
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        pidfd::wait_and_reap(&pidfd)
    }
}

impl Drop for Unready {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the handle of the child will say of it.
#[derive(Debug)]
struct About {
    name: String,
    identity: Vec<u32>,
    method: StartMethod,
    daemon: bool,
    ends_with_us: bool,
    start_timeout: Duration,
}

/// The program for children made by spawn and for the fork server, if not this one.
static EXECUTABLE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Sets the program that is started for children instead of this one; it must be the same build.
///
/// It applies to spawn, and to a fork server that is not running yet; children take it over. The path is not checked
/// before a process is started. Follows Python's `multiprocessing.set_executable`.
pub fn set_executable(path: impl Into<PathBuf>) {
    inherit_executable(Some(path.into()));
}

/// Has children started from this program again, after [`set_executable`].
pub fn reset_executable() {
    inherit_executable(None);
}

/// Takes over the program of the parent.
pub(crate) fn inherit_executable(path: Option<PathBuf>) {
    *lock(&EXECUTABLE) = path;
}

pub(crate) fn executable() -> Option<PathBuf> {
    lock(&EXECUTABLE).clone()
}

/// Starts this program anew with `main` in place of its own; what `plan` says of streams is in `streams`.
pub(crate) fn spawn_program(
    main: &Remote<Main>,
    environment: &[(OsString, OsString)],
    streams: &[OwnedFd; 3],
    socket: &impl AsFd,
    lifeline: &OwnedFd,
) -> mp_core::Result<(u32, OwnedFd)> {
    let executable = executable().unwrap_or_else(|| "/proc/self/exe".into());
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let started = spawn(&Spawn {
        program: &executable,
        arguments: &arguments,
        environment,
        main,
        streams: streams.each_ref().map(AsFd::as_fd),
        socket: socket.as_fd(),
        lifeline: lifeline.as_fd(),
    })?;
    Ok((started.pid.as_raw_nonzero().get() as u32, started.pidfd))
}

/// What a child does.
pub(crate) enum Work<'a> {
    /// Calls a function with encoded arguments.
    Call { function: &'a Remote<Once>, arguments: Message },
    /// Runs a closure that is copied along with this process: for forked children only.
    Closure(Box<LocalCall<'a>>),
}

/// A call that stays in the memory of this process, or of a copy of it.
pub(crate) type LocalCall<'a> = dyn FnOnce(&mut Vec<u8>, &mut Fds) -> mp_core::Result<()> + 'a;

/// Asks for a child that does `work`.
pub(crate) fn begin(plan: &Plan, work: Work<'_>) -> Result<Starting, StartError> {
    let own = current_process();
    if own.daemon() {
        return Err(StartError::DaemonicParent { name: own.name() });
    }
    let system = |source| plan.failed(source);
    if plan.method != StartMethod::Fork {
        entry::check().map_err(system)?;
    }
    // A copy of this process has a copy of its logger.
    let forward = plan.forward_logs && plan.method != StartMethod::Fork;
    let (outlet, line) = if forward { forward::for_child() } else { (None, None) };
    let logging = Inheritance::new(outlet);
    let preparation = |settings: Settings| Preparation {
        name: plan.name.clone(),
        identity: plan.identity.clone(),
        daemon: plan.daemon,
        method: plan.method,
        default_method: method::chosen(),
        parent_name: own.name(),
        parent_pid: std::process::id(),
        authkey: own.authkey().as_bytes().to_vec(),
        executable: executable(),
        logging,
        settings,
    };
    let (call, closure) = match work {
        Work::Call { function, arguments } => {
            (Some(with_head(&Call { function: function.clone() }, arguments).map_err(system)?), None)
        }
        Work::Closure(closure) => (None, Some(closure)),
    };
    let no_streams = |error| system(Error::io("opening the standard streams", error));
    let (socket, child_socket) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| system(Error::io("creating the socket of a child", error)))?;
    let socket = Connection::from_fd(socket).map_err(system)?;
    let (child_lifeline, lifeline) = lifeline::create().map_err(system)?;
    let deadline = Instant::now().checked_add(plan.start_timeout);
    let about = About {
        name: plan.name.clone(),
        identity: plan.identity.clone(),
        method: plan.method,
        daemon: plan.daemon,
        ends_with_us: plan.ends_with_us,
        start_timeout: plan.start_timeout,
    };
    let mut starting = Starting { socket, lifeline, process: None, status: None, line, deadline, about };
    let settings = plan.settings.clone();
    match plan.method {
        StartMethod::Spawn => {
            // The environment is there from the first instruction on, so the child need not change it.
            let mut settings = settings;
            let mut environment: Vec<_> = std::env::vars_os().collect();
            let change = std::mem::take(&mut settings.environment);
            let replaced = |name: &OsString| {
                change.removed.contains(name) || change.set.iter().any(|(other, _)| other == name)
            };
            environment.retain(|(name, _)| !replaced(name));
            environment.extend(change.set.iter().cloned());
            send(&starting.socket, &preparation(settings), call).map_err(system)?;
            let streams = plan.streams.open().map_err(no_streams)?;
            let main = Remote::main(bootstrap::spawned);
            let process = spawn_program(&main, &environment, &streams, &child_socket, &child_lifeline);
            let (pid, pidfd) = process.map_err(system)?;
            starting.process = Some(Unready { pid, pidfd: Some(pidfd) });
        }
        StartMethod::ForkServer => {
            let streams = plan.streams.open_but_null().map_err(no_streams)?;
            let request = forkserver::Request { socket: child_socket, lifeline: child_lifeline, streams };
            let started = forkserver::start(request, settings, deadline, |settings| {
                let (preparation, call) = (preparation(settings), call.unwrap_or_default());
                let alone = Message::encode(&preparation)?;
                if letter::fits(&alone, &call) {
                    return letter::write(&preparation, call).map(Some);
                }
                parcel::send(&starting.socket, alone)?;
                parcel::send(&starting.socket, call)?;
                Ok(None)
            });
            starting.status = Some(started.map_err(|error| match error {
                Error::Timeout { .. } => StartError::Timeout {
                    process: plan.name.clone(),
                    limit: plan.start_timeout,
                    hint: forkserver::trouble(),
                },
                Error::EndOfFile { .. } => {
                    StartError::Died { process: plan.name.clone(), how: "the fork server was killed".into() }
                }
                Error::Invalid { what: "fork server", reason } => StartError::Refused {
                    process: plan.name.clone(),
                    reason: format!("the fork server: {reason}"),
                },
                error => system(error),
            })?);
        }
        StartMethod::Fork => {
            let streams = plan.streams.open().map_err(no_streams)?;
            send(&starting.socket, &preparation(settings), call).map_err(system)?;
            flush_streams();
            match fork().map_err(system)? {
                Forked::Parent { pid, pidfd } => {
                    let pid = pid.as_raw_nonzero().get() as u32;
                    starting.process = Some(Unready { pid, pidfd: Some(pidfd) });
                }
                Forked::Child => {
                    children::disown();
                    forkserver::disown();
                    drop((starting, own));
                    let Ok(child_socket) = Connection::from_fd(child_socket) else { exit::now(1) };
                    let streams = streams.map(Into::into);
                    let orders = closure.map_or(Orders::Sent, Orders::Copied);
                    bootstrap::forked(child_socket, child_lifeline, streams, orders, Leave::WithoutHandlers)
                }
            }
        }
    }
    Ok(starting)
}

/// Sends a child its two messages; there is no call for one that has it in its memory.
fn send(socket: &Connection, preparation: &Preparation, call: Option<Message>) -> mp_core::Result<()> {
    parcel::send(socket, Message::encode(preparation)?)?;
    call.map_or(Ok(()), |call| parcel::send(socket, call))
}

impl Plan {
    /// A child made by `method`, with nothing special about it.
    pub fn new(method: StartMethod, name: Option<String>) -> Plan {
        let own = current_process();
        let identity = own.next_identity();
        let name = name.unwrap_or_else(|| {
            let path: Vec<String> = identity.iter().map(ToString::to_string).collect();
            format!("{}-{}", method.process_type(), path.join(":"))
        });
        Plan {
            method,
            name,
            identity,
            daemon: own.daemon(),
            ends_with_us: own.daemon(),
            streams: Arc::default(),
            settings: Settings::default(),
            forward_logs: true,
            start_timeout: START_TIMEOUT,
        }
    }

    fn failed(&self, source: Error) -> StartError {
        StartError::System { process: self.name.clone(), method: self.method, source: Arc::new(source) }
    }
}

/// The socket that the child's first word comes through.
impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Starting {
    /// Waits until the child is about to call its function.
    pub fn finish(self) -> Result<Arc<Child>, StartError> {
        let process = self.about.name.clone();
        let rest = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let message = match rest {
            Some(rest) => self.socket.recv_message_timeout(rest),
            None => self.socket.recv_message(),
        };
        let mut message = match message {
            Ok(message) => message,
            Err(Error::Timeout { .. }) => {
                let limit = self.about.start_timeout;
                let by_server = self.about.method == StartMethod::ForkServer;
                let hint = if by_server { forkserver::trouble() } else { String::new() };
                return Err(StartError::Timeout { process, limit, hint });
            }
            Err(_) => return Err(StartError::Died { process, how: self.how_it_died() }),
        };
        let pidfd = (!message.fds.is_empty()).then(|| message.fds.take(0, "pidfd"));
        let pid = match message.decode::<Hello>() {
            Ok(Hello::Ready { pid }) => pid,
            Ok(Hello::Refused { reason }) => return Err(StartError::Refused { process, reason }),
            Err(error) => return Err(StartError::Refused { process, reason: error.to_string() }),
        };
        let Starting { socket, lifeline, process: own, status, line, about, .. } = self;
        let (pid, pidfd) = match (own.and_then(|mut own| Some((own.pid, own.pidfd.take()?))), pidfd) {
            (Some((pid, pidfd)), _) => (pid, pidfd),
            (None, Some(Ok(pidfd))) => (pid, pidfd),
            _ => return Err(StartError::Refused { process, reason: "it did not say who it is".into() }),
        };
        let child = Arc::new(Child {
            name: about.name,
            identity: about.identity,
            pid,
            method: about.method,
            daemon: about.daemon,
            ends_with_us: about.ends_with_us,
            parent: std::process::id(),
            pidfd: pidfd.into(),
            status,
            socket,
            lifeline: Mutex::new(Some(lifeline)),
            line: Mutex::new(line),
            end: OnceLock::new(),
            taking: Mutex::new(()),
            closed: AtomicBool::new(false),
        });
        let method = child.method;
        get_logger().info(format_args!("process {} (pid {pid}) started with method {method}", child.name));
        children::add(child.clone());
        Ok(child)
    }

    fn how_it_died(mut self) -> String {
        let Some(process) = &mut self.process else {
            return "the fork server lost it".into();
        };
        let pid = process.pid;
        format!("pid {pid} {}", tell(process.end()))
    }
}

/// What a copy of this process would otherwise print a second time.
pub(crate) fn flush_streams() {
    use std::io::Write;
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
}
