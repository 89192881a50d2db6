//! The pool, as its user holds it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use mp_context::{Context, StartError, StartMethod, cpu_count};
use mp_core::function::{Arguments, Callable};
use mp_core::wait::helper_thread;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Call, With};
use crate::error::{OnLost, PoolError, WorkerLost};
use crate::exit;
use crate::lock;
use crate::member::{Member, WorkerSettings};
use crate::shared::{Shared, Stage};
use crate::supervisor::Supervisor;

/// How often a worker is asked for anew when the fork server was killed while it made it.
const ATTEMPTS: usize = 3;

/// A number of worker processes that stay, and run functions on items.
///
/// Each worker has a private link to this process. A worker that dies, whenever and however, takes with it at most
/// the one task it was in: that task fails with [`WorkerLost`], or is tried again if the call asks for
/// [retries](Pool::retries); the worker is replaced; everything else goes on. Any number of threads may use one pool.
///
/// Dropping a pool terminates it. Follows Python's `multiprocessing.Pool`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = mp_pool::Pool::new(2)?;
/// assert_eq!(pool.map(|x: u64| x * x, 0..5)?, [0, 1, 4, 9, 16]);
///
/// let factor = 10;
/// assert_eq!(pool.with(factor).map(|k, x: i32| k * x, [1, 2, 3])?, [10, 20, 30]);
/// pool.close()?;
/// pool.join()?;
/// # Ok(())
/// # }
/// ```
pub struct Pool {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    processes: usize,
    context: Context,
    owner: u32,
}

/// Describes a pool before it is made; see [`Pool::builder`].
#[must_use = "a pool is made by `build()`"]
pub struct PoolBuilder {
    processes: Option<usize>,
    context: Option<Context>,
    on_lost: Option<Arc<OnLost>>,
    forward_logs: bool,
}

/// What a pool has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Tasks that were finished, with a value or an error.
    pub tasks: u64,
    /// Workers that were lost.
    pub workers_lost: u64,
}

impl Pool {
    /// A pool of `processes` workers, started by the default method.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] for 0, [`PoolError::Start`].
    pub fn new(processes: usize) -> Result<Pool, PoolError> {
        Pool::builder().processes(processes).build()
    }

    /// Describes a pool: how many workers, of which context, and who is told when one is lost.
    pub fn builder() -> PoolBuilder {
        PoolBuilder { processes: None, context: None, on_lost: None, forward_logs: true }
    }

    /// Number of workers.
    pub fn processes(&self) -> usize {
        self.processes
    }

    /// What was done so far.
    pub fn stats(&self) -> PoolStats {
        PoolStats { tasks: self.shared.tasks(), workers_lost: self.shared.losses() }
    }

