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
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use mp_core::codec;
use mp_core::handle::Handle;
use mp_core::message::SharedFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use serde::{Deserialize, Serialize};

use crate::current::current_process;
use crate::line::Line;
use crate::logging::{filter_of, get_logger};

/// How long a child waits for room: longer than a busy machine keeps the thread that makes room from running.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest message in bytes.
const LONGEST: usize = 64 << 10;
/// Longest name, target or path in bytes.
const LONGEST_NAME: usize = 1 << 10;
/// Room for the longest packet.
pub(crate) const PACKET: usize = LONGEST + 8 * LONGEST_NAME;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Packet {
    Record(Sent),
    /// All that was sent before it has been read when this is.
    Mark(u64),
}

/// A record on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub process: String,
    pub pid: u32,
    pub level: usize,
    pub target: String,
    pub module: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub message: String,
    /// How many records before it were dropped.
    pub dropped: u64,
}

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

impl Log for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Some(socket) = OUTLET.get().filter(|_| self.enabled(record.metadata())) else { return };
        let sent = Sent {
            process: cut(format_args!("{}", current_process().name()), LONGEST_NAME),
            pid: std::process::id(),
            level: record.level() as usize,
            target: cut(format_args!("{}", record.target()), LONGEST_NAME),
            module: record.module_path().map(|path| cut(format_args!("{path}"), LONGEST_NAME)),
            file: record.file().map(|path| cut(format_args!("{path}"), LONGEST_NAME)),
            line: record.line(),
            message: cut(*record.args(), LONGEST),
            // Last, because code of the program runs while the message is formatted: it may panic, or log.
            dropped: DROPPED.swap(0, Relaxed),
        };
        let dropped = sent.dropped;
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
pub(crate) fn sent_within(patience: Duration, socket: &OwnedFd, packet: &Packet) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{
        AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, recv, shutdown, socketpair,
    };

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
}
