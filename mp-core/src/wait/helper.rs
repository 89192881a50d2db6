//! The library's own threads: they leave the signals of the process to the threads of the program.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

thread_local! {
    /// In a thread started here: the mask of the thread that started it.
    static STARTED_BY: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
}

/// Starts a thread that never takes a signal: it is born with all of them blocked.
///
/// A signal to the process goes to a thread of the program, whose calls it may interrupt as the program expects. Processes
/// that such a thread makes with [`spawn`](crate::process::spawn::spawn) begin with the mask of the thread that it was
/// started by, as if that one had made them.
///
/// # Errors
/// Those of [`Builder::spawn`].
pub fn helper_thread<T, F>(builder: Builder, run: F) -> std::io::Result<JoinHandle<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let blocked = Blocked::new();
    let before = blocked.before;
    builder.spawn(move || {
        STARTED_BY.set(Some(before));
        run()
    })
}

/// In a thread of the library, the mask that a child of it has to begin with.
pub(crate) fn mask_for_children() -> Option<libc::sigset_t> {
    STARTED_BY.get()
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
