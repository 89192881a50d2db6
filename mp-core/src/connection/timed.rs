//! The forms with a time limit of calls that wait for the peer, beyond those for receiving a value.
//!
//! What a peer does, or its death, is seen as by the forms without a limit.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Connection, Direction};
use crate::message::{Fds, encode_into};
use crate::wait::deadline;
use crate::{Error, Result};

impl Connection {
    /// As [`send`](Self::send), waiting for `timeout` at most.
    ///
    /// Errors: [`Error::Timeout`]; if the message was left half written, nothing can be sent on this connection any more.
    /// Others as in [`send`](Self::send).
    pub fn send_timeout<T: Serialize + ?Sized>(&self, value: &T, timeout: Duration) -> Result<()> {
        self.check("send")?;
        let deadline = deadline(timeout);
        let mut fds = Fds::new();
        let mut body = self.take_spare();
        let sent =
            encode_into(value, &mut body, &mut fds).and_then(|()| self.send_parts(&body, fds, deadline));
        self.keep_spare(body);
        sent
    }

    /// As [`send_bytes`](Self::send_bytes), waiting for `timeout` at most; see [`send_timeout`](Self::send_timeout).
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<()> {
        self.check("send")?;
        self.send_parts(bytes, Fds::new(), deadline(timeout))
    }

    /// As [`recv_bytes_max`](Self::recv_bytes_max), waiting for `timeout` at most; see
    /// [`recv_timeout`](Self::recv_timeout).
    pub fn recv_bytes_max_timeout(&self, max: usize, timeout: Duration) -> Result<Vec<u8>> {
        self.recv_bytes_max_until(max, deadline(timeout))
    }

    pub(super) fn recv_bytes_max_until(&self, max: usize, deadline: Option<Instant>) -> Result<Vec<u8>> {
        let received = self.receive(deadline, max as u64, Vec::new());
        if matches!(received, Err(Error::TooLong { .. })) && self.direction == Direction::Receive {
            self.close()?;
        }
        received.map(super::into_bytes)
    }

    /// As [`recv_bytes_into`](Self::recv_bytes_into), waiting for `timeout` at most; see
    /// [`recv_timeout`](Self::recv_timeout). `buffer` is as before unless a message came that fits.
    pub fn recv_bytes_into_timeout(&self, buffer: &mut [u8], timeout: Duration) -> Result<usize> {
        // What has come when the time is over must not be in the caller's memory alone.
        let message = self.recv_bytes_timeout(timeout)?;
        match buffer.get_mut(..message.len()) {
            Some(place) => {
                place.copy_from_slice(&message);
                Ok(message.len())
            }
            None => Err(Error::BufferTooShort { message, room: buffer.len() }),
        }
    }

    /// As [`end_sending`](Self::end_sending), waiting for `timeout` at most, which matters while another thread sends.
    ///
    /// Errors: [`Error::Timeout`]; others as in [`end_sending`](Self::end_sending).
    pub fn end_sending_timeout(&self, timeout: Duration) -> Result<()> {
        self.end_sending_until(deadline(timeout))
    }
}
