//! Connecting to a listener.
//!
//! If the listening process dies, whoever waits here gets an error: the kernel hangs up.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_error};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::Address;
use super::place::through_file;
use crate::auth::{AuthKey, Exchange, PATIENCE, Role, advance, begin};
use crate::connection::Connection;
use crate::wait::{deadline, poll_until};
use crate::{Error, Result};

/// Connects to the [`Listener`](super::Listener) at `address`; see [`Address`] for what that may be.
///
/// With a key, waits until the listener has accepted, however long that takes (see [`connect_timeout`]), and each has
/// proved to the other that it knows the key; a listener that has begun with that has 10 seconds for it.
///
/// Errors: [`Error::Io`] with `NotFound` if there is no such path, `ConnectionRefused` if nobody listens;
/// [`Error::Authentication`] if the listener has another key or did not prove in time that it has this one. If only one of
/// the two has a key, the first `recv` on the other side has that error.
///
/// Follows `multiprocessing.connection.Client`; for an example see [`Listener`](super::Listener).
pub fn connect<A>(address: A, authkey: Option<&AuthKey>) -> Result<Connection>
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    connect_until(&address.try_into()?, authkey, None)
}

/// As [`connect`], waiting for `timeout` at most, the proof included.
///
/// Errors: [`Error::Timeout`]; others as in `connect`.
pub fn connect_timeout<A>(address: A, authkey: Option<&AuthKey>, timeout: Duration) -> Result<Connection>
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    connect_until(&address.try_into()?, authkey, deadline(timeout))
}

const TIMEOUT: Error = Error::Timeout { what: "connecting to a listener" };

fn connect_until(address: &Address, key: Option<&AuthKey>, deadline: Option<Instant>) -> Result<Connection> {
    let socket = match address {
        Address::Unix(path) => through_file(path).and_then(|(name, _file)| unix(&name, deadline)),
        Address::Abstract(name) => {
            SocketAddrUnix::new_abstract_name(name).and_then(|name| unix(&name, deadline))
        }
        Address::Tcp(address) => tcp(address, deadline),
    };
    let socket = socket.map_err(|errno| match errno {
        // Also what the system calls a network that does not answer.
        Errno::TIMEDOUT | Errno::AGAIN if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
            TIMEOUT
        }
        errno => Error::io(format!("connecting to {address}"), errno),
    })?;
    if let Some(key) = key {
        authenticate(&socket, key, address, deadline)?;
    }
    Connection::from_fd(socket)
}

/// Waits in the call itself while the queue of the listener is full: there is nothing to poll for.
fn unix(name: &SocketAddrUnix, deadline: Option<Instant>) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        if let Some(deadline) = deadline {
            // A limit of zero would be none.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
            // Nor does the system count so far.
            let left = left.min(Duration::from_secs(1 << 30));
            set_socket_timeout(&socket, Timeout::Send, Some(left))?;
        }
        match net::connect(&socket, name) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    if deadline.is_some() {
        set_socket_timeout(&socket, Timeout::Send, None)?;
    }
    Ok(socket)
}

fn tcp(address: &std::net::SocketAddr, deadline: Option<Instant>) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match net::connect(&socket, address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS | Errno::INTR) => {
            if poll_until(&mut [PollFd::new(&socket, PollFlags::OUT)], deadline)? == 0 {
                return Err(Errno::TIMEDOUT);
            }
            socket_error(&socket)??;
        }
        Err(errno) => return Err(errno),
    }
    refuse_itself(&socket)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

/// Where nobody listens at a port, the system may choose it for the client, and connect that to itself.
pub(super) fn refuse_itself(socket: &OwnedFd) -> rustix::io::Result<()> {
    match (net::getsockname(socket), net::getpeername(socket)) {
        (Ok(own), Ok(Some(other))) if own == other => Err(Errno::CONNREFUSED),
        _ => Ok(()),
    }
}

fn authenticate(socket: &OwnedFd, key: &AuthKey, address: &Address, deadline: Option<Instant>) -> Result<()> {
    prove(socket, key, address, deadline, PATIENCE)
}

/// Until `deadline`; `patience` is for a listener that has begun.
pub(super) fn prove(
    socket: &OwnedFd,
    key: &AuthKey,
    address: &Address,
    deadline: Option<Instant>,
    patience: Duration,
) -> Result<()> {
    let mut exchange = Exchange::new(Role::Client, key.clone())?;
    // If that fails because the listener has hung up, it may have said why.
    let _ = begin(&exchange, socket.as_fd());
    let mut until = None;
    loop {
        match advance(&mut exchange, socket.as_fd()) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) => return Err(refused(address, failure.reason)),
        }
        if exchange.has_begun() {
            until.get_or_insert_with(|| Instant::now() + patience);
        }
        let earliest = until.into_iter().chain(deadline).min();
        let ready = poll_until(&mut [PollFd::new(socket, PollFlags::IN)], earliest);
        if ready.map_err(|errno| Error::io(format!("waiting for the listener at {address}"), errno))? == 0 {
            return Err(match deadline {
                Some(deadline) if earliest == Some(deadline) => TIMEOUT,
                _ => late(address, &exchange),
            });
        }
    }
}

pub(super) fn refused(address: &Address, reason: String) -> Error {
    Error::Authentication { peer: format!("the listener at {address}"), reason }
}

pub(super) fn late(address: &Address, exchange: &Exchange) -> Error {
    refused(address, format!("its {} did not come in time", exchange.awaits()))
}
