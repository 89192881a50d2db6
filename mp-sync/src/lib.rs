//! Locks, semaphores, conditions, events and barriers that processes share.
//!
//! Each lives in a few bytes of shared memory over a futex, without a descriptor of its own, works between threads and
//! between processes however they were started, and can sit inside any message. Applications use the facade crate
//! `multiprocess`.
//!
//! Being killed is an ordinary event: see each type for what the others notice of it.
#![deny(unsafe_op_in_unsafe_fn)]

mod barrier;
mod condition;
mod error;
mod event;
mod glance;
mod holder;
mod lock;
mod patience;
mod raw_guard;
mod raw_lock;
mod rlock;
mod semaphore;
mod thread;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests_async;

pub use barrier::{ActionResult, Barrier};
pub use condition::{Condition, ConditionGuard};
pub use error::{BrokenReason, Error, Result};
pub use event::Event;
pub use holder::DeadOwner;
pub use lock::{Lock, LockGuard};
pub use raw_guard::RawGuard;
pub use raw_lock::{Acquired, Hold, RawLock, Refused};
pub use rlock::{RLock, RLockGuard};
pub use semaphore::{BoundedSemaphore, Permit, Semaphore};
