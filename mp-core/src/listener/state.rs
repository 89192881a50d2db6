//! What a listener knows: its socket, clients whose handshake is under way, clients to hand out.
//!
//! All of it is of one process and goes with it; the kernel hangs up on the clients.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, acceptfrom_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::builder::tcp_address;
use super::{Address, ListenerBuilder, MOST, Peer, Place};
use crate::auth::{Exchange, Refusal, Role, advance, begin, refuse};
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::message::SharedFd;
use crate::{Error, Result};

/// New clients looked at in one step.
const BATCH: usize = 32;

/// After the system has refused to hand out a client, for want of a descriptor or of memory, it is not asked for so long: who
/// accepts in a loop would do nothing else.
const REST: Duration = Duration::from_millis(50);

/// What whoever accepts waits for.
pub(super) struct Doorbell {
    pub(super) epoll: SharedFd,
    bell: OwnedFd,
    timer: OwnedFd,
}

impl Doorbell {
    pub(super) fn new(socket: &OwnedFd) -> Result<Doorbell> {
        let make = || {
            let door = Doorbell {
                epoll: Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?),
                bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?,
            };
            [socket, &door.bell, &door.timer].into_iter().try_for_each(|fd| door.watch(fd))?;
            Ok(door)
        };
        make().map_err(|errno: Errno| Error::io("preparing a listener", errno))
    }

    fn watch(&self, fd: impl AsFd) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
    }

    fn ignore(&self, fd: impl AsFd) {
        // What is not there need not go.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn ring(&self) {
        // It cannot fail but for being rung already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn silence(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// Wakes at `deadline`, or never. Errors: those of the system, which has none for valid times.
    fn wake_at(&self, deadline: Option<Deadline>) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = deadline.map_or(zero, Deadline::timespec);
        let time = Itimerspec { it_interval: zero, it_value };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &time);
    }
}

/// A client whose handshake is under way.
struct Pending {
    socket: OwnedFd,
    exchange: Exchange,
    peer: Peer,
    deadline: Deadline,
}

type Accepted = (Connection, Peer);

pub(super) struct State {
    /// None once it is closed.
    socket: Option<OwnedFd>,
    /// Taken away when it is dropped.
    _place: Option<Place>,
    /// In the order in which they came, so that the first has the earliest deadline.
    pending: VecDeque<Pending>,
    ready: VecDeque<Result<Accepted>>,
    rung: bool,
    alarm: Option<Deadline>,
    /// No client is taken, and the socket is not watched, until then.
    rest: Option<Deadline>,
}

