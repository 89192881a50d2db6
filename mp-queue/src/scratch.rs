//! A buffer for each thread, so that small items allocate nothing.

use std::cell::RefCell;
use std::mem::take;
use std::ops::{Deref, DerefMut};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A longer buffer is not kept.
const KEEP: usize = 2 << 20;

/// Calls `job` with an empty buffer, where it is: the thread's own one, or, if that is in use or the thread is ending, another.
#[inline]
pub(crate) fn with<R>(mut job: impl FnMut(&mut Vec<u8>) -> R) -> R {
    let mut result = None;
    let _ = BUFFER.try_with(|buffer| {
        let Ok(mut buffer) = buffer.try_borrow_mut() else { return };
        buffer.clear();
        result = Some(job(&mut buffer));
        if buffer.capacity() > KEEP {
            *buffer = Vec::new();
        }
    });
    result.unwrap_or_else(|| job(&mut Vec::new()))
}

/// An empty buffer to have for a while, the thread's own one if nobody has it: an item that itself uses a queue while it is
/// encoded gets another.
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    #[inline]
    pub fn take() -> Scratch {
        // A thread that is ending has none any more.
        let own = BUFFER.try_with(|buffer| buffer.try_borrow_mut().map(|mut own| take(&mut *own)));
        let mut bytes = own.ok().and_then(Result::ok).unwrap_or_default();
        bytes.clear();
        Scratch(bytes)
    }
}

impl Drop for Scratch {
    #[inline]
    fn drop(&mut self) {
        if self.0.capacity() <= KEEP {
            let _ = BUFFER.try_with(|buffer| {
                if let Ok(mut own) = buffer.try_borrow_mut() {
                    *own = take(&mut self.0);
                }
            });
        }
    }
}

impl Deref for Scratch {
    type Target = Vec<u8>;

    #[inline]
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Scratch {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}
