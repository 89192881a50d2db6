//! Queues that processes share.
//!
//! When `put` returns, the item is in the queue: nothing is buffered in the process, and no death after that loses it.
//! Items may hold handles: locks, files, connections, other queues. Applications use the facade crate `multiprocess`.
#![forbid(unsafe_code)]

mod asynchronous;
mod batch;
mod channel;
mod error;
mod iter;
mod joinable;
mod ledger;
mod queue;
mod ready;
mod scratch;
mod side;
mod simple;
mod wait;

pub use error::{Error, Result};
pub use iter::Iter;
pub use joinable::JoinableQueue;
pub use queue::Queue;
pub use simple::SimpleQueue;
