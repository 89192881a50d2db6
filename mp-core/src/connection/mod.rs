//! Connections: messages, with the descriptors inside them, over a stream socket.
//!
//! When the process at the other end dies, the kernel closes its end: receiving what is left works, then
//! gives [`Error::EndOfFile`], or [`Error::Truncated`] if it died within a message; sending gives a broken
//! pipe error. No signal is raised and nobody hangs. The connection itself keeps nothing outside its process
//! but the socket.
//!
//! # Design
//!
//! Two gates, one for each direction, let one thread at a time read or write a message; they have time
//! limits. A message that is half read when a time limit passes stays behind the read gate. Closing puts a
//! dead socket in the place of the descriptor instead of freeing its number, so that a thread that still uses
//! the number never meets another file.

mod frame;
mod gate;
mod halves;
mod on_executor;
mod timed;

use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::frame::MAGIC;
use self::frame::{Incoming, Received};
use self::gate::{Gate, Pass};
use crate::message::{Fds, Message, SharedFd, decode_from, discard, encode_into};
use crate::wait::{deadline, poll_until};
use crate::{Error, Result, handle};

/// Buffers up to this many bytes are kept for the next message.
const KEEP: usize = 1 << 20;

/// One end of a pipe or of a socket connection.
///
/// Its methods take `&self`: any number of threads may use it, their messages never mix. It can sit inside
/// any message, its direction travels with it. Processes that share one end have to agree on who uses it
/// when.
///
/// Follows `multiprocessing.connection.Connection`.
///
/// ```
/// # fn main() -> mp_core::Result<()> {
/// let (a, b) = mp_core::connection::pipe()?;
/// a.send(&("hello", 1, [2.5, 3.5]))?;
/// let (word, number, pair): (String, u8, [f64; 2]) = b.recv()?;
/// assert_eq!((word.as_str(), number, pair), ("hello", 1, [2.5, 3.5]));
/// # Ok(())
/// # }
/// ```
pub struct Connection {
    socket: SharedFd,
    closed: AtomicBool,
    direction: Direction,
    carries_fds: bool,
    incoming: Gate<Incoming>,
    outgoing: Gate<Outgoing>,
    spare: Mutex<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Direction {
    Both,
    Receive,
    Send,
}

#[derive(Default)]
struct Outgoing {
    /// A message was left half written, and the rest of it is lost; or this direction was ended.
    broken: bool,
    /// What an async send has begun to write: it goes out before anything else.
    pending: Option<Box<on_executor::Pending>>,
    /// How many messages have been pending so far.
    begun: u64,
    /// The first of those that could not be sent as a whole.
    lost_from: Option<u64>,
}

/// Two connected ends, each for both directions. Follows `multiprocessing.Pipe()`.
///
/// Errors: [`Error::Io`] if no more descriptors can be opened.
pub fn pipe() -> Result<(Connection, Connection)> {
    Connection::pair()
}

/// Two connected ends, the first receives what the second sends. Follows
/// `multiprocessing.Pipe(duplex=False)`.
///
/// Errors: [`Error::Io`] if no more descriptors can be opened.
pub fn simplex_pipe() -> Result<(Connection, Connection)> {
    Connection::simplex()
}

impl Connection {
    /// Two connected ends, each for both directions; see [`pipe`].
    pub fn pair() -> Result<(Connection, Connection)> {
        Connection::connected(Direction::Both, Direction::Both)
    }

    /// A receive-only and a send-only end; see [`simplex_pipe`].
    pub fn simplex() -> Result<(Connection, Connection)> {
        Connection::connected(Direction::Receive, Direction::Send)
    }

    fn connected(first: Direction, second: Direction) -> Result<(Connection, Connection)> {
        let sockets = net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (a, b) = sockets.map_err(|errno| Error::io("creating a pipe", errno))?;
        Ok((Connection::new(a, first, true), Connection::new(b, second, true)))
    }

    /// A connection over a stream socket: Unix, which carries descriptors, or TCP, which does not.
    ///
    /// Errors: [`Error::Invalid`] if `fd` is anything else.
    pub fn from_fd(fd: OwnedFd) -> Result<Connection> {
        Connection::over(fd, Direction::Both)
    }

