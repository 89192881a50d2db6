//! Waiting for a descriptor from async code, on any executor.
//!
//! One background thread for each process, started by the first `await` that has to wait, sleeps in epoll and
//! wakes wakers. It holds no lock that another process could know; a forked child, which has no such thread,
//! starts its own.
//!
//! # Design
//!
//! Each wait is one epoll registration, one-shot, of a duplicate of the descriptor: so that two waits on one
//! descriptor do not collide, and closing the original elsewhere cannot leave the thread with a number that
//! means another file. The table of waits is only ever locked for a moment and never while a waker runs or is
//! dropped. Because epoll takes new registrations while it sleeps, nothing needs to interrupt it.

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, epoll};
use rustix::io::Errno;
use rustix::process::{Pid, getpid};

use super::{Instant, helper_thread, poll_until};
use crate::message::SharedFd;
use crate::{Error, Result};

/// The reactor of this process, or of the one it was forked from.
static REACTOR: Mutex<Option<Arc<Reactor>>> = Mutex::new(None);

struct Reactor {
    process: Pid,
    epoll: OwnedFd,
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    next: u64,
    /// The duplicate, and who is to be woken; no waker once it was.
    known: HashMap<u64, (OwnedFd, Option<Waker>)>,
}

impl Reactor {
    fn get() -> Result<Arc<Reactor>> {
        let mut current = lock(&REACTOR);
        let process = getpid();
        if let Some(reactor) = current.as_ref().filter(|reactor| reactor.process == process) {
            return Ok(reactor.clone());
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| Error::io("creating the epoll of async waits", errno))?;
        let reactor = Arc::new(Reactor { process, epoll, waits: Mutex::default() });
        let thread = reactor.clone();
        let builder = std::thread::Builder::new().name("mp-reactor".into()).stack_size(256 << 10);
        helper_thread(builder, move || thread.run())
            .map_err(|error| Error::io("starting the thread of async waits", error))?;
        let left_by_fork = current.replace(reactor.clone());
        drop(current);
        // Only closes this process's copies; drops wakers, which is foreign code, outside the lock.
        drop(left_by_fork);
        Ok(reactor)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        let mut wakers = Vec::new();
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // Only a broken epoll: waits will be polled by hand, see `Readable::poll`.
                Err(_) => return self.give_up(),
            }
            let mut waits = lock(&self.waits);
            for event in events.drain(..) {
                if let Some((_, waker)) = waits.known.get_mut(&event.data.u64()) {
                    wakers.extend(waker.take());
                }
            }
            drop(waits);
            // A waker is foreign code: its panic must not end the waits of the others.
            for waker in wakers.drain(..) {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
            }
        }
    }

    fn give_up(&self) {
        *lock(&REACTOR) = None;
        let wakers: Vec<Waker> =
            lock(&self.waits).known.values_mut().filter_map(|(_, waker)| waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Registers a wait for `fd`; `None` if it is of a kind that is always ready, such as a file.
    fn register(&self, fd: &SharedFd, interest: PollFlags, waker: Waker) -> Result<Option<u64>> {
        let failed = |errno| Error::io("registering an async wait", errno);
        let duplicate = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(failed)?;
        let mut waits = lock(&self.waits);
        let key = waits.next;
        waits.next += 1;
        let event = if interest == PollFlags::OUT { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        let flags = event | epoll::EventFlags::ONESHOT;
        match epoll::add(&self.epoll, &duplicate, epoll::EventData::new_u64(key), flags) {
            Ok(()) => {}
            Err(Errno::PERM) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        }
        waits.known.insert(key, (duplicate, Some(waker)));
        Ok(Some(key))
    }

    /// Wakes `waker` from now on; false if the wait is used up.
    fn exchange(&self, key: u64, waker: Waker) -> bool {
        let mut waits = lock(&self.waits);
        let before = match waits.known.get_mut(&key) {
            Some((_, before @ Some(_))) if self.process == getpid() => before.replace(waker),
            _ => return false,
        };
        drop(waits);
        drop(before);
        true
    }

    fn forget(&self, key: u64) {
        let known = lock(&self.waits).known.remove(&key);
        if let Some((duplicate, _)) = known.as_ref().filter(|_| self.process == getpid()) {
            // In a forked child this would take the registration away from the parent, which shares the
            // epoll.
            let _ = epoll::delete(&self.epoll, duplicate);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `fd` is readable or at its end, in async code on any executor.
///
/// The first wait that is not over at once starts one thread in this process, which serves all of them.
/// Dropping the future ends the wait. When the process at the other end dies, the wait is over. Errors:
/// [`Error::Io`].
pub fn readable(fd: SharedFd) -> Readable {
    Readable { fd, interest: PollFlags::IN, wait: None }
}

/// Waits until something can be written to `fd`, or nothing ever again; otherwise as [`readable`].
pub(crate) fn writable(fd: SharedFd) -> Readable {
    Readable { fd, interest: PollFlags::OUT, wait: None }
}

/// The future of [`readable`].
#[must_use = "futures do nothing unless awaited"]
pub struct Readable {
    fd: SharedFd,
    interest: PollFlags,
    wait: Option<(Arc<Reactor>, u64)>,
}

impl Readable {
    fn is_ready(&self) -> Result<bool> {
        let ready = poll_until(&mut [PollFd::new(&self.fd, self.interest)], Some(Instant::now()));
        Ok(ready.map_err(|errno| Error::io("polling in an async wait", errno))? > 0)
    }

    fn forget(&mut self) {
        if let Some((reactor, key)) = self.wait.take() {
            reactor.forget(key);
        }
    }
}

impl Future for Readable {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self.is_ready() {
            Ok(false) => {}
            ready => {
                self.forget();
                return Poll::Ready(ready.map(drop));
            }
        }
        if let Some((reactor, key)) = &self.wait
            && reactor.exchange(*key, context.waker().clone())
        {
            return Poll::Pending;
        }
        // The first time, or the registration was used up by somebody who read before us, or by a fork.
        self.forget();
        let registered = Reactor::get().and_then(|reactor| {
            Ok(reactor.register(&self.fd, self.interest, context.waker().clone())?.map(|key| (reactor, key)))
        });
        match registered {
            Ok(None) => Poll::Ready(Ok(())),
            Ok(wait) => {
                self.wait = wait;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        self.forget();
    }
}

impl std::fmt::Debug for Readable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readable").field("fd", &self.fd.as_fd()).finish()
    }
}
