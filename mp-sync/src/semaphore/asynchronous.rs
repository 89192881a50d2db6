//! Waiting for a permit without a thread.
//!
//! What a dead process held is found as soon as by one who sleeps. A future that is dropped has taken nothing: a wake-up that it
//! got and did not use goes to the next waiter, and no permit stays reserved for it.

use std::time::Instant;

use mp_core::futex::Ordering::*;
use mp_core::wait::word_changed;

use super::permit::{Permit, too_many};
use super::permits::{Denied, FREE, Permits, RESERVED, STARVING, Taken, WAITERS};
use super::table::Table;
use crate::error::Result;
use crate::holder::Holder;
use crate::patience::Look;
use crate::raw_lock::is_hungry;

#[cfg(all(test, loom))]
mod loom;

pub(super) async fn acquire(table: &Table) -> Result<Permit<'_>> {
    let mut waiter =
        Waiter { permits: table.permits(), asleep_since: None, look: Look::default(), starving: false };
    loop {
        match waiter.attempt() {
            Ok(Ok(taken)) => return Ok(Permit { table, taken }),
            Ok(Err(turn)) => word_changed(table.clone(), |table| &table.permits().head.turn, turn).await?,
            Err(_) => return Err(too_many()),
        }
    }
}

/// One who waits for a permit, in whatever thread.
struct Waiter<'a> {
    permits: Permits<'a>,
    /// None if it has not slept, or has its permit.
    asleep_since: Option<Instant>,
    look: Look,
    /// It has asked for a permit that only those take who have slept.
    starving: bool,
}

impl Waiter<'_> {
    /// A permit, or the value of `turn` to watch, after announcing itself.
    fn attempt(&mut self) -> Result<Result<Taken, u32>, Denied> {
        let permits = self.permits;
        let me = Holder::current();
        self.starving |= self.asleep_since.is_some_and(is_hungry);
        let turn = permits.announce(WAITERS | if self.starving { STARVING } else { 0 });
        if let Some(taken) = permits.look(me, self.asleep_since.is_some())? {
            self.starving = false;
            if self.asleep_since.take().is_some() {
                permits.pass_on();
            }
            return Ok(Ok(taken));
        }
        if self.look.is_due()
            && let Some(taken) = permits.recover(me)
        {
            self.starving = false;
            self.asleep_since = None;
            return Ok(Ok(taken));
        }
        self.asleep_since.get_or_insert_with(Instant::now);
        Ok(Err(turn))
    }
}

impl Drop for Waiter<'_> {
    /// Leaves no reservation behind, which newcomers would respect for a slice: perhaps the wake-up that it got and did not
    /// use was for one. Others who starve ask again.
    fn drop(&mut self) {
        if self.asleep_since.is_none() {
            return;
        }
        if self.starving {
            self.permits.head.turn.fetch_and(!STARVING, SeqCst);
        }
        for (index, word) in self.permits.words.iter().enumerate() {
            if word.load(SeqCst) == RESERVED && self.permits.exchange(index, RESERVED, FREE) {
                self.permits.brought(index);
            }
        }
    }
}
