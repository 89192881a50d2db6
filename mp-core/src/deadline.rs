//! Points in time to wait until: monotonic, exact to the nanosecond, the same in every process of the machine.
//!
//! A deadline is plain data; no process owns it, and it means the same to all of them until the next boot.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A point on the monotonic clock at which a wait gives up.
///
/// Waits take `Option<Deadline>`; `None` waits for ever. Sums saturate: a timeout of centuries is as good as none.
/// Python's `timeout=` arguments are durations; [`Deadline::from_timeout`] turns one into a deadline, once, so
/// that an interrupted wait never starts its time again.
///
/// ```
/// use mp_core::deadline::Deadline;
/// use std::time::Duration;
///
/// let deadline = Deadline::after(Duration::from_secs(3600));
/// assert!(!deadline.has_passed());
/// assert!(deadline.remaining() <= Duration::from_secs(3600));
/// assert_eq!(Deadline::from_timeout(None), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline {
    /// Nanoseconds of `CLOCK_MONOTONIC`, at most those of 292 years: the kernel counts in signed 64 bits.
    nanoseconds: u64,
}

impl Deadline {
    /// The latest deadline there is, 292 years after boot.
    pub const FAR: Deadline = Deadline { nanoseconds: i64::MAX as u64 };

    /// This moment.
    pub fn now() -> Deadline {
        let now = clock_gettime(ClockId::Monotonic);
        Deadline { nanoseconds: now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64 }
    }

    /// The moment `timeout` from now, or [`Deadline::FAR`] if that is later.
    pub fn after(timeout: Duration) -> Deadline {
        Deadline::now().saturating_add(timeout)
    }

    /// The deadline of a wait with this timeout; none for a wait without one.
    pub fn from_timeout(timeout: Option<Duration>) -> Option<Deadline> {
        timeout.map(Deadline::after)
    }

    /// This deadline moved back by `duration`, at most to [`Deadline::FAR`].
    pub fn saturating_add(self, duration: Duration) -> Deadline {
        let more = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Deadline { nanoseconds: self.nanoseconds.saturating_add(more).min(Deadline::FAR.nanoseconds) }
    }

    /// The time left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        Duration::from_nanos(self.nanoseconds.saturating_sub(Deadline::now().nanoseconds))
    }

    /// The time since it passed; zero before that.
    pub fn elapsed(self) -> Duration {
        Duration::from_nanos(Deadline::now().nanoseconds.saturating_sub(self.nanoseconds))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        Deadline::now() >= self
    }

    /// The earlier of this deadline and the moment `slice` from now: for waits that look around now and then.
    pub fn within(deadline: Option<Deadline>, slice: Duration) -> Deadline {
        let slice = Deadline::after(slice);
        deadline.map_or(slice, |deadline| deadline.min(slice))
    }

    /// Nanoseconds on the monotonic clock.
    pub fn as_nanos(self) -> u64 {
        self.nanoseconds
    }

    /// As the system calls with absolute monotonic timeouts want it.
    pub fn timespec(self) -> Timespec {
        Timespec {
            tv_sec: (self.nanoseconds / 1_000_000_000) as _,
            tv_nsec: (self.nanoseconds % 1_000_000_000) as _,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_to_the_nanosecond_and_ordered() {
        let now = Deadline::now();
        let later = now.saturating_add(Duration::from_nanos(1));
        assert!(later > now);
        assert_eq!(later.nanoseconds - now.nanoseconds, 1);
        let spec = later.timespec();
        assert_eq!(spec.tv_sec as u64 * 1_000_000_000 + spec.tv_nsec as u64, later.nanoseconds);
    }

    #[test]
    fn endless_timeouts_saturate() {
        assert_eq!(Deadline::after(Duration::MAX), Deadline::FAR);
        assert_eq!(Deadline::FAR.saturating_add(Duration::from_nanos(1)), Deadline::FAR);
        assert!(!Deadline::FAR.has_passed());
    }

    #[test]
    fn passes() {
        let now = Deadline::now();
        assert!(now.has_passed());
        assert_eq!(now.remaining(), Duration::ZERO);
        assert!(Deadline::within(Some(now), Duration::from_secs(9)) <= now);
        assert!(Deadline::within(None, Duration::from_secs(9)) > now);
    }
}
