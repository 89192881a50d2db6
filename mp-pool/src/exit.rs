//! Pools that still exist when their process exits, in a static for one: they end first, and quietly.
//!
//! Otherwise the end of their workers would look like a loss: they would be replaced, and callers and callbacks told.
//! A process that dies without exiting takes its workers with it by their lifelines.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use crate::lock;
use crate::shared::Shared;

/// The pools, with the process that made them: a forked child has none of them.
static POOLS: Mutex<Vec<(u32, Weak<Shared>)>> = Mutex::new(Vec::new());

/// Notes a pool. To be called after its first worker was started: handlers are called in reverse, and the one for
/// children must not come before this one.
pub(crate) fn note(pool: &Arc<Shared>) {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Relaxed) && !mp_core::process::exit::at_exit(end_pools) {
        mp_context::get_logger()
            .warn("no room for an exit handler: pools end with their workers when this process exits");
    }
    let mut pools = lock(&POOLS);
    pools.retain(|(_, pool)| pool.strong_count() > 0);
    pools.push((std::process::id(), Arc::downgrade(pool)));
}

extern "C" fn end_pools() {
    // Unwinding out of an exit handler would abort the program.
    let _ = std::panic::catch_unwind(|| {
        let pools = std::mem::take(&mut *lock(&POOLS));
        for (owner, pool) in pools {
            if let (true, Some(pool)) = (owner == std::process::id(), pool.upgrade()) {
                pool.exit();
            }
        }
    });
}
