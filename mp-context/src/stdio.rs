//! The standard streams of a child.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use mp_core::message::SharedFd;
use rustix::fs::{Mode, OFlags};

/// Where a standard stream of a child leads.
///
/// By default a child reads from nothing and writes to where its parent writes.
#[derive(Debug, Default)]
pub struct Stdio(Kind);

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Inherit,
    Null,
    Given(OwnedFd),
}

impl Stdio {
    /// The same as this process's stream; nothing if that is closed.
    pub fn inherit() -> Self {
        Stdio(Kind::Inherit)
    }

    /// Nothing: reads end at once, what is written is dropped.
    pub fn null() -> Self {
        Stdio(Kind::Null)
    }

    /// The descriptor for the child, given that of this process; none if it leads nowhere.
    fn open(&self, own: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        match &self.0 {
            Kind::Given(fd) => fd.try_clone().map(Some),
            // A copy that is close-on-exec, above the numbers of the streams themselves.
            Kind::Inherit => match rustix::io::fcntl_dupfd_cloexec(own, 3) {
                Ok(fd) => Ok(Some(fd)),
                Err(rustix::io::Errno::BADF) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Kind::Null => Ok(None),
        }
    }
}

/// What leads nowhere.
pub(crate) fn open_null() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}

/// Anything that is a descriptor: a file, a pipe, a socket.
impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Stdio(Kind::Given(fd))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        Stdio(Kind::Given(file.into()))
    }
}

/// The three streams of a child.
#[derive(Debug)]
pub(crate) struct Streams {
    pub stdin: Stdio,
    pub stdout: Stdio,
    pub stderr: Stdio,
}

impl Default for Streams {
    fn default() -> Self {
        Streams { stdin: Stdio::null(), stdout: Stdio::inherit(), stderr: Stdio::inherit() }
    }
}

impl Streams {
    /// The descriptors for the child.
    pub fn open(&self) -> io::Result<[OwnedFd; 3]> {
        let [stdin, stdout, stderr] = self.open_but_null()?;
        let or_null = |stream: Option<OwnedFd>| stream.map_or_else(open_null, Ok);
        Ok([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?])
    }

    /// The same, but none for a stream that leads nowhere.
    pub fn open_but_null(&self) -> io::Result<[Option<OwnedFd>; 3]> {
        use rustix::stdio::{stderr, stdin, stdout};
        Ok([
            self.stdin.open(stdin().as_fd())?,
            self.stdout.open(stdout().as_fd())?,
            self.stderr.open(stderr().as_fd())?,
        ])
    }
}

/// Opens nothing in the place of each standard stream of this process that is closed, as the Rust runtime does at the
/// start of a program. Else a descriptor of ours would get its number, and be taken for the stream.
pub(crate) fn fill_gaps() {
    use rustix::io::{Errno, fcntl_getfd};
    use rustix::stdio::{stderr, stdin, stdout};
    for stream in [stdin(), stdout(), stderr()] {
        if fcntl_getfd(stream) != Err(Errno::BADF) {
            continue;
        }
        // The lowest free number is that of the stream. Like any stream it is inherited by programs that are started.
        match rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            Ok(fd) if fd.as_raw_fd() == stream.as_raw_fd() => {
                let _ = fd.into_raw_fd();
            }
            // Another thread was faster.
            _ => {}
        }
    }
}

/// Prints a line on the standard error stream. Nobody may be reading there any more, and that must harm nothing:
/// `eprintln!` would panic, and within a panic hook so end the process before its report is sent.
pub(crate) fn complain(line: fmt::Arguments<'_>) {
    // In one piece: the stream has no buffer, and other processes write to it too.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Makes `streams` the descriptors 0, 1 and 2 of this process.
pub(crate) fn put_in_place(streams: [SharedFd; 3]) -> rustix::io::Result<()> {
    let [stdin, stdout, stderr] = streams;
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)
}
