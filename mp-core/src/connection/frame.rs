//! Messages on a stream socket.
//!
//! # The format
//!
//! A header of 16 bytes, little-endian: length of the body (u64), number of descriptors (u32), a constant
//! (u32). The first 250 descriptors come with the header; for each further 250 there is one filler byte that
//! carries them. Then the body.
//!
//! Nothing is ever read beyond the current message, so that the socket can be handed to another process
//! between any two. If a process dies in the middle of a message, its peer gets [`Error::Truncated`];
//! descriptors on their way are closed by the kernel. What arrives is not trusted: memory is taken as bytes
//! arrive, not as they are announced.

use std::io::{IoSlice, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

use crate::message::Fds;
use crate::wait::poll_until;
use crate::{Error, Result};

const WHAT: &str = "connection";
const HEADER: usize = 16;
/// What each header ends with.
pub(crate) const MAGIC: [u8; 4] = *b"mp\x01\n";
/// Descriptors in one go; the kernel allows 253.
const BATCH: usize = 250;
/// More descriptors than any process may have open are not believed.
const MOST_FDS: u32 = 1 << 20;
/// How much memory is taken for bytes that were only announced.
const AHEAD: usize = 1 << 20;

fn header(length: u64, fds: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&length.to_le_bytes());
    header[8..12].copy_from_slice(&fds.to_le_bytes());
    header[12..].copy_from_slice(&MAGIC);
    header
}

/// Writes one message from byte `at` of its frame on, and moves `at` along; a message can be written in several goes.
///
/// When it fails with `at` inside the frame, nothing else may be written before the rest of it.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    body: &[u8],
    fds: &Fds,
    deadline: Option<Instant>,
    at: &mut usize,
) -> Result<()> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    let count = u32::try_from(fds.len()).ok().filter(|count| *count <= MOST_FDS).ok_or_else(|| {
        Error::TooLong { what: "descriptor table", length: fds.len() as u64, limit: MOST_FDS.into() }
    })?;
    let header = header(body.len() as u64, count);
    let fillers = fds.len().saturating_sub(BATCH).div_ceil(BATCH);
    // Each batch comes with the first byte of the header, or with one filler byte.
    let batch = |number: usize| fds.chunks(BATCH).nth(number).unwrap_or_default();
    let body_at = HEADER + fillers;
    while *at < HEADER {
        let (fds, body) = (if *at == 0 { batch(0) } else { &[] }, if fillers == 0 { body } else { &[] });
        *at += send_some(socket, &header[*at..], body, fds, deadline)?;
    }
    while *at < body_at {
        *at += send_some(socket, &[0], &[], batch(*at - HEADER + 1), deadline)?;
    }
    while *at < body_at + body.len() {
        *at += send_some(socket, &[], &body[*at - body_at..], &[], deadline)?;
    }
    Ok(())
}

/// Writes some bytes, and the descriptors with the first of them; returns how many.
fn send_some(
    socket: BorrowedFd<'_>,
    first: &[u8],
    second: &[u8],
    fds: &[BorrowedFd<'_>],
    deadline: Option<Instant>,
) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let flags =
        SendFlags::NOSIGNAL | if deadline.is_some() { SendFlags::DONTWAIT } else { SendFlags::empty() };
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::Invalid { what: "descriptors", reason: "too many at once".into() });
        }
        match sendmsg(socket, &[IoSlice::new(first), IoSlice::new(second)], &mut control, flags) {
            Ok(sent) => return Ok(sent),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, PollFlags::OUT, deadline, "sending a message")?,
            // The peer left without having read everything.
            Err(Errno::CONNRESET) => return Err(Error::io("sending a message on a connection", Errno::PIPE)),
            Err(errno) => return Err(Error::io("sending a message on a connection", errno)),
        }
    }
}

fn wait(
    socket: BorrowedFd<'_>,
    for_what: PollFlags,
    deadline: Option<Instant>,
    what: &'static str,
) -> Result<()> {
    match poll_until(&mut [PollFd::new(&socket, for_what)], deadline) {
        Ok(0) => Err(Error::Timeout { what }),
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::io("waiting for a connection", errno)),
    }
}

/// The message that is being read; what has come of it stays here when a time limit passes.
#[derive(Default)]
pub(super) struct Incoming {
    header: [u8; HEADER],
    /// How much of the header has come.
    started: usize,
    fillers: usize,
    fds: Vec<OwnedFd>,
    /// The kernel could not deliver all descriptors.
    fds_lost: bool,
    body: Vec<u8>,
    /// The stream can no longer be understood.
    pub(super) broken: bool,
}

