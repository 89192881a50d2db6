//! Whether a getter that found the queue empty, and then saw an item come, should let a few more come first.
//!
//! When items come in a stream, a getter that takes each one at once takes the memory that says how many there are out of the
//! putter's cache each time, and both become slower than either is. Where items come one by one, for instance because
//! somebody waits for the answer, it would only be late. So it tries now and then, and goes on while more items came.
//!
//! What it learned is this process's own, and a hint.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Pauses that a getter lingers: some hundred nanoseconds.
const PAUSES: u32 = 32;
/// So many waits go by before a new try.
const BETWEEN: u32 = 64;
/// So many tries in vain end it.
const PATIENCE: u32 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    /// Waits since the last try.
    waits: AtomicU32,
    /// Tries that are left.
    credit: AtomicU32,
}

impl Linger {
    /// For a getter that waited, awake, until an item came: lets more come if that pays. `count` says how many came.
    #[inline]
    pub fn wait(&self, count: impl Fn() -> u64) {
        let credit = self.credit.load(Relaxed);
        if credit == 0 {
            let waits = self.waits.load(Relaxed);
            self.waits.store((waits + 1) % BETWEEN, Relaxed);
            if waits != 0 {
                return;
            }
        }
        self.linger(credit, count);
    }

    /// Out of the way of those whom it does not pay.
    #[cold]
    #[inline(never)]
    fn linger(&self, credit: u32, count: impl Fn() -> u64) {
        (0..PAUSES).for_each(|_| spin_loop());
        let left = if count() > 1 { PATIENCE } else { credit.saturating_sub(1) };
        self.credit.store(left, Relaxed);
    }
}
