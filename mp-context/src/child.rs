//! A child as its parent keeps it: the pidfd that names it, the socket that its result comes through, how it ended.
//!
//! # Design
//!
//! A child leaves everything behind before it ends (see [`mp_core::parcel`]), so the one thing to wait for is its end,
//! and any number of threads may wait for that at once: they poll a descriptor, and the first to see it takes the
//! account, under a lock, for all. A child of this process is reaped here. The exit status of one that the fork server
//! made comes through a pipe of its own, right behind its end; if the server was killed, or is stopped, the kernel is
//! asked instead, and at last the child's own farewell decides.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mp_core::connection::Connection;
use mp_core::liveness::ProcessId;
use mp_core::message::{Fds, Message, SharedFd, decode_from, discard};
use mp_core::process::pidfd::{self, ExitStatus};
use mp_core::wait::wait_ready;
use mp_core::{Error, parcel};
use rustix::process::{Signal, pidfd_send_signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::children;
use crate::error::{PanicReport, ProcessError, signal_name};
use crate::line::Line;
use crate::logging::get_logger;
use crate::method::StartMethod;

/// How long the status of an ended child may take from the fork server before the kernel is asked.
const BRIEF: Duration = Duration::from_millis(50);
/// How long it may take when the kernel does not know it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a child ended, as it says itself. The encoded result follows `Value` in the message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Farewell {
    Value,
    Panicked(PanicReport),
    /// The result could not be encoded.
    Unsendable(String),
}

/// A started child.
#[derive(Debug)]
pub(crate) struct Child {
    pub name: String,
    pub identity: Vec<u32>,
    pub pid: u32,
    pub method: StartMethod,
    pub daemon: bool,
    /// Whether it is terminated, rather than waited for, when this process exits.
    pub ends_with_us: bool,
    /// Pid of the process that started it.
    pub parent: u32,
    pub pidfd: SharedFd,
    /// Where the fork server puts the exit status.
    pub status: Option<OwnedFd>,
    pub socket: Connection,
    /// As long as this is open, the child may live.
    pub lifeline: Mutex<Option<OwnedFd>>,
    /// As long as this is held, its log records are received.
    pub line: Mutex<Option<Arc<Line>>>,
    pub end: OnceLock<End>,
    pub taking: Mutex<()>,
    pub closed: AtomicBool,
}

/// The end of a child.
#[derive(Debug)]
pub(crate) struct End {
    pub status: ExitStatus,
    farewell: Option<Farewell>,
    value: Value,
}

/// An encoded result, for any number of askers. What it carries is given back with it.
#[derive(Debug)]
pub(crate) struct Value {
    bytes: Vec<u8>,
    fds: Vec<SharedFd>,
    /// The process that received it: a child of a fork has only a copy.
    pid: u32,
}

impl Value {
    /// The result for one asker; its descriptors are duplicated, its bytes are not.
    pub fn decode<R: DeserializeOwned>(&self) -> mp_core::Result<R> {
        let mut fds = Fds::new();
        for fd in &self.fds {
            let duplicate =
                fd.try_clone().map_err(|error| Error::io("duplicating a descriptor of a result", error))?;
            fds.attach(duplicate.into());
        }
        decode_from(&self.bytes, &mut fds.into_copy())
    }

    fn new(message: Message) -> Value {
        let fds = message.fds.iter().cloned().collect();
        Value { bytes: message.bytes, fds, pid: ProcessId::current().pid() }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if self.pid == ProcessId::current().pid() {
            let mut fds = Fds::new();
            self.fds.drain(..).for_each(|fd| _ = fds.attach(fd));
            discard(&self.bytes, &mut fds);
        }
    }
}

impl Child {
    /// The end, if it has come.
    pub fn poll(self: &Arc<Self>) -> Option<&End> {
        self.wait(Some(Duration::ZERO)).ok().flatten()
    }

