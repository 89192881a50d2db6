//! The library's own threads: they leave the signals of the process to the threads of the program.

use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

/// Starts a thread that never takes a signal: it is born with all of them blocked.
///
/// A signal to the process goes to a thread of the program, whose calls it may interrupt as the program expects. What
/// such a thread starts, a thread or a process, inherits the mask.
///
/// # Errors
/// Those of [`Builder::spawn`].
pub fn helper_thread<T, F>(builder: Builder, run: F) -> std::io::Result<JoinHandle<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let _blocked = Blocked::new();
    builder.spawn(run)
}

/// All signals are blocked in this thread while it lives.
struct Blocked {
    before: libc::sigset_t,
}

impl Blocked {
    fn new() -> Blocked {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: `sigfillset` initialises the set that it is given, and `pthread_sigmask` reads that and writes the
        // other, for which all zero is the empty set. Both touch this thread alone.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
            Blocked { before: before.assume_init() }
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was written by `pthread_sigmask`; this touches this thread alone.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}
