//! Waiting for several descriptors from async code.
//!
//! Seen from outside as [`wait_ready`]: a peer process that dies makes its end ready.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;

use super::{readable, wait_ready};
use crate::{Error, Result};

/// As [`wait_ready`] without a time limit, in async code on any executor. Dropping the future ends the wait.
///
/// Errors: [`Error::Io`], also if no more descriptors can be opened: it takes two.
///
/// ```
/// # async fn example() -> mp_core::Result<()> {
/// let (a, b) = mp_core::connection::pipe()?;
/// b.send(&1)?;
/// assert_eq!(mp_core::wait::wait_ready_async(&[&a, &b]).await?, [0]);
/// # Ok(())
/// # }
/// ```
pub async fn wait_ready_async<F: AsFd>(fds: &[F]) -> Result<Vec<usize>> {
    let look = || wait_ready(fds, Some(Duration::ZERO));
    let ready = look()?;
    if fds.is_empty() || !ready.is_empty() {
        return Ok(ready);
    }
    let failed = |errno| Error::io(format!("waiting for {} descriptors", fds.len()), errno);
    let all = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?);
    for fd in fds {
        match epoll::add(&all, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN) {
            // Named twice.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    loop {
        readable(all.clone()).await?;
        // Somebody else may have been faster.
        match look()? {
            ready if ready.is_empty() => {}
            ready => return Ok(ready),
        }
    }
}
