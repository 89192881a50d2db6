//! The place of one item: two copies, one of which counts, so that no reader ever sees half of an item.
//!
//! # Design
//!
//! | state       | who writes             | when                                                        |
//! |-------------|------------------------|-------------------------------------------------------------|
//! | `published` | the writer             | once, by one store, when the other copy is whole            |
//! | `writer`    | whoever sets the item  | 0 to its own id, and back; from the id of a dead process to its own |
//! | the copies  | the writer             | only the one that does not count: copy `published + 1`, modulo 2 |
//! | `data`, `capacity` | the creator     | before anybody else can find the list                       |
//!
//! A writer that is killed has published or not: before, the copy that counts was not touched; afterwards, it is whole. What
//! it leaves is its id in `writer`, which the next writer takes over when it finds that process dead.
//!
//! A reader takes no lock. It reads `published`, copies, and reads `published` again: if that is the same, the copy it read
//! counted all the time and nobody wrote there. For, a writer of that copy has read, or written, a later `published`
//! before its first store into the copy, with a release fence in between; a reader that saw any of its stores
//! therefore sees a later number after its own acquire fence.
//!
//! Everything that was read is checked before it is used: whoever has the block can write anything into it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::*, fence};
use std::time::{Duration, Instant};

use mp_core::liveness::ProcessId;

use super::item::Item;
use crate::words::{WORD, Words};

/// Words of a slot in the table.
pub const SLOT: usize = 4;

/// How long another writer of the same item may take, if it lives.
const PATIENCE: Duration = Duration::from_secs(5);

/// The place of one item.
#[derive(Debug)]
pub struct Slot<'a> {
    words: &'a Words,
    published: &'a AtomicU64,
    writer: &'a AtomicU64,
    /// The first word of the copies.
    data: usize,
    /// Words that the value in a copy can have.
    capacity: usize,
}

/// Why an item cannot be set.
#[derive(Debug)]
pub enum Refusal {
    /// It needs so many bytes.
    TooLong(usize),
    /// The process with this pid is setting it.
    Busy(u32),
}

/// Words that a slot with so many bytes of capacity takes outside of the table; none if no memory could have so many.
pub fn words_for(capacity: usize) -> Option<usize> {
    capacity.div_ceil(WORD).checked_add(1)?.checked_mul(2)
}

/// The capacity, in bytes, that an item needs.
pub fn capacity_for(item: &Item) -> usize {
    let length = match item {
        Item::Str(text) => text.len(),
        Item::Bytes(bytes) => bytes.len(),
        _ => WORD,
    };
    length.max(1).next_multiple_of(WORD)
}

impl<'a> Slot<'a> {
    /// Makes the slot of which the entry in the table begins at the word `entry`.
    pub fn create(words: &Words, entry: usize, data: usize, capacity: usize) {
        let table = &words.words()[entry..entry + SLOT];
        table[2].store(data as u64, Relaxed);
        table[3].store((capacity / WORD) as u64, Relaxed);
    }

