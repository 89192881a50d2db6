//! What the kernel tells about a process through its pidfd: how it ended, also when it is not our own child.
//!
//! A pidfd names one process for ever: neither a wait nor a signal can hit another one that got the same pid later.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};
use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Number of the signal.
        signal: i32,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// It ended, and nobody can say how: somebody else reaped it on a kernel older than 6.15.
    Unknown,
}

impl ExitStatus {
    /// The exit code as Python's `Process.exitcode` counts: the code, minus the number of the signal, or 255 if
    /// nobody can say.
    pub fn code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal { signal, .. } => -signal,
            ExitStatus::Unknown => 255,
        }
    }

    fn from_waitid(status: &WaitIdStatus) -> Option<ExitStatus> {
        let code = status.exit_status().map(ExitStatus::Code);
        let signal = status.terminating_signal();
        code.or(signal.map(|signal| ExitStatus::Signal { signal, core_dumped: status.dumped() }))
    }

    fn from_wait(status: i32) -> ExitStatus {
        match status & 0x7f {
            0 => ExitStatus::Code((status >> 8) & 0xff),
            signal => ExitStatus::Signal { signal, core_dumped: status & 0x80 != 0 },
        }
    }
}

/// How the child behind `pidfd` ended, taking its zombie away; `None` while it runs.
///
/// A child that somebody else reaped is [`ExitStatus::Unknown`], or known all the same from Linux 6.15 on.
pub fn reap(pidfd: impl AsFd) -> Option<ExitStatus> {
    loop {
        return match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(status) => status.as_ref().and_then(ExitStatus::from_waitid),
            Err(Errno::INTR) => continue,
            Err(_) => Some(recall(pidfd).unwrap_or(ExitStatus::Unknown)),
        };
    }
}

/// Waits until the child behind `pidfd` ends, and takes its zombie away.
pub fn wait_and_reap(pidfd: impl AsFd) -> ExitStatus {
    loop {
        // A child is seen to have ended a little before it can be reaped, so only the kernel can wait for that.
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(status) => {
                return status.as_ref().and_then(ExitStatus::from_waitid).unwrap_or(ExitStatus::Unknown);
            }
            Err(Errno::INTR) => {}
            Err(_) => return recall(pidfd).unwrap_or(ExitStatus::Unknown),
        }
    }
}

/// How the ended process behind `pidfd` ended, whoever its parent is. While its parent has not reaped it, /proc knows;
/// afterwards the pidfd does, or nobody (`None`) before Linux 6.15.
pub fn recall(pidfd: impl AsFd) -> Option<ExitStatus> {
    // It may be reaped between the first question and the second.
    let reaped = || exit_status_of_reaped(pidfd.as_fd());
    reaped().or_else(|| exit_status_of_zombie(pidfd.as_fd())).or_else(reaped)
}

fn exit_status_of_reaped(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    const EXIT: u64 = 1 << 3;
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the request reads and writes one `Info`, whose size is part of its number.
    unsafe { ioctl::ioctl(pidfd, &mut info) }.ok()?;
    (info.mask & EXIT != 0).then(|| ExitStatus::from_wait(info.exit_code))
}

fn exit_status_of_zombie(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let own_fd = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let pid = || -> Option<u32> {
        let info = std::fs::read_to_string(&own_fd).ok()?;
        info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
    };
    let process = format!("/proc/{}", pid()?);
    // Of the processes of other users it tells 0, whatever the truth.
    let owner = rustix::fs::stat(&*process).ok()?.st_uid;
    let stat = std::fs::read_to_string(format!("{process}/stat")).ok()?;
    // The pid, if it still is one, has not been given to another process in between.
    pid()?;
    let mut fields = stat.rsplit_once(") ")?.1.split_whitespace();
    let is_zombie = fields.next() == Some("Z");
    let status = fields.last()?.parse().ok()?;
    (is_zombie && owner == rustix::process::geteuid().as_raw()).then(|| ExitStatus::from_wait(status))
}

/// The first published form of the kernel's `struct pidfd_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

// SAFETY: PIDFD_GET_INFO fills in the structure that its argument points to, and no more than its size.
unsafe impl Ioctl for &mut Info {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        ioctl::opcode::read_write::<Info>(0xff, 11)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::from_mut::<Info>(self).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Whether the process behind `pidfd` has ended.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&Timespec::default())) {
            Err(Errno::INTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}
