//! The children of this process: on a list from their start until their end is noted.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::child::{Child, lock};
use crate::logging::get_logger;

static CHILDREN: Mutex<Vec<Arc<Child>>> = Mutex::new(Vec::new());

/// How long a daemon may take to follow SIGTERM when its parent exits, before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// Puts a child on the list.
pub(crate) fn add(child: Arc<Child>) {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Relaxed) && !mp_core::process::exit::at_exit(finish_at_exit) {
        get_logger().warn("no room for an exit handler: children are not waited for when this process exits");
    }
    lock(&CHILDREN).push(child);
}

/// Takes a child whose end is noted off the list.
pub(crate) fn forget(child: &Arc<Child>) {
    lock(&CHILDREN).retain(|other| !Arc::ptr_eq(other, child));
}

/// The children that run, after noting the end of those that do not.
pub(crate) fn alive() -> Vec<Arc<Child>> {
    let mut children = lock(&CHILDREN).clone();
    children.retain(|child| child.is_alive());
    children
}

/// For a forked child: the children of its parent are none of its own, and none may hang on it.
pub(crate) fn disown() {
    for child in std::mem::take(&mut *lock(&CHILDREN)) {
        drop((lock(&child.lifeline).take(), lock(&child.line).take()));
    }
}

/// Terminates the daemonic children and waits for the others, as a process does before it exits.
pub(crate) fn finish() {
    let children = alive();
    let (ending, waited): (Vec<_>, Vec<_>) = children.into_iter().partition(|child| child.ends_with_us);
    for child in &ending {
        let _ = child.signal(Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    for child in &ending {
        let rest = deadline.saturating_duration_since(Instant::now());
        if !matches!(child.wait(Some(rest)), Ok(Some(_))) {
            let _ = child.signal(Signal::KILL);
            let _ = child.wait(None);
        }
    }
    for child in &waited {
        let _ = child.wait(None);
    }
}

extern "C" fn finish_at_exit() {
    // Unwinding out of an exit handler would abort the program.
    let _ = std::panic::catch_unwind(finish);
}
