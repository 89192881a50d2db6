//! A forked child has no background thread for its async waits and starts its own.

use std::future::Future;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use mp_core::connection::pipe;
use mp_core::wait::readable;

struct Unpark(Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// Waits for a message that comes only after the wait has been registered.
fn await_once() {
    let (a, b) = pipe().unwrap();
    let fd = Arc::new(a.as_fd().try_clone_to_owned().unwrap());
    let unpark = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(unpark.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(readable(fd));
    assert!(future.as_mut().poll(&mut context).is_pending());
    b.send(&1).unwrap();
    while !unpark.1.load(Ordering::SeqCst) {
        thread::park();
    }
    assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_forked_child_starts_anew() {
    let (a, _b) = pipe().unwrap();
    let before = threads();
    // A wait that nobody awaits starts nothing.
    drop(readable(Arc::new(a.as_fd().try_clone_to_owned().unwrap())));
    assert_eq!(threads(), before);
    await_once();
    assert_eq!(threads(), before + 1);

    // SAFETY: the child uses only what the C library keeps usable after a fork, and its own locks, which no thread
    // holds at this moment; it ends by `_exit` and by an alarm at the latest.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: plain system calls.
        unsafe { libc::alarm(60) };
        let done = std::panic::catch_unwind(|| {
            assert_eq!(threads(), 1);
            await_once();
            await_once();
            assert_eq!(threads(), 2);
        });
        // SAFETY: as above.
        unsafe { libc::_exit(if done.is_ok() { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child and writes only to `status`.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    await_once();
}
