//! A buffer for each thread, so that small items allocate nothing.

use std::cell::Cell;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A longer buffer is not kept.
const KEEP: usize = 2 << 20;

/// Calls `use_it` with an empty buffer. An item that itself uses a queue while it is encoded gets another one.
pub(crate) fn with<R>(use_it: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut buffer = BUFFER.take();
    buffer.clear();
    let result = use_it(&mut buffer);
    if buffer.capacity() <= KEEP {
        BUFFER.set(buffer);
    }
    result
}
