//! The fork server itself: a small process with one thread that copies itself for each child.
//!
//! # Design
//!
//! It is started like any child, by executing the program anew, so it holds nothing of its user's memory; what the
//! preload hooks leave behind is shared by all children. What children need and it can get ready for all of them, or before
//! it copies itself, it does: a copy pays for each page that it touches first. It waits in one epoll for requests and for
//! the ends of its children, whose statuses it writes into the pipes that came with the requests. It ends with its user: by
//! the end of the socket or by its lifeline. Its children hang on lifelines of their own, held by the user and not by the
//! server: they outlive a server that is killed, and lose only the way their exit status takes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use mp_core::connection::Connection;
use mp_core::function::{Once, Remote};
use mp_core::message::{Fds, Message, SharedFd, decode_from};
use mp_core::process::entry::Hello;
use mp_core::process::fork::{Copier, Forked};
use mp_core::process::signal::Dispositions;
use mp_core::process::{exit, pidfd};
use mp_core::{Error, Result};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getppid, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::bootstrap::{self, Leave, Orders};
use crate::child::{encode_status, split_head};
use crate::current::current_process;
use crate::launch::flush_streams;
use crate::letter::Letter;
use crate::panic_report;
use crate::stdio::{complain, open_null};

/// What to do when a preload hook of the fork server fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnError {
    /// Go on without it, silently.
    #[default]
    Ignore,
    /// Go on without it, and say so on the standard error stream.
    Warn,
    /// Do not start the server: the start of the process that needs it fails.
    Fail,
}

/// The message that a server starts with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub hooks: Vec<Remote<Once>>,
    pub on_error: OnError,
}

/// The head of a request. Its body is the letter to the child, if there is one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Index of the first descriptor that is not part of the letter: the child's socket, its lifeline, the pipe for its
    /// exit status, and its standard streams.
    pub first: u32,
    /// Which of the streams have a descriptor; the others lead nowhere.
    pub given: [bool; 3],
}

/// Event of the socket; those of children count from 1.
const REQUEST: u64 = 0;

/// Main function of the server.
pub(crate) fn serve(socket: OwnedFd) -> Infallible {
    let _ = rustix::thread::set_name(c"mp-forkserver");
    // An interrupt from the terminal is for the user's process, with which the server ends.
    let dispositions = Dispositions::ignore_interrupts();
    let socket = match Connection::from_fd(socket) {
        Ok(socket) => socket,
        Err(_) => exit::now(1),
    };
    if let Err(reason) = preload(&socket) {
        let _ = socket.send(&Hello::Refused { reason });
        exit::now(1);
    }
    let ready = socket.send(&Hello::Ready { pid: std::process::id() });
    match ready.and_then(|()| Server::new(socket)) {
        Ok(server) => server.run(dispositions),
        Err(_) => exit::now(1),
    }
}

fn preload(socket: &Connection) -> Result<(), String> {
    let setup: Setup = socket.recv().map_err(|error| error.to_string())?;
    for hook in setup.hooks {
        let outcome =
            panic_report::catch(|| run_hook(&hook)).unwrap_or_else(|report| Err(report.to_string()));
        flush_streams();
        match (outcome, setup.on_error) {
            (Ok(()), _) | (Err(_), OnError::Ignore) => {}
            (Err(reason), OnError::Warn) => {
                let name = hook.name();
                complain(format_args!("warning: preload hook {name} of the fork server failed: {reason}"));
            }
            (Err(reason), OnError::Fail) => {
                return Err(format!("preload hook {} failed: {reason}", hook.name()));
            }
        }
    }
    Ok(())
}

fn run_hook(hook: &Remote<Once>) -> Result<(), String> {
    let mut outcome = Vec::new();
    let (mut none, mut fds) = (Fds::default(), Fds::default());
    let call = hook.resolve().and_then(|prepare| prepare(&[], &mut none));
    call.and_then(|call| call(&mut outcome, &mut fds)).map_err(|error| error.to_string())?;
    decode_from::<Result<(), String>>(&outcome, &mut fds).map_err(|error| error.to_string())?
}

