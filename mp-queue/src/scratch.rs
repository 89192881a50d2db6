//! A buffer for each thread, so that small items allocate nothing.

use std::cell::RefCell;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A longer buffer is not kept.
const KEEP: usize = 2 << 20;

/// Calls `use_it` with an empty buffer. An item that itself uses a queue while it is encoded gets another one.
#[inline]
pub(crate) fn with<R>(use_it: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => {
            buffer.clear();
            let result = use_it(&mut buffer);
            if buffer.capacity() > KEEP {
                *buffer = Vec::new();
            }
            result
        }
        Err(_) => use_it(&mut Vec::new()),
    })
}
