//! The line that records of children come through, as the process has it whose logger they are for; see
//! [`forward`](crate::forward). When that process dies, its children find the line broken, and end themselves.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{Level, Metadata, Record};
use mp_core::message::SharedFd;
use mp_core::wait::helper_thread;
use mp_core::{Error, Result, codec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, recv, shutdown, socketpair};

use crate::child::lock;
use crate::forward::{PACKET, Packet, Sent, sent_within};
use crate::logging::get_logger;
use crate::panic_report::catch;

/// How long a parent waits for its logger to take what a child that has ended left.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The line to the logger of this process; closed with the last child that may send.
#[derive(Debug)]
pub(crate) struct Line {
    pub sender: SharedFd,
    progress: Arc<Progress>,
    marks: AtomicU64,
    thread: Option<JoinHandle<()>>,
    /// The process that has the thread.
    owner: u32,
}

/// How far the thread has come.
#[derive(Debug, Default)]
struct Progress {
    /// The latest mark that it has read; `u64::MAX` when it reads no more.
    mark: Mutex<u64>,
    changed: Condvar,
}

static LINE: Mutex<Weak<Line>> = Mutex::new(Weak::new());

impl Line {
    /// The line of this process, made if there is none.
    pub fn open() -> Result<Arc<Line>> {
        let mut current = lock(&LINE);
        if let Some(line) = current.upgrade().filter(|line| line.owner == std::process::id()) {
            return Ok(line);
        }
        let (sender, receiver) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Error::io("creating the sockets for records of children", errno))?;
        let progress = Arc::new(Progress::default());
        let reached = progress.clone();
        let receive = move || {
            dispatch(&receiver, &reached);
            reached.reach(u64::MAX);
        };
        let thread = helper_thread(std::thread::Builder::new().name("mp-log".into()), receive)
            .map_err(|error| Error::io("starting the thread for records of children", error))?;
        let line = Arc::new(Line {
            sender: Arc::new(sender),
            progress,
            marks: AtomicU64::new(0),
            thread: Some(thread),
            owner: std::process::id(),
        });
        *current = Arc::downgrade(&line);
        Ok(line)
    }

    /// Gives up the share of a child that has ended, after waiting until its records are given to the logger.
    pub fn leave(line: Arc<Line>) {
        // The last share waits for everything by being dropped.
        if let Err(line) = Arc::try_unwrap(line) {
            line.settle();
        }
    }

    /// Waits until all that was sent so far is given to the logger, for [`LAST_WORDS`] at most.
    fn settle(&self) {
        if self.is_waitable() {
            let deadline = Instant::now() + LAST_WORDS;
            let mark = self.marks.fetch_add(1, Relaxed) + 1;
            if sent_within(LAST_WORDS, &self.sender, &Packet::Mark(mark)) {
                self.progress.wait_for(mark, deadline);
            }
        }
    }

    /// Whether the thread is there, and another one than this: the logger may join a child, too.
    fn is_waitable(&self) -> bool {
        let own = std::thread::current().id();
        self.owner == std::process::id()
            && self.thread.as_ref().is_some_and(|thread| thread.thread().id() != own)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let waitable = self.is_waitable();
        let Some(thread) = self.thread.take() else { return };
        if self.owner != std::process::id() {
            // A copy by fork, of a process whose thread is not here; nor may its socket be touched.
            return std::mem::forget(thread);
        }
        // The thread reads what is there, and ends: by the time the last child is joined it is no more, so that the
        // process can be forked again.
        let _ = shutdown(&self.sender, Shutdown::Write);
        if waitable && self.progress.wait_for(u64::MAX, Instant::now() + LAST_WORDS) {
            let _ = thread.join();
        }
    }
}

impl Progress {
    fn reach(&self, mark: u64) {
        let mut reached = lock(&self.mark);
        *reached = mark.max(*reached);
        self.changed.notify_all();
    }

    fn wait_for(&self, mark: u64, deadline: Instant) -> bool {
        let mut reached = lock(&self.mark);
        while *reached < mark {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return false;
            }
            reached = match self.changed.wait_timeout(reached, rest) {
                Ok((reached, _)) => reached,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

/// Reads packets until the line is closed.
fn dispatch(receiver: &OwnedFd, progress: &Progress) {
    let mut buffer = vec![0; PACKET];
    loop {
        let len = match recv(receiver, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return,
            Ok((len, _)) => len,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        match codec::decode_value(&buffer[..len]) {
            Ok(Packet::Mark(mark)) => progress.reach(mark.min(u64::MAX - 1)),
            // A logger that panics has said so already; it gets the next record all the same.
            Ok(Packet::Record(sent)) => drop(catch(|| sent.give())),
            // Only a child that writes into descriptors that are not its own sends anything else.
            Err(_) => {}
        }
    }
}

impl Sent {
    /// Gives it to the logger of this process.
    fn give(&self) {
        let Some(level) = Level::iter().find(|level| *level as usize == self.level) else { return };
        let from = format_args!("[{} {}]", self.process, self.pid).to_string();
        if self.dropped > 0 {
            get_logger().warn(format_args!("{from} {} records were dropped", self.dropped));
        }
        let metadata = Metadata::builder().level(level).target(&self.target).build();
        if level <= log::max_level() && log::logger().enabled(&metadata) {
            log::logger().log(
                &Record::builder()
                    .metadata(metadata)
                    .module_path(self.module.as_deref())
                    .file(self.file.as_deref())
                    .line(self.line)
                    .args(format_args!("{from} {}", self.message))
                    .build(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_05_marks_wait_for_what_was_sent_before() {
        let line = Line::open().expect("a line");
        assert!(Arc::ptr_eq(&line, &Line::open().expect("the same line")));
        for _ in 0..100 {
            assert!(sent_within(LAST_WORDS, &line.sender, &Packet::Mark(0)));
        }
        line.settle();
        assert!(*lock(&line.progress.mark) >= 1);
        let progress = line.progress.clone();
        drop(line);
        assert_eq!(*lock(&progress.mark), u64::MAX, "the thread has ended with the last handle");
    }
}
