//! A short spin before a sleep, which learns whether it pays.
//!
//! What it learned belongs to one process; nothing of it is shared, so no death can disturb it.
//!
//! Waking a sleeper on another CPU costs tens of microseconds, so a spin of a few pays when the answer is already on
//! its way. Where both sides share one CPU a spin only delays the other side: then the waiter gives way to it once, and
//! sleeps if that was in vain.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::hint;
use std::time::Duration;

use rustix::thread::sched_yield;

use crate::deadline::Deadline;

/// How long one spin lasts at most: a little longer than it takes to wake a sleeper and get its answer.
const LONGEST: Duration = Duration::from_micros(20);
/// After this time it gives way to others between its looks.
const ALONE_FOR: Duration = Duration::from_micros(5);
/// How long a new try after some waits without a spin lasts, giving way to others: longer than it takes to wake a sleeper
/// on another CPU, so that two who wait for each other find back to spinning though neither spins every time.
const LONGEST_TRY: Duration = Duration::from_micros(100);
/// Giving way takes less time than this if there is nobody to give way to, even when the kernel has to be fetched from memory.
const ALONE: Duration = Duration::from_nanos(2_500);
/// Pauses between two looks at the clock.
const PAUSES: u32 = 16;
/// Failures in a row after which spins are left out.
const PATIENCE: u32 = 8;
/// Waits without a spin after the first loss of patience; doubled each time up to [`MOST_SKIPPED`].
const FIRST_SKIPPED: u32 = 32;
/// The same after giving way took long.
const FIRST_SKIPPED_BESIDE: u32 = 8;
const MOST_SKIPPED: u32 = 1024;

/// Spins for a few microseconds while that pays, and not at all while it does not.
///
/// ```
/// use mp_core::spin::Spin;
/// let spin = Spin::new();
/// assert!(spin.until(|| true), "what is there already needs no spin");
/// ```
#[derive(Debug, Default)]
pub struct Spin {
    /// Waits still to go without a spin.
    skip: AtomicU32,
    /// Spins in a row that ended without success.
    failures: AtomicU32,
    /// How many waits were skipped last time.
    skipped: AtomicU32,
    /// The last new try succeeded, but not soon.
    trying: AtomicBool,
    /// Waits still to go without giving way to one on the same CPU, and how many were skipped last time, less one for each
    /// time since that was not long.
    skip_beside: AtomicU32,
    skipped_beside: AtomicU32,
}

/// What came of giving way.
enum Way {
    /// What was waited for.
    Ready,
    /// Others run here.
    Taken,
    /// Nobody else wants this CPU.
    Free,
}

impl Spin {
    /// A spin that has learned nothing yet.
    pub const fn new() -> Spin {
        Spin {
            skip: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            skipped: AtomicU32::new(0),
            trying: AtomicBool::new(false),
            skip_beside: AtomicU32::new(0),
            skipped_beside: AtomicU32::new(0),
        }
    }

    /// Calls `ready` until it is true or spinning does not pay any more; the last answer. Calls it at least once.
    ///
    /// The counts are hints: threads may share a `Spin`, and a lost update costs nothing.
    pub fn until(&self, ready: impl FnMut() -> bool) -> bool {
        self.until_beside(None, ready)
    }

    /// As [`until`](Self::until), for one who knows whether the one who is waited for runs on another CPU (`apart`). If not,
    /// it gives way to others first, and does not spin while they want this CPU; if so, a spin pays even for a thread that
    /// may run on one CPU only.
    #[inline]
    pub fn until_beside(&self, apart: Option<bool>, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        if apart != Some(false) {
            return self.spin(apart, ready);
        }
        match self.give_way(&mut ready) {
            Way::Ready => true,
            Way::Taken => false,
            // It runs elsewhere by now, or sleeps.
            Way::Free => self.spin(None, ready),
        }
    }