    /// `function` of each item; the results in the order of the items.
    ///
    /// `function` is a function item, or a closure that captures nothing: see [`Pool::with`] for one that does. Items
    /// are handed out one by one as workers become free, many of them at a time if they are quick.
    ///
    /// # Errors
    /// [`PoolError::Task`] of the first item without a result, after all others were run;
    /// [`Call::try_map`] gives all results. [`PoolError::Closed`] and [`PoolError::Terminated`].
    pub fn map<F, T, R>(&self, function: F, items: impl IntoIterator<Item = T>) -> Result<Vec<R>, PoolError>
    where
        F: Fn(T) -> R,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        Call::new(self).map(function, items)
    }

    /// `function` of each tuple of arguments; the results in their order.
    ///
    /// # Errors
    /// As for [`Pool::map`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = mp_pool::Pool::new(2)?;
    /// assert_eq!(pool.starmap(|a: u32, b: u32| a + b, [(1, 2), (3, 4)])?, [3, 7]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn starmap<F, A>(
        &self,
        function: F,
        items: impl IntoIterator<Item = A>,
    ) -> Result<Vec<F::Output>, PoolError>
    where
        F: Callable<A>,
        A: Arguments,
        F::Output: Serialize + DeserializeOwned,
    {
        Call::new(self).starmap(function, items)
    }

    /// What `function` returns, run once by some worker.
    ///
    /// # Errors
    /// As for [`Pool::map`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = mp_pool::Pool::new(1)?;
    /// assert_eq!(pool.apply(|a: u32, b: u32| a * b, (6, 7))?, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply<F, A>(&self, function: F, arguments: A) -> Result<F::Output, PoolError>
    where
        F: Callable<A>,
        A: Arguments,
        F::Output: Serialize + DeserializeOwned,
    {
        Call::new(self).apply(function, arguments)
    }

    /// For the next call: `captures` go to each worker once, and come first among the function's parameters, by
    /// reference. This is how a closure captures.
    pub fn with<C: Serialize + DeserializeOwned>(&self, captures: C) -> With<'_, C> {
        Call::new(self).with(captures)
    }

    /// For the next call: `items` at a time make one task, which a worker takes and loses as a whole. It ends at the
    /// first item that fails: those after it are [`Skipped`](crate::TaskFailure::Skipped), those before it have their values.
    ///
    /// The default is 1: quick tasks share messages anyway. Larger chunks save a little more on very quick functions.
    pub fn chunksize(&self, items: usize) -> Call<'_> {
        Call::new(self).chunksize(items)
    }

    /// For the next call: a task is tried again up to `times` times when the worker dies that works on it.
    ///
    /// Only for functions that may run more than once for an item. The default is 0: the item fails.
    pub fn retries(&self, times: u32) -> Call<'_> {
        Call::new(self).retries(times)
    }

    /// For the next call: whether a progress bar is shown, on the standard error stream if that is a terminal.
    pub fn progress(&self, show: bool) -> Call<'_> {
        Call::new(self).progress(show)
    }

    /// Takes no more tasks; the workers end when the present ones are done. Closing twice is fine.
    ///
    /// # Errors
    /// [`PoolError::NotOurs`].
    pub fn close(&self) -> Result<(), PoolError> {
        self.check_owner()?;
        self.shared.close();
        Ok(())
    }

    /// Ends at once: unfinished calls fail with [`PoolError::Terminated`], workers get SIGTERM, and a second later
    /// SIGKILL. Returns when they are gone.
    ///
    /// # Errors
    /// [`PoolError::NotOurs`].
    pub fn terminate(&self) -> Result<(), PoolError> {
        self.check_owner()?;
        self.shared.terminate();
        self.wait_end();
        Ok(())
    }

    /// Waits until all workers are gone, after [`Pool::close`] or [`Pool::terminate`].
    ///
    /// # Errors
    /// [`PoolError::StillRunning`], [`PoolError::NotOurs`].
    pub fn join(&self) -> Result<(), PoolError> {
        self.check_owner()?;
        if self.shared.stage() == Stage::Open && !self.shared.has_ended() {
            return Err(PoolError::StillRunning);
        }
        self.wait_end();
        Ok(())
    }

    fn wait_end(&self) {
        // In a callback it cannot be waited for: it ends after that.
        if self.shared.is_served_here() {
            return;
        }
        self.shared.wait_end();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    pub(crate) fn check_owner(&self) -> Result<(), PoolError> {
        if self.owner == std::process::id() { Ok(()) } else { Err(PoolError::NotOurs { owner: self.owner }) }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl PoolBuilder {
    /// Number of workers; the default is [`cpu_count`].
    pub fn processes(mut self, count: usize) -> Self {
        self.processes = Some(count);
        self
    }

    /// How the workers are started; the default is the default start method.
    ///
    /// Of the fork context, replacements of lost workers are made by a fork server, as a pool has a thread.
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// Is called with each worker that is lost, by the thread of the pool: it should return soon, and cannot call the
    /// pool itself. What it panics of is logged.
    pub fn on_worker_lost(mut self, tell: impl Fn(&WorkerLost) + Send + Sync + 'static) -> Self {
        self.on_lost = Some(Arc::new(tell));
        self
    }

    /// Whether the log records of the workers come to the logger that this process has installed with the `log` crate; the
    /// default is true.
    ///
    /// See [`ProcessBuilder::forward_logs`](mp_context::ProcessBuilder::forward_logs).
    pub fn forward_logs(mut self, forward: bool) -> Self {
        self.forward_logs = forward;
        self
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] for 0 workers; [`PoolError::Start`], and none is left behind.
    pub fn build(self) -> Result<Pool, PoolError> {
        let processes = self.processes.unwrap_or_else(cpu_count);
        if processes == 0 {
            let reason = "a pool has at least one worker".into();
            return Err(PoolError::Invalid { what: "number of processes", reason });
        }
        let context = self.context.unwrap_or_default();
        let shared = Arc::new(Shared::new()?);
        let settings = WorkerSettings { context, forward_logs: self.forward_logs };
        let members = start_all(processes, settings, &shared)?;
        exit::note(&shared);
        let supervisor = Supervisor::new(shared.clone(), settings, members, self.on_lost)?;
        let builder = std::thread::Builder::new().name("mp-pool".into());
        let thread = helper_thread(builder, || supervisor.run());
        let thread = thread.map_err(|error| mp_core::Error::io("starting the thread of a pool", error))?;
        Ok(Pool { shared, thread: Mutex::new(Some(thread)), processes, context, owner: std::process::id() })
    }
}

/// Workers that are ready; all are asked for before the first is waited for.
fn start_all(count: usize, settings: WorkerSettings, shared: &Shared) -> Result<Vec<Member>, PoolError> {
    let context = settings.context;
    let begin = |name: &String| Member::start(settings, name.clone(), &shared.bell);
    let server_was_killed = |begun: &Result<Member, PoolError>| {
        matches!(begun, Err(PoolError::Start(StartError::Died { .. })))
            && context.start_method() == StartMethod::ForkServer
    };
    let names: Vec<String> = (0..count).map(|_| shared.next_name(context)).collect();
    let mut begun = Vec::with_capacity(count);
    for name in &names {
        let member = begin(name);
        if member.is_err() && !server_was_killed(&member) {
            return member.map(|_| Vec::new());
        }
        begun.push(member);
    }
    let finish = |(name, begun): (&String, Result<Member, PoolError>)| {
        let mut member = begun.and_then(Member::ready);
        for _ in 1..ATTEMPTS {
            if !server_was_killed(&member) {
                break;
            }
            member = begin(name).and_then(Member::ready);
        }
        member
    };
    names.iter().zip(begun).map(finish).collect()
}

impl Drop for Pool {
    fn drop(&mut self) {
        // In a forked child there is neither the thread nor any worker.
        let _ = self.terminate();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.shared.stage() {
            _ if self.shared.has_ended() => "ended",
            Stage::Open => "running",
            Stage::Closed => "closed",
            Stage::Terminated => "terminated",
        };
        write!(f, "<Pool processes={} method={} {stage}>", self.processes, self.context.start_method())
    }
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<PoolBuilder processes={:?} context={:?}>", self.processes, self.context)
    }
}
