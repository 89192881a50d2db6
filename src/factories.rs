//! What a context makes besides processes.

use mp_context::Context;
use mp_pool::{Pool, PoolBuilder, PoolError};

/// Makes objects whose processes are started by the method of a context.
///
/// Only what starts processes depends on the method; all other objects travel between processes of any method. Follows
/// the factory methods of Python's contexts.
///
/// ```
/// use multiprocess::{Context, ContextExt};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Context::spawn().pool(2)?;
/// assert_eq!(pool.map(|x: i32| x + 1, [1, 2, 3])?, [2, 3, 4]);
/// # Ok(())
/// # }
/// ```
pub trait ContextExt {
    /// A pool of `processes` workers.
    ///
    /// # Errors
    /// As for [`Pool::new`].
    fn pool(&self, processes: usize) -> Result<Pool, PoolError>;

    /// Describes a pool.
    fn pool_builder(&self) -> PoolBuilder;
}

impl ContextExt for Context {
    fn pool(&self, processes: usize) -> Result<Pool, PoolError> {
        self.pool_builder().processes(processes).build()
    }

    fn pool_builder(&self) -> PoolBuilder {
        Pool::builder().context(*self)
    }
}
