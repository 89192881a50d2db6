//! Records of bytes between any processes, in order: what queues are made of.
//!
//! A record is in the ring from the moment it is published, and out of it from the moment its reader publishes that; a
//! process that dies in between has done nothing. Nothing is kept in any process.
//!
//! # Design
//!
//! | state                        | who writes                          |
//! |------------------------------|-------------------------------------|
//! | `put`, what was written       | whoever has the writers' lock       |
//! | `got`, what was read          | whoever has the readers' lock       |
//! | `rings`: changes, reserved pages | whoever has the writers' lock    |
//! | `writers`, `readers`: what a side knows of the other | whoever has the side's lock |
//! | bytes between `got` and `put` | nobody: they are published          |
//! | all other bytes               | whoever has the writers' lock       |
//!
//! Each side says how far it is by one exchange (`published`). A writer copies whole records behind the last one and
//! publishes them together; killed before that, they were never there, and the next writer overwrites them. A reader copies
//! records out and publishes that they are taken; killed before that, they are still there.
//!
//! The two locks lie in the ring's own memory but belong to whoever builds on this; see [`Held`]. Memory: `place`.

mod copy;
mod memory;
mod pace;
mod place;
mod published;
mod reader;
mod record;
mod short;
mod straight;
mod writer;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::mem::size_of;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::arena::InSharedMemory;
use crate::deadline::Deadline;
use crate::futex::{self, AtomicU32, AtomicU64, Ordering::*, WaitResult};
use crate::wait::word_changed;
use crate::{Error, Result, handle};
use memory::{HEAD, Memory, damaged};
use pace::Pace;
use place::{Place, RINGS};
use published::{Progress, Published};
pub use reader::Next;
pub use reader::Reader;
pub use record::Record;
pub use short::Short;
pub use straight::Taken;
pub use writer::{Staged, Writer};

/// "mp-queue" in ASCII.
const MAGIC: u64 = 0x6d70_2d71_7565_7565;
/// Bytes before each record: its length, and what its writer says about it. Records begin at multiples of it.
const RECORD_HEAD: u64 = 16;

/// Bytes that a record with so many of its own takes up.
#[inline]
fn record_size(bytes: u64) -> u64 {
    (RECORD_HEAD + bytes).next_multiple_of(RECORD_HEAD)
}

/// Memory so far ahead is fetched while a record is written or read.
const AHEAD: u64 = 512;

/// After a wait, a thread says so often where it is: to the ring that it waited for, and to those in which it answers.
const SURE_AFTER: u32 = 4;

thread_local! {
    /// So often this thread has still to say where it is.
    static UNSURE: Cell<u32> = const { Cell::new(0) };
}

/// The CPU that this thread runs on, counted from one.
fn current_cpu() -> u32 {
    rustix::thread::sched_getcpu() as u32 + 1
}

/// A guard of a lock in shared memory.
///
/// # Safety
/// While a value lives, no other value with the same [`address`](Held::address) exists, in any process that runs.
pub unsafe trait Held {
    /// Address of the lock in this process.
    fn address(&self) -> *const ();
}

/// Records from any number of writers to any number of readers; a clone is another handle to the same ring.
///
/// `L` is the lock; there is one for writers and one for readers. All writers together keep the order in which they
/// published. It can sit inside any message and costs one descriptor.
pub struct Ring<L> {
    memory: Arc<Memory>,
    locks: std::marker::PhantomData<fn() -> L>,
}

#[repr(C)]
struct Header<L> {
    magic: AtomicU64,
    /// The most records that may be in it.
    limit: AtomicU64,
    /// A ring was left whose pages should go back.
    left: AtomicU32,
    /// On which CPU a writer, and a reader, was last seen, plus one.
    cpus: [AtomicU32; 2],
    put: CachePadded<Published>,
    got: CachePadded<Published>,
    put_lock: CachePadded<L>,
    get_lock: CachePadded<L>,
    writers: CachePadded<WritersNotes>,
    readers: CachePadded<ReadersNotes>,
}

/// What writers know, kept for the next one.
#[repr(C)]
struct WritersNotes {
    /// How far the readers were when a writer last looked.
    got_items: AtomicU64,
    got_place: AtomicU64,
    /// Below these, the next record needs no look at anything else: its number, and where it ends.
    free_items: AtomicU64,
    free_place: AtomicU64,
    rings: [RingNotes; RINGS],
}

#[repr(C)]
struct RingNotes {
    /// Where the reader leaves this ring, if the writer is in another.
    leave_at: AtomicU64,
    leave_for: AtomicU64,
    /// So many bytes at its beginning have pages.
    reserved: AtomicU64,
}

/// What readers know, kept for the next one.
#[repr(C)]
struct ReadersNotes {
    /// How far the writers were when a reader last looked.
    put_items: AtomicU64,
    put_place: AtomicU64,
    pace: Pace,
}

#[cold]
fn another_lock() -> Error {
    Error::Invalid { what: "guard", reason: "it belongs to another lock".into() }
}

