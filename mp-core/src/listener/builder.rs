//! How a listener is made.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{
    self, AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt,
};

use super::place::{Place, absolute};
use super::{Address, Listener, Peer};
use crate::auth::{AuthKey, PATIENCE};
use crate::{Error, Result};

/// Describes a [`Listener`].
///
/// ```
/// use std::time::Duration;
/// use mp_core::{auth::AuthKey, listener::Listener};
///
/// let builder = Listener::builder().authkey(AuthKey::random()).handshake_timeout(Duration::from_secs(1));
/// let listener = builder.bind("127.0.0.1:0")?;
/// println!("listening on {}", listener.address()?);
/// # Ok::<(), mp_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it binds"]
pub struct ListenerBuilder {
    backlog: u32,
    pub(super) key: Option<AuthKey>,
    pub(super) handshake: Duration,
    users: Users,
}

#[derive(Clone, Debug)]
enum Users {
    OwnAnd(Vec<u32>),
    Any,
}

impl ListenerBuilder {
    pub(super) fn new() -> ListenerBuilder {
        ListenerBuilder { backlog: 128, key: None, handshake: PATIENCE, users: Users::OwnAnd(Vec::new()) }
    }

    /// How many clients the system lets wait to be accepted; 128 if nothing is said.
    pub fn backlog(mut self, clients: u32) -> ListenerBuilder {
        self.backlog = clients;
        self
    }

    /// Clients have to prove that they know `key`, and this listener proves it to them.
    pub fn authkey(mut self, key: AuthKey) -> ListenerBuilder {
        self.key = Some(key);
        self
    }

    /// How long the proof of a client may take as a whole; 10 seconds if nothing is said.
    ///
    /// A client that is slower is an error of one [`Listener::accept`]; it never holds up others.
    pub fn handshake_timeout(mut self, limit: Duration) -> ListenerBuilder {
        self.handshake = limit;
        self
    }

    /// Lets processes of this user connect to a Unix socket, besides those of the listener's own and of root.
    ///
    /// The socket file can then be written by everybody; the listener looks who it is. For TCP it means nothing.
    pub fn allow_uid(mut self, uid: u32) -> ListenerBuilder {
        if let Users::OwnAnd(users) = &mut self.users {
            users.push(uid);
        }
        self
    }

    /// Lets processes of all users connect to a Unix socket; take a key as well, then.
    pub fn allow_any_uid(mut self) -> ListenerBuilder {
        self.users = Users::Any;
        self
    }

    /// Whether a client of this user is served.
    pub(super) fn allows(&self, peer: &Peer) -> bool {
        match (peer, &self.users) {
            (Peer::Tcp(_), _) | (_, Users::Any) => true,
            (Peer::Unix { uid, .. }, Users::OwnAnd(users)) => {
                *uid == rustix::process::geteuid().as_raw() || *uid == 0 || users.contains(uid)
            }
        }
    }

    fn mode(&self) -> Mode {
        match &self.users {
            Users::OwnAnd(users) if users.is_empty() => Mode::RUSR | Mode::WUSR,
            _ => Mode::from_raw_mode(0o666),
        }
    }

    /// Listens on `address`; see [`Address`] for what that may be.
    ///
    /// Errors: [`Error::Io`] with `AddrInUse` if there is a listener already, or a file (the socket of a listener that
    /// was killed stays, too), with the system's reason otherwise; [`Error::Invalid`].
    pub fn bind<A>(self, address: A) -> Result<Listener>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let address = address.try_into()?;
        let fail = |errno| Error::io(format!("listening on {address}"), errno);
        match &address {
            Address::Unix(path) => {
                let path = absolute(path)?;
                let socket = unix_socket()?;
                let place = Place::bind(socket.as_fd(), &path, self.mode()).map_err(fail)?;
                self.listen(socket, Address::Unix(path), Some(place))
            }
            Address::Abstract(name) => {
                let socket = unix_socket()?;
                let bound =
                    SocketAddrUnix::new_abstract_name(name).and_then(|name| net::bind(&socket, &name));
                bound.map_err(fail)?;
                self.listen(socket, address, None)
            }
            Address::Tcp(wanted) => {
                let family = if wanted.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let socket = socket_with(family, SocketType::STREAM, FLAGS, None).map_err(fail)?;
                sockopt::set_socket_reuseaddr(&socket, true).map_err(fail)?;
                net::bind(&socket, wanted).map_err(fail)?;
                let bound = net::getsockname(&socket).map_err(fail)?;
                let bound = tcp_address(bound).unwrap_or(*wanted);
                self.listen(socket, Address::Tcp(bound), None)
            }
        }
    }

    /// Listens on a Unix socket in a new folder that only this user can enter.
    ///
    /// Both go when the listener is closed; if its process is killed, the next such listener of the user takes them
    /// away. Errors: [`Error::Io`].
    pub fn bind_fresh(self) -> Result<Listener> {
        let socket = unix_socket()?;
        let place = Place::bind_fresh(socket.as_fd(), self.mode())?;
        let address = Address::Unix(place.path().into());
        self.listen(socket, address, Some(place))
    }

    fn listen(self, socket: OwnedFd, address: Address, place: Option<Place>) -> Result<Listener> {
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        net::listen(&socket, backlog).map_err(|errno| Error::io(format!("listening on {address}"), errno))?;
        Listener::new_on(self, socket, address, place)
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn unix_socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)
        .map_err(|errno| Error::io("creating the socket of a listener", errno))
}

/// None for addresses of other families.
pub(super) fn tcp_address(address: SocketAddrAny) -> Option<std::net::SocketAddr> {
    address.try_into().ok()
}
