//! The way of the descriptors inside items: a pair of sockets beside the ring, in step with it.
//!
//! # Design
//!
//! A putter, holding the putters' lock, sends the descriptors before it publishes the item; a getter, holding the getters'
//! lock, takes them before it publishes that it took the item. So their order is that of the items. Each message says for
//! which item it is (its number) and by which attempt to put it; the item in the ring says which attempt succeeded.
//!
//! A putter that is killed between the two leaves a message of an attempt that no item names: the next getter drops it. A
//! getter that is killed between the two leaves an item whose message is gone: the next getter sees the message of a later
//! item, or none, and says so. Nobody ever waits here, and nobody gets the descriptors of another item.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mp_core::handle::Handle;
use mp_core::liveness::ProcessId;
use mp_core::message::Fds;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The kernel takes so many at once.
const BATCH: usize = 253;
/// Bytes for messages that wait, each of them some 800; the kernel takes no more, and memory for those alone that are there.
const ROOM: usize = (i32::MAX / 2) as usize;
/// Number of the item, attempt, and which batch it is of how many.
const MESSAGE: usize = 24;

#[derive(Debug, Serialize, Deserialize)]
struct Ends {
    put: Handle<OwnedFd>,
    get: Handle<OwnedFd>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Side(Arc<Ends>);

/// What became of an attempt to send descriptors.
pub(crate) enum Sent {
    /// They are on their way, under this name.
    As(u64),
    /// There is no room until somebody gets items.
    NoRoom,
}

impl Side {
    pub fn new() -> Result<Side> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (put, get) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| mp_core::Error::io("creating the sockets of a queue", errno))?;
        widen(&put);
        Ok(Side(Arc::new(Ends { put: Handle(put), get: Handle(get) })))
    }

    /// Sends the descriptors of item `number`; for the holder of the putters' lock.
    pub fn send(&self, number: u64, fds: &Fds) -> Result<Sent> {
        let attempt = attempt();
        let all: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        let batches = all.len().div_ceil(BATCH);
        for (index, batch) in all.chunks(BATCH).enumerate() {
            let message =
                Message { number, attempt, batch: index as u32, batches: batches as u32 }.to_bytes();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(batch));
            let sent = loop {
                match sendmsg(&self.0.put, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL) {
                    Err(Errno::INTR) => {}
                    result => break result,
                }
            };
            match sent {
                Ok(_) => {}
                // Batches that were sent already are dropped by the next getter.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => return Ok(Sent::NoRoom),
                Err(errno) => {
                    return Err(mp_core::Error::io("sending the descriptors of a queue item", errno).into());
                }
            }
        }
        Ok(Sent::As(attempt))
    }

    /// The descriptors of item `number`, put by `attempt`; for the holder of the getters' lock.
    ///
    /// # Errors
    /// [`Error::HandlesLost`] if they are gone.
    pub fn receive(&self, number: u64, attempt: u64) -> Result<Fds> {
        let mut fds = Vec::new();
        while let Some(message) = self.peek()? {
            if message.number > number {
                break;
            }
            let (message, mut batch) = self.take()?;
            if message.number != number || message.attempt != attempt {
                continue;
            }
            fds.append(&mut batch);
            if message.batch + 1 == message.batches {
                return Ok(Fds::received(fds));
            }
        }
        Err(Error::HandlesLost)
    }

    /// The socket of the putters.
    #[cfg(test)]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.0.put.as_fd()
    }

    /// Drops what no item will ask for: for the holder of the getters' lock, while the queue is empty and nobody puts.
    pub fn drain(&self) -> Result<()> {
        while self.peek()?.is_some() {
            self.take()?;
        }
        Ok(())
    }

    /// The next message, which stays there with its descriptors.
    fn peek(&self) -> Result<Option<Message>> {
        loop {
            let mut bytes = [0; MESSAGE];
            match recv(&self.0.get, &mut bytes, RecvFlags::PEEK) {
                Ok((_, 0)) | Err(Errno::AGAIN) => return Ok(None),
                Ok(_) => return Ok(Some(Message::from_bytes(bytes))),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(receiving(errno)),
            }
        }
    }

    fn take(&self) -> Result<(Message, Vec<OwnedFd>)> {
        loop {
            let mut bytes = [0; MESSAGE];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            match recvmsg(
                &self.0.get,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => {
                    let mut fds = Vec::new();
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(batch) = message {
                            fds.extend(batch);
                        }
                    }
                    if received.flags.contains(ReturnFlags::CTRUNC) {
                        // This process has no descriptor left for some of them.
                        return Err(receiving(Errno::MFILE));
                    }
                    return Ok((Message::from_bytes(bytes), fds));
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(receiving(errno)),
            }
        }
    }
}

/// Makes room for as many messages as the system allows: without more rights than most have, that is twice the default.
fn widen(put: &OwnedFd) {
    if set_socket_send_buffer_size_force(put, ROOM).is_err() {
        // What is more than allowed becomes what is allowed.
        let _ = set_socket_send_buffer_size(put, ROOM);
    }
}

fn receiving(errno: Errno) -> Error {
    mp_core::Error::io("receiving the descriptors of a queue item", errno).into()
}

struct Message {
    number: u64,
    attempt: u64,
    batch: u32,
    batches: u32,
}

impl Message {
    fn to_bytes(&self) -> [u8; MESSAGE] {
        let mut bytes = [0; MESSAGE];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.attempt.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.batch.to_le_bytes());
        bytes[20..].copy_from_slice(&self.batches.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; MESSAGE]) -> Message {
        let long = |at: usize| (0..8).fold(0, |sum, byte| sum | u64::from(bytes[at + byte]) << (8 * byte));
        let short = |at: usize| (0..4).fold(0, |sum, byte| sum | u32::from(bytes[at + byte]) << (8 * byte));
        Message { number: long(0), attempt: long(8), batch: short(16), batches: short(20) }
    }
}

/// A name that no other attempt bears, in whatever process, even one that had the same pid; never 0.
fn attempt() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    // Odd factors keep numbers apart; a mixed number of this process comes upon one of another by chance only.
    let process = ProcessId::current().to_word().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (process ^ process >> 32).wrapping_add(LAST.fetch_add(2, Relaxed)) | 1
}
