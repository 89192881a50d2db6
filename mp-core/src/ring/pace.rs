//! How soon a reader that has read all it knows of looks for more.
//!
//! Each look takes the memory that says how far the writers are out of a writer's cache. If records come in a stream, a reader
//! that looks after every few of them makes both sides slower than either is; if they come one by one, for instance because
//! somebody waits for the answer, a reader that hesitates is only late. So one that would wait anyway hesitates after a look
//! that found more than one record and not yet many, and now and then after one that found a single record, to see whether
//! more come meanwhile; but only while readers come upon the end of the stream every so often. One that never does, for
//! instance because the same thread writes what it reads, has nothing to hesitate for.
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
/// So often a reader hesitates after one that found nothing.
const CREDIT: u64 = 64;

/// See the module; all zero is the beginning.
#[derive(Default)]
#[repr(C)]
pub(super) struct Pace {
    /// How many records were read when a reader last looked.
    looked_at: AtomicU64,
    /// Looks that found a single record.
    singles: AtomicU64,
    /// So often a reader may still hesitate.
    credit: AtomicU64,
}

impl Pace {
    /// For a reader that is about to look, after `items` records ever.
    #[inline]
    pub fn before_look(&self, items: u64, would_wait: bool) {
        if self.hesitates(items) && would_wait {
            hesitate();
        }
    }

    #[inline]
    fn hesitates(&self, items: u64) -> bool {
        let found = items.wrapping_sub(self.looked_at.load(Relaxed));
        let credit = self.credit.load(Relaxed);
        if found == 0 {
            if credit != CREDIT {
                self.credit.store(CREDIT, Relaxed);
            }
            return false;
        }
        self.looked_at.store(items, Relaxed);
        if found >= MANY || credit == 0 {
            return false;
        }
        if found == 1 {
            let singles = self.singles.load(Relaxed).wrapping_add(1);
            self.singles.store(singles, Relaxed);
            if !singles.is_multiple_of(BETWEEN) {
                return false;
            }
        }
        self.credit.store(credit - 1, Relaxed);
        true
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

    /// How often a reader hesitates that finds so many records each time, after it once found nothing.
    fn hesitations(found: u64, looks: u64) -> u64 {
        let pace = Pace::default();
        assert!(!pace.hesitates(0));
        (1..=looks).map(|look| u64::from(pace.hesitates(look * found))).sum()
    }

    #[test]
    fn a_reader_hesitates_after_a_few_records() {
        assert_eq!(hesitations(2, CREDIT), CREDIT);
        assert_eq!(hesitations(MANY - 1, CREDIT), CREDIT);
        assert_eq!(hesitations(1, 10 * BETWEEN), 10);
    }

    #[test]
    fn a_reader_does_not_hesitate_where_that_does_not_pay() {
        assert_eq!(hesitations(MANY, CREDIT), 0);
        assert_eq!(hesitations(2, 10 * CREDIT), CREDIT, "it never comes upon the end");
        let pace = Pace::default();
        assert!((1..1000).all(|look| !pace.hesitates(4 * look)), "it never came upon the end");
    }
}
