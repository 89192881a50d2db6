//! Leaving a process: with or without the handlers registered for its exit.

/// Ends this process at once: no exit handler, no destructor, no flushing. For forked children, whose handlers and
/// buffers are copies of their parent's.
pub fn now(code: i32) -> ! {
    // SAFETY: `_exit` is always allowed; it only ends the process.
    unsafe { libc::_exit(code) }
}

/// Has `handler` called when this process exits normally (`main` returns, or `std::process::exit`).
///
/// Handlers are inherited by forked children. Returns `false` when the system has no room for another handler.
pub fn at_exit(handler: extern "C" fn()) -> bool {
    // SAFETY: registers a plain function; it lives as long as the program.
    unsafe { libc::atexit(handler) == 0 }
}
