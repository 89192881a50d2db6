//! The kernel's futex, keyed by the shared memory behind the word.
//!
//! When a process dies in here, the kernel takes it off the word's queue; nobody else notices.

use core::num::NonZeroU32;
use core::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::ClockId;

use super::{AnyResult, WaitResult};
use crate::deadline::Deadline;

pub(super) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Deadline>) -> WaitResult {
    // The bit set variant takes an absolute time, so that a wait begun again after a signal ends when it should.
    const EVERY_WAKER: NonZeroU32 = NonZeroU32::MAX;
    let until = deadline.map(Deadline::timespec);
    loop {
        return match futex::wait_bitset(word, futex::Flags::empty(), expected, until.as_ref(), EVERY_WAKER) {
            Ok(()) => WaitResult::Woken,
            Err(Errno::AGAIN) => WaitResult::Changed,
            Err(Errno::TIMEDOUT) => WaitResult::TimedOut,
            Err(Errno::INTR) => continue,
            // Not to be had in this sandbox: a nap instead of a sleep, then the caller looks again.
            Err(_) => {
                let nap = Duration::from_millis(1);
                thread::sleep(deadline.map_or(nap, |deadline| nap.min(deadline.remaining())));
                match deadline {
                    Some(deadline) if deadline.has_passed() => WaitResult::TimedOut,
                    _ => WaitResult::Woken,
                }
            }
        };
    }
}

pub(super) fn wait_for(word: &AtomicU32, expected: u32, most: Duration) -> WaitResult {
    let Ok(timeout) = most.try_into() else { return wait(word, expected, None) };
    match futex::wait(word, futex::Flags::empty(), expected, Some(&timeout)) {
        Ok(()) | Err(Errno::INTR) => WaitResult::Woken,
        Err(Errno::AGAIN) => WaitResult::Changed,
        Err(Errno::TIMEDOUT) => WaitResult::TimedOut,
        Err(_) => wait(word, expected, Some(Deadline::after(most))),
    }
}

pub(super) fn wake(word: &AtomicU32, n: u32) -> usize {
    // The kernel wakes one even if none was asked for.
    if n == 0 {
        return 0;
    }
    // It reads the count as a signed number.
    futex::wake(word, futex::Flags::empty(), n.min(i32::MAX as u32)).unwrap_or(0)
}

/// None if it was refused, or the word is not as expected.
pub(super) fn move_one(word: &AtomicU32, expected: u32, other: &AtomicU32) -> Option<usize> {
    futex::cmp_requeue(word, futex::Flags::empty(), 0, 1, other, expected).ok()
}

pub(super) fn wait_any(words: &[(&AtomicU32, u32)], deadline: Option<Deadline>) -> AnyResult {
    let waits: Vec<futex::Wait> = words
        .iter()
        .map(|&(word, expected)| {
            let mut wait = futex::Wait::new();
            wait.val = expected.into();
            wait.uaddr = futex::WaitPtr::new(word.as_ptr().cast());
            wait.flags = futex::WaitFlags::SIZE_U32;
            wait
        })
        .collect();
    let until = deadline.map(Deadline::timespec);
    match futex::waitv(&waits, futex::WaitvFlags::empty(), until.as_ref(), ClockId::Monotonic) {
        Ok(position) => AnyResult::Woken(position),
        Err(Errno::AGAIN | Errno::INTR) => AnyResult::Changed,
        Err(Errno::TIMEDOUT) => AnyResult::TimedOut,
        Err(_) => AnyResult::Refused,
    }
}
