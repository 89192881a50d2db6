//! Processes as easy as threads.

pub use mp_context::*;
pub use mp_core as core;
