//! Which thread of this process is running: a number that is never given to another one.
//!
//! It means something within its process only. In a child of a fork the thread that forked keeps its number.

#[cfg(not(loom))]
thread_local! {
    static ME: std::cell::Cell<u64> = const { std::cell::Cell::new(UNKNOWN) };
}

/// No thread's number.
#[cfg(not(loom))]
const UNKNOWN: u64 = u64::MAX;

/// The number of this thread; never 0.
#[cfg(not(loom))]
#[inline]
pub(crate) fn current() -> u64 {
    match ME.get() {
        UNKNOWN => find(),
        me => me,
    }
}

#[cfg(not(loom))]
#[cold]
fn find() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    static LAST: AtomicU64 = AtomicU64::new(0);
    let new = LAST.fetch_add(1, Relaxed) + 1;
    ME.set(new);
    new
}

/// Whether `number` is the number of this thread; perhaps `false` where [`current`] was never asked for.
#[cfg(not(loom))]
#[inline]
pub(crate) fn is_known(number: u64) -> bool {
    // What lies in shared memory may be anything, and then it is no matter.
    ME.get() == number
}

#[cfg(loom)]
pub(crate) fn is_known(number: u64) -> bool {
    number == current()
}

/// In a model, every thread is a process of its own.
#[cfg(loom)]
pub(crate) fn current() -> u64 {
    1
}

/// What this thread is called in debug output, after its process: nothing for the main one.
pub(crate) fn suffix() -> String {
    let thread = std::thread::current();
    // In a child the main thread has no name, or that of the thread that forked.
    if thread.name() == Some("main") || rustix::thread::gettid() == rustix::process::getpid() {
        return String::new();
    }
    thread.name().map_or_else(|| format!("|{:?}", thread.id()), |name| format!("|{name}"))
}
