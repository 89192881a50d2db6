//! Who is at the other end of an accepted connection, as the kernel knows it.
//!
//! Taken when the peer connected: it may have died since, and its pid be another's.

use std::fmt;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// The client of an accepted connection. Follows `Listener.last_accepted`, which is empty for Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// A process of this machine.
    #[non_exhaustive]
    Unix {
        /// Its pid when it connected; none if it lives in a container of which this process knows nothing.
        pid: Option<u32>,
        /// Its effective user.
        uid: u32,
    },
    /// A client on the network.
    Tcp(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Unix { pid: Some(pid), uid } => write!(f, "process {pid} of user {uid}"),
            Peer::Unix { pid: None, uid } => write!(f, "a process of user {uid} in another container"),
            Peer::Tcp(address) => address.fmt(f),
        }
    }
}

impl Peer {
    /// The process that connected to this end of a Unix socket.
    pub(super) fn of_unix(socket: BorrowedFd<'_>) -> rustix::io::Result<Peer> {
        let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // Not through rustix: its pid cannot be 0, but that of a process in another container is.
        // SAFETY: the kernel writes at most `length` bytes, which is the size of the structure.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                credentials.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if done != 0 {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
        }
        // SAFETY: three integers; zeroes at first, then what the kernel wrote.
        let credentials = unsafe { credentials.assume_init() };
        let pid = u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0);
        Ok(Peer::Unix { pid, uid: credentials.uid })
    }
}
