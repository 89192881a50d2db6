//! A buffer for each thread, so that small items allocate nothing.

use std::cell::Cell;
use std::mem::take;
use std::ops::{Deref, DerefMut};

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A longer buffer is not kept.
const KEEP: usize = 2 << 20;

/// An empty buffer, the thread's own one if nobody has it: an item that itself uses a queue while it is encoded gets another.
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    #[inline]
    pub fn take() -> Scratch {
        // A thread that is ending has none any more.
        Scratch(BUFFER.try_with(Cell::take).unwrap_or_default())
    }
}

impl Drop for Scratch {
    #[inline]
    fn drop(&mut self) {
        self.0.clear();
        if self.0.capacity() <= KEEP {
            let _ = BUFFER.try_with(|buffer| buffer.set(take(&mut self.0)));
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
