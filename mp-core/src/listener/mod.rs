//! Listeners: addresses at which other processes, also of other programs and machines, get a connection.
//!
//! When the listening process dies, connecting is refused, whoever waits in [`connect`] gets an error, and accepted
//! connections end as any connection does. A client that dies costs the listener nothing but, if it had still to
//! prove itself, one error.
//!
//! # Design
//!
//! The listening socket, the sockets of clients whose handshake is under way, a timer for the slowest of these and a
//! bell are all in one epoll. A step, under a lock, takes new clients and carries each handshake as far as it goes without
//! waiting; then, without a lock, whoever accepts waits for the epoll to have something new. So any number
//! of threads and tasks can accept, no client waits behind another, and blocking, timed and async forms
//! differ only in how they wait. The bell is rung while there are clients to hand out, or when the listener is closed.
//!
//! Until a client has proved itself it costs a descriptor and some hundred bytes, and at most 128 of them
//! are held: if more come, the one that has been silent for longest goes.

mod address;
mod builder;
mod connect;
mod connect_async;
mod peer;
mod place;
mod state;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

pub use self::address::Address;
pub use self::builder::ListenerBuilder;
pub use self::connect::{connect, connect_timeout};
pub use self::connect_async::connect_async;
pub use self::peer::Peer;
use self::place::Place;
use self::state::{Doorbell, State};
use crate::connection::Connection;
use crate::liveness::ProcessId;
use crate::message::SharedFd;
use crate::wait::{deadline, poll_until, readable};
use crate::{Error, Result};

/// Handshakes under way at the same time; the documentation above names the number.
const MOST: usize = 128;

/// Accepts connections at an address.
///
/// On Unix sockets only processes of the same user and of root are served, unless the
/// [builder](Listener::builder) says otherwise; on TCP everybody, so give a key. With a key, both sides
/// prove to each other that they know it.
///
/// Its methods take `&self`, and any number of threads and tasks may accept. Closing or dropping it removes its socket
/// file, unless another file has taken that place. If the process is killed, the file stays (see
/// [`ListenerBuilder::bind_fresh`] for one that is swept). A child of a fork has a copy that cannot accept.
///
/// Follows `multiprocessing.connection.Listener`.
///
/// ```
/// use mp_core::{auth::AuthKey, listener::{Listener, connect}};
///
/// let key = AuthKey::random();
/// let listener = Listener::builder().authkey(key.clone()).bind_fresh()?;
/// let address = listener.address()?.clone();
/// let client = std::thread::spawn(move || connect(address, Some(&key))?.send("hello"));
/// assert_eq!(listener.accept()?.recv::<String>()?, "hello");
/// client.join().expect("no panic")?;
/// # Ok::<(), mp_core::Error>(())
/// ```
pub struct Listener {
    config: ListenerBuilder,
    address: Address,
    door: Doorbell,
    owner: ProcessId,
    state: Mutex<State>,
    last: Mutex<Option<Peer>>,
}

impl Listener {
    /// Listens on a fresh Unix socket, without a key; see [`ListenerBuilder::bind_fresh`].
    pub fn new() -> Result<Listener> {
        Listener::builder().bind_fresh()
    }

