//! Processes as easy as threads.

pub use mp_context::*;
pub use mp_core as core;
pub use mp_pool::*;