    fn over(socket: OwnedFd, direction: Direction) -> Result<Connection> {
        let domain = match net::sockopt::socket_type(&socket) {
            Ok(SocketType::STREAM) => net::sockopt::socket_domain(&socket),
            _ => Err(rustix::io::Errno::NOTSOCK),
        };
        let domain = domain.map_err(|_| Error::Invalid {
            what: "connection",
            reason: format!("descriptor {} is not a stream socket", socket.as_raw_fd()),
        })?;
        if domain != AddressFamily::UNIX {
            // A request of a few bytes must not wait for the answer to the one before. Refused where it makes
            // no sense.
            let _ = net::sockopt::set_tcp_nodelay(&socket, true);
        }
        Ok(Connection::new(socket, direction, domain == AddressFamily::UNIX))
    }

    fn new(socket: OwnedFd, direction: Direction, carries_fds: bool) -> Connection {
        Connection {
            socket: Arc::new(socket),
            closed: AtomicBool::new(false),
            direction,
            carries_fds,
            incoming: Gate::default(),
            outgoing: Gate::default(),
            spare: Mutex::default(),
        }
    }

    /// Sends `value` with everything inside it, waiting while the peer is behind.
    ///
    /// Errors: [`Error::Encode`], and nothing is sent; [`Error::Io`] with `BrokenPipe` if the peer is gone;
    /// [`Error::Closed`]; [`Error::Direction`] on a receive-only end.
    pub fn send<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        self.check("send")?;
        let mut fds = Fds::new();
        let mut body = self.take_spare();
        let sent = encode_into(value, &mut body, &mut fds).and_then(|()| self.send_parts(&body, fds, None));
        self.keep_spare(body);
        sent
    }

    /// Receives the next value, waiting for it.
    ///
    /// Errors: [`Error::EndOfFile`] when the peer closed its end or died, [`Error::Truncated`] if it did so
    /// within a message, [`Error::Decode`] if the message is not a `T` (it is used up), [`Error::Closed`],
    /// [`Error::Direction`].
    pub fn recv<T: DeserializeOwned>(&self) -> Result<T> {
        self.recv_until(None)
    }

    /// Receives the next value, waiting for `timeout` at most.
    ///
    /// Errors: [`Error::Timeout`], whatever made it late; a message that is half there stays for the next
    /// call. Others as in [`recv`](Self::recv).
    pub fn recv_timeout<T: DeserializeOwned>(&self, timeout: Duration) -> Result<T> {
        self.recv_until(deadline(timeout))
    }

    fn recv_until<T: DeserializeOwned>(&self, deadline: Option<Instant>) -> Result<T> {
        let Received { body, fds } = self.receive(deadline, u64::MAX, self.take_spare())?;
        let value = decode_from(&body, &mut Fds::received(fds));
        self.keep_spare(body);
        value
    }

    /// Sends a message that was encoded before. If that fails, what the message carried is given back.
    ///
    /// Errors as in [`send`](Self::send).
    pub fn send_message(&self, message: Message) -> Result<()> {
        self.check("send")?;
        self.send_parts(&message.bytes, message.fds, None)
    }

    /// As [`send_message`](Self::send_message), waiting for `timeout` at most.
    ///
    /// Errors: [`Error::Timeout`]; if the message was left half written, nothing can be sent on this
    /// connection any more.
    pub fn send_message_timeout(&self, message: Message, timeout: Duration) -> Result<()> {
        self.check("send")?;
        self.send_parts(&message.bytes, message.fds, deadline(timeout))
    }

    /// Receives the next message without decoding it. Errors as in [`recv`](Self::recv).
    pub fn recv_message(&self) -> Result<Message> {
        self.receive(None, u64::MAX, Vec::new()).map(into_message)
    }

    /// As [`recv_message`](Self::recv_message), waiting for `timeout` at most; see
    /// [`recv_timeout`](Self::recv_timeout).
    pub fn recv_message_timeout(&self, timeout: Duration) -> Result<Message> {
        self.receive(deadline(timeout), u64::MAX, Vec::new()).map(into_message)
    }

