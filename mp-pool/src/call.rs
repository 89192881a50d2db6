//! Calls to a pool, with their options.

use std::sync::Arc;

use mp_core::function::{Arguments, Callable, Many, Remote};
use mp_core::message::{Fds, encode_into};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{PoolError, TaskError};
use crate::job::{Function, Job, Ticket};
use crate::pool::Pool;
use crate::progress::Bar;

/// A call to a pool whose options are being set; see the methods of the same names of [`Pool`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = mp_pool::Pool::new(2)?;
/// let lengths = pool.chunksize(8).retries(1).map(|word: String| word.len(), ["a".to_owned(), "bc".to_owned()])?;
/// assert_eq!(lengths, [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is run before `map` or one of its kin"]
pub struct Call<'a> {
    pool: &'a Pool,
    chunksize: usize,
    retries: u32,
    progress: bool,
}

/// A call whose function gets captured values; see [`Pool::with`].
#[derive(Debug)]
#[must_use = "nothing is run before `map` or one of its kin"]
pub struct With<'a, C> {
    call: Call<'a>,
    captures: C,
}

/// The results of all items, each with its error if it has none.
pub type Results<R> = Vec<Result<R, Box<TaskError>>>;

impl<'a> Call<'a> {
    pub(crate) fn new(pool: &'a Pool) -> Self {
        Call { pool, chunksize: 1, retries: 0, progress: false }
    }

    /// See [`Pool::chunksize`].
    pub fn chunksize(self, items: usize) -> Self {
        Call { chunksize: items, ..self }
    }

    /// See [`Pool::retries`].
    pub fn retries(self, times: u32) -> Self {
        Call { retries: times, ..self }
    }

    /// See [`Pool::progress`].
    pub fn progress(self, show: bool) -> Self {
        Call { progress: show, ..self }
    }

    /// See [`Pool::with`].
    pub fn with<C: Serialize + DeserializeOwned>(self, captures: C) -> With<'a, C> {
        With { call: self, captures }
    }

    /// See [`Pool::map`].
    ///
    /// # Errors
    /// As there.
    pub fn map<F, T, R>(self, function: F, items: impl IntoIterator<Item = T>) -> Result<Vec<R>, PoolError>
    where
        F: Fn(T) -> R,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        all(self.try_map(function, items)?)
    }

    /// As [`Pool::map`], with each item's own result or error.
    ///
    /// # Errors
    /// [`PoolError`], when the call failed as a whole.
    pub fn try_map<F, T, R>(
        self,
        function: F,
        items: impl IntoIterator<Item = T>,
    ) -> Result<Results<R>, PoolError>
    where
        F: Fn(T) -> R,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.run(Remote::each(function), None::<&()>, items, encode_into)
    }

    /// See [`Pool::starmap`].
    ///
    /// # Errors
    /// As there.
    pub fn starmap<F, A>(
        self,
        function: F,
        items: impl IntoIterator<Item = A>,
    ) -> Result<Vec<F::Output>, PoolError>
    where
        F: Callable<A>,
        A: Arguments,
        F::Output: Serialize + DeserializeOwned,
    {
        all(self.run(Remote::each_spread(function), None::<&()>, items, A::encode)?)
    }

    /// See [`Pool::apply`].
    ///
    /// # Errors
    /// As there.
    pub fn apply<F, A>(self, function: F, arguments: A) -> Result<F::Output, PoolError>
    where
        F: Callable<A>,
        A: Arguments,
        F::Output: Serialize + DeserializeOwned,
    {
        let results = self.starmap(function, [arguments])?;
        results.into_iter().next().ok_or(PoolError::Terminated)
    }

    fn run<C: Serialize, T, R: DeserializeOwned>(
        self,
        remote: Remote<Many>,
        captures: Option<&C>,
        items: impl IntoIterator<Item = T>,
        encode: impl Fn(&T, &mut Vec<u8>, &mut Fds) -> mp_core::Result<()>,
    ) -> Result<Results<R>, PoolError> {
        self.pool.check_owner()?;
        if self.chunksize == 0 {
            let reason = "a chunk has at least one item".into();
            return Err(PoolError::Invalid { what: "chunk size", reason });
        }
        let function = Function::new(remote, captures)?;
        let job = Arc::new(Job::new(function, items, self.chunksize, self.retries, encode)?);
        if job.len() > u32::MAX as usize {
            let reason = format!("{} tasks are more than a call can have; use larger chunks", job.len());
            return Err(PoolError::Invalid { what: "number of tasks", reason });
        }
        let shared = self.pool.shared();
        if shared.is_served_here() {
            let reason = "the thread of a pool, which calls back, cannot wait for its own pool".into();
            return Err(PoolError::Invalid { what: "call from a callback", reason });
        }
        if job.len() == 0 {
            shared.check_open()?;
        } else {
            shared.submit(Ticket::new(job.clone()))?;
            if self.progress {
                let bar = Bar::new(job.items());
                let outcome = job.wait(Some(&mut |done| bar.set(done)));
                bar.clear();
                outcome?;
            } else {
                job.wait(None)?;
            }
        }
        Ok(job.results())
    }
}

impl<C: Serialize + DeserializeOwned> With<'_, C> {
    /// See [`Pool::map`]; the function gets the captured values first.
    ///
    /// # Errors
    /// As there.
    pub fn map<F, T, R>(self, function: F, items: impl IntoIterator<Item = T>) -> Result<Vec<R>, PoolError>
    where
        F: Fn(&C, T) -> R,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        all(self.try_map(function, items)?)
    }

    /// See [`Call::try_map`]; the function gets the captured values first.
    ///
    /// # Errors
    /// As there.
    pub fn try_map<F, T, R>(
        self,
        function: F,
        items: impl IntoIterator<Item = T>,
    ) -> Result<Results<R>, PoolError>
    where
        F: Fn(&C, T) -> R,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.call.run(Remote::each_with(function), Some(&self.captures), items, encode_into)
    }
}

/// All values, or the first error.
fn all<R>(results: Results<R>) -> Result<Vec<R>, PoolError> {
    results.into_iter().collect::<Result<_, _>>().map_err(PoolError::Task)
}
