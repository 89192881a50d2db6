//! Waiting on a shared word: the atomics and the two futex calls that everything shared between processes is built on.
//!
//! Words lie in shared memory, so the futex is keyed by the memory itself and works between any processes that map it.
//! A waiter that is killed leaves nothing behind: the kernel forgets it, and the word is as it was. A wake-up that went
//! to a process which then died is lost with it; algorithms must let the next waiter see the word, not the call.
//!
//! With `--cfg loom` the same names are loom's atomics and a model of the futex, so that algorithms written over this
//! module are explored in all their interleavings.

use std::time::Duration;

use crate::deadline::Deadline;

#[cfg(loom)]
mod model;
#[cfg(loom)]
use model as system;
#[cfg(loom)]
pub use model::{AtomicBool, AtomicU32, AtomicU64, fence, spin_loop};

#[cfg(not(loom))]
mod system;
#[cfg(not(loom))]
pub use core::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence},
};

pub use core::sync::atomic::Ordering;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    /// Somebody called [`wake`], or nobody did: look at the word again.
    Woken,
    /// The word was not as expected when the wait began.
    Changed,
    /// The deadline passed first.
    TimedOut,
}

/// Sleeps while `word` is `expected`, until a [`wake`] or the deadline; `None` waits for ever.
///
/// Signals do not end the wait. It may end without a cause, so the caller looks at the word again.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::{deadline::Deadline, futex::{AtomicU32, WaitResult, wait}};
/// use std::time::Duration;
///
/// let word = AtomicU32::new(7);
/// assert_eq!(wait(&word, 8, None), WaitResult::Changed);
/// let soon = Deadline::after(Duration::from_millis(1));
/// assert_eq!(wait(&word, 7, Some(soon)), WaitResult::TimedOut);
/// # }
/// ```
pub fn wait(word: &AtomicU32, expected: u32, deadline: Option<Deadline>) -> WaitResult {
    system::wait(word, expected, deadline)
}

/// As [`wait`], for at most so long: for waits that look around now and then, as it needs no clock to begin with. A signal may
/// end it.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::futex::{AtomicU32, WaitResult, wait_for};
/// use std::time::Duration;
///
/// let word = AtomicU32::new(7);
/// assert_eq!(wait_for(&word, 8, Duration::from_secs(9)), WaitResult::Changed);
/// assert_eq!(wait_for(&word, 7, Duration::from_millis(1)), WaitResult::TimedOut);
/// # }
/// ```
pub fn wait_for(word: &AtomicU32, expected: u32, most: Duration) -> WaitResult {
    system::wait_for(word, expected, most)
}

/// How many words [`wait_any`] takes.
pub(crate) const MOST_WORDS: usize = 128;

/// Why a wait for several words ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(loom, expect(dead_code, reason = "the model always refuses"))]
pub(crate) enum AnyResult {
    /// A [`wake`] reached the word at this position, and perhaps some before it, but none behind it.
    Woken(usize),
    /// One was not as expected when the wait began, or it ended without a cause; no wake-up was used up.
    Changed,
    /// The deadline passed first; no wake-up was used up.
    TimedOut,
    /// The kernel cannot wait for several words, or not now.
    Refused,
}

/// Sleeps while all of `words`, at most [`MOST_WORDS`], are as expected, until a [`wake`] of one or the deadline.
pub(crate) fn wait_any(words: &[(&AtomicU32, u32)], deadline: Option<Deadline>) -> AnyResult {
    system::wait_any(words, deadline)
}

/// Wakes at most `n` of those who [`wait`] on `word`, in any process; how many it were.
pub fn wake(word: &AtomicU32, n: u32) -> usize {
    system::wake(word, n)
}

/// Has one of those who [`wait`] on `word`, if it is `expected`, wait on `other` instead, behind those who wait there; how many
/// it were. It sleeps on until its deadline or a [`wake`] of `other`.
///
/// ```
/// # #[cfg(not(loom))] {
/// use mp_core::futex::{AtomicU32, move_one};
///
/// let (word, other) = (AtomicU32::new(7), AtomicU32::new(0));
/// assert_eq!(move_one(&word, 7, &other), 0, "nobody waits");
/// # }
/// ```
pub fn move_one(word: &AtomicU32, expected: u32, other: &AtomicU32) -> usize {
    // Where it cannot be moved, it is told to look.
    system::move_one(word, expected, other).unwrap_or_else(|| wake(word, 1))
}

/// Wakes all who [`wait`] on `word`, in any process; how many it were.
pub fn wake_all(word: &AtomicU32) -> usize {
    system::wake(word, u32::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Ordering::*;
    use super::*;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn wakes_a_sleeper() {
        let word = Arc::new(AtomicU32::new(0));
        let sleeper = thread::spawn({
            let word = word.clone();
            move || {
                while word.load(Acquire) == 0 {
                    wait(&word, 0, Some(Deadline::after(Duration::from_secs(60))));
                }
            }
        });
        word.store(1, Release);
        while !sleeper.is_finished() {
            wake_all(&word);
            thread::yield_now();
        }
        sleeper.join().unwrap();
    }

    #[test]
    fn one_who_is_moved_sleeps_until_the_other_word_is_woken() {
        let (word, other) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| wait(&word, 0, Some(Deadline::after(Duration::from_secs(60)))));
            assert_eq!(system::move_one(&word, 1, &other), None, "the word is not as expected");
            while move_one(&word, 0, &other) == 0 {
                thread::yield_now();
            }
            assert_eq!(wake_all(&word), 0);
            assert!(!sleeper.is_finished());
            assert_eq!(wake_all(&other), 1);
            assert_eq!(sleeper.join().unwrap(), WaitResult::Woken);
        });
    }

    #[test]
    fn waking_nobody_wakes_nobody() {
        let word = AtomicU32::new(0);
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| wait(&word, 0, Some(Deadline::after(Duration::from_millis(50)))));
            while !sleeper.is_finished() {
                assert_eq!(wake(&word, 0), 0);
                thread::yield_now();
            }
            assert_eq!(sleeper.join().unwrap(), WaitResult::TimedOut);
        });
    }

    #[test]
    fn a_wait_lasts_at_least_its_time() {
        let word = AtomicU32::new(0);
        let deadline = Deadline::after(Duration::from_millis(20));
        while wait(&word, 0, Some(deadline)) != WaitResult::TimedOut {}
        assert!(deadline.has_passed());
    }

    #[test]
    fn signals_do_not_end_a_wait() {
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: the handler does nothing, and SIGURG means nothing to any other test. No SA_RESTART: the system
        // call itself is interrupted.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(libc::SIGURG, &action, core::ptr::null_mut());
        }
        let word = Arc::new(AtomicU32::new(0));
        let thread_id = Arc::new(std::sync::OnceLock::new());
        let sleeper = thread::spawn({
            let (word, thread_id) = (word.clone(), thread_id.clone());
            move || {
                // SAFETY: pthread_self has no preconditions.
                thread_id.set(unsafe { libc::pthread_self() }).unwrap();
                wait(&word, 0, Some(Deadline::after(Duration::from_millis(200))))
            }
        });
        let thread = *thread_id.wait();
        while !sleeper.is_finished() {
            // SAFETY: the thread is not joined yet, so its handle is valid.
            unsafe { libc::pthread_kill(thread, libc::SIGURG) };
            thread::yield_now();
        }
        assert_eq!(sleeper.join().unwrap(), WaitResult::TimedOut);
    }
}
