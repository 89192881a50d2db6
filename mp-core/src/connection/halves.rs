//! The two directions of a connection by themselves: one end for receiving and one for sending, and the end of one.
//!
//! When the process at the other end dies, both halves see it as a whole connection does.

use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::net::{Shutdown, shutdown};

use super::{Connection, Direction};
use crate::{Error, Result};

impl Connection {
    /// Splits a duplex end into one for receiving and one for sending, for two threads or two processes.
    ///
    /// Each can be closed, dropped and sent in a message by itself. The peer sees the end of file when both halves
    /// are gone, or after [`end_sending`](Self::end_sending).
    ///
    /// Errors: [`Error::Direction`] if this end has one direction only, [`Error::Closed`], [`Error::Io`] if no more
    /// descriptors can be opened.
    ///
    /// ```
    /// # fn main() -> mp_core::Result<()> {
    /// let (here, there) = mp_core::connection::pipe()?;
    /// let (receiver, sender) = here.split()?;
    /// let echo = std::thread::spawn(move || there.send(&there.recv::<i32>()?));
    /// let sending = std::thread::spawn(move || sender.send(&1729));
    /// assert_eq!(receiver.recv::<i32>()?, 1729);
    /// # sending.join().expect("no panic")?;
    /// # echo.join().expect("no panic")
    /// # }
    /// ```
    pub fn split(mut self) -> Result<(Connection, Connection)> {
        self.check("send")?;
        self.check("receive")?;
        let duplicate = self.socket.try_clone();
        let duplicate = duplicate.map_err(|error| Error::io("splitting a connection", error))?;
        let mut sender = Connection::new(duplicate, Direction::Send, self.carries_fds);
        // What was half sent goes with the one, what was half received stays with the other.
        std::mem::swap(&mut sender.outgoing, &mut self.outgoing);
        self.direction = Direction::Receive;
        Ok((self, sender))
    }

    /// Tells the peer that nothing more will come, in whichever process that holds this end; receiving goes on.
    ///
    /// The peer receives what was sent before, then the end of file. Sending afterwards is [`Error::Closed`] here, a broken pipe
    /// in other processes that hold this end. Doing it twice is fine. Errors: [`Error::Direction`] on a receive-only
    /// end, [`Error::Closed`].
    pub fn end_sending(&self) -> Result<()> {
        self.end_sending_until(None)
    }

    pub(super) fn end_sending_until(&self, deadline: Option<Instant>) -> Result<()> {
        self.check("send")?;
        let entered = self.outgoing.enter(deadline);
        let mut outgoing = entered.ok_or(Error::Timeout { what: "ending a direction" })?;
        self.check("send")?;
        if !outgoing.broken {
            self.finish_pending(&mut outgoing, deadline)?;
        }
        outgoing.broken = true;
        match shutdown(&self.socket, Shutdown::Write) {
            // The peer is gone already.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(_) if self.closed.load(Ordering::Acquire) => Err(Error::Closed { what: "connection" }),
            Err(errno) => Err(Error::io("ending a direction of a connection", errno)),
        }
    }
}
