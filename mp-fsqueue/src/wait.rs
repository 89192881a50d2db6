//! Waiting for items: the kernel says when a segment grows, when something came back or when a consumer's file is closed.
//! Where it cannot (network file systems say nothing about other hosts), the queue is looked at every tenth of a second.

use crate::host;
use crate::layout::Layout;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::time::Timespec;
use std::time::Duration;

/// How long news may stay unnoticed if the kernel does not tell.
const FALLBACK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Waiter {
    pid: i32,
    /// None if the system has no watch to spare.
    watch: Option<OwnedFd>,
    armed: Vec<i32>,
}

impl Waiter {
    pub fn new() -> Waiter {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        Waiter { pid: host::pid(), watch, armed: Vec::new() }
    }

    /// A forked child must not take its parent's news away.
    pub fn is_ours(&self) -> bool {
        self.pid == host::pid()
    }

    pub fn is_armed(&self) -> bool {
        !self.armed.is_empty()
    }

    /// From now on, nothing goes unnoticed.
    pub fn arm(&mut self, layout: &Layout) {
        let Some(watch) = &self.watch else { return };
        let places = [
            (layout.segments(), WatchFlags::MODIFY | WatchFlags::CREATE),
            (layout.consumers(), WatchFlags::CLOSE_WRITE),
        ];
        for (path, what) in places {
            if let Ok(id) = inotify::add_watch(watch, &path, what) {
                self.armed.push(id);
            }
        }
    }

    /// Sleeps until there is news, for `limit` at most.
    pub fn wait(&mut self, limit: Option<Duration>) {
        let limit = limit.unwrap_or(FALLBACK).min(FALLBACK);
        let Some(watch) = self.watch.as_ref().filter(|_| !self.armed.is_empty()) else {
            return std::thread::sleep(limit.min(FALLBACK / 10));
        };
        let timeout = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().max(1000).into() };
        let mut ready = [PollFd::new(watch, PollFlags::IN)];
        // An interruption, as news, leads to another look.
        if poll(&mut ready, Some(&timeout)).unwrap_or(0) > 0 {
            self.clear();
        }
    }

    fn clear(&self) {
        let mut bytes = [0; 4096];
        let Some(watch) = &self.watch else { return };
        while rustix::io::read(watch, &mut bytes[..]).is_ok_and(|n| n == bytes.len()) {}
    }

    /// Costs writers nothing from now on.
    pub fn disarm(&mut self) {
        let Some(watch) = &self.watch else { return };
        for id in self.armed.drain(..) {
            let _ = inotify::remove_watch(watch, id);
        }
        self.clear();
    }
}
