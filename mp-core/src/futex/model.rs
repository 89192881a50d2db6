//! The futex as loom sees it: a table of waiters behind one lock, like the kernel's hash bucket.
//!
//! The word is looked at under the lock, so a waker that stores first and wakes second can never be missed between the
//! look and the sleep; that, and nothing more, is what the kernel promises too. A process's death is modelled by a
//! thread that simply stops.

pub use loom::hint::spin_loop;
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

use core::sync::atomic::Ordering::Relaxed;

use std::time::Duration;

use loom::sync::{Condvar, Mutex};

use super::{AnyResult, WaitResult};
use crate::deadline::Deadline;

#[derive(Default)]
struct Table {
    next: usize,
    /// Address of the word and number of the waiter; a waiter that is no longer here was woken.
    waiting: Vec<(usize, usize)>,
}

loom::lazy_static! {
    static ref TABLE: (Mutex<Table>, Condvar) = (Mutex::new(Table::default()), Condvar::new());
}

pub(super) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Deadline>) -> WaitResult {
    let (table, changed) = &*TABLE;
    let mut guard = table.lock().unwrap();
    if word.load(Relaxed) != expected {
        return WaitResult::Changed;
    }
    if deadline.is_some() {
        drop(guard);
        loom::thread::yield_now();
        return WaitResult::TimedOut;
    }
    let me = guard.next;
    guard.next += 1;
    guard.waiting.push((word as *const AtomicU32 as usize, me));
    while guard.waiting.iter().any(|&(_, waiter)| waiter == me) {
        guard = changed.wait(guard).unwrap();
    }
    WaitResult::Woken
}

pub(super) fn wait_for(word: &AtomicU32, expected: u32, _: Duration) -> WaitResult {
    wait(word, expected, Some(Deadline::FAR))
}

pub(super) fn wake(word: &AtomicU32, n: u32) -> usize {
    let (table, changed) = &*TABLE;
    let mut guard = table.lock().unwrap();
    let address = word as *const AtomicU32 as usize;
    let mut woken = 0;
    guard.waiting.retain(|&(at, _)| {
        let wakes = at == address && woken < n as usize;
        woken += usize::from(wakes);
        !wakes
    });
    changed.notify_all();
    woken
}

pub(super) fn move_one(word: &AtomicU32, expected: u32, other: &AtomicU32) -> Option<usize> {
    let (table, _) = &*TABLE;
    let mut guard = table.lock().unwrap();
    if word.load(Relaxed) != expected {
        return None;
    }
    let address = |word: &AtomicU32| word as *const AtomicU32 as usize;
    let Some(first) = guard.waiting.iter().position(|&(at, _)| at == address(word)) else { return Some(0) };
    let (_, waiter) = guard.waiting.remove(first);
    guard.waiting.push((address(other), waiter));
    Some(1)
}

/// Not modelled: as on a kernel that cannot do it.
pub(super) fn wait_any(_words: &[(&AtomicU32, u32)], _deadline: Option<Deadline>) -> AnyResult {
    AnyResult::Refused
}
