//! The pipe through which a child learns from the kernel that its parent is gone.
//!
//! # Design
//!
//! The parent holds the write end and never writes. The child asks the kernel for a `SIGKILL` to itself on any event
//! of the read end; the only event there can be is that the last write end closes, which the kernel does when the
//! parent dies, however it dies and whichever of its threads started the child. No thread, handler or co-operation of
//! the child's code is needed. Write ends are close-on-exec; a forked child closes those of its siblings.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::{Error, Result};

/// The signal to send instead of SIGIO; the same number on every Linux architecture.
const F_SETSIG: i32 = 10;

/// The read end that this process hangs on.
static HELD: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// A new lifeline: the child's end and the parent's end.
///
/// # Errors
/// [`Error::Io`] when the process is out of descriptors.
pub fn create() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::io("creating the lifeline of a child", error))
}

/// From now on this process is killed when every copy of the other end is closed; at once if that is so already.
///
/// A lifeline held before (that of the process this one was forked from) is let go.
///
/// # Errors
/// [`Error::Io`] when the kernel refuses; the process must not go on then, as it could outlive its parent.
pub fn hold(child_end: OwnedFd) -> Result<()> {
    let failed = |error| Error::io("taking hold of the lifeline", error);
    let own_pid = rustix::process::getpid().as_raw_nonzero().get();
    for (command, argument) in [(libc::F_SETOWN, own_pid), (F_SETSIG, libc::SIGKILL)] {
        // SAFETY: both commands take an integer and touch only the kernel's record of this open file.
        if unsafe { libc::fcntl(child_end.as_raw_fd(), command, argument) } == -1 {
            return Err(failed(std::io::Error::last_os_error()));
        }
    }
    let flags = fcntl_getfl(&child_end).map_err(|error| failed(error.into()))?;
    fcntl_setfl(&child_end, flags | OFlags::from_bits_retain(libc::O_ASYNC as _))
        .map_err(|e| failed(e.into()))?;
    // A parent that died before the line above caused no signal.
    let mut fds = [PollFd::new(&child_end, PollFlags::IN)];
    if poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        super::exit::now(1);
    }
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(child_end);
    Ok(())
}