impl<L: InSharedMemory> Ring<L> {
    /// A new, empty ring for at most `limit` records at a time; `name` shows up in `/proc` and in errors only.
    ///
    /// # Errors
    /// [`Error::Io`] if memory or descriptors do not suffice.
    pub fn create(name: &str, limit: u64) -> Result<Ring<L>> {
        const { assert!(size_of::<Header<L>>() <= HEAD) };
        let ring = Ring::new(Memory::create(name, size_of::<Header<L>>())?);
        ring.header().limit.store(limit, Relaxed);
        ring.header().magic.store(MAGIC, Release);
        Ok(ring)
    }

    fn new(memory: Memory) -> Ring<L> {
        Ring { memory: Arc::new(memory), locks: std::marker::PhantomData }
    }

    #[inline]
    fn header(&self) -> &Header<L> {
        // SAFETY: the head is longer than the header (`create`), page-aligned, its pages were reserved at creation, and it
        // lives as long as the memory. The header is made of atomics and of `L`, valid for all bytes.
        unsafe { self.memory.head().cast::<Header<L>>().as_ref() }
    }

    /// The lock of those who write.
    #[inline]
    pub fn put_lock(&self) -> &L {
        &self.header().put_lock
    }

    /// The lock of those who read.
    #[inline]
    pub fn get_lock(&self) -> &L {
        &self.header().get_lock
    }

    /// The most records that may be in it at a time.
    #[inline]
    pub fn limit(&self) -> u64 {
        self.header().limit.load(Relaxed)
    }

    /// Writing, for the holder of [`put_lock`](Self::put_lock).
    ///
    /// # Errors
    /// [`Error::Invalid`] if `held` is another lock's, [`Error::Decode`] if the memory is damaged.
    #[inline(always)]
    pub fn writer<'a>(&'a self, held: &'a impl Held) -> Result<Writer<'a, L>> {
        Ring::<L>::check(held, self.put_lock())?;
        Writer::new(self)
    }

    /// Reading, for the holder of [`get_lock`](Self::get_lock).
    ///
    /// # Errors
    /// As for [`writer`](Self::writer).
    #[inline(always)]
    pub fn reader<'a>(&'a self, held: &'a impl Held) -> Result<Reader<'a, L>> {
        Ring::<L>::check(held, self.get_lock())?;
        Reader::new(self)
    }

    #[inline(always)]
    fn check(held: &impl Held, lock: &L) -> Result<()> {
        if Ring::<L>::is_of(held, lock) { Ok(()) } else { Err(another_lock()) }
    }

    #[inline(always)]
    fn is_of(held: &impl Held, lock: &L) -> bool {
        held.address() == (lock as *const L).cast()
    }

    /// How many records are in it.
    pub fn len(&self) -> u64 {
        loop {
            let got = self.header().got.read().0.items;
            let put = self.header().put.read().0.items;
            // Both were so at one moment.
            if self.header().got.read().0.items == got {
                return put.saturating_sub(got);
            }
        }
    }

    /// Whether no record is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many records were ever written.
    pub fn written(&self) -> u64 {
        self.header().put.read().0.items
    }

    /// How many records were ever read.
    pub fn read(&self) -> u64 {
        self.header().got.read().0.items
    }

    /// No more records will be published; for anybody. A writer that is about to finds that out by itself.
    pub fn close(&self) {
        self.header().put.close();
        self.header().got.shout();
    }

    /// Whether it was closed: what is read afterwards is all there will ever be.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.header().put.is_closed()
    }

    /// Moves an empty ring back to its shortest piece of memory, and gives the rest back to the system.
    ///
    /// For the holder of both locks; does nothing if records are in it.
    ///
    /// # Errors
    /// As for [`writer`](Self::writer).
    pub fn give_back(&self, put_held: &impl Held, get_held: &impl Held) -> Result<()> {
        Ring::<L>::check(put_held, self.put_lock())?;
        Ring::<L>::check(get_held, self.get_lock())?;
        let (put, got) = (self.header().put.read_own(), self.header().got.read_own());
        if put.items == got.items && Place::from_word(got.place).is_some_and(|at| at.ring > writer::KEPT) {
            // Each of these steps leaves a ring that works; in this order, because a reader may not be ahead.
            Writer::new(self)?.go_home()?;
            let progress = Progress { items: got.items, place: Place::start(0).word() };
            // A sleeper has to say again that it sleeps.
            self.header().got.publish(progress, 1, || ());
        }
        self.release_left();
        Ok(())
    }

    /// For a writer, or else a reader, who is about to wait: whether the other side was on another CPU when it was last seen;
    /// none if it never was. A hint: it says whether a spin delays the one who is waited for.
    pub fn is_apart(&self, writer: bool) -> Option<bool> {
        let me = current_cpu();
        self.note(writer, me);
        UNSURE.set(SURE_AFTER);
        let [writers, readers] = &self.header().cpus;
        match if writer { readers } else { writers }.load(Relaxed) {
            0 => None,
            other => Some(other != me),
        }
    }

    /// Says where this side is before it publishes up to `number`: if this thread waited lately, since it may have been moved
    /// then, else now and then, because it would cost as much as the rest.
    #[inline]
    fn note_cpu_sometimes(&self, writer: bool, number: u64) {
        if UNSURE.get() != 0 || number.is_multiple_of(64) {
            self.note_cpu(writer);
        }
    }

    #[cold]
    #[inline(never)]
    fn note_cpu(&self, writer: bool) {
        UNSURE.set(UNSURE.get().saturating_sub(1));
        self.note(writer, current_cpu());
    }

    fn note(&self, writer: bool, cpu: u32) {
        let [writers, readers] = &self.header().cpus;
        let mine = if writer { writers } else { readers };
        if mine.load(Relaxed) != cpu {
            mine.store(cpu, Relaxed);
        }
    }

    /// What a reader who found nothing sleeps on: call before looking, sleep with [`Doze::sleep`] if there was nothing.
    #[inline]
    pub fn doze_until_put(&self) -> Doze<'_> {
        Doze::new(&self.header().put)
    }

    /// As [`doze_until_put`](Self::doze_until_put), with the look: none if there is a record, or the ring is closed.
    #[inline]
    pub fn doze_if_empty(&self) -> Option<Doze<'_>> {
        Doze::if_empty(&self.header().put, &self.header().got)
    }

    /// What a writer who found no room sleeps on; as [`doze_until_put`](Self::doze_until_put).
    pub fn doze_until_got(&self) -> Doze<'_> {
        Doze::new(&self.header().got)
    }
}

