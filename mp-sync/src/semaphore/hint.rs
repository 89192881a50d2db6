//! Where a thread found a permit last: there it looks first next time.
//!
//! Mere hints, in the memory of the thread: a wrong one costs a look through the words.

use super::permits::Head;

/// The index to look at first; at most `len`.
#[cfg(not(loom))]
#[inline]
pub(super) fn get(head: &Head, len: usize) -> usize {
    let index = LAST.with(|last| last[slot(head)].get()) as usize;
    if index < len { index } else { 0 }
}

#[cfg(not(loom))]
pub(super) fn set(head: &Head, index: usize) {
    LAST.with(|last| last[slot(head)].set(index as u32));
}

#[cfg(not(loom))]
const SLOTS: usize = 16;

#[cfg(not(loom))]
thread_local! {
    static LAST: [std::cell::Cell<u32>; SLOTS] = const { [const { std::cell::Cell::new(0) }; SLOTS] };
}

/// Semaphores share these by their address.
#[cfg(not(loom))]
#[inline]
fn slot(head: &Head) -> usize {
    (std::ptr::from_ref(head) as usize >> 6) % SLOTS
}

/// A model begins anew each time. The last process starts behind the first word, so that looks cross each other.
#[cfg(loom)]
pub(super) fn get(_: &Head, len: usize) -> usize {
    usize::from(
        len > 1 && crate::holder::Holder::current().process().is_some_and(|process| process.pid() == LAST),
    )
}

#[cfg(loom)]
pub(super) const LAST: u32 = 63;

#[cfg(loom)]
pub(super) fn set(_: &Head, _: usize) {}
