//! How soon a reader that has read all it knows of looks for more.
//!
//! Each look takes the memory that says how far the writers are out of a writer's cache. If records come in a stream, a reader
//! that looks after every few of them makes both sides slower than either is; if they come one by one, for instance because
//! somebody waits for the answer, a reader that hesitates is only late. So it hesitates after a look that found more than one
//! record and not yet many, and now and then after one that found a single record, to see whether more come meanwhile.
//!
//! The state is a hint, of whoever holds the readers' lock.

use std::hint::spin_loop;

use crate::futex::{AtomicU64, Ordering::Relaxed};

/// Pauses before a look: some hundred nanoseconds.
const PAUSES: u32 = 16;
/// So many records at a time are many: a look costs little for each.
const MANY: u64 = 64;
/// So many single records go by before a try.
const BETWEEN: u64 = 64;

/// See the module; all zero is the beginning.
#[derive(Default)]
#[repr(C)]
pub(super) struct Pace {
    /// How many records were read when a reader last looked.
    looked_at: AtomicU64,
    /// Looks that found a single record.
    singles: AtomicU64,
}

impl Pace {
    /// For a reader that is about to look, after `items` records ever.
    #[inline]
    pub fn before_look(&self, items: u64) {
        if self.hesitates(items) {
            hesitate();
        }
    }

    #[inline]
    fn hesitates(&self, items: u64) -> bool {
        let found = items.wrapping_sub(self.looked_at.load(Relaxed));
        if found == 0 {
            return false;
        }
        self.looked_at.store(items, Relaxed);
        if found != 1 {
            return found < MANY;
        }
        let singles = self.singles.load(Relaxed).wrapping_add(1);
        self.singles.store(singles, Relaxed);
        singles.is_multiple_of(BETWEEN)
    }
}

#[cold]
#[inline(never)]
fn hesitate() {
    (0..PAUSES).for_each(|_| spin_loop());
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// How often a reader hesitates that finds so many records each time.
    fn hesitations(found: u64, looks: u64) -> u64 {
        let pace = Pace::default();
        (1..=looks).map(|look| u64::from(pace.hesitates(look * found))).sum()
    }

    #[test]
    fn a_reader_hesitates_after_a_few_records() {
        assert_eq!(hesitations(2, 100), 100);
        assert_eq!(hesitations(MANY - 1, 100), 100);
    }

    #[test]
    fn a_reader_does_not_hesitate_where_that_does_not_pay() {
        assert_eq!(hesitations(MANY, 100), 0);
        assert_eq!(hesitations(1, 10 * BETWEEN), 10);
        let pace = Pace::default();
        pace.hesitates(2);
        assert!((0..1000).all(|_| !pace.hesitates(2)), "nothing came");
    }
}
