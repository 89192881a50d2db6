//! Records of children, in the logger of their parent.
//!
//! If a process has a logger of the `log` crate when it starts a child by spawn or forkserver, the child gets one that
//! sends its records here, where they are given to the logger with target, level, module, file and line as they were, and
//! name and pid of the child before the message: `[SpawnProcess-1 4711] message`. Key-values stay behind. A forked
//! child has the logger of its parent already.
//!
//! Records of one child arrive in their order; those that it wrote before it ended, however it ended, are given to the
//! logger before a join returns, unless that takes the logger more than a second. A child that finds the line full
//! waits [`PATIENCE`] for it, once; then it drops records until one goes through, which tells how many were dropped.
//! Messages are cut at [`LONGEST`] bytes.
//!
//! # Design
//!
//! A pair of sockets that keep the bounds of messages, so a child that is killed leaves whole records only. All children
//! send into one end; a thread reads the other, and lives as long as there is a child that may send. A child hands the
//! end that it got on to its own children, so there is one thread in a family and nobody in between who could be slow
//! or dead. To wait until all records of a child that has ended are through, its parent sends a mark after them.

use std::fmt::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use mp_core::handle::Handle;
use mp_core::message::SharedFd;
use mp_core::{Error, Result, codec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::child::lock;
use crate::current::current_process;
use crate::logging::{filter_of, get_logger};
use crate::panic_report::catch;

/// How long a child waits for room.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a parent waits for its logger to take what a child that has ended left.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Longest message in bytes.
const LONGEST: usize = 64 << 10;
/// Longest name, target or path in bytes.
const LONGEST_NAME: usize = 1 << 10;
/// Room for the longest packet.
const PACKET: usize = LONGEST + 8 * LONGEST_NAME;

#[derive(Debug, Serialize, Deserialize)]
enum Packet {
    Record(Sent),
    /// All that was sent before it has been read when this is.
    Mark(u64),
}

/// A record on its way.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    process: String,
    pid: u32,
    level: usize,
    target: String,
    module: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    message: String,
    /// How many records before it were dropped.
    dropped: u64,
}

// ---- The child's side.

/// Where a child sends its records.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outlet {
    socket: Handle<SharedFd>,
    /// Most detailed level that its parent takes.
    level: usize,
}

/// The logger of a child.
struct Forwarder;

/// Its outlet; set only while [`Forwarder`] is the logger of this process.
static OUTLET: OnceLock<SharedFd> = OnceLock::new();
/// Records that were dropped since one went through.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Sends the records of this process into `outlet`, unless it has a logger.
pub(crate) fn install(outlet: Outlet) {
    if log::set_logger(&Forwarder).is_ok() {
        let _ = OUTLET.set(outlet.socket.into_inner());
        log::set_max_level(filter_of(outlet.level));
    }
}

impl Log for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Some(socket) = OUTLET.get().filter(|_| self.enabled(record.metadata())) else { return };
        let dropped = DROPPED.swap(0, Relaxed);
        let sent = Sent {
            process: cut(format_args!("{}", current_process().name()), LONGEST_NAME),
            pid: std::process::id(),
            level: record.level() as usize,
            target: cut(format_args!("{}", record.target()), LONGEST_NAME),
            module: record.module_path().map(|path| cut(format_args!("{path}"), LONGEST_NAME)),
            file: record.file().map(|path| cut(format_args!("{path}"), LONGEST_NAME)),
            line: record.line(),
            message: cut(*record.args(), LONGEST),
            dropped,
        };
        // A parent that reads nothing at all is waited for once, not for each record.
        let patience = if dropped == 0 { PATIENCE } else { Duration::ZERO };
        if !sent_within(patience, socket, &Packet::Record(sent)) {
            DROPPED.fetch_add(dropped + 1, Relaxed);
        }
    }

    fn flush(&self) {}
}

/// Text of `arguments`, cut between two characters if it is longer than `longest` bytes.
fn cut(arguments: fmt::Arguments<'_>, longest: usize) -> String {
    struct Cut(String, usize);
    impl Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = self.1 - self.0.len();
            if text.len() <= room {
                self.0.push_str(text);
                return Ok(());
            }
            let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            self.0.push_str(&text[..end]);
            // Ends the formatting: nothing behind the cut may follow.
            Err(fmt::Error)
        }
    }
    let mut text = Cut(String::new(), longest);
    let _ = text.write_fmt(arguments);
    text.0
}

