//! How long a waiter sleeps before it looks around again.
//!
//! A wake-up may be lost with a process that was killed, and the one who should give it may be dead. So nobody sleeps longer
//! than a slice; at its end the waiter looks at the word, and at whether those it waits for are alive.

use std::time::{Duration, Instant};

use mp_core::deadline::Deadline;

/// The first slice, and the longest: well within the 100 ms in which a death must be noticed.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(40);

/// The slices of one wait.
pub(crate) struct Patience {
    deadline: Option<Deadline>,
    slice: Duration,
}

impl Patience {
    pub(crate) fn new(deadline: Option<Deadline>) -> Patience {
        Patience { deadline, slice: FIRST }
    }

    /// When to wake up next.
    #[cfg(not(loom))]
    pub(crate) fn next(&mut self) -> Option<Deadline> {
        let until = Deadline::within(self.deadline, self.slice);
        self.slice = (self.slice * 2).min(LONGEST);
        Some(until)
    }

    /// In a model only where somebody dies: elsewhere a lost wake-up must show.
    #[cfg(loom)]
    pub(crate) fn next(&mut self) -> Option<Deadline> {
        let _ = (self.slice, LONGEST);
        if model::deaths() { Some(Deadline::FAR) } else { self.deadline }
    }

    /// Whether the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline.is_some_and(Deadline::has_passed)
    }
}

/// When a future looks whether those it waits for are alive: it is woken after 50 ms at the latest, and perhaps all the time.
#[derive(Debug, Default)]
pub(crate) struct Look(Option<Instant>);

impl Look {
    const EVERY: Duration = Duration::from_millis(20);

    /// Whether it is time, for the first time after a while.
    #[cfg(not(loom))]
    pub(crate) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.0.is_some_and(|last| now.duration_since(last) >= Look::EVERY);
        if is_due || self.0.is_none() {
            self.0 = Some(now);
        }
        is_due
    }

    /// A model must not depend on the clock.
    #[cfg(loom)]
    pub(crate) fn is_due(&mut self) -> bool {
        let _ = (self.0, Look::EVERY);
        model::deaths()
    }
}

#[cfg(loom)]
pub(crate) mod model {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    loom::lazy_static! {
        static ref DEATHS: AtomicBool = AtomicBool::new(false);
    }

    /// From now on waiters of this model look around.
    #[cfg(test)]
    pub(crate) fn expect_deaths() {
        DEATHS.store(true, SeqCst);
    }

    pub(super) fn deaths() -> bool {
        DEATHS.load(SeqCst)
    }
}
