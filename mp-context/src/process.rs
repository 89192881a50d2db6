//! A started process, as its parent sees it.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mp_core::wait::readable;
use rustix::process::Signal;
use serde::de::DeserializeOwned;

use crate::child::{Child, End};
use crate::error::{PanicReport, ProcessError, signal_name};

/// A started process, and the result of its function, an `R`.
///
/// A clone is another handle to the same process. Dropping the handles does not end it: a process that is not
/// daemonic is waited for when this process exits. It never outlives this process: if this one is killed, so is it.
///
/// Any number of threads may wait for the same process, and all get the same answer.
///
/// Follows Python's `multiprocessing.Process` after `start()`, and `mpservice`'s, whose processes return results.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let process = mp_context::process(|word: String| word.to_uppercase(), ("hello".to_owned(),)).start()?;
/// assert_eq!(process.join()?, "HELLO");
/// assert_eq!(process.exit_code(), Some(0));
/// # Ok(())
/// # }
/// ```
pub struct Process<R> {
    child: Arc<Child>,
    of: PhantomData<fn() -> R>,
}

impl<R> Clone for Process<R> {
    fn clone(&self) -> Self {
        Process { child: self.child.clone(), of: PhantomData }
    }
}

impl<R> Process<R> {
    pub(crate) fn new(child: Arc<Child>) -> Self {
        Process { child, of: PhantomData }
    }

    pub(crate) fn child(&self) -> &Arc<Child> {
        &self.child
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.child.name
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.pid
    }

    /// Its place in the family: `[2, 1]` is the first child of the second child of the main process.
    pub fn identity(&self) -> &[u32] {
        &self.child.identity
    }

    /// Whether it is daemonic; fixed when it was started.
    pub fn daemon(&self) -> bool {
        self.child.daemon
    }

    /// Whether it still runs. Of a closed handle, or in another process than that which started it: `false`.
    pub fn is_alive(&self) -> bool {
        !self.child.is_closed() && self.child.check_parent().is_ok() && self.child.is_alive()
    }

    /// Whether it has ended, in whatever way.
    pub fn done(&self) -> bool {
        self.child.end.get().is_some() || (self.child.check_parent().is_ok() && !self.child.is_alive())
    }

    /// How it ended: 0 for a function that returned, 1 for a panic, `n` for `exit(n)`, minus the number of the signal
    /// that killed it, 255 if nobody can say; `None` while it runs.
    ///
    /// Follows Python's `Process.exitcode`.
    pub fn exit_code(&self) -> Option<i32> {
        self.child.poll().map(|end| end.status.code())
    }

    /// A descriptor (a pidfd) that becomes and stays readable when the process ends, for
    /// [`wait_ready`](mp_core::wait::wait_ready) or any event loop.
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.child.sentinel()
    }

    /// Asks it to end, by SIGTERM. No error if it has ended already.
    ///
    /// # Errors
    /// [`ProcessError::NotAChild`] in another process, [`ProcessError::Closed`].
    pub fn terminate(&self) -> Result<(), ProcessError> {
        self.signal(Signal::TERM)
    }

    /// Ends it, by SIGKILL. No error if it has ended already.
    ///
    /// # Errors
    /// As for [`Process::terminate`].
    pub fn kill(&self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL)
    }

    /// Interrupts it, by SIGINT, which ends it (exit code -2) unless it handles that signal. No error if it has ended
    /// already.
    ///
    /// # Errors
    /// As for [`Process::terminate`].
    pub fn interrupt(&self) -> Result<(), ProcessError> {
        self.signal(Signal::INT)
    }

    fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        self.open()?;
        self.child.signal(signal)
    }

    /// Gives the handle up: after it, this handle and its clones answer only for name, pid and exit code.
    ///
    /// Closing twice is fine. Dropping the handles is enough for all other purposes.
    ///
    /// # Errors
    /// [`ProcessError::StillRunning`], and nothing is closed.
    pub fn close(&self) -> Result<(), ProcessError> {
        if self.child.is_closed() {
            return Ok(());
        }
        self.child.check_parent()?;
        if self.child.poll().is_none() {
            return Err(ProcessError::StillRunning { name: self.name().to_owned(), pid: self.pid() });
        }
        self.child.closed.store(true, Relaxed);
        Ok(())
    }

    fn open(&self) -> Result<(), ProcessError> {
        if self.child.is_closed() {
            return Err(ProcessError::Closed { name: self.name().to_owned() });
        }
        Ok(())
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<&End, ProcessError> {
        self.open()?;
        let end = self.child.wait(timeout)?;
        end.ok_or_else(|| ProcessError::Timeout { name: self.name().to_owned(), pid: self.pid() })
    }

    /// Waits until it ends and says why it has no result, or `None` if it has one.
    ///
    /// Follows `exception()` of Python's futures.
    pub fn exception(&self) -> Option<ProcessError> {
        match self.wait(None) {
            Ok(end) => end.result(&self.child).err(),
            Err(error) => Some(error),
        }
    }

    /// What is known of its panic, if it panicked; does not wait.
    pub fn panic_report(&self) -> Option<PanicReport> {
        match self.child.poll()?.result(&self.child) {
            Err(ProcessError::Panicked { report, .. }) => Some(*report),
            _ => None,
        }
    }
}

