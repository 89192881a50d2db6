//! The three ways to start a process, and which one is the default.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::StartError;

/// How a child process comes to be. Follows Python's start methods of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StartMethod {
    /// The program is started anew: slowest (about a millisecond), nothing is shared.
    Spawn,
    /// A small single-threaded server process, started once, copies itself for each child: fast and safe. The default.
    ForkServer,
    /// This process is copied with all its memory: refused while it has other threads.
    Fork,
}

impl StartMethod {
    /// Every method this system has, the default first.
    pub const ALL: [StartMethod; 3] = [StartMethod::ForkServer, StartMethod::Spawn, StartMethod::Fork];

    /// The name, as Python spells it: `"spawn"`, `"forkserver"` or `"fork"`.
    pub const fn name(self) -> &'static str {
        match self {
            StartMethod::Spawn => "spawn",
            StartMethod::ForkServer => "forkserver",
            StartMethod::Fork => "fork",
        }
    }

    /// First part of the default names of processes.
    pub(crate) const fn process_type(self) -> &'static str {
        match self {
            StartMethod::Spawn => "SpawnProcess",
            StartMethod::ForkServer => "ForkServerProcess",
            StartMethod::Fork => "ForkProcess",
        }
    }
}

impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StartMethod {
    type Err = StartError;

    fn from_str(name: &str) -> Result<Self, StartError> {
        let known = StartMethod::ALL.into_iter().find(|method| method.name() == name);
        known.ok_or_else(|| StartError::UnknownMethod { name: name.to_owned() })
    }
}

/// The method chosen for this process, once something has chosen one.
static CHOSEN: Mutex<Option<StartMethod>> = Mutex::new(None);

/// The default method if it has been fixed.
pub(crate) fn chosen() -> Option<StartMethod> {
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The default method, which is fixed from now on.
pub(crate) fn fix() -> StartMethod {
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(StartMethod::ALL[0])
}

/// Takes over the choice of the parent.
pub(crate) fn inherit(method: Option<StartMethod>) {
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = method;
}

/// Chooses the default start method of this process.
///
/// It applies to processes started afterwards, and to their children. `None` with `force` returns to the state where
/// nothing is chosen. Follows Python's `multiprocessing.set_start_method`.
///
/// # Errors
/// [`StartError::UnknownMethod`]; [`StartError::MethodIsSet`] when one was chosen before (asking for the default
/// context chooses one) and `force` is not given.
///
/// ```
/// mp_context::set_start_method("spawn", true)?;
/// assert_eq!(mp_context::get_start_method(), "spawn");
/// assert!(mp_context::set_start_method("forkserver", false).is_err());
/// # Ok::<(), mp_context::StartError>(())
/// ```
pub fn set_start_method<'a>(method: impl Into<Option<&'a str>>, force: bool) -> Result<(), StartError> {
    let method = method.into().map(str::parse).transpose()?;
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    match *chosen {
        Some(set) if !force => Err(StartError::MethodIsSet { set }),
        _ => {
            *chosen = method;
            Ok(())
        }
    }
}

/// Name of the default start method, which is fixed by asking.
///
/// Follows Python's `multiprocessing.get_start_method`; [`default_start_method`] asks without fixing.
pub fn get_start_method() -> &'static str {
    fix().name()
}

/// Names of all start methods of this system, the default first.
///
/// Follows Python's `multiprocessing.get_all_start_methods`.
///
/// ```
/// assert_eq!(mp_context::get_all_start_methods(), ["forkserver", "spawn", "fork"]);
/// ```
pub fn get_all_start_methods() -> [&'static str; 3] {
    StartMethod::ALL.map(StartMethod::name)
}

/// Name of the default start method, or `"unset"` while nothing has fixed it. Changes nothing.
pub fn default_start_method() -> &'static str {
    chosen().map_or("unset", StartMethod::name)
}

/// Name of the method that suits this system: that of the variable `MULTIPROCESS_START_METHOD` if it is set, else
/// `"forkserver"`. Changes nothing.
///
/// # Errors
/// [`StartError::UnknownMethod`] when the variable names no method.
pub fn recommended_start_method() -> Result<&'static str, StartError> {
    match std::env::var("MULTIPROCESS_START_METHOD") {
        Ok(name) => Ok(name.parse::<StartMethod>()?.name()),
        Err(_) => Ok(StartMethod::ALL[0].name()),
    }
}
