//! A directory that is a queue.
#![forbid(unsafe_code)]

mod claim;
mod consumer;
#[cfg(test)]
mod crash;
mod cursor;
mod error;
mod failed;
mod group;
mod host;
mod journal;
mod layout;
mod ledger;
mod options;
mod queue;
mod record;
mod segment;
mod side;
mod state;
mod stats;
mod sys;
mod usage;
mod wait;
mod writer;

pub use claim::{Batch, Claim, Drained};
pub use error::{Error, ItemId, Result};
pub use failed::Failed;
pub use options::{Builder, Durability};
pub use queue::{FsQueue, Iter};
pub use stats::{Problem, Stats};
