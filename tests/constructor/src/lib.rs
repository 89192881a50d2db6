//! For tests: a library with a constructor of its own, which the linker puts behind that of `multiprocess`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

static RUNS: AtomicU32 = AtomicU32::new(0);
static MARKED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_start() {
    RUNS.fetch_add(1, Relaxed);
    MARKED.store(std::env::var_os("MULTIPROCESS_CHILD").is_some(), Relaxed);
}

#[used]
// SAFETY: the entry is a function of the type that entries of this section have, and works before `main`.
#[unsafe(link_section = ".init_array")]
static ON_START: extern "C" fn() = on_start;

/// How often the constructor has run in this process.
pub fn runs() -> u32 {
    RUNS.load(Relaxed)
}

/// Whether, in a process that was started as a child, the constructor ran after that of `multiprocess`, which takes
/// the marker of children out of the environment.
pub fn was_behind() -> bool {
    !MARKED.load(Relaxed)
}
