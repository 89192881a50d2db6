//! When an attempt that may not wait looks whether holders live: it must not cost system calls each time.

#[cfg(not(loom))]
pub(crate) fn is_due<T>(held: &T) -> bool {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    use mp_core::deadline::Deadline;

    const EVERY: Duration = Duration::from_millis(5);
    /// Locks and semaphores share these by their address: some wait a little longer then.
    static NEXT: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

    let place = std::ptr::from_ref(held) as usize / size_of::<T>().next_power_of_two();
    let next = &NEXT[place % NEXT.len()];
    let now = Deadline::now().as_nanos();
    if now < next.load(Relaxed) {
        return false;
    }
    next.store(now + EVERY.as_nanos() as u64, Relaxed);
    true
}

#[cfg(loom)]
pub(crate) fn is_due<T>(_: &T) -> bool {
    true
}
