//! Long copies between shared cells and memory of one's own, by the string instructions of the CPU.
//!
//! The compiler neither joins nor widens atomic accesses, so a loop of them is several times slower than `memcpy`, for bytes
//! above all. A string instruction moves one cell after the other, each as by one access of its size, as the loop does,
//! and the CPU sees to the speed. A store after it is seen after all of it, as after the loop. Where there are no such
//! instructions the loop stays. A process that is killed in the middle has moved some cells, each whole.

/// Copies `count` cells if so many are worth it and the CPU can; says whether it did.
///
/// # Safety
/// `count` cells are mapped at `from` and at `to`, aligned, and they do not overlap. One side is memory that nobody else
/// uses; on the other, all accesses that come at the same time are atomic and of the size of a cell.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub unsafe fn copy<V>(from: *const V, to: *mut V, count: usize) -> bool {
    use std::arch::asm;

    /// Bytes from which on it is quicker than a loop.
    const LONG: usize = 512;
    if count < LONG / size_of::<V>().max(1) {
        return false;
    }
    macro_rules! string {
        ($instruction:literal) => {
            asm!(
                $instruction,
                inout("rcx") count => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            )
        };
    }
    // SAFETY: reads and writes the cells that the caller vouches for, upwards, as the direction flag is clear; each is
    // aligned and moved as one, which is what atomic accesses in no particular order are on this CPU.
    unsafe {
        match size_of::<V>() {
            1 => string!("rep movsb"),
            2 => string!("rep movsw"),
            4 => string!("rep movsd"),
            8 => string!("rep movsq"),
            _ => return false,
        }
    }
    true
}

/// Does nothing here.
///
/// # Safety
/// Always safe.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub unsafe fn copy<V>(_from: *const V, _to: *mut V, _count: usize) -> bool {
    false
}
