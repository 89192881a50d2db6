//! Waiting for descriptors: several at once, with a time limit, or from async code on any executor; and for shared
//! words from async code.
//!
//! When a peer process dies, the kernel closes its ends and every wait for a descriptor wakes up: end of file counts as
//! ready. A wait for a word ends now and then by itself, so that its caller can look who is alive.

mod helper;
mod reactor;
mod several;
mod word;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

pub use self::helper::helper_thread;
pub(crate) use self::helper::mask_for_children;
pub(crate) use self::reactor::writable;
pub use self::reactor::{Readable, readable};
pub use self::several::wait_ready_async;
pub use self::word::{WordChanged, word_changed};
use crate::{Error, Result};

/// The moment `limit` from now; a limit beyond the end of time is none.
pub(crate) fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

/// Waits until one of `fds` has something to report, `deadline` at most; returns how many.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> rustix::io::Result<usize> {
    loop {
        let limit = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ }
        });
        match poll(fds, limit.as_ref()) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Waits until some of `fds` are readable or at their end; returns their positions, each once, in order.
///
/// Takes anything with a descriptor: connections, sockets, listeners, the sentinels of processes. `None`
/// waits without a limit; when `timeout` passes first, the answer is empty, and so it is, at once, for an
/// empty list. Errors: [`Error::Io`].
///
/// Follows `multiprocessing.connection.wait`.
///
/// ```
/// use std::time::Duration;
/// # fn main() -> mp_core::Result<()> {
/// let (a, b) = mp_core::connection::pipe()?;
/// b.send(&1)?;
/// assert_eq!(mp_core::wait::wait_ready(&[&a, &b], Some(Duration::from_secs(9)))?, [0]);
/// # Ok(())
/// # }
/// ```
pub fn wait_ready<F: AsFd>(fds: &[F], timeout: Option<Duration>) -> Result<Vec<usize>> {
    if fds.is_empty() {
        return Ok(Vec::new());
    }
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    poll_until(&mut polled, timeout.and_then(deadline))
        .map_err(|errno| Error::io(format!("waiting for {} descriptors", fds.len()), errno))?;
    let ready = polled.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
    Ok(ready.map(|(position, _)| position).collect())
}

#[cfg(all(test, not(loom)))]
mod tests;