    /// Looks again and again, as long as that pays. Out of the way of those who share a CPU.
    #[inline(never)]
    fn spin(&self, apart: Option<bool>, mut ready: impl FnMut() -> bool) -> bool {
        let skip = self.skip.load(Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Relaxed);
            return false;
        }
        let failures = self.failures.load(Relaxed);
        // The first spin and each new try ask the system; the answer may change during a process's life.
        if apart.is_none() && (failures == 0 || failures >= PATIENCE) && !more_than_one_cpu() {
            self.give_up();
            return false;
        }
        let trying = failures >= PATIENCE || self.trying.load(Relaxed);
        let limit = if trying { LONGEST_TRY } else { LONGEST };
        let start = Deadline::now();
        loop {
            for _ in 0..PAUSES {
                hint::spin_loop();
                if ready() {
                    self.failures.store(1, Relaxed);
                    self.skipped.store(0, Relaxed);
                    // While the other one sleeps each time, this one keeps trying.
                    let slow = trying && start.elapsed() >= LONGEST;
                    if trying != slow || failures >= PATIENCE {
                        self.trying.store(slow, Relaxed);
                    }
                    return true;
                }
            }
            let elapsed = start.elapsed();
            if elapsed >= limit {
                break;
            }
            if elapsed >= ALONE_FOR {
                sched_yield();
            }
        }
        if failures >= PATIENCE {
            self.give_up();
        } else {
            self.failures.store(failures + 1, Relaxed);
        }
        false
    }

    /// Lets others run who share this CPU, once, while that pays: the one who is waited for may be about to, and then neither
    /// has to put the other to sleep and wake it up.
    #[inline]
    fn give_way(&self, ready: &mut impl FnMut() -> bool) -> Way {
        let skip = self.skip_beside.load(Relaxed);
        if skip > 0 {
            self.skip_beside.store(skip - 1, Relaxed);
            return Way::Taken;
        }
        let start = Deadline::now();
        sched_yield();
        let (ready, elapsed) = (ready(), start.elapsed());
        // Others who have nothing to do with this run for long, or the one who is waited for does: whoever sleeps and is
        // woken comes before them.
        let skipped = self.skipped_beside.load(Relaxed);
        if elapsed >= LONGEST_TRY {
            let skipped = (skipped * 2).clamp(FIRST_SKIPPED_BESIDE, MOST_SKIPPED);
            self.skipped_beside.store(skipped, Relaxed);
            self.skip_beside.store(skipped, Relaxed);
        } else if skipped != 0 {
            // Once is forgotten soon, often is not.
            self.skipped_beside.store(skipped - 1, Relaxed);
        }
        match ready {
            true => Way::Ready,
            false if elapsed < ALONE => Way::Free,
            false => Way::Taken,
        }
    }

    /// Leaves out the next spins; the one after them is a single try, and its failure gives up again.
    fn give_up(&self) {
        let skipped = (self.skipped.load(Relaxed) * 2).clamp(FIRST_SKIPPED, MOST_SKIPPED);
        self.skipped.store(skipped, Relaxed);
        self.skip.store(skipped, Relaxed);
        self.failures.store(PATIENCE, Relaxed);
        self.trying.store(false, Relaxed);
    }
}

/// Whether this thread may run on more than one CPU.
#[cold]
pub fn more_than_one_cpu() -> bool {
    // The call fails where the machine has more CPUs than the set can name: surely more than one.
    rustix::thread::sched_getaffinity(None).map_or(true, |cpus| cpus.count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_while_it_does_not_pay_and_tries_again() {
        let spin = Spin::new();
        let mut waits_with_spin = 0;
        let waits = 4096;
        for _ in 0..waits {
            let mut asked = 0;
            assert!(!spin.until(|| {
                asked += 1;
                false
            }));
            assert!(asked >= 1);
            waits_with_spin += u32::from(asked > 1);
        }
        assert!(waits_with_spin < waits / 8, "{waits_with_spin} of {waits} waits spun in vain");
        if more_than_one_cpu() {
            assert!(waits_with_spin > PATIENCE, "it never tried again");
        }
    }

    #[test]
    fn succeeds_when_the_answer_comes_soon() {
        let spin = Spin::new();
        for _ in 0..100 {
            let mut asked = 0;
            let found = spin.until(|| {
                asked += 1;
                asked == 3
            });
            assert_eq!(found, more_than_one_cpu());
            if !found {
                return;
            }
        }
    }
}
