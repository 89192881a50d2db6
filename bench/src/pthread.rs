//! The limit of conditions: the C library's mutex and condition in shared memory, which know nothing of deaths.

use anyhow::{Result, ensure};
use multiprocess::RawArray;
use multiprocess::core::futex::{AtomicU32, Ordering::*};
use serde::{Deserialize, Serialize};

/// What this limit is called.
pub const VIA: &str = "pthread_cond, shared, in turns";

/// A mutex, a condition, and a word that says whether it was notified; a clone is another handle to them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pthread(RawArray<u64>);

#[repr(C, align(64))]
struct Parts {
    mutex: libc::pthread_mutex_t,
    condition: libc::pthread_cond_t,
    told: AtomicU32,
}

/// Room to align them.
const WORDS: usize = (size_of::<Parts>() + align_of::<Parts>()) / 8;

impl Pthread {
    pub fn new() -> Result<Pthread> {
        let new = Pthread(RawArray::zeroed(WORDS)?);
        let parts = new.parts();
        // SAFETY: nobody else knows the memory yet; all zero is room for what the calls initialise, and for the attributes
        // before theirs; each attribute is initialised before it is used.
        let failed = unsafe {
            let mut mutex = std::mem::zeroed();
            let mut condition = std::mem::zeroed();
            libc::pthread_mutexattr_init(&mut mutex)
                | libc::pthread_mutexattr_setpshared(&mut mutex, libc::PTHREAD_PROCESS_SHARED)
                | libc::pthread_mutex_init(&raw mut (*parts).mutex, &mutex)
                | libc::pthread_condattr_init(&mut condition)
                | libc::pthread_condattr_setpshared(&mut condition, libc::PTHREAD_PROCESS_SHARED)
                | libc::pthread_cond_init(&raw mut (*parts).condition, &condition)
        };
        ensure!(failed == 0, "no condition of the C library");
        Ok(new)
    }

    /// At the same distance in each process: all map the memory at a page's beginning.
    fn parts(&self) -> *mut Parts {
        let start = self.0.as_ptr().as_ptr().cast::<u8>();
        start.wrapping_add(start.align_offset(align_of::<Parts>())).cast()
    }

    /// Runs `before` with the mutex, and waits with it until notified.
    pub fn wait(&self, before: impl FnOnce()) {
        let parts = self.parts();
        // SAFETY: both were initialised, are shared between processes, and are used in their memory alone; this thread has
        // the mutex where it has to.
        unsafe {
            assert_eq!(libc::pthread_mutex_lock(&raw mut (*parts).mutex), 0);
            before();
            while (*parts).told.load(Relaxed) == 0 {
                assert_eq!(libc::pthread_cond_wait(&raw mut (*parts).condition, &raw mut (*parts).mutex), 0);
            }
            (*parts).told.store(0, Relaxed);
            assert_eq!(libc::pthread_mutex_unlock(&raw mut (*parts).mutex), 0);
        }
    }

    /// With the mutex: tells one who waits.
    pub fn notify(&self) {
        let parts = self.parts();
        // SAFETY: as in `wait`.
        unsafe {
            assert_eq!(libc::pthread_mutex_lock(&raw mut (*parts).mutex), 0);
            (*parts).told.store(1, Relaxed);
            assert_eq!(libc::pthread_cond_signal(&raw mut (*parts).condition), 0);
            assert_eq!(libc::pthread_mutex_unlock(&raw mut (*parts).mutex), 0);
        }
    }
}
