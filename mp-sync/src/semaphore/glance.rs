//! When an attempt that may not wait looks whether the holders live: it must not cost system calls each time.

use super::permits::Head;

#[cfg(not(loom))]
pub(super) fn is_due(head: &Head) -> bool {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    use mp_core::deadline::Deadline;

    const EVERY: Duration = Duration::from_millis(5);
    /// Semaphores share these by their address: some wait a little longer then.
    static NEXT: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

    let next = &NEXT[(std::ptr::from_ref(head) as usize >> 6) % NEXT.len()];
    let now = Deadline::now().as_nanos();
    if now < next.load(Relaxed) {
        return false;
    }
    next.store(now + EVERY.as_nanos() as u64, Relaxed);
    true
}

#[cfg(loom)]
pub(super) fn is_due(_: &Head) -> bool {
    true
}
