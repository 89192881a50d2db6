//! Who this process is, and who started it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

use mp_core::wait::wait_ready;

use crate::method::StartMethod;
use mp_core::auth::AuthKey;

/// This process as seen from inside. Follows the object of Python's `multiprocessing.current_process()`.
///
/// A clone is another handle to the same record.
#[derive(Clone)]
pub struct CurrentProcess(Arc<Record>);

pub(crate) struct Record {
    /// Position among the children of the parent, after that of the parent: `[2, 1]` is the first child of the second.
    pub identity: Vec<u32>,
    pub daemon: bool,
    pub authkey: AuthKey,
    pub method: Option<StartMethod>,
    pub parent: Option<ParentProcess>,
    pub children_started: AtomicU32,
}

/// The process that started this one. Follows the object of Python's `multiprocessing.parent_process()`.
#[derive(Clone)]
pub struct ParentProcess(Arc<Parent>);

pub(crate) struct Parent {
    pub name: String,
    pub pid: u32,
    /// Absent when the parent was gone before we could look.
    pub pidfd: Option<OwnedFd>,
}

static CURRENT: LazyLock<RwLock<CurrentProcess>> = LazyLock::new(|| RwLock::new(CurrentProcess::main()));

/// This process.
///
/// In the first process of a program its name is `MainProcess`.
///
/// ```
/// let me = mp_context::current_process();
/// assert_eq!(me.name(), "MainProcess");
/// assert_eq!(me.pid(), std::process::id());
/// ```
pub fn current_process() -> CurrentProcess {
    CURRENT.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The process that started this one, or `None` in the first process of a program.
pub fn parent_process() -> Option<ParentProcess> {
    current_process().0.parent.clone()
}

/// Makes this process the child described by `record`.
pub(crate) fn become_child(record: Record) {
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = CurrentProcess(Arc::new(record));
}

impl CurrentProcess {
    fn main() -> Self {
        CurrentProcess(Arc::new(Record {
            identity: Vec::new(),
            daemon: false,
            authkey: AuthKey::random(),
            method: None,
            parent: None,
            children_started: AtomicU32::new(0),
        }))
    }

    /// Its name, for people; names need not be unique.
    pub fn name(&self) -> String {
        mp_core::process::name::current()
    }

    /// Gives it another name.
    pub fn set_name(&self, name: impl Into<String>) {
        mp_core::process::name::set(name);
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Whether it is daemonic: it may not start processes, and is terminated when its parent exits.
    pub fn daemon(&self) -> bool {
        self.0.daemon
    }

    /// Always true.
    pub fn is_alive(&self) -> bool {
        true
    }

    /// Always `None`: it has not ended.
    pub fn exit_code(&self) -> Option<i32> {
        None
    }

    /// The secret it shares with its relatives.
    pub fn authkey(&self) -> &AuthKey {
        &self.0.authkey
    }

    /// The method by which it was started; `None` in the first process of a program.
    pub fn start_method(&self) -> Option<StartMethod> {
        self.0.method
    }

    /// Its place in the family: `[2, 1]` is the first child of the second child of the main process, which is `[]`.
    pub fn identity(&self) -> &[u32] {
        &self.0.identity
    }

    /// The identity of the next child.
    pub(crate) fn next_identity(&self) -> Vec<u32> {
        let number = self.0.children_started.fetch_add(1, Relaxed) + 1;
        self.0.identity.iter().copied().chain([number]).collect()
    }
}

impl fmt::Debug for CurrentProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemon = if self.daemon() { " daemon" } else { "" };
        write!(f, "<CurrentProcess name={:?} pid={} started{daemon}>", self.name(), self.pid())
    }
}

impl ParentProcess {
    pub(crate) fn new(name: String, pid: u32, pidfd: Option<OwnedFd>) -> Self {
        ParentProcess(Arc::new(Parent { name, pid, pidfd }))
    }

    /// Its name when it started this process.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Whether it still runs. A child does not see its parent end for long: it is killed then.
    pub fn is_alive(&self) -> bool {
        !self.join_timeout(Duration::ZERO)
    }

    /// Waits until it ends.
    pub fn join(&self) {
        while !self.join_timeout(Duration::from_secs(3600)) {}
    }

    /// Waits until it ends, and says whether it did.
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        let Some(pidfd) = &self.0.pidfd else { return true };
        wait_ready(&[pidfd], Some(timeout)).is_ok_and(|ready| !ready.is_empty())
    }
}

impl fmt::Debug for ParentProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_alive() { "started" } else { "stopped" };
        write!(f, "<ParentProcess name={:?} pid={} {state}>", self.name(), self.pid())
    }
}
