//! The life of a child, from its first instruction to its exit code.
//!
//! Its exit codes are those of Python: 0 when the function returns, 1 when it panics or its result cannot be sent,
//! `n` for `exit(n)`, and minus the signal's number for a death.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use mp_core::connection::Connection;
use mp_core::function::discard_arguments;
use mp_core::message::{Fds, Message, SharedFd};
use mp_core::parcel;
use mp_core::process::entry::Hello;
use mp_core::process::{exit, lifeline};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use crate::child::{Farewell, lock, split_head, with_head};
use crate::current::{self, ParentProcess, Record};
use crate::launch::{LocalCall, flush_streams, inherit_executable};
use crate::letter::Letter;
use crate::logging::note;
use crate::method::{self, StartMethod};
use crate::preparation::{Call, Preparation};
use crate::stdio::{complain, put_in_place};
use crate::{children, panic_report};
use mp_core::auth::AuthKey;

/// How a child leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// With the exit handlers of the program.
    WithHandlers,
    /// Without: the handlers, like everything else, are copies of those of the process that it was forked from.
    WithoutHandlers,
}

/// Where a child finds what it is to do.
pub(crate) enum Orders<'a> {
    /// In two messages, which its parent sends it.
    Sent,
    /// In one that its parent sends it, and in its memory, a copy of its parent's.
    Copied(Box<LocalCall<'a>>),
    /// In its memory alone; with the pidfd of its parent, if there is one.
    Letter(Letter, Option<OwnedFd>),
}

/// Where the farewell goes. A forked child puts its own in the place of its parent's, which is so closed.
static FAREWELL: Mutex<Option<Connection>> = Mutex::new(None);

/// Main function of a process made by spawn. Its lifeline is held already.
pub(crate) fn spawned(socket: OwnedFd) -> Infallible {
    match Connection::from_fd(socket) {
        Ok(socket) => run(socket, Orders::Sent, Leave::WithHandlers),
        Err(_) => exit::now(1),
    }
}

/// Main function of a copy.
pub(crate) fn forked(
    socket: Connection,
    lifeline_end: OwnedFd,
    streams: [SharedFd; 3],
    orders: Orders<'_>,
    leave: Leave,
) -> ! {
    if let Err(error) = lifeline::hold(lifeline_end) {
        refuse(&socket, &error.to_string());
    }
    if let Err(error) = put_in_place(streams) {
        refuse(&socket, &format!("putting the standard streams in place: {error}"));
    }
    run(socket, orders, leave)
}

fn run(socket: Connection, orders: Orders<'_>, leave: Leave) -> ! {
    let (call, method) = match follow(orders, &socket) {
        Ok(prepared) => prepared,
        Err(reason) => refuse(&socket, &reason),
    };
    let mut hello = Message::encode(&Hello::Ready { pid: std::process::id() }).unwrap_or_default();
    // Of its own children, the parent has a pidfd from the start.
    if method == StartMethod::ForkServer
        && let Ok(pidfd) = pidfd_open(getpid(), PidfdFlags::empty())
    {
        hello.fds.attach(pidfd.into());
    }
    if socket.send_message(hello).is_err() {
        exit::now(1);
    }

    *lock(&FAREWELL) = Some(socket);
    if method != StartMethod::ForkServer {
        install_panic_hook();
    }
    note("calls its function");
    let (mut bytes, mut fds) = (Vec::new(), Fds::default());
    let returned = panic_report::catch(|| call(&mut bytes, &mut fds));
    let (code, farewell, value) = match returned {
        Ok(Ok(())) => (0, Farewell::Value, Message { bytes, fds }),
        Ok(Err(error)) => {
            let name = current::current_process().name();
            complain(format_args!("Process {name} (pid {}): {error}", std::process::id()));
            (1, Farewell::Unsendable(error.to_string()), Message::default())
        }
        Err(report) => (1, Farewell::Panicked(report), Message::default()),
    };
    say_farewell(&farewell, value);
    leave_with(code, leave)
}

