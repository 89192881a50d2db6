//! What most programs use: `use multiprocess::prelude::*;`.

pub use crate::{
    Array, Barrier, Condition, Connection, Context, ContextExt, Event, Handle, JoinableQueue, Lock, Pool,
    Process, Queue, RLock, Semaphore, SimpleQueue, Value, pipe, process,
};
