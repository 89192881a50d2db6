//! The life of a child, from its first instruction to its exit code.
//!
//! Its exit codes are those of Python: 0 when the function returns, 1 when it panics or its result cannot be sent,
//! `n` for `exit(n)`, and minus the signal's number for a death.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use mp_core::connection::Connection;
use mp_core::function::{PreparedCall, discard_arguments};
use mp_core::message::{Fds, Message};
use mp_core::parcel;
use mp_core::process::entry::Hello;
use mp_core::process::{exit, lifeline};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use crate::child::{Farewell, lock, split_head, with_head};
use crate::current::{self, ParentProcess, Record};
use crate::launch::{LocalCall, flush_streams, inherit_executable};
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

/// Where the farewell goes. A forked child puts its own in the place of its parent's, which is so closed.
static FAREWELL: Mutex<Option<Connection>> = Mutex::new(None);

/// Main function of a process made by spawn. Its lifeline is held already.
pub(crate) fn spawned(socket: OwnedFd) -> Infallible {
    match Connection::from_fd(socket) {
        Ok(socket) => run(socket, None, Leave::WithHandlers),
        Err(_) => exit::now(1),
    }
}

/// Main function of a copy, which runs `closure` if there is one, and else what it is sent.
pub(crate) fn forked(
    socket: Connection,
    lifeline_end: OwnedFd,
    streams: [OwnedFd; 3],
    closure: Option<Box<LocalCall<'_>>>,
    leave: Leave,
) -> ! {
    if let Err(error) = lifeline::hold(lifeline_end) {
        refuse(&socket, &error.to_string());
    }
    if let Err(error) = put_in_place(streams) {
        refuse(&socket, &format!("putting the standard streams in place: {error}"));
    }
    run(socket, closure, leave)
}

fn run(socket: Connection, closure: Option<Box<LocalCall<'_>>>, leave: Leave) -> ! {
    let prepared = prepare(&socket).and_then(|method| {
        let call =
            closure.map_or_else(|| receive_call(&socket).map(|call| call as Box<LocalCall<'_>>), Ok)?;
        Ok((call, method))
    });
    let (call, method) = match prepared {
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
    panic_report::install(|report| say_farewell(&Farewell::Panicked(report.clone()), Message::default()));
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

/// Reads the first message, and becomes what it says; returns how this process was made.
fn prepare(socket: &Connection) -> Result<StartMethod, String> {
    let preparation: Preparation = receive(socket)?.decode().map_err(|error| error.to_string())?;
    let parent_pid = i32::try_from(preparation.parent_pid).ok().and_then(Pid::from_raw);
    let parent = ParentProcess::new(
        preparation.parent_name,
        preparation.parent_pid,
        parent_pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
    );
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

/// Reads the second message, and decodes the arguments in it.
fn receive_call(socket: &Connection) -> Result<PreparedCall, String> {
    let mut arguments = receive(socket)?;
    let call: Call = split_head(&mut arguments).map_err(|error| error.to_string())?;
    let prepare = call.function.resolve().map_err(|error| {
        discard_arguments(&arguments.bytes, &mut arguments.fds);
        error.to_string()
    })?;
    let prepared = prepare(&arguments.bytes, &mut arguments.fds);
    prepared.map_err(|error| format!("{}: {error}", call.function.name()))
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
