//! Copying few bytes without a call: the function for any number of them is far away, and not there when a thread wakes up.

/// Copies `count` bytes.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline(always)]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: as the caller says; for the pairs, `count` lies between their size and twice their size, so that the first and
    // the last of them cover all, and nothing else.
    unsafe {
        match count {
            33.. => to.copy_from_nonoverlapping(from, count),
            16.. => pair::<[u64; 2]>(from, to, count),
            8.. => pair::<u64>(from, to, count),
            4.. => pair::<u32>(from, to, count),
            2.. => pair::<u16>(from, to, count),
            1 => to.write(from.read()),
            0 => {}
        }
    }
}

/// Copies the first and the last `T` of `count` bytes, which may overlap.
///
/// # Safety
/// As for [`copy`]; `count` is at least the size of a `T`.
#[inline(always)]
unsafe fn pair<T>(from: *const u8, to: *mut u8, count: usize) {
    let last = count - size_of::<T>();
    // SAFETY: both lie within the `count` bytes; both are read before one is written.
    unsafe {
        let (begin, end) = (from.cast::<T>().read_unaligned(), from.add(last).cast::<T>().read_unaligned());
        to.cast::<T>().write_unaligned(begin);
        to.add(last).cast::<T>().write_unaligned(end);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::copy;

    #[test]
    fn all_bytes_and_no_others_are_copied() {
        let from: Vec<u8> = (1..=200).collect();
        for count in 0..=100 {
            for begin in 0..16 {
                let mut to = [0; 200];
                // SAFETY: both have room for so many bytes from there.
                unsafe { copy(from.as_ptr().add(begin), to.as_mut_ptr().add(20), count) };
                assert_eq!(to[20..20 + count], from[begin..begin + count]);
                assert!(to[..20].iter().chain(&to[20 + count..]).all(|byte| *byte == 0), "{count} bytes");
            }
        }
    }
}
