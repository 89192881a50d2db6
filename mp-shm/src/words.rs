//! Bytes that other processes may change at any moment, read and written without a data race.
//!
//! The memory is seen as an array of [`AtomicU64`]s, and nothing in safe code ever accesses it otherwise. So all accesses
//! to one place have the same size and are atomic: whoever else writes there, a read gets bytes that somebody wrote. What
//! is longer than a word may be a mixture of old and new. A part of a word is written by exchanging the whole word, so its
//! other bytes keep what anybody else puts there meanwhile. A process that is killed while it writes leaves the words
//! that it wrote.

use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering::*};

use crate::plain;

/// Bytes in a word.
pub const WORD: usize = 8;

/// Some shared bytes. Plain data: whoever has it must hold the mapping.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    start: NonNull<AtomicU64>,
    /// In bytes.
    length: usize,
}

// SAFETY: an address of atomics, which any thread may use at any time.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// The `length` bytes at `start`.
    ///
    /// # Safety
    /// `start` is aligned to a word; `length` bytes, rounded up to a whole word, are mapped for reading and writing
    /// for as long as any copy of this value is used; and no reference to them exists that is not to an atomic word,
    /// unless through an unsafe function whose caller vouches for that.
    pub unsafe fn new(start: NonNull<u8>, length: usize) -> Words {
        debug_assert!(start.cast::<AtomicU64>().is_aligned());
        Words { start: start.cast(), length }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// All words; the last may have bytes beyond the length.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped and aligned for as long as this value is used, says `new`; an `AtomicU64` may change at any
        // time, and any bytes make one.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length.div_ceil(WORD)) }
    }

    /// Fills `to` with the bytes from `offset` on; false if they are not all there.
    #[must_use]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        if !self.contains(offset, to.len()) {
            return false;
        }
        let (words, head) = self.split(offset);
        let (first, rest) = to.split_at_mut(head.min(to.len()));
        if let (Some(word), false) = (words.first(), first.is_empty()) {
            let start = offset % WORD;
            let bytes = word.load(Relaxed).to_ne_bytes();
            first.copy_from_slice(&bytes[start..start + first.len()]);
        }
        let words = words.get(usize::from(head > 0)..).unwrap_or_default();
        let (whole, last) = rest.split_at_mut(rest.len() / WORD * WORD);
        plain::load_words(&words[..whole.len() / WORD], whole);
        if let (Some(word), false) = (words.get(whole.len() / WORD), last.is_empty()) {
            last.copy_from_slice(&word.load(Relaxed).to_ne_bytes()[..last.len()]);
        }
        true
    }

    /// Writes `from` to the bytes from `offset` on; false, and nothing is written, if they are not all there.
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        if !self.contains(offset, from.len()) {
            return false;
        }
        let (words, head) = self.split(offset);
        let (first, rest) = from.split_at(head.min(from.len()));
        if let (Some(word), false) = (words.first(), first.is_empty()) {
            exchange(word, offset % WORD, first);
        }
        let words = words.get(usize::from(head > 0)..).unwrap_or_default();
        let (whole, last) = rest.split_at(rest.len() / WORD * WORD);
        plain::store_words(&words[..whole.len() / WORD], whole);
        if let (Some(word), false) = (words.get(whole.len() / WORD), last.is_empty()) {
            exchange(word, 0, last);
        }
        true
    }

    fn contains(&self, offset: usize, length: usize) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.length)
    }

    /// The words from that of `offset` on, and how many bytes it is to the next whole word.
    fn split(&self, offset: usize) -> (&[AtomicU64], usize) {
        (&self.words()[offset / WORD..], (WORD - offset % WORD) % WORD)
    }
}

/// Replaces the bytes of `word` from `start` on.
fn exchange(word: &AtomicU64, start: usize, bytes: &[u8]) {
    let replaced = |old: u64| {
        let mut new = old.to_ne_bytes();
        new[start..start + bytes.len()].copy_from_slice(bytes);
        Some(u64::from_ne_bytes(new))
    };
    // Always replaces: the closure always answers.
    let _ = word.fetch_update(Relaxed, Relaxed, replaced);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn over(memory: &mut [u64], length: usize) -> Words {
        let start = NonNull::from(memory).cast();
        // SAFETY: the callers keep `memory`, in which `length` bytes fit, untouched until they are done.
        unsafe { Words::new(start, length) }
    }

    proptest! {
        #[test]
        fn reads_and_writes_are_those_of_a_slice(
            length in 0..100_usize,
            steps in prop::collection::vec((0..110_usize, prop::collection::vec(any::<u8>(), 0..60), any::<bool>()), 0..40),
        ) {
            let mut memory = [0; 16];
            let words = over(&mut memory, length);
            let mut model = vec![0; length];
            for (offset, mut bytes, write) in steps {
                let range = offset..offset + bytes.len();
                let there = model.get(range.clone()).is_some();
                if write {
                    prop_assert_eq!(words.write(offset, &bytes), there);
                    if there {
                        model[range].copy_from_slice(&bytes);
                    }
                } else {
                    prop_assert_eq!(words.read(offset, &mut bytes), there);
                    if there {
                        prop_assert_eq!(&model[range], &bytes[..]);
                    }
                }
            }
            let mut all = vec![1; length];
            prop_assert!(words.read(0, &mut all));
            prop_assert_eq!(all, model);
            let end = words.words().iter().map(|word| word.load(Relaxed).to_ne_bytes()).collect::<Vec<_>>().concat();
            prop_assert!(end[length..].iter().all(|byte| *byte == 0), "beyond the end");
        }
    }

    #[test]
    fn neighbours_in_one_word_keep_their_bytes() {
        let mut memory = [0; 2];
        let words = over(&mut memory, 16);
        std::thread::scope(|scope| {
            for byte in 0..16 {
                scope.spawn(move || (0..=200).for_each(|round: u8| assert!(words.write(byte, &[round]))));
            }
        });
        let mut bytes = [0; 16];
        assert!(words.read(0, &mut bytes));
        assert_eq!(bytes, [200; 16]);
    }

    #[test]
    fn long_copies_from_anywhere_to_anywhere() {
        let mut memory = [0; 700];
        let words = over(&mut memory, 5600);
        let bytes: Vec<u8> = (0..5600_u32).map(|number| number as u8 | 1).collect();
        for offset in 0..9 {
            for start in 0..9 {
                let length = 5600 - 16 - offset;
                assert!(words.write(0, &[0; 5600]) && words.write(offset, &bytes[start..start + length]));
                let mut read = vec![0; 5600];
                assert!(words.read(offset, &mut read[start..start + length]));
                assert_eq!(read[start..start + length], bytes[start..start + length]);
                assert!(words.read(0, &mut read));
                assert_eq!(read.iter().filter(|byte| **byte != 0).count(), length);
            }
        }
    }

    #[test]
    fn what_overflows_is_outside() {
        let mut memory = [0; 2];
        let words = over(&mut memory, 16);
        assert!(!words.read(usize::MAX, &mut [0; 2]) && !words.write(usize::MAX, &[0; 2]));
        assert!(words.read(16, &mut []) && !words.read(17, &mut []));
    }
}
