//! How long a call waits, for its turn and for the other side.

use std::time::Duration;

use mp_core::deadline::Deadline;
use mp_core::ring::Doze;
use mp_sync::{RawGuard, RawLock};

/// How long a sleeper sleeps at most: a death is noticed within 100 ms.
pub(crate) const SLICE: Duration = Duration::from_millis(60);

/// How long an attempt that does not wait lets another process finish its own, which may have lost its CPU meanwhile.
const MOMENT: Duration = Duration::from_millis(50);

/// How long a call waits.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// Not even for the moment in which another process is at it.
    Never,
    /// Not at all.
    Not,
    /// Until then, or for ever.
    Until(Option<Deadline>),
}

impl Wait {
    pub fn timeout(timeout: Duration) -> Wait {
        if timeout.is_zero() { Wait::Not } else { Wait::Until(Some(Deadline::after(timeout))) }
    }

    #[inline]
    pub fn is_over(self) -> bool {
        match self {
            Wait::Never | Wait::Not => true,
            Wait::Until(deadline) => deadline.is_some_and(Deadline::has_passed),
        }
    }

    #[inline]
    fn deadline(self) -> Option<Deadline> {
        match self {
            Wait::Never | Wait::Not => Some(Deadline::now()),
            Wait::Until(deadline) => deadline,
        }
    }

    /// Sleeps until the other side does something, or it is over, or for a slice.
    #[inline]
    pub fn sleep(self, doze: &Doze<'_>) {
        match self.deadline() {
            None => doze.sleep_for(SLICE),
            deadline => doze.sleep(Some(Deadline::within(deadline, SLICE))),
        };
    }

    /// Takes a lock. Who has it gives it back soon, so an attempt that would not have been in vain (`matters`) gives it that
    /// moment, and another one if things went on meanwhile (`progress`).
    #[inline]
    pub fn guard(
        self,
        lock: &RawLock,
        matters: impl Fn() -> bool,
        progress: impl Fn() -> u64,
    ) -> Option<RawGuard<'_>> {
        if let Wait::Until(deadline) = self {
            return lock.guard(deadline);
        }
        let held = lock.try_guard();
        if held.is_some() || matches!(self, Wait::Never) || !matters() {
            return held;
        }
        let mut seen = progress();
        loop {
            let held = lock.guard(Some(Deadline::after(MOMENT)));
            let now = progress();
            if held.is_some() || now == seen || !matters() {
                return held;
            }
            seen = now;
        }
    }
}
