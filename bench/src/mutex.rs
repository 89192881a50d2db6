//! The limit of locks: one word of shared memory over a futex, which knows nothing of its holder. Made of safe parts, so
//! that it can take turns with ours, in the same processes.

use multiprocess::RawValue;
use multiprocess::core::futex::{AtomicU32, Ordering::*, spin_loop, wait, wake};
use multiprocess::shm::Result;
use serde::{Deserialize, Serialize};

/// What this limit is called.
pub const VIA: &str = "futex mutex, 100 spins, in turns";

/// 0 is free, 1 held, 2 held and somebody may sleep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RawMutex(RawValue<u32>);

/// It, found in this process: looking it up each time would be no limit.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a>(&'a AtomicU32);

impl RawMutex {
    pub fn new() -> Result<RawMutex> {
        RawValue::new(0).map(RawMutex)
    }

    pub fn find(&self) -> Found<'_> {
        Found(self.0.as_atomic())
    }
}

impl Found<'_> {
    #[inline]
    pub fn with<R>(self, inside: impl FnOnce() -> R) -> R {
        let word = self.0;
        if word.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
            self.lock_slow();
        }
        let result = inside();
        if word.swap(0, Release) == 2 {
            wake(word, 1);
        }
        result
    }

    #[cold]
    fn lock_slow(self) {
        let word = self.0;
        for _ in 0..100 {
            if word.load(Relaxed) == 0 && word.compare_exchange(0, 1, Acquire, Relaxed).is_ok() {
                return;
            }
            spin_loop();
        }
        while word.swap(2, Acquire) != 0 {
            wait(word, 2, None);
        }
    }
}
