//! The life of a child, from its first instruction to its exit code.
//!
//! Its exit codes are those of Python: 0 when the function returns, 1 when it panics or its result cannot be sent,
//! `n` for `exit(n)`, and minus the signal's number for a death.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, RwLock};

use mp_core::connection::Connection;
use mp_core::function::PreparedCall;
use mp_core::message::{Fds, Message};
use mp_core::process::entry::Hello;
use mp_core::process::{exit, lifeline};
use mp_core::parcel;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use crate::authkey::AuthKey;
use crate::child::{Farewell, split_head, with_head};
use crate::current::{self, ParentProcess, Record};
use crate::launch::{flush_streams, inherit_executable};
use crate::method::{self, StartMethod};
use crate::preparation::{Call, Preparation};
use crate::stdio::{complain, put_in_place};
use crate::{children, panic_report};

/// How a child leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// With the exit handlers of the program.
    WithHandlers,
    /// Without: the handlers, like everything else, are copies of those of the process that it was forked from.
    WithoutHandlers,
}

/// Main function of a process made by spawn. Its lifeline is held already.
pub(crate) fn spawned(socket: OwnedFd) -> Infallible {
    match Connection::from_fd(socket) {
        Ok(socket) => run(socket, Leave::WithHandlers),
        Err(_) => exit::now(1),
    }
}

/// Main function of a copy.
pub(crate) fn forked(socket: Connection, lifeline_end: OwnedFd, streams: [OwnedFd; 3], leave: Leave) -> ! {
    if let Err(error) = lifeline::hold(lifeline_end) {
        refuse(&socket, &error.to_string());
    }
    if let Err(error) = put_in_place(streams) {
        refuse(&socket, &format!("putting the standard streams in place: {error}"));
    }
    run(socket, leave)
}

fn run(socket: Connection, leave: Leave) -> ! {
    let (call, by_server) = match prepare(&socket) {
        Ok(prepared) => prepared,
        Err(reason) => refuse(&socket, &reason),
    };
    let mut hello = Message::encode(&Hello::Ready { pid: std::process::id() }).unwrap_or_default();
    if by_server && let Ok(pidfd) = pidfd_open(getpid(), PidfdFlags::empty()) {
        hello.fds.attach(pidfd.into());
    }
    if socket.send_message(hello).is_err() {
        exit::now(1);
    }

    let socket = Arc::new(socket);
    let abort_socket = socket.clone();
    panic_report::install(current::current_process().name(), move |report| {
        say_farewell(&abort_socket, &Farewell::Panicked(report.clone()), Message::default());
    });
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
    say_farewell(&socket, &farewell, value);
    leave_with(code, leave)
}

/// Reads the two messages, becomes what they say, and decodes the arguments.
fn prepare(socket: &Connection) -> Result<(PreparedCall, bool), String> {
    let text = |error: mp_core::Error| error.to_string();
    let message = || socket.recv_message().and_then(parcel::unpack).map_err(text);
    let preparation: Preparation = message()?.decode().map_err(text)?;
    let by_server = preparation.method == StartMethod::ForkServer;
    let parent_pid = i32::try_from(preparation.parent_pid).ok().and_then(Pid::from_raw);
    let parent = ParentProcess::new(
        preparation.parent_name,
        preparation.parent_pid,
        parent_pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
    );
    current::become_child(Record {
        name: RwLock::new(preparation.name),
        identity: preparation.identity,
        daemon: preparation.daemon,
        authkey: AuthKey::new(preparation.authkey),
        method: Some(preparation.method),
        parent: Some(parent),
        children_started: AtomicU32::new(0),
    });
    method::inherit(preparation.default_method);
    inherit_executable(preparation.executable);
    preparation.settings.apply()?;

    let mut arguments = message()?;
    let call: Call = split_head(&mut arguments).map_err(text)?;
    let prepare = call.function.resolve().map_err(text)?;
    let prepared = prepare(&arguments.bytes, &mut arguments.fds);
    prepared.map(|prepared| (prepared, by_server)).map_err(|error| format!("{}: {error}", call.function.name()))
}

fn refuse(socket: &Connection, reason: &str) -> ! {
    // If nobody listens any more, the end of this process says enough.
    let _ = socket.send(&Hello::Refused { reason: reason.to_owned() });
    exit::now(1)
}

fn say_farewell(socket: &Connection, farewell: &Farewell, value: Message) {
    let sent = with_head(farewell, value).and_then(|message| parcel::send(socket, message));
    if let Err(error) = sent {
        complain(format_args!("Process {}: its result is lost: {error}", std::process::id()));
    }
}

fn leave_with(code: i32, leave: Leave) -> ! {
    match leave {
        Leave::WithHandlers => std::process::exit(code),
        Leave::WithoutHandlers => {
            children::finish();
            flush_streams();
            exit::now(code)
        }
    }
}