impl State {
    pub(super) fn new(socket: Option<OwnedFd>, place: Option<Place>) -> State {
        State {
            socket,
            _place: place,
            pending: VecDeque::new(),
            ready: VecDeque::new(),
            rung: false,
            alarm: None,
            rest: None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.socket.is_none()
    }

    /// Rings for ever: whoever waits has to see that it is closed. Returns what is to be dropped outside its lock.
    pub(super) fn close(&mut self, door: Option<&Doorbell>) -> State {
        if let (Some(door), Some(socket)) = (door, &self.socket) {
            door.ignore(socket);
            self.pending.iter().for_each(|client| door.ignore(&client.socket));
            door.wake_at(None);
            door.ring();
        }
        std::mem::replace(self, State::new(None, None))
    }

    /// Does what can be done without waiting, and hands out a client or the failure of one.
    pub(super) fn step(
        &mut self,
        config: &ListenerBuilder,
        address: &Address,
        door: &Doorbell,
    ) -> Result<Option<Accepted>> {
        if self.is_closed() {
            return Err(Error::Closed { what: "listener" });
        }
        if self.ready.is_empty() {
            self.advance(door);
        }
        let mut taken = Ok(());
        for _ in 0..if self.is_resting(door) { 0 } else { BATCH } {
            // Those that nobody wants yet may as well wait in the system's queue.
            if !self.ready.is_empty() {
                break;
            }
            match self.take_client(config, address, door) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    taken = Err(error);
                    self.rest(door);
                    break;
                }
            }
        }
        let next = self.ready.pop_front();
        self.settle(door);
        match next {
            Some(next) => next.map(Some),
            None => taken.map(|()| None),
        }
    }

    /// Whether it is too early to ask for clients; begins to watch the socket again when it no longer is.
    fn is_resting(&mut self, door: &Doorbell) -> bool {
        let Some(until) = self.rest else { return false };
        if until <= Deadline::now() {
            let watched = self.socket.as_ref().map_or(Ok(()), |socket| door.watch(socket));
            self.rest = watched.is_err().then(|| Deadline::after(REST));
        }
        self.rest.is_some()
    }

    fn rest(&mut self, door: &Doorbell) {
        if let Some(socket) = &self.socket {
            door.ignore(socket);
        }
        self.rest = Some(Deadline::after(REST));
    }

    /// Takes one client from the system's queue; false if there is none.
    fn take_client(&mut self, config: &ListenerBuilder, address: &Address, door: &Doorbell) -> Result<bool> {
        let Some(listening) = &self.socket else { return Ok(false) };
        let fail = |errno| Error::io(format!("accepting a client of {address}"), errno);
        let (socket, peer) = match address {
            Address::Tcp(_) => match acceptfrom_with(listening, SocketFlags::CLOEXEC) {
                Ok((socket, from)) => match from.and_then(tcp_address) {
                    Some(from) => (socket, Peer::Tcp(from)),
                    None => return Ok(true),
                },
                Err(errno) => return nobody(errno).map_err(fail),
            },
            _ => match accept_with(listening, SocketFlags::CLOEXEC) {
                Ok(socket) => match Peer::of_unix(socket.as_fd()) {
                    Ok(peer) => (socket, peer),
                    Err(errno) => return Err(fail(errno)),
                },
                Err(errno) => return nobody(errno).map_err(fail),
            },
        };
        if !config.allows(&peer) {
            refuse(socket.as_fd(), Refusal::User);
            self.ready.push_back(Err(failed(&peer, "this user is not served".into())));
            return Ok(true);
        }
        let Some(key) = &config.key else {
            self.ready.push_back(Connection::from_fd(socket).map(|connection| (connection, peer)));
            return Ok(true);
        };
        let exchange = Exchange::new(Role::Listener, key.clone())?;
        if let Err(failure) = begin(&exchange, socket.as_fd()) {
            self.ready.push_back(Err(failed(&peer, failure.reason)));
            return Ok(true);
        }
        door.watch(&socket).map_err(fail)?;
        if self.pending.len() == MOST
            && let Some(oldest) = self.pending.pop_front()
        {
            let reason = format!("{MOST} clients that came later have still to prove themselves, too");
            self.give_up(oldest, door, Refusal::Late, reason);
        }
        self.pending.push_back(Pending {
            socket,
            exchange,
            peer,
            deadline: Deadline::after(config.handshake),
        });
        Ok(true)
    }

    /// Carries each handshake as far as it goes.
    fn advance(&mut self, door: &Doorbell) {
        let now = Deadline::now();
        for mut client in std::mem::take(&mut self.pending) {
            match advance(&mut client.exchange, client.socket.as_fd()) {
                Ok(true) => {
                    door.ignore(&client.socket);
                    let accepted = Connection::from_fd(client.socket);
                    self.ready.push_back(accepted.map(|connection| (connection, client.peer)));
                }
                Ok(false) if client.deadline <= now => {
                    let reason = format!("its {} did not come in time", client.exchange.awaits());
                    self.give_up(client, door, Refusal::Late, reason);
                }
                Ok(false) => self.pending.push_back(client),
                Err(failure) => self.give_up(client, door, failure.refusal, failure.reason),
            }
        }
    }

    fn give_up(&mut self, client: Pending, door: &Doorbell, refusal: Refusal, reason: String) {
        door.ignore(&client.socket);
        refuse(client.socket.as_fd(), refusal);
        self.ready.push_back(Err(failed(&client.peer, reason)));
    }

    /// Sets bell and timer to what there is.
    fn settle(&mut self, door: &Doorbell) {
        let alarm = self.pending.front().map(|client| client.deadline).into_iter().chain(self.rest).min();
        if alarm != self.alarm {
            door.wake_at(alarm);
            self.alarm = alarm;
        }
        match (self.ready.is_empty(), self.rung) {
            (false, false) => door.ring(),
            (true, true) => door.silence(),
            _ => {}
        }
        self.rung = !self.ready.is_empty();
    }
}

fn failed(peer: &Peer, reason: String) -> Error {
    Error::Authentication { peer: peer.to_string(), reason }
}

/// Whether there may be another client after this failure.
fn nobody(errno: Errno) -> rustix::io::Result<bool> {
    match errno {
        Errno::AGAIN => Ok(false),
        // A client that has gone again, or what the network had to say about one.
        Errno::INTR
        | Errno::CONNABORTED
        | Errno::PROTO
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NOPROTOOPT
        | Errno::OPNOTSUPP
        | Errno::PERM => Ok(true),
        errno => Err(errno),
    }
}