/// A sleep until the other side of a ring does something; see [`Ring::doze_until_put`].
pub struct Doze<'a> {
    side: &'a Published,
    turn: u32,
    word: u64,
    items: u64,
}

impl<'a> Doze<'a> {
    #[inline]
    fn new(side: &'a Published) -> Doze<'a> {
        let turn = side.now();
        let (progress, word) = side.read();
        Doze { side, turn, word, items: progress.items }
    }

    #[inline]
    fn if_empty(put: &'a Published, got: &Published) -> Option<Doze<'a>> {
        // In this order: as many were put then as had been got before, so it was empty then.
        let got = got.read().0.items;
        let doze = Doze::new(put);
        (doze.items == got && !Published::says_closed(doze.word)).then_some(doze)
    }

    /// Whether the other side has done something since.
    pub fn is_over(&self) -> bool {
        self.side.changed(self.word)
    }

    /// Sleeps until the other side does something, or the deadline; it may also end without a cause.
    pub fn sleep(&self, until: Option<Deadline>) -> WaitResult {
        self.sleep_by(|turn, seen| futex::wait(turn, seen, until))
    }

    /// As [`sleep`](Self::sleep), for at most so long.
    #[inline]
    pub fn sleep_for(&self, most: Duration) -> WaitResult {
        self.sleep_by(|turn, seen| futex::wait_for(turn, seen, most))
    }

    #[inline]
    fn sleep_by(&self, sleep: impl FnOnce(&AtomicU32, u32) -> WaitResult) -> WaitResult {
        let Some(turn) = self.announce() else { return WaitResult::Changed };
        let result = sleep(self.side.turn(), turn);
        if result == WaitResult::Woken {
            self.side.awake(self.word);
        }
        result
    }

    /// As [`sleep`](Self::sleep), for async code on any executor; `ring` is the one that made this. Ends after a while in
    /// any case.
    ///
    /// # Errors
    /// As for [`word_changed`].
    pub async fn wait<L: InSharedMemory>(&self, ring: &Ring<L>) -> Result<()> {
        let Some(turn) = self.announce() else { return Ok(()) };
        let puts = std::ptr::eq(self.side, &*ring.header().put);
        let changed = if puts {
            word_changed(ring.clone(), |ring| ring.header().put.turn(), turn)
        } else {
            word_changed(ring.clone(), |ring| ring.header().got.turn(), turn)
        };
        changed.await?;
        self.side.awake(self.word);
        Ok(())
    }

    /// For one who was woken and takes nothing: lets the next sleeper know instead.
    pub fn pass_on(&self) {
        self.side.pass_on(self.word);
    }

    fn announce(&self) -> Option<u32> {
        self.side.announce(self.word).then_some(self.turn)
    }
}

impl<L> Clone for Ring<L> {
    fn clone(&self) -> Ring<L> {
        Ring { memory: self.memory.clone(), locks: std::marker::PhantomData }
    }
}

impl<L> fmt::Debug for Ring<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl<L> Serialize for Ring<L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(serializer, "queue", |fds| Ok(fds.attach_shared(self.memory.fd())))
    }
}

impl<'de, L: InSharedMemory> Deserialize<'de> for Ring<L> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ring<L>, D::Error> {
        handle::deserialize(deserializer, "queue", |fds, index: u32| {
            let ring = Ring::<L>::new(Memory::open(fds.share(index, "queue")?)?);
            if ring.header().magic.load(Acquire) != MAGIC {
                return Err(damaged("it is no queue"));
            }
            Ok(ring)
        })
    }
}
