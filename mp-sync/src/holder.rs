//! Who holds something: a process, in 60 bits of a word that processes share.
//!
//! Pid and start time together, so that a process that bears the pid of a dead one is not taken for it.

use std::fmt;

use mp_core::liveness::ProcessId;

/// The kernel's limit for pids on 64-bit machines.
const PID_BITS: u32 = 22;

/// A process as the holder of something; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder(u64);

impl Holder {
    /// The bits of a word that name its holder; 0 is none.
    pub(crate) const MASK: u64 = (1 << ProcessId::WORD_BITS) - 1;

    /// Held, but by no process in particular: it was handed over.
    pub(crate) const NOBODY: Holder = Holder(1 << PID_BITS);

    /// This process.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn current() -> Holder {
        Holder(ProcessId::current_word())
    }

    /// Whether it, which is somebody, is this process.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        ProcessId::is_current_word(self.0)
    }

    /// The holder's part of `word`.
    #[inline]
    pub(crate) fn in_word(word: u64) -> Holder {
        Holder(word & Holder::MASK)
    }

    /// As a part of a word.
    #[inline]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn of(process: ProcessId) -> Holder {
        Holder(process.to_word())
    }

    /// The process; none if it is not held, or by nobody.
    pub(crate) fn process(self) -> Option<ProcessId> {
        let pid = (self.0 & ((1 << PID_BITS) - 1)) as u32;
        (pid != 0).then(|| ProcessId::from_parts(pid, self.0 >> PID_BITS))
    }

    /// Whether it is a process that runs no more. Some microseconds.
    #[cfg(not(loom))]
    pub(crate) fn has_died(self) -> bool {
        self.process().is_some_and(|process| !self.is_current() && !process.is_alive())
    }
}

/// A process that was killed, or ended, while it held something.
///
/// What it was changing may be half done: look at it before trusting it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeadOwner {
    process: ProcessId,
}

impl DeadOwner {
    pub(crate) fn new(process: ProcessId) -> DeadOwner {
        DeadOwner { process }
    }

    /// Its pid, which may belong to another process by now.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// It, in distinction from all others that ever bore the pid.
    pub fn process(&self) -> ProcessId {
        self.process
    }
}

impl fmt::Display for DeadOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}, which died", self.pid())
    }
}

impl fmt::Debug for DeadOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeadOwner({})", self.pid())
    }
}

/// Processes as the models see them: each thread of a model is one.
#[cfg(loom)]
mod model {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::Holder;

    loom::thread_local! {
        static ME: Cell<u32> = Cell::new(1);
    }
    loom::lazy_static! {
        static ref DEAD: AtomicU64 = AtomicU64::new(0);
    }

    impl Holder {
        pub(crate) fn current() -> Holder {
            Holder(ME.with(Cell::get).into())
        }

        pub(crate) fn is_current(self) -> bool {
            self == Holder::current()
        }

        /// Makes this thread process number `pid`, from 1 to 63.
        #[cfg(test)]
        pub(crate) fn become_process(pid: u32) {
            ME.with(|me| me.set(pid));
        }

        /// This process is killed: the thread must do nothing more.
        #[cfg(test)]
        pub(crate) fn die() {
            DEAD.fetch_or(1 << ME.with(Cell::get), SeqCst);
        }

        pub(crate) fn has_died(self) -> bool {
            self.process().is_some_and(|process| DEAD.load(SeqCst) & 1 << process.pid() != 0)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_one_process() {
        let me = Holder::current();
        assert_eq!(me.process(), Some(ProcessId::current()));
        assert_eq!(Holder::in_word(me.bits() | 1 << 63), me);
        assert!(!me.has_died());
        let before = ProcessId::from_parts(std::process::id(), ProcessId::current().start_time() - 1);
        assert!(Holder::of(before).has_died(), "another process with this pid");
        assert!(!Holder::NOBODY.has_died() && Holder::NOBODY.process().is_none());
        assert!(!Holder::in_word(0).has_died());
    }
}
