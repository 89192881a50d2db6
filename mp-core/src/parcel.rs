//! Messages that never make their sender wait: what is too large for a socket's buffer goes in a file in memory.
//!
//! A parent can so hand any arguments to a child that has not begun to read, and a child can leave any result behind
//! and end, whether or not the parent is looking. The file has no name: it is gone when sender and receiver are.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use memfd::MemfdOptions;

use crate::connection::Connection;
use crate::message::{Fds, Message};
use crate::{Error, Result};

/// Longest message that goes through the socket itself; well below the smallest default buffer of the system.
const INLINE: usize = 32 << 10;

const SMALL: u8 = 0;
const LARGE: u8 = 1;

/// Sends `message` without waiting for the receiver.
///
/// # Errors
/// [`Error::Io`] when memory is short or the receiver is gone.
pub fn send(connection: &Connection, mut message: Message) -> Result<()> {
    if message.bytes.len() <= INLINE {
        message.bytes.push(SMALL);
    } else {
        let file = store(&message.bytes)?;
        message.bytes.clear();
        message.bytes.push(LARGE);
        message.fds.attach(file.into());
    }
    connection.send_message(message)
}

/// Turns what [`send`] sent back into the message.
///
/// # Errors
/// [`Error::Decode`] when it is something else.
pub fn unpack(mut message: Message) -> Result<Message> {
    match message.bytes.pop() {
        Some(SMALL) => Ok(message),
        Some(LARGE) if message.bytes.is_empty() && !message.fds.is_empty() => {
            message.bytes = load(&mut message.fds)?;
            Ok(message)
        }
        _ => Err(Error::Decode { type_name: "parcel", reason: "it ends with an unknown mark".into() }),
    }
}

/// A file in memory that holds `bytes`.
///
/// # Errors
/// [`Error::Io`] when memory is short.
pub fn store(bytes: &[u8]) -> Result<OwnedFd> {
    let failed = |error| Error::io(format!("storing a message of {} bytes in memory", bytes.len()), error);
    crate::room::file(bytes.len()).map_err(failed)?;
    let memory = MemfdOptions::new().close_on_exec(true).create("multiprocess-message");
    let mut file = memory.map_err(|error| failed(std::io::Error::other(error)))?.into_file();
    file.write_all(bytes).map_err(failed)?;
    Ok(file.into())
}

/// What is in the file that is the last of `fds`, which is taken.
///
/// # Errors
/// [`Error::Decode`] when there is none, [`Error::Io`] when it cannot be read or memory is short.
pub fn load(fds: &mut Fds) -> Result<Vec<u8>> {
    let failed = |error| Error::io("reading a large message from memory", error);
    let last = fds.len().wrapping_sub(1) as u32;
    let file = File::from(fds.take(last, "large message")?);
    let len = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    let announced = usize::try_from(len).ok().filter(|len| bytes.try_reserve_exact(*len).is_ok());
    let announced = announced.ok_or_else(|| failed(std::io::ErrorKind::OutOfMemory.into()))?;
    while bytes.len() < announced {
        // The file's position is shared with the sender, so it is not relied on.
        let position = bytes.len() as u64;
        match rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut bytes), position) {
            Ok(0) => return Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    // The allocator may have given more room than was asked for, and the sender may have written on.
    bytes.truncate(announced);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_messages_never_wait_for_the_receiver() {
        let (a, b) = Connection::pair().expect("a pair");
        for len in [0, 1, INLINE, INLINE + 1, 20 << 20] {
            let value = vec![7u8; len];
            send(&a, Message::encode(&value).expect("a message")).expect("sent");
            let message = unpack(b.recv_message().expect("received")).expect("a parcel");
            assert_eq!(message.decode::<Vec<u8>>().expect("bytes"), value);
        }
    }

    #[test]
    fn other_bytes_are_an_error() {
        for bytes in [vec![], vec![1], vec![2], vec![9, 1]] {
            assert!(unpack(Message { bytes, ..Message::default() }).is_err());
        }
    }
}