    /// Waits for the end.
    pub fn wait(self: &Arc<Self>, timeout: Option<Duration>) -> Result<Option<&End>, ProcessError> {
        if let Some(end) = self.end.get() {
            return Ok(Some(end));
        }
        self.check_parent()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // The status comes right behind the end, so waiting for it alone saves a second wake-up. But not for long: a
        // server that is stopped sends none.
        if let Some(status) = self.status.as_ref().filter(|_| timeout != Some(Duration::ZERO)) {
            let limit = timeout.map_or(BRIEF, |timeout| timeout.min(BRIEF));
            if self.wait_fd(status.as_fd(), Some(limit))? {
                let turn = lock(&self.taking);
                // If the server was killed, there is the end of the pipe and no status.
                if let Some(end) = self.end.get() {
                    return Ok(Some(end));
                }
                if let Some(status) = read_status(status) {
                    return Ok(Some(self.take_account(turn, Some(status))));
                }
            }
        }
        let ended = self.wait_fd(self.pidfd.as_fd(), timeout.and(deadline).map(rest))?;
        Ok(ended.then(|| self.take_account(lock(&self.taking), None)))
    }

    fn wait_fd(&self, fd: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool, ProcessError> {
        let ready = wait_ready(&[fd], timeout).map_err(|error| self.system(error))?;
        Ok(!ready.is_empty())
    }

    /// Notes how the child ended, once; `status` is what its turn has brought to light already.
    fn take_account(self: &Arc<Self>, turn: MutexGuard<'_, ()>, status: Option<ExitStatus>) -> &End {
        if let Some(end) = self.end.get() {
            return end;
        }
        let end = self.end.get_or_init(|| {
            let (farewell, value) = self.read_farewell().unzip();
            let status = status.or_else(|| match &self.status {
                // It is seen to have ended a little before it can be reaped.
                None => Some(pidfd::wait_and_reap(&self.pidfd)),
                Some(pipe) => await_status(pipe, BRIEF)
                    .or_else(|| pidfd::recall(&self.pidfd))
                    .or_else(|| await_status(pipe, PATIENCE)),
            });
            let guess = match &farewell {
                Some(Farewell::Value) => ExitStatus::Code(0),
                Some(_) => ExitStatus::Code(1),
                None => ExitStatus::Unknown,
            };
            let status = status.filter(|status| *status != ExitStatus::Unknown).unwrap_or(guess);
            if let Some(line) = lock(&self.line).take() {
                Line::leave(line);
            }
            let how = tell(status);
            get_logger().info(format_args!("process {} (pid {}) {how}", self.name, self.pid));
            End { status, farewell, value: value.unwrap_or_else(|| Value::new(Message::default())) }
        });
        drop(turn);
        drop(lock(&self.lifeline).take());
        children::forget(self);
        end
    }

    /// What the child left in the socket; a message that its death cut off does not count.
    fn read_farewell(&self) -> Option<(Farewell, Value)> {
        let message = self.socket.recv_message_timeout(Duration::ZERO).ok()?;
        let mut message = parcel::unpack(message).ok()?;
        let farewell = split_head::<Farewell>(&mut message).ok()?;
        Some((farewell, Value::new(message)))
    }

    pub fn is_alive(self: &Arc<Self>) -> bool {
        self.poll().is_none()
    }

    /// Sends a signal; one that comes too late is no error.
    pub fn signal(self: &Arc<Self>, signal: Signal) -> Result<(), ProcessError> {
        if self.end.get().is_some() {
            return Ok(());
        }
        self.check_parent()?;
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(self.system(Error::io(format!("sending signal {signal:?}"), error))),
        }
    }

    pub fn check_parent(&self) -> Result<(), ProcessError> {
        if self.parent == std::process::id() {
            Ok(())
        } else {
            Err(ProcessError::NotAChild { name: self.name.clone(), pid: self.pid })
        }
    }

    pub fn system(&self, error: Error) -> ProcessError {
        ProcessError::System { name: self.name.clone(), pid: self.pid, source: Arc::new(error) }
    }

