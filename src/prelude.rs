//! What most programs use: `use multiprocess::prelude::*;`.

pub use crate::{Connection, Context, ContextExt, Handle, Pool, Process, pipe, process};
