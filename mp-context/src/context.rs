//! A context: a start method, and everything made with it.

use std::fmt;

use mp_core::function::{Arguments, Callable};
use mp_core::message::encode_into;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::builder::ProcessBuilder;
use crate::error::StartError;
use crate::launch::{Plan, Work, begin};
use crate::method::{self, StartMethod};
use crate::process::Process;

/// A start method, and the processes made with it.
///
/// All objects of this library may travel between processes of any method, so contexts can be mixed freely. Follows
/// Python's `multiprocessing.get_context` and the contexts it returns.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = mp_context::Context::spawn();
/// let process = context.process(|| std::process::id(), ()).start()?;
/// assert_eq!(process.pid(), process.join()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    method: StartMethod,
}

/// The context of a start method by its name; for `None`, that of the default method, which is fixed from then on.
///
/// # Errors
/// [`StartError::UnknownMethod`].
///
/// ```
/// assert_eq!(mp_context::get_context("spawn")?, mp_context::Context::spawn());
/// assert!(mp_context::get_context("teleport").is_err());
/// # Ok::<(), mp_context::StartError>(())
/// ```
pub fn get_context<'a>(method: impl Into<Option<&'a str>>) -> Result<Context, StartError> {
    let method = method.into().map_or_else(|| Ok(method::fix()), str::parse)?;
    Ok(Context { method })
}

impl Context {
    /// Children are made by starting the program anew.
    pub const fn spawn() -> Self {
        Context { method: StartMethod::Spawn }
    }

    /// Children are copies of a small server process. The default.
    pub const fn forkserver() -> Self {
        Context { method: StartMethod::ForkServer }
    }

    /// Children are copies of this process, which may have no other threads.
    pub const fn fork() -> Self {
        Context { method: StartMethod::Fork }
    }

    /// The context of a method.
    pub const fn new(method: StartMethod) -> Self {
        Context { method }
    }

    /// Its method.
    pub const fn start_method(self) -> StartMethod {
        self.method
    }

    /// Name of its method.
    pub const fn get_start_method(self) -> &'static str {
        self.method.name()
    }

    /// Itself for `None`, else the context of the named method.
    ///
    /// # Errors
    /// [`StartError::UnknownMethod`].
    pub fn get_context<'a>(self, method: impl Into<Option<&'a str>>) -> Result<Context, StartError> {
        method.into().map_or(Ok(self), get_context)
    }

    /// Always an error: the method of a concrete context is fixed.
    ///
    /// # Errors
    /// [`StartError::FixedMethod`].
    pub fn set_start_method<'a>(
        self,
        _method: impl Into<Option<&'a str>>,
        _force: bool,
    ) -> Result<(), StartError> {
        Err(StartError::FixedMethod { set: self.method })
    }

    /// A process of this context that will call `function` with `arguments`; see [`process`](crate::process()).
    pub fn process<F, A>(self, function: F, arguments: A) -> ProcessBuilder<F, A>
    where
        F: Callable<A>,
        A: Arguments,
        F::Output: Serialize + DeserializeOwned,
    {
        ProcessBuilder::new(Some(self.method), function, arguments)
    }

    /// Starts a process that runs `closure`, which may capture anything: of the fork context only, as the captured
    /// values are copied with all the memory of this process. Their destructors run there too. Guards are copied without
    /// their holds: a captured guard of a shared value or array is not to be used there.
    ///
    /// Follows the start method fork of Python, where arguments need not be serialisable.
    ///
    /// # Errors
    /// [`StartError::CannotCapture`] in other contexts; [`StartError::System`] naming the other threads, if this
    /// process has any; and as for [`ProcessBuilder::start`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let table: Vec<u64> = (0..1_000_000).collect();
    /// let process = mp_context::Context::fork().fork_with(|| table.iter().sum::<u64>())?;
    /// assert_eq!(process.join()?, 499_999_500_000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork_with<R: Serialize + DeserializeOwned>(
        self,
        closure: impl FnOnce() -> R,
    ) -> Result<Process<R>, StartError> {
        if self.method != StartMethod::Fork {
            return Err(StartError::CannotCapture { method: self.method });
        }
        let work = Work::Closure(Box::new(|result, fds| encode_into(&closure(), result, fds)));
        begin(&Plan::new(self.method, None), work)?.finish().map(Process::new)
    }
}

/// The context of the default start method, which is fixed from then on.
impl Default for Context {
    fn default() -> Self {
        Context { method: method::fix() }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.method)
    }
}
