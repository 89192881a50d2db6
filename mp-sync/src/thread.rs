//! Which thread of this process is running: a number that is never given to another one.
//!
//! It means something within its process only. In a child of a fork the thread that forked keeps its number.

/// The number of this thread; never 0.
#[cfg(not(loom))]
#[inline]
pub(crate) fn current() -> u64 {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    static LAST: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static ME: Cell<u64> = const { Cell::new(0) };
    }
    let me = ME.get();
    if me != 0 {
        return me;
    }
    let new = LAST.fetch_add(1, Relaxed) + 1;
    ME.set(new);
    new
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
