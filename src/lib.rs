#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! - [`process()`], [`Process`], [`Context`]: functions in processes of their own, and what becomes of them
//! - [`Pool`]: worker processes that stay
//! - [`Queue`], [`JoinableQueue`], [`SimpleQueue`]: items from any processes to any processes
//! - [`Lock`], [`RLock`], [`Semaphore`], [`Condition`], [`Event`], [`Barrier`]: locks and their kin that outlive their holders
//! - [`Value`], [`Array`], [`SharedVec`], [`SharedMemory`], [`ShareableList`]: memory that processes share
//! - [`pipe`], [`Connection`], [`wait_ready`]: messages between two processes
//! - [`Listener`], [`connect`]: connections between programs and machines, with keys
//! - [`FsQueue`]: a directory that is a queue, for processes that know nothing of each other
//! - [`Handle`]: files and sockets inside messages; [`Bulk`]: arrays of plain data as one copy
//! - [`core`]: what all of this is made of
#![forbid(unsafe_code)]

mod factories;
pub mod prelude;

pub use factories::ContextExt;

/// The ground: functions, values, descriptors and memory that travel.
pub use mp_core as core;

#[doc(hidden)]
pub use mp_context::server_pid;
#[doc(inline)]
pub use mp_context::{
    AuthKey, Context, CurrentProcess, ExitReason, InitializeError, Logger, OnError, PanicReport,
    ParentProcess, PreloadOutcome, Process, ProcessBuilder, ProcessError, Resource, ReturnWhen, StartError,
    StartMethod, StartingProcess, Stdio, active_children, allow_connection_pickling, as_completed, cpu_count,
    current_process, default_start_method, exit, freeze_support, get_all_start_methods, get_context,
    get_logger, get_start_method, initialize, log_to_stderr, parent_process, physical_cpu_count, process,
    recommended_start_method, reset_executable, set_executable, set_forkserver_preload, set_start_method,
    signal_name, wait,
};
#[doc(inline)]
pub use mp_core::codec::Bulk;
#[doc(inline)]
pub use mp_core::connection::{Connection, pipe, simplex_pipe};
#[doc(inline)]
pub use mp_core::handle::Handle;
#[doc(inline)]
pub use mp_core::listener::{
    Address, Listener, ListenerBuilder, Peer, connect, connect_async, connect_timeout,
};
#[doc(inline)]
pub use mp_core::wait::{wait_ready, wait_ready_async};
#[doc(inline)]
pub use mp_core::{Error, Result};
/// Queues, with their errors.
pub use mp_queue as queue;
/// Shared values and named blocks, with their errors.
pub use mp_shm as shm;
/// Locks and their kin, with their errors.
pub use mp_sync as sync;

#[doc(inline)]
pub use mp_fsqueue::{Durability, FsQueue};
#[doc(inline)]
pub use mp_pool::{
    Call, Pool, PoolBuilder, PoolError, PoolStats, Results, TaskError, TaskFailure, With, WorkerLost,
};
#[doc(inline)]
pub use mp_queue::{JoinableQueue, Queue, SimpleQueue};
#[doc(inline)]
pub use mp_shm::{
    Array, RawArray, RawValue, ShareableList, SharedMemory, SharedSlice, SharedVec, Synchronized, Value,
    ValueGuard, copy, synchronized,
};
#[doc(inline)]
pub use mp_sync::{
    Barrier, BoundedSemaphore, BrokenReason, Condition, ConditionGuard, DeadOwner, Event, Lock, LockGuard,
    Permit, RLock, RLockGuard, Semaphore,
};