/// Sends `packet`, waiting for room for so long; whether it went.
fn sent_within(patience: Duration, socket: &OwnedFd, packet: &Packet) -> bool {
    let mut bytes = Vec::with_capacity(256);
    if codec::encode_value(packet, &mut bytes).is_err() {
        return false;
    }
    let deadline = Instant::now() + patience;
    loop {
        match send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => return true,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {}
            Err(_) => return false,
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return false;
        }
        let rest = Timespec { tv_sec: rest.as_secs() as _, tv_nsec: rest.subsec_nanos() as _ };
        // Whatever it says: the next attempt tells more.
        let _ = poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&rest));
    }
}

// ---- The parent's side.

/// The line to the logger of this process; closed with the last child that may send.
#[derive(Debug)]
pub(crate) struct Line {
    sender: SharedFd,
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

/// What to give to a child so that its records come here, and what to hold as long as it lives. Nothing if this
/// process has no logger.
pub(crate) fn for_child() -> (Option<Outlet>, Option<Arc<Line>>) {
    let level = log::max_level() as usize;
    if log::max_level() == LevelFilter::Off {
        return (None, None);
    }
    if let Some(socket) = OUTLET.get() {
        return (Some(Outlet { socket: Handle(socket.clone()), level }), None);
    }
    match Line::open() {
        Ok(line) => (Some(Outlet { socket: Handle(line.sender.clone()), level }), Some(line)),
        Err(error) => {
            get_logger().warn(format_args!("the records of a child are not forwarded: {error}"));
            (None, None)
        }
    }
}

impl Line {
    /// The line of this process, made if there is none.
    fn open() -> Result<Arc<Line>> {
        let mut current = lock(&LINE);
        if let Some(line) = current.upgrade().filter(|line| line.owner == std::process::id()) {
            return Ok(line);
        }
        let (sender, receiver) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Error::io("creating the sockets for records of children", errno))?;
        let progress = Arc::new(Progress::default());
        let reached = progress.clone();
        let thread = std::thread::Builder::new()
            .name("mp-log".into())
            .spawn(move || {
                dispatch(&receiver, &reached);
                reached.reach(u64::MAX);
            })
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

    fn packet(message: String) -> Packet {
        Packet::Record(Sent {
            process: "p".repeat(LONGEST_NAME),
            pid: u32::MAX,
            level: 5,
            target: "t".repeat(LONGEST_NAME),
            module: Some("m".repeat(LONGEST_NAME)),
            file: Some("f".repeat(LONGEST_NAME)),
            line: Some(u32::MAX),
            message,
            dropped: u64::MAX,
        })
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair")
    }

    #[test]
    fn log_05_long_messages_are_cut_between_characters() {
        assert_eq!(cut(format_args!("{}-{}", 1, "two"), 5), "1-two");
        assert_eq!(cut(format_args!("{}-{}", 1, "two"), 4), "1-tw");
        assert_eq!(cut(format_args!("äöü"), 5), "äö");
        assert_eq!(cut(format_args!("ab{}{}", "ö", "c"), 3), "ab", "nothing follows the cut");
    }

    #[test]
    fn log_05_the_longest_packet_fits() {
        let (sender, receiver) = pair();
        assert!(sent_within(PATIENCE, &sender, &packet("x".repeat(LONGEST))));
        let mut buffer = vec![0; PACKET];
        let (len, whole) = recv(&receiver, &mut buffer[..], RecvFlags::empty()).expect("a packet");
        assert_eq!(len, whole);
        assert!(len < PACKET);
        assert!(
            matches!(codec::decode_value(&buffer[..len]), Ok(Packet::Record(sent)) if sent.message.len() == LONGEST)
        );
    }

    #[test]
    fn log_05_a_full_line_is_waited_for_and_not_for_ever() {
        let (sender, receiver) = pair();
        while sent_within(Duration::ZERO, &sender, &packet(String::new())) {}
        let begin = Instant::now();
        assert!(!sent_within(PATIENCE, &sender, &packet(String::new())));
        assert!(begin.elapsed() >= PATIENCE);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while recv(&receiver, &mut [0u8; 16][..], RecvFlags::empty()).is_ok_and(|(len, _)| len > 0) {}
            });
            assert!(sent_within(Duration::from_secs(30), &sender, &packet(String::new())));
            shutdown(&sender, Shutdown::Write).expect("closed");
        });
    }

    #[test]
    fn log_05_marks_wait_for_what_was_sent_before() {
        let line = Line::open().expect("a line");
        assert!(Arc::ptr_eq(&line, &Line::open().expect("the same line")));
        for _ in 0..100 {
            assert!(sent_within(LAST_WORDS, &line.sender, &packet(String::new())));
        }
        line.settle();
        assert!(*lock(&line.progress.mark) >= 1);
        let progress = line.progress.clone();
        drop(line);
        assert_eq!(*lock(&progress.mark), u64::MAX, "the thread has ended with the last handle");
    }
}
