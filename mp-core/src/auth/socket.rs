//! The handshake over its socket, without ever waiting.
//!
//! When the peer dies, its end of the socket is closed and the handshake fails.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::exchange::{Failure, Step};
use super::{Exchange, MESSAGE, Refusal};

/// Sends the first message.
pub(crate) fn begin(exchange: &Exchange, socket: BorrowedFd<'_>) -> Result<(), Failure> {
    say(socket, &exchange.hello())
}

/// Does what can be done now; true once the peer has proved that it knows the key.
pub(crate) fn advance(exchange: &mut Exchange, socket: BorrowedFd<'_>) -> Result<bool, Failure> {
    let mut bytes = [0; MESSAGE];
    loop {
        let room = &mut bytes[..exchange.wants()];
        // Descriptors that a stranger sends along are not taken: there is no room for them.
        let got = match recv(socket, room, RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => {
                return Err(gone(format!("the peer left before its {}", exchange.awaits())));
            }
            Ok((got, _)) => got,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(gone(format!("receiving its {}: {errno}", exchange.awaits()))),
        };
        match exchange.feed(&bytes[..got])? {
            Step::More => {}
            Step::Reply(message) => say(socket, &message)?,
            Step::Done(message) => {
                message.map_or(Ok(()), |message| say(socket, &message))?;
                return Ok(true);
            }
        }
    }
}

/// Tells a client why it is refused, as far as it listens.
pub(crate) fn refuse(socket: BorrowedFd<'_>, refusal: Refusal) {
    // What it sent has to be read first: closing a socket with something unread in it may take the answer away.
    let mut bytes = [0; 4096];
    let _ = recv(socket, &mut bytes, RecvFlags::DONTWAIT);
    let _ = say(socket, &refusal.message());
}

/// Sends a few bytes into a socket that is new: there is always room, unless the peer plays games.
fn say(socket: BorrowedFd<'_>, message: &[u8]) -> Result<(), Failure> {
    loop {
        match send(socket, message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) if sent == message.len() => return Ok(()),
            Ok(_) | Err(Errno::AGAIN) => return Err(gone("the peer does not read".into())),
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(gone("the peer left".into())),
            Err(errno) => return Err(gone(format!("sending: {errno}"))),
        }
    }
}

fn gone(reason: String) -> Failure {
    Failure { reason, refusal: Refusal::Protocol }
}