impl<R: DeserializeOwned> Process<R> {
    /// Waits until it ends, and returns what its function returned.
    ///
    /// May be called again, and by several threads.
    ///
    /// # Errors
    /// [`ProcessError`] tells how it ended instead: by a panic, an early exit, or a signal.
    pub fn join(&self) -> Result<R, ProcessError> {
        self.decode(self.wait(None)?)
    }

    /// Waits until it ends, for `timeout` at most.
    ///
    /// # Errors
    /// [`ProcessError::Timeout`] if it still runs then, and as for [`Process::join`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<R, ProcessError> {
        self.decode(self.wait(Some(timeout))?)
    }

    /// The same as [`Process::join`], by its name in futures.
    ///
    /// # Errors
    /// As for [`Process::join`].
    pub fn result(&self) -> Result<R, ProcessError> {
        self.join()
    }

    /// The same as [`Process::join_timeout`], by its name in futures.
    ///
    /// # Errors
    /// As for [`Process::join_timeout`].
    pub fn result_timeout(&self, timeout: Duration) -> Result<R, ProcessError> {
        self.join_timeout(timeout)
    }

    fn decode(&self, end: &End) -> Result<R, ProcessError> {
        let value = end.result(&self.child)?;
        let lost = |error: mp_core::Error| ProcessError::Result {
            name: self.name().to_owned(),
            pid: self.pid(),
            reason: error.to_string(),
        };
        value.decode().map_err(lost)
    }
}

/// Waits, without blocking a thread, until the process ends; the same as [`Process::join`], on any executor.
impl<R: DeserializeOwned + 'static> IntoFuture for Process<R> {
    type Output = Result<R, ProcessError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.open()?;
            self.child.check_parent()?;
            if !self.done() {
                let ended = readable(self.child.pidfd.clone());
                ended.await.map_err(|error| self.child.system(error))?;
            }
            self.join()
        })
    }
}

/// The sentinel.
impl<R> AsFd for Process<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sentinel()
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let child = &self.child;
        let state = if child.is_closed() {
            "closed".to_owned()
        } else if let Some(end) = child.end.get() {
            exit_text(end.status.code())
        } else if child.check_parent().is_err() {
            "unknown".to_owned()
        } else {
            child.poll().map_or_else(|| "started".to_owned(), |end| exit_text(end.status.code()))
        };
        let daemon = if child.daemon { " daemon" } else { "" };
        let kind = child.method.process_type();
        write!(f, "<{kind} name={:?} pid={} parent={} {state}{daemon}>", child.name, child.pid, child.parent)
    }
}

fn exit_text(code: i32) -> String {
    match code {
        code if code < 0 => format!("stopped exitcode=-{}", signal_name(-code)),
        code => format!("stopped exitcode={code}"),
    }
}
