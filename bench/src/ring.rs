//! The limit of short items: a ring of bytes in shared memory for one writer and one reader, who spin and never sleep.
//!
//! It knows nothing of deaths, of types, or of a second writer. The same ring as that of the limits probe, here in turns with
//! what it is the limit of: two CPUs of a machine that is shared are now near each other and now far apart.

use std::hint::spin_loop;

use anyhow::Result;
use multiprocess::RawArray;
use multiprocess::core::futex::{AtomicU64, Ordering::*};
use rustix::thread::sched_yield;
use serde::{Deserialize, Serialize};

/// What this limit is called.
pub const VIA: &str = "shm ring 256 KiB, spin, in turns";

const ROOM: u64 = 256 << 10;
/// Looks between two times that it gives way to others.
const LOOKS: u32 = 4096;

/// A clone is another handle to the same ring.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ring(RawArray<u64>);

/// Each in a line of its own.
#[repr(C, align(4096))]
struct Head {
    written: Line,
    read: Line,
}

#[repr(C, align(128))]
struct Line(AtomicU64);

const WORDS: usize = (size_of::<Head>() + ROOM as usize) / 8;

impl Ring {
    pub fn new() -> Result<Ring> {
        Ok(Ring(RawArray::zeroed(WORDS)?))
    }

    /// Memory begins with a page in each process.
    fn head(&self) -> (&Head, *mut u8) {
        let start = self.0.as_ptr().as_ptr().cast::<u8>();
        assert!(start.cast::<Head>().is_aligned());
        // SAFETY: aligned, long enough (`WORDS`), alive as long as the array, and atomics are valid for all bytes.
        (unsafe { &*start.cast::<Head>() }, start.wrapping_add(size_of::<Head>()))
    }

    /// For the one writer.
    #[inline(always)]
    pub fn writer(&self) -> impl FnMut(&[u8]) {
        let (head, bytes) = self.head();
        move |item| {
            let (at, count) = (head.written.0.load(Relaxed), item.len() as u64);
            wait(|| ROOM - (at - head.read.0.load(Acquire)) >= count);
            let [first, rest] = parts(at, count);
            // SAFETY: both parts lie in the ring, and nobody reads them before `written` says so.
            unsafe {
                item.as_ptr().copy_to_nonoverlapping(bytes.add((at % ROOM) as usize), first);
                item.as_ptr().add(first).copy_to_nonoverlapping(bytes, rest);
            }
            head.written.0.store(at + count, Release);
        }
    }

    /// For the one reader.
    #[inline(always)]
    pub fn reader(&self) -> impl FnMut(&mut [u8]) {
        let (head, bytes) = self.head();
        move |item| {
            let (at, count) = (head.read.0.load(Relaxed), item.len() as u64);
            wait(|| head.written.0.load(Acquire) - at >= count);
            let [first, rest] = parts(at, count);
            // SAFETY: both parts lie in the ring, and nobody writes them before `read` says so.
            unsafe {
                item.as_mut_ptr().copy_from_nonoverlapping(bytes.add((at % ROOM) as usize), first);
                item.as_mut_ptr().add(first).copy_from_nonoverlapping(bytes, rest);
            }
            head.read.0.store(at + count, Release);
        }
    }
}

/// How much of so many bytes lies before the end of the ring, and how much at its beginning.
#[inline(always)]
fn parts(at: u64, count: u64) -> [usize; 2] {
    let first = count.min(ROOM - at % ROOM);
    [first as usize, (count - first) as usize]
}

#[inline(always)]
fn wait(ready: impl Fn() -> bool) {
    let mut looks = 0;
    while !ready() {
        spin_loop();
        looks += 1;
        if looks % LOOKS == 0 {
            sched_yield();
        }
    }
}
