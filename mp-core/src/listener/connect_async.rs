//! Connecting in async code, on any executor.
//!
//! If the listening process dies, the kernel hangs up and the future has an error.

use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::time::{TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::Address;
use super::connect::{late, refuse_itself, refused};
use super::place::through_file;
use crate::auth::{AuthKey, Exchange, PATIENCE, Role, advance, begin};
use crate::connection::Connection;
use crate::message::SharedFd;
use crate::wait::{Readable, readable, writable};
use crate::{Error, Result};

/// How often a listener with a full queue is asked again: the system does not tell when there is room.
const AGAIN: Duration = Duration::from_millis(10);

/// As [`connect`](super::connect), in async code on any executor. Dropping the future gives up.
///
/// A host name is looked up before the first wait, by the executor's thread.
///
/// ```
/// use mp_core::listener::{Listener, connect_async};
///
/// # async fn example() -> mp_core::Result<()> {
/// let listener = Listener::new()?;
/// let client = connect_async(listener.address()?, None).await?;
/// let accepted = listener.accept_async().await?;
/// client.send_async("hello").await?;
/// assert_eq!(accepted.recv_async::<String>().await?, "hello");
/// # Ok(())
/// # }
/// ```
pub async fn connect_async<A>(address: A, authkey: Option<&AuthKey>) -> Result<Connection>
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    let address = address.try_into()?;
    let fail = |errno| Error::io(format!("connecting to {address}"), errno);
    let (socket, connected) = loop {
        match start(&address) {
            Ok(started) => break started,
            Err(Errno::AGAIN) if !matches!(address, Address::Tcp(_)) => {
                readable(Arc::new(alarm(AGAIN).map_err(fail)?)).await?;
            }
            Err(errno) => return Err(fail(errno)),
        }
    };
    let socket = SharedFd::new(socket);
    if !connected {
        writable(socket.clone()).await?;
        socket_error(&socket).and_then(|outcome| outcome).map_err(fail)?;
    }
    if matches!(address, Address::Tcp(_)) {
        refuse_itself(&socket).map_err(fail)?;
    }
    if let Some(key) = authkey {
        let mut exchange = Exchange::new(Role::Client, key.clone())?;
        // If that fails because the listener has hung up, it may have said why.
        let _ = begin(&exchange, socket.as_fd());
        let mut limit = None;
        while !advance(&mut exchange, socket.as_fd()).map_err(|failure| refused(&address, failure.reason))? {
            if exchange.has_begun() && limit.is_none() {
                limit = Some(readable(Arc::new(alarm(PATIENCE).map_err(fail)?)));
            }
            if !before(readable(socket.clone()), limit.as_mut()).await? {
                return Err(late(&address, &exchange));
            }
        }
    }
    rustix::io::ioctl_fionbio(&socket, false).map_err(fail)?;
    // The waits are over, so that nobody else has it any more.
    let owned = Arc::try_unwrap(socket).or_else(|shared| shared.try_clone());
    Connection::from_fd(owned.map_err(|error| Error::io(format!("connecting to {address}"), error))?)
}

/// Begins to connect; whether that is all there is to do.
fn start(address: &Address) -> rustix::io::Result<(OwnedFd, bool)> {
    let family = match address {
        Address::Tcp(address) if address.is_ipv4() => AddressFamily::INET,
        Address::Tcp(_) => AddressFamily::INET6,
        _ => AddressFamily::UNIX,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    let begun = match address {
        Address::Unix(path) => {
            let (name, _file) = through_file(path)?;
            net::connect(&socket, &name)
        }
        Address::Abstract(name) => net::connect(&socket, &SocketAddrUnix::new_abstract_name(name)?),
        Address::Tcp(address) => net::connect(&socket, address),
    };
    match begun {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(errno) => Err(errno),
    }
}

/// Waits; false if the limit was over first.
async fn before(mut wait: Readable, mut limit: Option<&mut Readable>) -> Result<bool> {
    poll_fn(|context| {
        if let Poll::Ready(ready) = Pin::new(&mut wait).poll(context) {
            return Poll::Ready(ready.map(|()| true));
        }
        match &mut limit {
            Some(limit) => Pin::new(&mut **limit).poll(context).map_ok(|()| false),
            None => Poll::Pending,
        }
    })
    .await
}

/// Becomes readable after a while.
fn alarm(after: Duration) -> rustix::io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let time = |time: Duration| rustix::time::Timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos() as _,
    };
    let time = rustix::time::Itimerspec { it_interval: time(Duration::ZERO), it_value: time(after) };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &time)?;
    Ok(timer)
}
