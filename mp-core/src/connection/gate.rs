//! A lock with a time limit: lets one thread at a time use one direction of a connection.
//!
//! Known to the threads of one process only; if that dies, the gate goes with it.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The turns, and behind them the value: its own lock is free for whoever has the turn.
#[derive(Default)]
pub(super) struct Gate<T> {
    turns: Mutex<Turns>,
    free: Condvar,
    value: Mutex<T>,
}

#[derive(Default)]
struct Turns {
    taken: bool,
    waiting: usize,
}

/// The right to use the value; given back on drop.
pub(super) struct Pass<'a, T> {
    // Dropped before the turn ends, see `drop` and the order of fields.
    value: MutexGuard<'a, T>,
    _turn: Turn<'a>,
}

struct Turn<'a> {
    turns: &'a Mutex<Turns>,
    free: &'a Condvar,
}

impl<T> Gate<T> {
    /// Waits for its turn, until `deadline` at most.
    pub(super) fn enter(&self, deadline: Option<Instant>) -> Option<Pass<'_, T>> {
        let mut turns = lock(&self.turns);
        while turns.taken {
            turns.waiting += 1;
            let mut in_time = true;
            turns = match deadline {
                None => self.free.wait(turns).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    in_time = !left.is_zero();
                    self.free.wait_timeout(turns, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            turns.waiting -= 1;
            if turns.taken && !in_time {
                return None;
            }
        }
        turns.taken = true;
        drop(turns);
        Some(Pass { value: lock(&self.value), _turn: Turn { turns: &self.turns, free: &self.free } })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Deref for Pass<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Pass<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = lock(self.turns);
        turns.taken = false;
        if turns.waiting > 0 {
            self.free.notify_one();
        }
    }
}