    /// Listens on `address`, without a key; see [`ListenerBuilder::bind`].
    ///
    /// ```
    /// use mp_core::listener::{Listener, connect};
    ///
    /// let listener = Listener::bind("127.0.0.1:0")?;
    /// let client = connect(listener.address()?, None)?;
    /// client.send(&1729)?;
    /// assert_eq!(listener.accept()?.recv::<i32>()?, 1729);
    /// # Ok::<(), mp_core::Error>(())
    /// ```
    pub fn bind<A>(address: A) -> Result<Listener>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Listener::builder().bind(address)
    }

    /// Describes a listener: its key, whom it serves, how long a handshake may take.
    pub fn builder() -> ListenerBuilder {
        ListenerBuilder::new()
    }

    fn new_on(
        config: ListenerBuilder,
        socket: OwnedFd,
        address: Address,
        place: Option<Place>,
    ) -> Result<Listener> {
        let door = Doorbell::new(&socket)?;
        Ok(Listener {
            config,
            address,
            door,
            owner: ProcessId::current(),
            state: Mutex::new(State::new(Some(socket), place)),
            last: Mutex::default(),
        })
    }

    /// Waits for the next client and returns the connection to it.
    ///
    /// Errors: [`Error::Authentication`] if a client did not prove itself, or is of another user; the
    /// listener goes on as if it had not come. [`Error::Closed`] if the listener is or gets closed. [`Error::Io`] if
    /// the process has too many descriptors open; the client goes on waiting, and for 50 ms no other is asked for, so that a
    /// loop around this call has time for better things. [`Error::Invalid`] in a child
    /// of a fork.
    pub fn accept(&self) -> Result<Connection> {
        self.accept_until(None)
    }

    /// As [`accept`](Self::accept), waiting for `timeout` at most. Errors: [`Error::Timeout`], also while clients are
    /// still proving themselves; they can go on in the next call. Others as in `accept`.
    pub fn accept_timeout(&self, timeout: Duration) -> Result<Connection> {
        self.accept_until(deadline(timeout))
    }

    /// The next client, if there is one that has proved itself. Errors as in [`accept`](Self::accept).
    pub fn try_accept(&self) -> Result<Option<Connection>> {
        if ProcessId::current() != self.owner {
            let reason = format!("{} is of process {}, this is a fork of it", self.address, self.owner.pid());
            return Err(Error::Invalid { what: "listener", reason });
        }
        let accepted = lock(&self.state).step(&self.config, &self.address, &self.door)?;
        Ok(accepted.map(|(connection, peer)| {
            *lock(&self.last) = Some(peer);
            connection
        }))
    }

    /// As [`accept`](Self::accept), in async code on any executor. Dropping the future loses no client.
    pub async fn accept_async(&self) -> Result<Connection> {
        loop {
            if let Some(connection) = self.try_accept()? {
                return Ok(connection);
            }
            readable(SharedFd::clone(&self.door.epoll)).await?;
        }
    }

    fn accept_until(&self, deadline: Option<std::time::Instant>) -> Result<Connection> {
        loop {
            if let Some(connection) = self.try_accept()? {
                return Ok(connection);
            }
            let ready = poll_until(&mut [PollFd::new(&self.door.epoll, PollFlags::IN)], deadline);
            if ready.map_err(|errno| Error::io(format!("waiting for clients of {}", self.address), errno))?
                == 0
            {
                return Err(Error::Timeout { what: "accepting a connection" });
            }
        }
    }

    /// Connections to all clients that prove themselves, until the listener is closed. Others are passed over.
    ///
    /// ```
    /// # use mp_core::listener::{Listener, connect};
    /// let listener = Listener::new()?;
    /// let client = connect(listener.address()?, None)?;
    /// for connection in listener.incoming() {
    ///     connection?.send("welcome")?;
    ///     listener.close();
    /// }
    /// assert_eq!(client.recv::<String>()?, "welcome");
    /// # Ok::<(), mp_core::Error>(())
    /// ```
    pub fn incoming(&self) -> impl Iterator<Item = Result<Connection>> {
        std::iter::from_fn(|| {
            loop {
                match self.accept() {
                    Err(Error::Authentication { .. }) => {}
                    Err(Error::Closed { .. }) => return None,
                    accepted => return Some(accepted),
                }
            }
        })
    }

    /// The address with which clients connect: the path made absolute, the port that the system chose.
    ///
    /// Errors: [`Error::Closed`].
    pub fn address(&self) -> Result<&Address> {
        if self.is_closed() {
            return Err(Error::Closed { what: "listener" });
        }
        Ok(&self.address)
    }

    /// The client that was accepted last; none before the first.
    pub fn last_accepted(&self) -> Option<Peer> {
        *lock(&self.last)
    }

    /// Stops listening in this process; whoever waits in `accept`, in any thread or task, gets [`Error::Closed`].
    ///
    /// Clients that were not handed out yet are hung up on; accepted connections stay. Closing twice is fine.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        // The epoll of a fork is that of its parent: hands off.
        let door = (ProcessId::current() == self.owner).then_some(&self.door);
        let left = state.close(door);
        drop(state);
        // Closes sockets and removes the file.
        drop(left);
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.state).is_closed()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

impl AsFd for Listener {
    /// Becomes readable when there may be somebody to accept; whether there is, [`try_accept`](Listener::try_accept)
    /// tells. Without a key there is, unless another thread was faster. For [`wait_ready`](crate::wait::wait_ready).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.door.epoll.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &format_args!("{}", self.address))
            .field("authkey", &self.config.key)
            .field("closed", &self.is_closed())
            .finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
