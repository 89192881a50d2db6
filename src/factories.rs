//! What a context makes besides processes.

use bytemuck::Pod;
use mp_context::Context;
use mp_core::connection::{Connection, pipe, simplex_pipe};
use mp_pool::{Pool, PoolBuilder, PoolError};
use mp_queue::{JoinableQueue, Queue, SimpleQueue};
use mp_shm::{Array, RawArray, RawValue, Value};
use mp_sync::{Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore};

/// Makes objects whose processes are started by the method of a context.
///
/// Only what starts processes depends on the method; all other objects travel between processes of any method, and the
/// methods here that make them are for those who are used to them. Follows
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

    /// A lock.
    ///
    /// # Errors
    /// As for [`Lock::new`].
    fn lock(&self) -> mp_sync::Result<Lock> {
        Lock::new()
    }

    /// A recursive lock.
    ///
    /// # Errors
    /// As for [`RLock::new`].
    fn rlock(&self) -> mp_sync::Result<RLock> {
        RLock::new()
    }

    /// A condition with a recursive lock of its own.
    ///
    /// # Errors
    /// As for [`Condition::new`].
    fn condition(&self) -> mp_sync::Result<Condition> {
        Condition::new()
    }

    /// An event, unset.
    ///
    /// # Errors
    /// As for [`Event::new`].
    fn event(&self) -> mp_sync::Result<Event> {
        Event::new()
    }

    /// A semaphore of `value` permits.
    ///
    /// # Errors
    /// As for [`Semaphore::new`].
    fn semaphore(&self, value: u32) -> mp_sync::Result<Semaphore> {
        Semaphore::new(value)
    }

    /// A bounded semaphore of `value` permits.
    ///
    /// # Errors
    /// As for [`BoundedSemaphore::new`].
    fn bounded_semaphore(&self, value: u32) -> mp_sync::Result<BoundedSemaphore> {
        BoundedSemaphore::new(value)
    }

    /// A barrier for `parties`.
    ///
    /// # Errors
    /// As for [`Barrier::new`].
    fn barrier(&self, parties: u32) -> mp_sync::Result<Barrier> {
        Barrier::new(parties)
    }

    /// A queue for at most `items` items at a time; 0 is for any number, as in Python.
    ///
    /// # Errors
    /// As for [`Queue::bounded`].
    fn queue<T>(&self, items: usize) -> mp_queue::Result<Queue<T>> {
        if items == 0 { Queue::unbounded() } else { Queue::bounded(items) }
    }

    /// A joinable queue for at most `items` items at a time; 0 is for any number.
    ///
    /// # Errors
    /// As for [`JoinableQueue::bounded`].
    fn joinable_queue<T>(&self, items: usize) -> mp_queue::Result<JoinableQueue<T>> {
        if items == 0 { JoinableQueue::unbounded() } else { JoinableQueue::bounded(items) }
    }

    /// A queue with few methods.
    ///
    /// # Errors
    /// As for [`SimpleQueue::new`].
    fn simple_queue<T>(&self) -> mp_queue::Result<SimpleQueue<T>> {
        SimpleQueue::new()
    }

    /// A value in shared memory, with a lock.
    ///
    /// # Errors
    /// As for [`Value::new`].
    fn value<T: Pod>(&self, value: T) -> mp_shm::Result<Value<T>> {
        Value::new(value)
    }

    /// An array in shared memory, with a lock.
    ///
    /// # Errors
    /// As for [`Array::from_slice`].
    fn array<T: Pod>(&self, values: &[T]) -> mp_shm::Result<Array<T>> {
        Array::from_slice(values)
    }

    /// A value in shared memory, without a lock.
    ///
    /// # Errors
    /// As for [`RawValue::new`].
    fn raw_value<T: Pod>(&self, value: T) -> mp_shm::Result<RawValue<T>> {
        RawValue::new(value)
    }

    /// An array in shared memory, without a lock.
    ///
    /// # Errors
    /// As for [`RawArray::from_slice`].
    fn raw_array<T: Pod>(&self, values: &[T]) -> mp_shm::Result<RawArray<T>> {
        RawArray::from_slice(values)
    }

    /// Two connected ends: each for both directions, or the first for receiving only and the second for sending only.
    ///
    /// # Errors
    /// As for [`pipe`].
    fn pipe(&self, duplex: bool) -> mp_core::Result<(Connection, Connection)> {
        if duplex { pipe() } else { simplex_pipe() }
    }
}

impl ContextExt for Context {
    fn pool(&self, processes: usize) -> Result<Pool, PoolError> {
        self.pool_builder().processes(processes).build()
    }

    fn pool_builder(&self) -> PoolBuilder {
        Pool::builder().context(*self)
    }
}
