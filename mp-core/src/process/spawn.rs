//! Starting a program anew as a child, at the cost of `posix_spawn` and with no more than what it is meant to have.
//!
//! # Design
//!
//! The child is made with `CLONE_VM | CLONE_VFORK`: it borrows this process's memory while the calling thread stands
//! still, so its cost does not depend on how much memory that is, and gives it back at `execve`. In between it makes
//! system calls only. All signals are blocked until it has reset the handlers, so none runs in the borrowed memory.
//! It keeps descriptors 0 to 4 and closes every other. `CLONE_PIDFD` names the child without a race.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Pid;

use super::entry::{LIFELINE_FD, MARKER, SOCKET_FD};
use crate::function::{Main, Remote};
use crate::wait::mask_for_children;
use crate::{Error, Result};

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program; usually `/proc/self/exe`, this very program.
    pub program: &'a Path,
    /// Its arguments, with its name first.
    pub arguments: &'a [OsString],
    /// Its whole environment.
    pub environment: &'a [(OsString, OsString)],
    /// What it runs instead of its `main`.
    pub main: &'a Remote<Main>,
    /// Its descriptors 0, 1 and 2.
    pub streams: [BorrowedFd<'a>; 3],
    /// The socket that its main function gets.
    pub socket: BorrowedFd<'a>,
    /// Its end of the lifeline.
    pub lifeline: BorrowedFd<'a>,
}

/// The started process.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid.
    pub pid: Pid,
    /// The process, for ever.
    pub pidfd: OwnedFd,
}

/// Descriptors below this are those of the child.
const FIRST_OTHER_FD: RawFd = LIFELINE_FD + 1;

/// Room for the few calls between clone and exec.
const STACK: usize = 64 << 10;

/// What the child needs, prepared before it is made so that it allocates nothing.
struct Plan {
    program: CString,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// From a number above all the targets, to its target.
    moves: [(RawFd, RawFd); 5],
    /// The signals that are blocked in the calling thread, and those that the child begins with.
    mask: libc::sigset_t,
    child_mask: libc::sigset_t,
    /// What failed, and the error number.
    failure: Option<(&'static CStr, i32)>,
}

/// Starts the program.
///
/// # Errors
/// [`Error::Io`] when the system makes no more processes, or the program cannot be executed.
pub fn spawn(what: &Spawn<'_>) -> Result<Spawned> {
    let failed = |step: &str, error: std::io::Error| {
        Error::io(format!("starting {} ({step})", what.program.display()), error)
    };
    let c_string = |text: &OsStr| {
        CString::new(text.as_bytes()).map_err(|_| Error::Invalid {
            what: "argument or variable of a child process",
            reason: format!("{text:?} holds a zero byte"),
        })
    };
    let arguments: Vec<CString> =
        what.arguments.iter().map(|argument| c_string(argument)).collect::<Result<_>>()?;
    let variable = |name: &OsStr, value: &OsStr| {
        let mut line = name.to_owned();
        line.push("=");
        line.push(value);
        c_string(&line)
    };
    let mut environment: Vec<CString> =
        what.environment.iter().map(|(name, value)| variable(name, value)).collect::<Result<_>>()?;
    environment.push(variable(OsStr::new(MARKER), OsStr::new(&what.main.to_text()))?);
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    // Above all targets, no move can overwrite the source of another.
    let above = |fd: BorrowedFd<'_>| {
        fcntl_dupfd_cloexec(fd, FIRST_OTHER_FD)
            .map_err(|error| failed("duplicating a descriptor", error.into()))
    };
    let [stdin, stdout, stderr] = what.streams;
    let sources = [above(stdin)?, above(stdout)?, above(stderr)?, above(what.socket)?, above(what.lifeline)?];
    let targets = [0, 1, 2, SOCKET_FD, LIFELINE_FD];
    let mut plan = Plan {
        program: c_string(what.program.as_os_str())?,
        argv: pointers(&arguments),
        envp: pointers(&environment),
        moves: std::array::from_fn(|i| (sources[i].as_raw_fd(), targets[i])),
        // SAFETY: an all-zero signal set is valid; both are overwritten below.
        mask: unsafe { MaybeUninit::zeroed().assume_init() },
        // SAFETY: as above.
        child_mask: unsafe { MaybeUninit::zeroed().assume_init() },
        failure: None,
    };
    let (pid, pidfd) = clone(&mut plan).map_err(|error| failed("clone", error))?;
    if let Some((step, error)) = plan.failure {
        // The child is about to end, if it has not ended already.
        super::pidfd::wait_and_reap(&pidfd);
        return Err(failed(&step.to_string_lossy(), std::io::Error::from_raw_os_error(error)));
    }
    Ok(Spawned { pid, pidfd })
}

fn clone(plan: &mut Plan) -> std::io::Result<(Pid, OwnedFd)> {
    let mut stack = Box::<[u128]>::new_uninit_slice(STACK / size_of::<u128>());
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let plan = std::ptr::from_mut(plan);
    // SAFETY: all signals are blocked from here to the restoring of the mask, and the mask is read and written in
    // valid memory. The child runs `child` on a stack of its own, inside memory that lives until this thread goes
    // on, which is when the child has executed its program or ended (CLONE_VFORK). Nobody else touches `plan`.
    let pid = unsafe {
        let mut all = MaybeUninit::zeroed();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), &raw mut (*plan).mask);
        (*plan).child_mask = mask_for_children().unwrap_or((*plan).mask);
        let pid = libc::clone(child, top, flags, plan.cast(), &raw mut pidfd);
        let error = std::io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const (*plan).mask, std::ptr::null_mut());
        if pid == -1 {
            return Err(error);
        }
        pid
    };
    let pid = Pid::from_raw(pid).ok_or(std::io::ErrorKind::NotFound)?;
    // SAFETY: CLONE_PIDFD has stored a new descriptor, which nobody else knows.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The child between clone and exec.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` passes a valid plan, and the parent's thread stands still while we run.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: system calls on valid memory; nothing here allocates, locks or panics.
    unsafe {
        // Handlers would run in the parent's memory once the mask is lifted. What is ignored stays so.
        for signal in 1..=64 {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction != libc::SIG_DFL
                && action.sa_sigaction != libc::SIG_IGN
            {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
        for (source, target) in plan.moves {
            if libc::dup2(source, target) == -1 {
                return fail(plan, c"dup2");
            }
        }
        if libc::syscall(libc::SYS_close_range, FIRST_OTHER_FD, u32::MAX, 0) == -1 {
            return fail(plan, c"close_range; Linux 5.9 or later is needed");
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const plan.child_mask, std::ptr::null_mut());
        libc::execve(plan.program.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
    }
    fail(plan, c"execve")
}

fn fail(plan: &mut Plan, step: &'static CStr) -> c_int {
    plan.failure = Some((step, std::io::Error::last_os_error().raw_os_error().unwrap_or(0)));
    127
}
