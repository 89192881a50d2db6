//! The name of this process, for people: what debug output and log lines call it.
//!
//! It lies in this process alone; a forked child starts with its parent's until somebody sets its own.

use std::sync::{PoisonError, RwLock};

static NAME: RwLock<Option<String>> = RwLock::new(None);

/// What this process is called; `MainProcess` until somebody names it.
///
/// ```
/// assert_eq!(mp_core::process::name::current(), "MainProcess");
/// ```
pub fn current() -> String {
    let name = NAME.read().unwrap_or_else(PoisonError::into_inner);
    name.as_deref().unwrap_or("MainProcess").to_owned()
}

/// Gives this process a name.
pub fn set(name: impl Into<String>) {
    *NAME.write().unwrap_or_else(PoisonError::into_inner) = Some(name.into());
}
