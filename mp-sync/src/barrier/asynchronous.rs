//! Waiting at a barrier without a thread.
//!
//! A future is a party from its first poll: it sees who dies as soon as one who sleeps, and breaks its round when it is dropped.

use mp_core::deadline::Deadline;
use mp_core::futex::Ordering::*;
use mp_core::wait::word_changed;

use super::table::{Arrival, Party};
use super::{Barrier, WHAT};
use crate::error::{BrokenReason, Error, Result};

pub(super) async fn wait(barrier: &Barrier, deadline: Option<Deadline>) -> Result<u32> {
    if barrier.table().waiting() > 0 {
        barrier.table().look_around();
    }
    loop {
        match barrier.table().try_arrive(barrier.action.is_some()) {
            Arrival::Passed(index) => return Ok(index),
            Arrival::Waiting(party) => return stay(barrier, party, deadline).await,
            Arrival::Acting(party) => return barrier.act(party),
            Arrival::Full(_) if is_over(deadline) => return Err(Error::Timeout { what: WHAT }),
            Arrival::Full(turn) => changed(barrier, turn).await?,
            Arrival::Broken(reason) => return Err(barrier.broke(reason)),
        }
    }
}

/// Until the end of the round. Dropped before, the party breaks it.
async fn stay(barrier: &Barrier, party: Party<'_>, deadline: Option<Deadline>) -> Result<u32> {
    loop {
        // Before the outcome: a change that we do not see there must be seen here.
        let turn = barrier.table().turn().load(Acquire);
        match party.outcome() {
            Some(outcome) => return outcome.map(|()| party.index).map_err(|reason| barrier.broke(reason)),
            None if is_over(deadline) => party.leave(BrokenReason::TimedOut),
            None => changed(barrier, turn).await?,
        }
    }
}

fn is_over(deadline: Option<Deadline>) -> bool {
    deadline.is_some_and(Deadline::has_passed)
}

async fn changed(barrier: &Barrier, turn: u32) -> Result<()> {
    word_changed(barrier.clone(), |barrier| barrier.table().turn(), turn).await?;
    // Unless somebody did so a moment ago.
    barrier.table().look_around();
    Ok(())
}