struct Server {
    socket: Connection,
    epoll: OwnedFd,
    copier: Copier,
    /// Its user, whose children the copies will be.
    user: Option<(u32, OwnedFd)>,
    /// For the streams that lead nowhere.
    null: SharedFd,
    /// Its children, with the pipes for their exit statuses.
    children: HashMap<u64, (OwnedFd, OwnedFd)>,
    last: u64,
}

impl Server {
    fn new(socket: Connection) -> Result<Server> {
        let failed = |error: Errno| Error::io("epoll of the fork server", error);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(REQUEST), epoll::EventFlags::IN)
            .map_err(failed)?;
        let null = open_null().map_err(|error| Error::io("opening /dev/null", error))?;
        let user = getppid().and_then(|pid| {
            Some((pid.as_raw_nonzero().get() as u32, pidfd_open(pid, PidfdFlags::empty()).ok()?))
        });
        // What is set up here is there in each copy, which would pay for it with page faults.
        bootstrap::install_panic_hook();
        let _ = (current_process(), panic_report::catch(|| ()));
        Ok(Server {
            socket,
            epoll,
            copier: Copier::new()?,
            user,
            null: Arc::new(null),
            children: HashMap::new(),
            last: REQUEST,
        })
    }

    fn run(mut self, dispositions: Dispositions) -> ! {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => exit::now(1),
            }
            for event in &events {
                match event.data.u64() {
                    REQUEST => {
                        let Ok(message) = self.socket.recv_message() else { exit::now(0) };
                        if let Some(Birth { socket, lifeline, streams, letter }) = self.start(message) {
                            let orders = letter.map_or(Orders::Sent, |letter| {
                                let user = self.user.take();
                                let parent = user.filter(|(pid, _)| *pid == letter.preparation.parent_pid);
                                Orders::Letter(letter, parent.map(|(_, pidfd)| pidfd))
                            });
                            // The server's own descriptors are not for the child.
                            drop((self, events));
                            dispositions.restore();
                            bootstrap::forked(socket, lifeline, streams, orders, Leave::WithHandlers)
                        }
                    }
                    token => self.note_end(token),
                }
            }
        }
    }

    /// Copies this process; returns what the copy needs, in the copy.
    fn start(&mut self, mut message: Message) -> Option<Birth> {
        let Asked { first, given } = split_head(&mut message).ok()?;
        let mut places = first..u32::MAX;
        let mut next = || message.fds.take(places.next()?, "descriptor of a start request").ok();
        let (socket, lifeline, status) = (next()?, next()?, next()?);
        let mut stream = |given: bool| if given { next().map(Arc::new) } else { Some(self.null.clone()) };
        let streams = [stream(given[0])?, stream(given[1])?, stream(given[2])?];
        let socket = Connection::from_fd(socket).ok()?;
        let letter = match (!message.bytes.is_empty()).then(|| Letter::open(message)).transpose() {
            Ok(letter) => letter,
            Err(reason) => {
                let _ = socket.send(&Hello::Refused { reason });
                return None;
            }
        };
        match self.copier.fork() {
            Ok(Forked::Child) => Some(Birth { socket, lifeline, streams, letter }),
            Ok(Forked::Parent { pidfd, .. }) => {
                self.last += 1;
                let data = epoll::EventData::new_u64(self.last);
                // Without the event the status would be lost; the user's process knows how to go on then.
                if epoll::add(&self.epoll, &pidfd, data, epoll::EventFlags::IN).is_ok() {
                    self.children.insert(self.last, (pidfd, status));
                }
                None
            }
            Err(error) => {
                let _ = socket.send(&Hello::Refused { reason: error.to_string() });
                None
            }
        }
    }

    fn note_end(&mut self, token: u64) {
        let Some((pidfd, pipe)) = self.children.get(&token) else { return };
        if let Some(status) = pidfd::reap(pidfd) {
            // Whoever is not interested has closed the other end.
            let _ = rustix::io::write(pipe, &encode_status(status));
            self.children.remove(&token);
        }
    }
}

/// What a child starts its life with.
struct Birth {
    socket: Connection,
    lifeline: OwnedFd,
    streams: [SharedFd; 3],
    /// What it is told, unless that comes through the socket.
    letter: Option<Letter>,
}