    /// The slot of which the entry in the table begins at the word `entry`; else what is wrong with it.
    pub fn open(words: &'a Words, entry: usize) -> Result<Slot<'a>, String> {
        let range = entry..entry.saturating_add(SLOT);
        let Some([published, writer, data, capacity]) = words.words().get(range) else {
            return Err("its table ends too early".into());
        };
        let total = words.len() / WORD;
        let [data, capacity] =
            [data, capacity].map(|word| usize::try_from(word.load(Relaxed)).unwrap_or(usize::MAX));
        let size = capacity.checked_mul(WORD).and_then(words_for);
        let end = size.and_then(|size| size.checked_add(data)).filter(|end| *end <= total);
        if end.is_none() {
            return Err(format!("an item of {capacity} words at word {data} does not fit into {total}"));
        }
        Ok(Slot { words, published, writer, data, capacity })
    }

    /// Bytes that a text or bytes can have.
    pub fn capacity(&self) -> usize {
        self.capacity * WORD
    }

    /// The item; else what is wrong with it.
    pub fn get(&self) -> Result<Item, String> {
        loop {
            let published = self.published.load(Acquire);
            let item = self.read(self.copy(published));
            fence(Acquire);
            if self.published.load(Relaxed) == published {
                return item;
            }
        }
    }

    /// Makes `item` the item, or leaves the old one.
    pub fn set(&self, item: &Item) -> Result<(), Refusal> {
        let (kind, value) = encode(item);
        if value.len() > self.capacity() {
            return Err(Refusal::TooLong(value.len()));
        }
        let _claim = Claim::new(self.writer)?;
        // An exchange, because it sees the last value for sure, also that of a dead writer from whom the claim was taken.
        let next = self.published.fetch_add(0, Acquire).wrapping_add(1);
        fence(Release);
        self.write(self.copy(next), kind, value.as_ref());
        self.published.store(next, Release);
        Ok(())
    }

    /// The words of the copy that counts while `published` has that value; `open` saw that they are there.
    fn copy(&self, published: u64) -> Range<usize> {
        let start = self.data + (published % 2) as usize * (1 + self.capacity);
        start..start + 1 + self.capacity
    }

    fn write(&self, copy: Range<usize>, kind: u8, value: &[u8]) {
        if let Some(head) = self.words.words().get(copy.start) {
            head.store(u64::from(kind) << 56 | value.len() as u64, Relaxed);
        }
        // It fits, as `set` and `open` saw.
        let _ = self.words.write((copy.start + 1) * WORD, value);
    }

    fn read(&self, copy: Range<usize>) -> Result<Item, String> {
        let head = self.words.words().get(copy.start).map_or(0, |head| head.load(Relaxed));
        let (kind, length) = ((head >> 56) as u8, (head & ((1 << 56) - 1)) as usize);
        if length > self.capacity() {
            return Err(format!("an item has {length} bytes where {} fit", self.capacity()));
        }
        let mut value = vec![0; length];
        if !self.words.read((copy.start + 1) * WORD, &mut value) {
            return Err("an item lies outside".into());
        }
        decode(kind, value)
    }
}

/// An item as its kind and its bytes.
fn encode(item: &Item) -> (u8, Value<'_>) {
    match item {
        Item::None => (0, Value::Number([0; WORD], 0)),
        Item::Bool(value) => (1, Value::Number((*value as u64).to_le_bytes(), 1)),
        Item::Int(value) => (2, Value::Number(value.to_le_bytes(), WORD)),
        Item::Float(value) => (3, Value::Number(value.to_bits().to_le_bytes(), WORD)),
        Item::Str(text) => (4, Value::Borrowed(text.as_bytes())),
        Item::Bytes(bytes) => (5, Value::Borrowed(bytes)),
    }
}

enum Value<'a> {
    Number([u8; WORD], usize),
    Borrowed(&'a [u8]),
}

impl Value<'_> {
    fn len(&self) -> usize {
        self.as_ref().len()
    }
}

impl AsRef<[u8]> for Value<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Value::Number(bytes, length) => &bytes[..*length],
            Value::Borrowed(bytes) => bytes,
        }
    }
}

fn decode(kind: u8, value: Vec<u8>) -> Result<Item, String> {
    let number = |value: &[u8]| {
        let bytes = <[u8; WORD]>::try_from(value);
        bytes.map(u64::from_le_bytes).map_err(|_| format!("a number has {} bytes", value.len()))
    };
    match (kind, &value[..]) {
        (0, []) => Ok(Item::None),
        (1, [value @ 0..=1]) => Ok(Item::Bool(*value == 1)),
        (2, value) => number(value).map(|bits| Item::Int(bits as i64)),
        (3, value) => number(value).map(|bits| Item::Float(f64::from_bits(bits))),
        (4, _) => String::from_utf8(value).map(Item::Str).map_err(|error| error.to_string()),
        (5, _) => Ok(Item::Bytes(value)),
        (kind, value) => Err(format!("there is no item of kind {kind} and {} bytes", value.len())),
    }
}

/// The right to set an item.
struct Claim<'a>(&'a AtomicU64);

impl<'a> Claim<'a> {
    /// Waits for other writers; those that are dead are none.
    fn new(writer: &'a AtomicU64) -> Result<Claim<'a>, Refusal> {
        let me = id(ProcessId::current());
        let mut free = 0;
        let mut deadline = None;
        for round in 0_u32.. {
            match writer.compare_exchange(free, me, Acquire, Relaxed) {
                Ok(_) => break,
                Err(0) => free = 0,
                // It takes less than a microsecond, unless that process is not running now, or never again.
                Err(_) if round < 100 => std::hint::spin_loop(),
                Err(other) if is_dead(other) => free = other,
                Err(other) => {
                    free = 0;
                    let now = Instant::now();
                    if now >= *deadline.get_or_insert(now + PATIENCE) {
                        return Err(Refusal::Busy((other >> 32) as u32));
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
        Ok(Claim(writer))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.store(0, Release);
    }
}

/// Pid and as much of the start time as fits beside it.
fn id(process: ProcessId) -> u64 {
    u64::from(process.pid()) << 32 | process.start_time() & u64::from(u32::MAX)
}

fn is_dead(writer: u64) -> bool {
    ProcessId::of((writer >> 32) as u32).is_none_or(|process| id(process) != writer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_of_the_past_and_of_other_processes() {
        let me = ProcessId::current();
        assert!(!is_dead(id(me)));
        assert!(is_dead(id(ProcessId::from_parts(me.pid(), me.start_time() + 1))));
        assert!(is_dead(id(ProcessId::from_parts(u32::MAX, 1))));
    }
}
