//! Getting ready ahead of time.

use crate::builder::process;
use crate::error::{ProcessError, StartError};
use crate::method::{recommended_start_method, set_start_method};

/// Why [`initialize`] failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitializeError {
    /// The method is not known, or the first process does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The first process did not end well.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Makes [`recommended_start_method`] the default, and starts and joins one process that does nothing, so that the
/// fork server is there when it is needed. May be called again.
///
/// # Errors
/// [`InitializeError`], and the default method stays chosen.
pub fn initialize() -> Result<(), InitializeError> {
    set_start_method(recommended_start_method()?, true)?;
    process(|| (), ()).start()?.join()?;
    Ok(())
}

/// Does nothing: connections can be sent between processes at any time.
///
/// Kept for programs that are ported from Python, where `multiprocessing.allow_connection_pickling` does nothing either.
pub fn allow_connection_pickling() {}
