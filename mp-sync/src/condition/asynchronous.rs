//! Waiting on a condition without a thread.
//!
//! A future that is dropped is no waiter any more, and what it was told another one is told. Who is killed is noticed as soon
//! as by one who sleeps.

use mp_core::arena::Shared;
use mp_core::wait::word_changed;

use super::mutex::Interrupted;
use super::table::{Place, Relock, Sleeps, Table};
use super::{Condition, ConditionGuard};
use crate::error::Result;

/// Waits to be told. The guard must hold the lock of the condition.
pub(super) async fn wait(condition: &Condition, guard: &mut ConditionGuard<'_>) -> Result<()> {
    let mut hold = Interrupted::new(&condition.mutex, guard.unseen());
    let mut waiter = Waiter { condition, place: Some(condition.table.register(Sleeps::Elsewhere)) };
    while let Some(place) = &mut waiter.place {
        guard.held = false;
        hold.suspend();
        told(&condition.table, place).await?;
        hold.resume_async(condition.mutex.raw()).await?;
        guard.held = true;
        if condition.table.settle(place, false).is_some() {
            waiter.place = None;
        }
    }
    guard.learn(hold.died);
    Ok(())
}

/// Without the lock: until [`Table::settle`] may have something to say.
async fn told(table: &Shared<Table>, place: &Place) -> Result<()> {
    while let Some((_, seen)) = table.watch(place) {
        word_changed(table.clone(), |table| table.word(place), seen).await?;
        if table.watch(place).is_none() || table.should_look(place) {
            break;
        }
    }
    Ok(())
}

/// One who waits, with or without the lock.
struct Waiter<'a> {
    condition: &'a Condition,
    /// None once it was told and has the lock again.
    place: Option<Place>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            self.condition.table.leave(place, self.condition.mutex.raw());
        }
    }
}