    /// Descriptor that becomes readable when the process ends.
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl End {
    /// The encoded result, or what came instead.
    pub fn result(&self, child: &Child) -> Result<&Value, ProcessError> {
        let (name, pid) = (child.name.clone(), child.pid);
        match (self.status, &self.farewell) {
            // Where panics abort, the signal is part of the panic.
            (_, Some(Farewell::Panicked(report))) => {
                Err(ProcessError::Panicked { name, pid, report: Box::new(report.clone()) })
            }
            (ExitStatus::Signal { signal, core_dumped }, _) => {
                Err(ProcessError::Killed { name, pid, signal, core_dumped })
            }
            (_, Some(Farewell::Unsendable(reason))) => {
                Err(ProcessError::Result { name, pid, reason: reason.clone() })
            }
            (ExitStatus::Code(0), Some(Farewell::Value)) => Ok(&self.value),
            (ExitStatus::Code(code), _) => Err(ProcessError::Exited { name, pid, code }),
            (ExitStatus::Unknown, _) => Err(ProcessError::Vanished { name, pid }),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Takes the zombie away if there is one; a child that still runs stays on the list of children.
        if self.parent == std::process::id() && self.status.is_none() && self.end.get().is_none() {
            let _ = pidfd::reap(&self.pidfd);
        }
    }
}

/// Puts `head` before the value that `message` holds, in the bytes.
pub(crate) fn with_head<T: Serialize>(head: &T, message: Message) -> mp_core::Result<Message> {
    let Message { mut bytes, fds } = message;
    let body = bytes.len();
    mp_core::codec::encode_value(head, &mut bytes)?;
    let head_len = (bytes.len() - body) as u64;
    bytes.extend_from_slice(&head_len.to_le_bytes());
    Ok(Message { bytes, fds })
}

/// Takes off what [`with_head`] put on.
pub(crate) fn split_head<T: DeserializeOwned>(message: &mut Message) -> mp_core::Result<T> {
    let cut_off = || Error::Decode { type_name: std::any::type_name::<T>(), reason: "it is cut off".into() };
    let bytes = &mut message.bytes;
    let (rest, len) = bytes.split_last_chunk::<8>().ok_or_else(cut_off)?;
    let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| cut_off())?;
    let start = rest.len().checked_sub(len).ok_or_else(cut_off)?;
    let head = mp_core::codec::decode_value(&rest[start..])?;
    bytes.truncate(start);
    Ok(head)
}

/// The status that the fork server writes right after the child's end; `None` if it was killed or does not within `limit`.
fn await_status(pipe: &OwnedFd, limit: Duration) -> Option<ExitStatus> {
    wait_ready(&[pipe], Some(limit)).ok()?;
    read_status(pipe)
}

/// The status, if it is there.
fn read_status(pipe: &OwnedFd) -> Option<ExitStatus> {
    let mut bytes = [0; 8];
    (rustix::io::read(pipe, &mut bytes).ok()? == bytes.len()).then(|| decode_status(bytes))?
}

/// An exit status in words.
pub(crate) fn tell(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with code {code}"),
        ExitStatus::Signal { signal, .. } => format!("was killed by {}", signal_name(signal)),
        ExitStatus::Unknown => "ended".into(),
    }
}

/// An exit status as eight bytes.
pub(crate) fn encode_status(status: ExitStatus) -> [u8; 8] {
    let (kind, number): (u32, i32) = match status {
        ExitStatus::Code(code) => (0, code),
        ExitStatus::Signal { signal, core_dumped } => (1 + u32::from(core_dumped), signal),
        ExitStatus::Unknown => (3, 0),
    };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn decode_status(bytes: [u8; 8]) -> Option<ExitStatus> {
    let number = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    match bytes[0] {
        0 => Some(ExitStatus::Code(number)),
        1 => Some(ExitStatus::Signal { signal: number, core_dumped: false }),
        2 => Some(ExitStatus::Signal { signal: number, core_dumped: true }),
        _ => None,
    }
}

/// The time until `deadline`.
pub(crate) fn rest(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Child {
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }
}
