//! Moving a small value out of where it was just decoded.
//!
//! A decoder writes a value in pieces of a word or less, one after the other. A compiler moves values in pieces of sixteen
//! bytes or more, and for such a load the CPU has to wait until all those stores have left it, which takes as long as the
//! rest of decoding two numbers. So values of a few words are moved word by word.

use std::mem::{ManuallyDrop, MaybeUninit};

/// Longer values are moved as the compiler likes: that wait is little beside the rest.
const MOST: usize = 8;

/// One word, whatever is in it, perhaps a pointer.
type Word = MaybeUninit<*const ()>;

/// `value`, out of a place where it was just written in pieces.
#[inline(always)]
pub(super) fn take<T>(value: ManuallyDrop<T>) -> T {
    if size_of::<T>() <= size_of::<Word>()
        || size_of::<T>() > MOST * size_of::<Word>()
        || align_of::<T>() != align_of::<Word>()
    {
        return ManuallyDrop::into_inner(value);
    }
    let mut moved = MaybeUninit::<T>::uninit();
    let from = (&raw const value).cast::<Word>();
    let to = moved.as_mut_ptr().cast::<Word>();
    for at in 0..size_of::<T>() / size_of::<Word>() {
        // SAFETY: both are aligned for words, as `T` is, and as long as so many of them, since a size is a multiple of the
        // alignment. Volatile only so that the compiler does not join the loads.
        unsafe { to.add(at).write(from.add(at).read_volatile()) };
    }
    // SAFETY: all bytes of a valid `T` were copied, and the original is not dropped and not used again.
    unsafe { moved.assume_init() }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::fmt::Debug;

    use super::*;

    fn same<T: Clone + PartialEq + Debug>(value: T) {
        assert_eq!(take(ManuallyDrop::new(value.clone())), value);
    }

    #[test]
    fn values_of_all_sizes_arrive() {
        same(());
        same(7_u8);
        same(7_u64);
        same([1_u32, 2, 3]);
        same([1_u64, !2]);
        same((1_u8, 2_u64, 3_u16));
        same(("text".to_string(), Some(vec![1_u16, 2])));
        same([3_u64; MOST]);
        same([3_u64; MOST + 1]);
        same((u128::MAX, 1_u8));
        same(Some(Box::new([5; 100])));
    }

    #[test]
    fn nothing_is_dropped_twice() {
        struct Counts<'a>(&'a Cell<u32>, [u64; 2]);
        impl Drop for Counts<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let drops = Cell::new(0);
        let moved = take(ManuallyDrop::new(Counts(&drops, [1, 2])));
        assert_eq!((drops.get(), moved.1), (0, [1, 2]));
        drop(moved);
        assert_eq!(drops.get(), 1);
    }
}