fn receive(socket: &Connection) -> Result<Message, String> {
    socket.recv_message().and_then(parcel::unpack).map_err(|error| error.to_string())
}

/// Keeps a report of each panic from now on. The fork server does so once, for all its copies.
pub(crate) fn install_panic_hook() {
    panic_report::install(|report| say_farewell(&Farewell::Panicked(report.clone()), Message::default()));
}

/// Becomes what `orders` say; returns what to call, and how this process was made.
fn follow<'a>(orders: Orders<'a>, socket: &Connection) -> Result<(Box<LocalCall<'a>>, StartMethod), String> {
    match orders {
        Orders::Sent => {
            let method = receive_preparation(socket).and_then(|preparation| become_child(preparation, None));
            let mut arguments = receive(socket)?;
            let call = split_head(&mut arguments).map_err(|error| error.to_string())?;
            prepare(method, &call, arguments)
        }
        Orders::Copied(closure) => Ok((closure, become_child(receive_preparation(socket)?, None)?)),
        Orders::Letter(letter, parent) => {
            let (preparation, call, arguments) = letter.split();
            prepare(become_child(preparation, parent), &call, arguments)
        }
    }
}

fn receive_preparation(socket: &Connection) -> Result<Box<Preparation>, String> {
    receive(socket)?.decode().map(Box::new).map_err(|error| error.to_string())
}

/// Becomes what its parent says, whose pidfd is opened unless it is there; returns how this process was made.
fn become_child(preparation: Box<Preparation>, parent: Option<OwnedFd>) -> Result<StartMethod, String> {
    let preparation = *preparation;
    let open = || {
        let pid = i32::try_from(preparation.parent_pid).ok().and_then(Pid::from_raw)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    };
    let parent = parent.or_else(open);
    let parent = ParentProcess::new(preparation.parent_name, preparation.parent_pid, parent);
    show_name(&preparation.name);
    mp_core::process::name::set(preparation.name);
    current::become_child(Record {
        identity: preparation.identity,
        daemon: preparation.daemon,
        authkey: AuthKey::new(preparation.authkey),
        method: Some(preparation.method),
        parent: Some(parent),
        children_started: AtomicU32::new(0),
    });
    method::inherit(preparation.default_method);
    inherit_executable(preparation.executable);
    preparation.logging.take_over();
    preparation.settings.apply()?;
    Ok(preparation.method)
}

/// The call with its arguments decoded, in a process made by `method`. What they carry is given back if it never began.
fn prepare<'a>(
    method: Result<StartMethod, String>,
    call: &Call,
    mut arguments: Message,
) -> Result<(Box<LocalCall<'a>>, StartMethod), String> {
    let resolve = |method| Ok((call.function.resolve().map_err(|error| error.to_string())?, method));
    let (prepare, method) =
        method.and_then(resolve).inspect_err(|_| discard_arguments(&arguments.bytes, &mut arguments.fds))?;
    let prepared = prepare(&arguments.bytes, &mut arguments.fds);
    Ok((prepared.map_err(|error| format!("{}: {error}", call.function.name()))?, method))
}

/// Lets `ps` and `top` show the name; the system keeps its first 15 bytes.
fn show_name(name: &str) {
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}

fn refuse(socket: &Connection, reason: &str) -> ! {
    // If nobody listens any more, the end of this process says enough.
    let _ = socket.send(&Hello::Refused { reason: reason.to_owned() });
    exit::now(1)
}

fn say_farewell(farewell: &Farewell, value: Message) {
    let Some(socket) = lock(&FAREWELL).take() else { return };
    let sent = with_head(farewell, value).and_then(|message| parcel::send(&socket, message));
    if let Err(error) = sent {
        complain(format_args!("Process {}: its result is lost: {error}", std::process::id()));
    }
}

fn leave_with(code: i32, leave: Leave) -> ! {
    note(format_args!("exits with code {code}"));
    match leave {
        Leave::WithHandlers => std::process::exit(code),
        Leave::WithoutHandlers => {
            children::finish();
            flush_streams();
            exit::now(code)
        }
    }
}
