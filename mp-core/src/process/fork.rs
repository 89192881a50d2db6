//! Copying this process, safely: only while it has a single thread.
//!
//! A forked child has the memory of all threads but runs only one; a lock that another thread held, in the allocator
//! for one, stays locked for ever. So [`fork`] refuses then and names the threads.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

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

/// Copies this process again and again: as [`fork`], but it keeps the list of threads open, which is found once and not
/// each time.
#[derive(Debug)]
pub struct Copier {
    /// Whose threads they are: a copy of this process has a list of its own.
    pid: Pid,
    threads: OwnedFd,
}

impl Copier {
    /// For this process.
    ///
    /// # Errors
    /// [`Error::Io`] when /proc is not there.
    pub fn new() -> Result<Copier> {
        let threads = rustix::fs::open(TASKS, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Copier { pid: getpid(), threads: threads.map_err(|error| failed(error.into()))? })
    }

    /// Copies this process.
    ///
    /// # Errors
    /// As for [`fork`].
    pub fn fork(&self) -> Result<Forked> {
        let links = rustix::fs::fstat(&self.threads).map_err(|error| failed(error.into()))?;
        if self.pid != getpid() || !is_single(&links) {
            return fork();
        }
        // SAFETY: there is only this thread, so the copy holds no lock of a thread that it does not have.
        unsafe { fork_with_threads() }
    }
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
    if is_single(&rustix::fs::stat(TASKS).map_err(|error| failed(error.into()))?) {
        return Ok(Vec::new());
    }
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(TASKS).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let id = entry.file_name().to_string_lossy().into_owned();
        if id == own {
            continue;
        }
        // A thread that is gone by now has no record any more.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, fields)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else {
            continue;
        };
        if !is_exiting(fields) {
            names.push(format!("\"{name}\" ({id})"));
        }
    }
    names.sort();
    Ok(names)
}

/// The folder with a record of each thread.
const TASKS: &str = "/proc/self/task";

fn failed(error: std::io::Error) -> Error {
    Error::io("reading /proc/self/task", error)
}

/// Whether there is one thread: each is a link of the folder, besides its own two.
fn is_single(folder: &Stat) -> bool {
    folder.st_nlink == 3
}

/// Whether a thread, by the fields of its `stat` after the name, runs no code of this program any more: one that was
/// joined is on the list of threads a little longer.
fn is_exiting(fields: &str) -> bool {
    const PF_EXITING: u64 = 4;
    let flags = fields.split_whitespace().nth(6).and_then(|flags| flags.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_named_and_joined_ones_are_not() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        // A thread names itself when it begins.
        let (begin, begun) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("odd) (name".into()).spawn(move || {
            let _ = begin.send(());
            wait.recv()
        });
        begun.recv().expect("it has begun");
        assert!(other_threads().expect("/proc").iter().any(|thread| thread.starts_with("\"odd) (name\"")));
        assert!(fork().expect_err("refused").to_string().contains("odd) (name"));
        let copier = Copier::new().expect("/proc");
        assert!(copier.fork().expect_err("refused").to_string().contains("odd) (name"));
        drop(stop);
        let _ = thread.expect("a thread").join();
        assert!(!other_threads().expect("/proc").iter().any(|thread| thread.contains("odd")));
    }

    #[test]
    fn exiting_threads_are_told_by_their_flags() {
        assert!(is_exiting(" S 1 2 3 0 -1 4194308 5 0"));
        assert!(!is_exiting(" S 1 2 3 0 -1 4194304 5 0"));
        assert!(!is_exiting(""));
    }
}
