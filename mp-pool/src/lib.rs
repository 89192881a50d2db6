//! A pool of worker processes that outlives its workers.
//!
//! Part of `multiprocess`, usable alone.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = mp_pool::Pool::new(4)?;
//! let squares = pool.map(|x: u64| x * x, 0..10)?;
//! assert_eq!(squares[9], 81);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod call;
mod error;
mod exit;
mod job;
mod member;
mod pool;
mod progress;
mod shared;
mod supervisor;
mod wire;
mod worker;

pub use call::{Call, Results, With};
pub use error::{PoolError, TaskError, TaskFailure, WorkerLost};
pub use pool::{Pool, PoolBuilder, PoolStats};

/// The guard of a mutex, also after a panic elsewhere: what it protects is whole between any two statements.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