    /// Sends `bytes` as one message, which may be empty. Errors as in [`send`](Self::send).
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.check("send")?;
        self.send_parts(bytes, Fds::new(), None)
    }

    /// Sends `size` bytes of `bytes` from `offset` on, or all from there, as one message.
    ///
    /// Errors: [`Error::Invalid`] if the range is not inside `bytes`, and nothing is sent; others as in
    /// [`send`](Self::send).
    pub fn send_bytes_range(&self, bytes: &[u8], offset: usize, size: Option<usize>) -> Result<()> {
        let end = size.map_or(Some(bytes.len()), |size| offset.checked_add(size));
        match end.and_then(|end| bytes.get(offset..end)) {
            Some(range) => self.send_bytes(range),
            None => {
                let size = size.map_or(String::new(), |size| format!(" of {size} bytes"));
                let reason =
                    format!("a range{size} from offset {offset} is not inside {} bytes", bytes.len());
                Err(Error::Invalid { what: "byte range", reason })
            }
        }
    }

    /// Receives the next message as bytes. Errors as in [`recv`](Self::recv).
    pub fn recv_bytes(&self) -> Result<Vec<u8>> {
        self.receive(None, u64::MAX, Vec::new()).map(into_bytes)
    }

    /// As [`recv_bytes`](Self::recv_bytes), waiting for `timeout` at most; see
    /// [`recv_timeout`](Self::recv_timeout).
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>> {
        self.receive(deadline(timeout), u64::MAX, Vec::new()).map(into_bytes)
    }

    /// Receives the next message as bytes if it has no more than `max`.
    ///
    /// Errors: [`Error::TooLong`] otherwise. The message is not read (the peer may have announced more than
    /// it will ever send), so nothing can be received any more: a receive-only connection is closed, another
    /// can still send. Others as in [`recv`](Self::recv).
    pub fn recv_bytes_max(&self, max: usize) -> Result<Vec<u8>> {
        self.recv_bytes_max_until(max, None)
    }

    /// Receives the next message into `buffer` and returns its length in bytes.
    ///
    /// Errors: [`Error::BufferTooShort`] with the whole message if it does not fit; the next call gets the
    /// next message. Others as in [`recv`](Self::recv).
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut incoming = self.reading("receive", None)?;
        let done = incoming.begin(self.as_fd(), None, u64::MAX).and_then(|length| {
            match usize::try_from(length).ok().filter(|length| *length <= buffer.len()) {
                Some(length) => {
                    let fds = incoming.finish_into(self.as_fd(), &mut buffer[..length])?;
                    discard(&buffer[..length], &mut Fds::received(fds));
                    Ok(length)
                }
                None => {
                    let message = into_bytes(incoming.finish(self.as_fd(), None, Vec::new())?);
                    Err(Error::BufferTooShort { message, room: buffer.len() })
                }
            }
        });
        done.map_err(|error| self.unless_closed(error))
    }

    /// Whether there is something to receive, a message or the end of file, waiting for `timeout` at most.
    ///
    /// Errors: [`Error::Direction`] on a send-only end, [`Error::Closed`].
    pub fn poll(&self, timeout: Duration) -> Result<bool> {
        self.poll_until(deadline(timeout))
    }

    /// Waits until there is something to receive. Errors as in [`poll`](Self::poll).
    pub fn poll_forever(&self) -> Result<()> {
        self.poll_until(None).map(drop)
    }

    fn poll_until(&self, deadline: Option<Instant>) -> Result<bool> {
        self.check("poll")?;
        let ready = poll_until(&mut [PollFd::new(&self.socket, PollFlags::IN)], deadline);
        let ready = ready.map_err(|errno| Error::io("polling a connection", errno))?;
        self.check("poll")?;
        Ok(ready > 0)
    }

    /// Closes this end in this process; the peer sees it when no other process and no thread within a call
    /// still uses it.
    ///
    /// Closing twice is fine; every other use afterwards is [`Error::Closed`]. Dropping closes as well.
    /// Errors: [`Error::Io`] if the process has no descriptor left, in which case the connection stays as it
    /// was.
    pub fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let replaced = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .and_then(|dead| {
                // SAFETY: the number belongs to `self.socket` and stays open all the time: `dup3` exchanges
                // what it stands for in one step, and `ManuallyDrop` keeps this second name for it from
                // closing it.
                let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(self.socket.as_raw_fd()) });
                rustix::io::dup3(&dead, &mut place, rustix::io::DupFlags::CLOEXEC)
            });
        replaced.map_err(|errno| {
            self.closed.store(false, Ordering::Release);
            Error::io("closing a connection", errno)
        })
    }

    /// Whether this end was closed in this process.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether this end may receive; stays true at the end of file.
    pub fn readable(&self) -> bool {
        self.direction != Direction::Send
    }

    /// Whether this end may send; stays true when the peer is gone.
    pub fn writable(&self) -> bool {
        self.direction != Direction::Receive
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        if self.is_closed() {
            return Err(Error::Closed { what: "connection" });
        }
        match (operation, self.direction) {
            ("send", Direction::Receive) => Err(Error::Direction { operation, direction: "receive-only" }),
            ("receive" | "poll", Direction::Send) => {
                Err(Error::Direction { operation, direction: "send-only" })
            }
            _ => Ok(()),
        }
    }

    /// What an operation met may be only that the connection was closed meanwhile.
    fn unless_closed(&self, error: Error) -> Error {
        match error {
            Error::Io { .. } if self.is_closed() => Error::Closed { what: "connection" },
            error => error,
        }
    }

    fn reading(&self, operation: &'static str, deadline: Option<Instant>) -> Result<Pass<'_, Incoming>> {
        self.check(operation)?;
        let pass = self.incoming.enter(deadline).ok_or(Error::Timeout { what: "receiving a message" })?;
        self.check(operation)?;
        Ok(pass)
    }

    fn receive(&self, deadline: Option<Instant>, most: u64, spare: Vec<u8>) -> Result<Received> {
        let mut incoming = self.reading("receive", deadline)?;
        let begun = incoming.begin(self.as_fd(), deadline, most);
        let received = begun.and_then(|_| incoming.finish(self.as_fd(), deadline, spare));
        received.map_err(|error| self.unless_closed(error))
    }

    fn check_fds(&self, fds: &Fds) -> Result<()> {
        if !self.carries_fds && !fds.is_empty() {
            let reason = format!("{} descriptors cannot travel over a network socket", fds.len());
            return Err(Error::Encode { type_name: "message", reason });
        }
        Ok(())
    }

    fn send_parts(&self, body: &[u8], mut fds: Fds, deadline: Option<Instant>) -> Result<()> {
        self.check_fds(&fds)?;
        let mut outgoing =
            self.outgoing.enter(deadline).ok_or(Error::Timeout { what: "sending a message" })?;
        self.check("send")?;
        if outgoing.broken {
            return Err(Error::Closed { what: "write side of this connection" });
        }
        self.finish_pending(&mut outgoing, deadline)?;
        let mut at = 0;
        let sent = frame::send(self.as_fd(), body, &fds, deadline, &mut at);
        match &sent {
            Ok(()) => fds.delivered(),
            // Whoever sends to a peer that is gone learns that each time.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => outgoing.broken = at > 0,
        }
        sent.map_err(|error| self.unless_closed(error))
    }

    fn take_spare(&self) -> Vec<u8> {
        std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep_spare(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEEP {
            buffer.clear();
            *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = buffer;
        }
    }
}

fn into_message(received: Received) -> Message {
    Message { bytes: received.body, fds: Fds::received(received.fds) }
}

/// Bytes alone; handles in them are of no use to anybody.
fn into_bytes(received: Received) -> Vec<u8> {
    discard(&received.body, &mut Fds::received(received.fds));
    received.body
}

impl AsFd for Connection {
    /// The socket; it is ready when [`poll`](Connection::poll) is true. After `close`, a dead one.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Connection");
        match self.is_closed() {
            true => debug.field("closed", &true),
            false => debug.field("fd", &self.socket.as_raw_fd()),
        };
        debug.field("readable", &self.readable()).field("writable", &self.writable()).finish()
    }
}

impl Serialize for Connection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(serializer, "Connection", |fds| {
            if self.is_closed() {
                return Err(Error::Closed { what: "connection" });
            }
            let half = self.incoming.enter(Some(Instant::now())).is_none_or(|incoming| incoming.is_half());
            if self.readable() && half {
                let reason = "a message is being received on it".into();
                return Err(Error::Encode { type_name: "Connection", reason });
            }
            let half =
                self.outgoing.enter(Some(Instant::now())).is_some_and(|outgoing| outgoing.pending.is_some());
            if half {
                let reason = "a message is being sent on it".into();
                return Err(Error::Encode { type_name: "Connection", reason });
            }
            let duplicate = self.socket.try_clone();
            let duplicate =
                duplicate.map_err(|error| Error::io("duplicating a connection for a message", error))?;
            Ok((fds.attach(Arc::new(duplicate)), self.direction))
        })
    }
}

impl<'de> Deserialize<'de> for Connection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Connection, D::Error> {
        handle::deserialize(deserializer, "Connection", |fds, (index, direction)| {
            Connection::over(fds.take(index, "Connection")?, direction)
        })
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_async;
#[cfg(test)]
mod tests_timed;
