//! What a process does on interrupts, kept so that its children can go back to it.

use std::mem::MaybeUninit;

/// What this process did on SIGINT and SIGTERM before it ignored them.
pub struct Dispositions([(i32, libc::sigaction); 2]);

impl Dispositions {
    /// Ignores SIGINT and SIGTERM from now on.
    pub fn ignore_interrupts() -> Dispositions {
        Dispositions([libc::SIGINT, libc::SIGTERM].map(|signal| {
            // SAFETY: an all-zero action is valid: the default disposition.
            let mut before: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            // SAFETY: installs no handler; the action before is written to valid memory.
            unsafe {
                libc::sigaction(signal, std::ptr::null(), &raw mut before);
                libc::signal(signal, libc::SIG_IGN);
            }
            (signal, before)
        }))
    }

    /// Does again what was done before.
    pub fn restore(self) {
        for (signal, before) in self.0 {
            // SAFETY: an action that was in force in this very program.
            unsafe { libc::sigaction(signal, &raw const before, std::ptr::null_mut()) };
        }
    }
}

impl std::fmt::Debug for Dispositions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dispositions")
    }
}