/// One message, as read.
pub(super) struct Received {
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Incoming {
    /// Whether a message is half read.
    pub(super) fn is_half(&self) -> bool {
        self.started > 0
    }

    /// Reads the header, unless that was done before; returns the length of the body.
    ///
    /// A body longer than `most` breaks the stream.
    pub(super) fn begin(
        &mut self,
        socket: BorrowedFd<'_>,
        deadline: Option<Instant>,
        most: u64,
    ) -> Result<u64> {
        if self.broken {
            return Err(Error::Closed { what: "read side of this connection" });
        }
        while self.started < HEADER {
            let mut part = self.header;
            let got = self.with_fds(socket, &mut part[self.started..], deadline)?;
            if got == 0 {
                return Err(match mem::take(self).started {
                    0 => Error::EndOfFile { what: WHAT },
                    got => Error::Truncated { what: WHAT, got: got as u64, expected: HEADER as u64 },
                });
            }
            self.header = part;
            self.started += got;
            if self.started == HEADER {
                let (_, count, magic) = self.fields();
                if magic != u32::from_le_bytes(MAGIC) || count > MOST_FDS {
                    let notice = crate::auth::notice(&self.header);
                    *self = Incoming { broken: true, ..Incoming::default() };
                    if let Some(reason) = notice {
                        return Err(Error::Authentication { peer: "the peer".into(), reason: reason.into() });
                    }
                    let reason = "the peer does not speak this protocol".into();
                    return Err(Error::Decode { type_name: "message header", reason });
                }
                self.fillers = (count as usize).saturating_sub(BATCH).div_ceil(BATCH);
            }
        }
        let length = self.fields().0;
        if length > most {
            *self = Incoming { broken: true, ..Incoming::default() };
            return Err(Error::TooLong { what: "message", length, limit: most });
        }
        Ok(length)
    }

    fn fields(&self) -> (u64, u32, u32) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.header;
        let length = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        (length, u32::from_le_bytes([i, j, k, l]), u32::from_le_bytes([m, n, o, p]))
    }

    /// Reads what is left of the message after [`begin`](Self::begin), the body into memory like `spare`.
    pub(super) fn finish(
        &mut self,
        socket: BorrowedFd<'_>,
        deadline: Option<Instant>,
        spare: Vec<u8>,
    ) -> Result<Received> {
        let length = self.fields().0;
        self.rest_of_fds(socket, deadline)?;
        if self.body.capacity() == 0 {
            self.body = spare;
            self.body.clear();
        }
        while (self.body.len() as u64) < length {
            let left = length - self.body.len() as u64;
            let part = left.min(self.body.len().max(AHEAD) as u64) as usize;
            if let Err(error) = self.body.try_reserve(part) {
                *self = Incoming { broken: true, ..Incoming::default() };
                return Err(Error::io(
                    format!("receiving a message of {length} bytes"),
                    std::io::Error::other(error),
                ));
            }
            let room = &mut self.body.spare_capacity_mut()[..part];
            let got = read(socket, room, deadline)?;
            if got == 0 {
                let got = mem::take(self).body.len() as u64;
                return Err(Error::Truncated { what: WHAT, got, expected: length });
            }
            // SAFETY: the kernel has just filled the first `got` bytes of the spare capacity.
            unsafe { self.body.set_len(self.body.len() + got) };
        }
        let done = mem::take(self);
        done.check_fds()?;
        Ok(Received { body: done.body, fds: done.fds })
    }

    /// As [`finish`](Self::finish), the body into the caller's memory, which must be as long as the body.
    pub(super) fn finish_into(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Vec<OwnedFd>> {
        self.rest_of_fds(socket, None)?;
        let kept = self.body.len();
        buffer[..kept].copy_from_slice(&self.body);
        let mut have = kept;
        while have < buffer.len() {
            // SAFETY: initialised memory may be seen as perhaps uninitialised, and `read` only ever writes
            // bytes into it.
            let room = unsafe { &mut *(std::ptr::from_mut(&mut buffer[have..]) as *mut [MaybeUninit<u8>]) };
            let got = read(socket, room, None)?;
            if got == 0 {
                *self = Incoming::default();
                return Err(Error::Truncated { what: WHAT, got: have as u64, expected: buffer.len() as u64 });
            }
            have += got;
        }
        let done = mem::take(self);
        done.check_fds()?;
        Ok(done.fds)
    }

    fn rest_of_fds(&mut self, socket: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<()> {
        while self.fillers > 0 {
            if self.with_fds(socket, &mut [0], deadline)? == 0 {
                let expected = mem::take(self).fields().0;
                return Err(Error::Truncated { what: WHAT, got: 0, expected });
            }
            self.fillers -= 1;
        }
        Ok(())
    }

    fn check_fds(&self) -> Result<()> {
        let expected = self.fields().1 as usize;
        let reason = match self.fds.len() {
            got if self.fds_lost => format!(
                "only {got} of its {expected} descriptors could be received: this process has too many open"
            ),
            got if got != expected => format!("it announced {expected} descriptors, {got} came"),
            _ => return Ok(()),
        };
        Err(Error::Decode { type_name: "message", reason })
    }

    /// Reads into `buffer` once, and the descriptors that come with those bytes; 0 is the end of the stream.
    fn with_fds(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        deadline: Option<Instant>,
    ) -> Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let dont_wait = if deadline.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | dont_wait;
            match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
                Ok(received) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = message {
                            self.fds.extend(fds);
                        }
                    }
                    self.fds_lost |= received.flags.contains(ReturnFlags::CTRUNC);
                    return Ok(received.bytes);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(socket, PollFlags::IN, deadline, "receiving a message")?,
                Err(Errno::CONNRESET) => return Ok(0),
                Err(errno) => return Err(Error::io("receiving a message on a connection", errno)),
            }
        }
    }
}

/// Reads into `room` once; 0 is the end of the stream.
fn read(socket: BorrowedFd<'_>, room: &mut [MaybeUninit<u8>], deadline: Option<Instant>) -> Result<usize> {
    let flags = if deadline.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::WAITALL };
    loop {
        match recv(socket, &mut *room, flags) {
            Ok((_, got)) => return Ok(got),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, PollFlags::IN, deadline, "receiving a message")?,
            Err(Errno::CONNRESET) => return Ok(0),
            Err(errno) => return Err(Error::io("receiving a message on a connection", errno)),
        }
    }
}
