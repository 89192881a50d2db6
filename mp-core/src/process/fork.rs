//! Copying this process, safely: only while it has a single thread.
//!
//! A forked child has the memory of all threads but runs only one; a lock that another thread held, in the allocator
//! for one, stays locked for ever. So [`fork`] refuses then and names the threads.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{Error, Result};

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Forked {
    /// The copy.
    Child,
    /// The process that was copied.
    Parent {
        /// Pid of the copy.
        pid: Pid,
        /// The copy, for ever.
        pidfd: OwnedFd,
    },
}

/// Copies this process.
///
/// # Errors
/// [`Error::Invalid`] naming the other threads if there are any, [`Error::Io`] when the system makes no more processes.
pub fn fork() -> Result<Forked> {
    let others = other_threads()?;
    if !others.is_empty() {
        return Err(Error::Invalid {
            what: "start method fork",
            reason: format!(
                "a process with threads cannot be copied safely, and this one has {} more: {}; use forkserver or spawn",
                others.len(),
                others.join(", ")
            ),
        });
    }
    // SAFETY: there is only this thread, so the copy holds no lock of a thread that it does not have.
    unsafe { fork_with_threads() }
}

/// Copies this process even if it has threads.
///
/// # Safety
/// In the child, until it executes another program, only what is async-signal-safe may be used of everything that a
/// thread of the parent may have been in the middle of: locks, the allocator, standard streams.
///
/// # Errors
/// [`Error::Io`] when the system makes no more processes.
pub unsafe fn fork_with_threads() -> Result<Forked> {
    // SAFETY: the caller answers for the child.
    match unsafe { libc::fork() } {
        -1 => Err(Error::io("fork", std::io::Error::last_os_error())),
        0 => Ok(Forked::Child),
        pid => {
            let pid = Pid::from_raw(pid).ok_or_else(|| Error::io("fork", rustix::io::Errno::SRCH))?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty())
                .map_err(|error| Error::io(format!("opening a pidfd of forked child {pid}"), error))?;
            Ok(Forked::Parent { pid, pidfd })
        }
    }
}

/// Names (and ids) of the threads of this process besides the calling one.
///
/// # Errors
/// [`Error::Io`] when /proc is not there.
pub fn other_threads() -> Result<Vec<String>> {
    let failed = |error| Error::io("reading /proc/self/task", error);
    // Each thread is a link of the folder, besides its own two: one call tells the usual case.
    let links = rustix::fs::stat("/proc/self/task").map_err(|error| failed(error.into()))?.st_nlink;
    if links == 3 {
        return Ok(Vec::new());
    }
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut names = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let id = entry.file_name().to_string_lossy().into_owned();
        if id != own {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            names.push(format!("\"{}\" ({id})", name.trim_end()));
        }
    }
    names.sort();
    Ok(names)
}
