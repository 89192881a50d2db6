//! A descriptor that says whether items are in a queue, for those who wait for many things at a time.
//!
//! It belongs to one process: a thread there keeps it up, so putters pay nothing for it, and no death of theirs can leave it
//! wrong for longer than a slice. A forked child gets one of its own.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::Builder;

use mp_core::deadline::Deadline;
use mp_core::futex::WaitResult;
use mp_core::message::SharedFd;
use mp_core::ring::Ring;
use mp_core::wait::helper_thread;
use mp_sync::RawLock;
use rustix::event::{EventfdFlags, eventfd};

use crate::error::Result;
use crate::wait::SLICE;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    made: Mutex<Option<(u32, SharedFd)>>,
}

impl Ready {
    pub fn fd(&self, ring: &Ring<RawLock>) -> Result<SharedFd> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let me = std::process::id();
        if let Some((pid, fd)) = &*made
            && *pid == me
        {
            return Ok(fd.clone());
        }
        let failed = |errno| mp_core::Error::io("creating a descriptor that watches a queue", errno);
        let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?);
        let (ring, watched) = (ring.clone(), Arc::downgrade(&fd));
        let thread = Builder::new().name("mp-queue-ready".into());
        helper_thread(thread, move || keep_up(&ring, &watched))
            .map_err(|error| mp_core::Error::io("starting a thread that watches a queue", error))?;
        *made = Some((me, fd.clone()));
        Ok(fd)
    }
}

/// Sets and clears the descriptor until nobody has it any more.
fn keep_up(ring: &Ring<RawLock>, watched: &Weak<std::os::fd::OwnedFd>) {
    let mut set = false;
    loop {
        let (put, got) = (ring.doze_until_put(), ring.doze_until_got());
        let ready = !ring.is_empty() || ring.is_closed();
        {
            let Some(fd) = watched.upgrade() else { return };
            if ready != set {
                // Neither can fail: the counter is 0 or 1.
                let _ = if ready {
                    rustix::io::write(fd.as_fd(), &1_u64.to_ne_bytes())
                } else {
                    rustix::io::read(fd.as_fd(), &mut [0; 8])
                };
                set = ready;
            }
        }
        let next = if ready { got } else { put };
        if next.sleep(Some(Deadline::after(SLICE))) == WaitResult::Woken {
            // It may have been meant for one who gets or puts.
            next.pass_on();
        }
    }
}
