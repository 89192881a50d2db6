//! Sending and receiving in async code, on any executor.
//!
//! What another process does to the peer is seen as by the blocking forms. No thread waits for the socket but that of
//! [`wait::readable`](crate::wait::readable), which all async waits of the process share.
//!
//! A message that is half received stays with the connection, one that is half sent does too: so a future that is
//! dropped breaks nothing. Whoever uses that direction next goes on with it.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::{self, Received};
use super::{Connection, Outgoing};
use crate::message::{Fds, Message};
use crate::wait::{readable, writable};
use crate::{Error, Result};

/// How long an executor's thread waits for another thread that uses the same direction, before it
/// does something else.
const TURN: Duration = Duration::from_millis(1);

/// A message that is being sent.
pub(super) struct Pending {
    message: Message,
    at: usize,
}

impl Connection {
    /// As [`recv`](Self::recv), in async code on any executor.
    ///
    /// Dropping the future loses nothing: a message that is half there stays for the next call.
    ///
    /// ```
    /// # async fn example() -> mp_core::Result<()> {
    /// let (a, b) = mp_core::connection::pipe()?;
    /// a.send_async(&1729).await?;
    /// assert_eq!(b.recv_async::<i32>().await?, 1729);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv_async<T: DeserializeOwned>(&self) -> Result<T> {
        self.recv_message_async().await?.decode()
    }

    /// As [`recv_bytes`](Self::recv_bytes); see [`recv_async`](Self::recv_async).
    pub async fn recv_bytes_async(&self) -> Result<Vec<u8>> {
        self.recv_received_async().await.map(super::into_bytes)
    }

    /// As [`recv_message`](Self::recv_message); see [`recv_async`](Self::recv_async).
    pub async fn recv_message_async(&self) -> Result<Message> {
        self.recv_received_async().await.map(super::into_message)
    }

    async fn recv_received_async(&self) -> Result<Received> {
        loop {
            match self.recv_step() {
                Err(Error::Timeout { .. }) => readable(self.socket.clone()).await?,
                received => return received,
            }
        }
    }

    /// As [`poll_forever`](Self::poll_forever), in async code on any executor.
    pub async fn poll_async(&self) -> Result<()> {
        self.check("poll")?;
        readable(self.socket.clone()).await?;
        self.check("poll")
    }

    /// Goes as far as it can without waiting for the peer.
    fn recv_step(&self) -> Result<Received> {
        let mut incoming = self.reading("receive", Some(Instant::now() + TURN))?;
        let now = Some(Instant::now());
        let begun = incoming.begin(self.as_fd(), now, u64::MAX);
        let received = begun.and_then(|_| incoming.finish(self.as_fd(), now, Vec::new()));
        received.map_err(|error| self.unless_closed(error))
    }

    /// As [`send`](Self::send), in async code on any executor.
    ///
    /// If the future is dropped before the message was begun, it is not sent; if after, the rest of it goes out
    /// before the next message of this connection.
    pub async fn send_async<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        self.check("send")?;
        self.send_message_async(Message::encode(value)?).await
    }

    /// As [`send_bytes`](Self::send_bytes); see [`send_async`](Self::send_async).
    pub async fn send_bytes_async(&self, bytes: &[u8]) -> Result<()> {
        self.send_message_async(Message { bytes: bytes.to_vec(), fds: Fds::new() }).await
    }

    /// As [`send_message`](Self::send_message); see [`send_async`](Self::send_async).
    pub async fn send_message_async(&self, message: Message) -> Result<()> {
        self.check("send")?;
        self.check_fds(&message.fds)?;
        let (mut message, mut number) = (Some(message), 0);
        while !self.send_step(&mut message, &mut number)? {
            writable(self.socket.clone()).await?;
        }
        Ok(())
    }

    /// Goes as far as it can without waiting for the peer; true once the message is sent. `number` is that of the
    /// message, once it was begun.
    fn send_step(&self, message: &mut Option<Message>, number: &mut u64) -> Result<bool> {
        self.check("send")?;
        let Some(mut outgoing) = self.outgoing.enter(Some(Instant::now() + TURN)) else { return Ok(false) };
        self.check("send")?;
        if message.is_none() && (*number < outgoing.begun || outgoing.pending.is_none()) {
            // Somebody else has sent the rest of it, or tried to.
            return match outgoing.lost_from.is_some_and(|lost| lost <= *number) {
                true => Err(Error::io("sending a message on a connection", rustix::io::Errno::PIPE)),
                false => Ok(true),
            };
        }
        if outgoing.broken {
            return Err(Error::Closed { what: "write side of this connection" });
        }
        loop {
            match self.finish_pending(&mut outgoing, Some(Instant::now())) {
                Err(Error::Timeout { .. }) => return Ok(false),
                finished => finished?,
            }
            let Some(message) = message.take() else { return Ok(true) };
            outgoing.begun += 1;
            *number = outgoing.begun;
            outgoing.pending = Some(Box::new(Pending { message, at: 0 }));
        }
    }

    /// Sends the rest of what an async send has begun.
    pub(super) fn finish_pending(&self, outgoing: &mut Outgoing, deadline: Option<Instant>) -> Result<()> {
        let Some(mut pending) = outgoing.pending.take() else { return Ok(()) };
        let Message { bytes, fds } = &mut pending.message;
        let sent = frame::send(self.as_fd(), bytes, fds, deadline, &mut pending.at);
        match &sent {
            Ok(()) => fds.delivered(),
            Err(Error::Timeout { .. }) => outgoing.pending = Some(pending),
            Err(error) => {
                let gone =
                    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe);
                outgoing.broken = !gone && pending.at > 0;
                // Nothing comes through after it, either.
                outgoing.lost_from.get_or_insert(outgoing.begun);
            }
        }
        sent.map_err(|error| self.unless_closed(error))
    }
}
