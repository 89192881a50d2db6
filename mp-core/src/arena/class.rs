//! The owner's account of its blocks of one size: which are free, in which chunks.
//!
//! All of it lies in the owner's own memory. It dies with the owner, after which nobody allocates in its chunks any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Block;
use super::chunk::{Chunk, Home};
use super::ledger;
use crate::Result;

/// Length of the first chunk, and of the longest.
const FIRST: usize = 64 << 10;
const LONGEST: usize = 4 << 20;

pub(super) struct Class {
    /// The blocks have 2^size bytes.
    size: u32,
    /// The process that allocates here.
    pid: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By key; chunks that were given back leave a gap.
    chunks: Vec<Option<Owned>>,
    /// The key of the chunk to allocate in; it is kept even when it is empty.
    current: usize,
    /// Length of the last chunk made.
    length: usize,
}

struct Owned {
    chunk: Arc<Chunk>,
    /// Blocks that were used before and are free.
    free: Vec<u32>,
    /// From here on, blocks were never used.
    fresh: u32,
    /// Blocks that are out, by bit.
    out: Vec<u64>,
    /// How many those are.
    live: u32,
}

impl Owned {
    fn new(chunk: Arc<Chunk>) -> Owned {
        let words = chunk.capacity().div_ceil(64) as usize;
        Owned { chunk, free: Vec::new(), fresh: 0, out: vec![0; words], live: 0 }
    }

    /// A free block, now out, and whether it was never used before.
    fn take(&mut self) -> Option<(u32, bool)> {
        let (index, fresh) = match self.free.pop() {
            Some(index) => (index, false),
            None if self.fresh < self.chunk.capacity() => {
                self.fresh += 1;
                (self.fresh - 1, true)
            }
            None => return None,
        };
        self.out[index as usize / 64] |= 1 << (index % 64);
        self.live += 1;
        Some((index, fresh))
    }

    /// Puts a block back; false, and nothing happened, if it was not out.
    fn put(&mut self, index: u32) -> bool {
        let bit = 1 << (index % 64);
        match self.out.get_mut(index as usize / 64) {
            Some(word) if *word & bit != 0 => *word &= !bit,
            _ => return false,
        }
        self.free.push(index);
        self.live -= 1;
        true
    }

    fn take_freed(&mut self) {
        let chunk = self.chunk.clone();
        chunk.take_freed(|index| self.put(index));
    }

    fn bury(&mut self, is_alive: impl FnMut(u64) -> bool) {
        let chunk = self.chunk.clone();
        chunk.bury(is_alive, |index| {
            self.put(index);
        });
    }
}

impl Class {
    pub fn new(size: u32, pid: u32) -> Class {
        Class { size, pid, state: Mutex::default() }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn alloc(self: &Arc<Class>) -> Result<Block> {
        let mut state = self.state();
        let mut given_back = Vec::new();
        let current = state.current;
        let taken = match state.chunks.get_mut(current) {
            Some(Some(owned)) => owned.take().map(|taken| (owned.chunk.clone(), taken)),
            _ => None,
        };
        let (chunk, (index, fresh)) = match taken {
            Some(taken) => taken,
            None => self.alloc_elsewhere(&mut state, &mut given_back)?,
        };
        drop(state);
        chunk.bear(index, fresh);
        Ok(Block::adopt(chunk, index, self.pid))
    }

    /// The current chunk is full: finds another that is not, or makes one.
    #[cold]
    fn alloc_elsewhere(
        self: &Arc<Class>,
        state: &mut State,
        given_back: &mut Vec<Owned>,
    ) -> Result<(Arc<Chunk>, (u32, bool))> {
        let mut alive = Alive::default();
        let found =
            state.reuse(Owned::take_freed).or_else(|| state.reuse(|owned| owned.bury(|p| alive.ask(p))));
        if let Some(found) = found {
            state.give_back(given_back);
            return Ok(found);
        }
        let key = state.chunks.iter().position(Option::is_none).unwrap_or(state.chunks.len());
        let length = (state.length * 2).clamp(FIRST, LONGEST);
        let chunk = Chunk::create(length, self.size, Home { class: self.clone(), key })?;
        let mut owned = Owned::new(chunk.clone());
        // A new chunk has room for several blocks of any size.
        let taken = owned.take().unwrap_or_default();
        if key == state.chunks.len() {
            state.chunks.push(None);
        }
        state.chunks[key] = Some(owned);
        (state.current, state.length) = (key, length);
        Ok((chunk, taken))
    }

    /// Takes back a block whose last handle went in this process.
    pub fn free(&self, chunk: &Arc<Chunk>, key: usize, index: u32) {
        let mut state = self.state();
        let current = state.current;
        let Some(place) = state.chunks.get_mut(key) else { return };
        let Some(owned) = place.as_mut().filter(|owned| Arc::ptr_eq(&owned.chunk, chunk)) else { return };
        owned.put(index);
        if owned.live == 0 && key != current {
            let given_back = place.take();
            drop(state);
            drop(given_back);
        }
    }

    /// Takes back what others freed or died with, and lets all empty chunks go.
    pub fn sweep(&self) {
        let mut given_back = Vec::new();
        let mut state = self.state();
        let mut alive = Alive::default();
        for owned in state.chunks.iter_mut().flatten() {
            owned.take_freed();
            owned.bury(|process| alive.ask(process));
        }
        // None is current, so that none is kept.
        state.current = usize::MAX;
        state.give_back(&mut given_back);
        if state.chunks.iter().all(Option::is_none) {
            state.length = 0;
        }
        drop(state);
    }

    pub fn chunks(&self) -> usize {
        self.state().chunks.iter().flatten().count()
    }

    /// Forgets all chunks; those with live blocks stay until these are gone.
    pub fn let_go(&self) {
        let chunks = std::mem::take(&mut self.state().chunks);
        drop(chunks);
    }
}

/// Which processes are alive, each asked once: some microseconds.
#[derive(Default)]
struct Alive(HashMap<u64, bool>);

impl Alive {
    fn ask(&mut self, process: u64) -> bool {
        *self.0.entry(process).or_insert_with(|| ledger::is_alive(process))
    }
}

impl State {
    /// A block of the first chunk that has one after `refill`; that chunk is the current one from now on.
    fn reuse(&mut self, mut refill: impl FnMut(&mut Owned)) -> Option<(Arc<Chunk>, (u32, bool))> {
        for (key, place) in self.chunks.iter_mut().enumerate() {
            let Some(owned) = place else { continue };
            refill(owned);
            if let Some(taken) = owned.take() {
                self.current = key;
                return Some((owned.chunk.clone(), taken));
            }
        }
        None
    }

    /// Moves the empty chunks out, to be dropped once the lock is open.
    fn give_back(&mut self, given_back: &mut Vec<Owned>) {
        for (key, place) in self.chunks.iter_mut().enumerate() {
            if key != self.current && place.as_ref().is_some_and(|owned| owned.live == 0) {
                given_back.extend(place.take());
            }
        }
    }
}
