//! The stack of blocks that were freed by other processes than their owner.
//!
//! A pusher that is killed has pushed its block or not; whatever was in the stack before stays in it.
//!
//! Positions are `index + 1`, so that 0 is the end. The table of counts holds the links: a count is in use, 0, or a link.

use crate::futex::{AtomicU32, Ordering::*};

/// The entry is a link.
pub(super) const LINK: u32 = 1 << 31;

/// Adds a block whose count is 0 and which nobody else uses any more.
pub(super) fn push(head: &AtomicU32, counts: &[AtomicU32], index: u32) {
    let Some(count) = counts.get(index as usize) else { return };
    let mut top = head.load(Relaxed);
    loop {
        count.store(LINK | (top & !LINK), Relaxed);
        match head.compare_exchange_weak(top, index + 1, Release, Relaxed) {
            Ok(_) => return,
            Err(now) => top = now,
        }
    }
}

/// Owner: takes all blocks off. `accept` says whether a block was out, and is done with it; the first that was not, or
/// that makes no sense, ends it.
pub(super) fn take_all(head: &AtomicU32, counts: &[AtomicU32], mut accept: impl FnMut(u32) -> bool) {
    if head.load(Relaxed) == 0 {
        return;
    }
    let mut position = head.swap(0, Acquire);
    while let Some(index) = position.checked_sub(1) {
        let Some(count) = counts.get(index as usize) else { return };
        let link = count.load(Relaxed);
        if link & LINK == 0 || !accept(index) {
            return;
        }
        count.store(0, Relaxed);
        position = link & !LINK;
    }
}
