//! One call to a pool: its tasks, encoded, and what has become of them so far.
//!
//! The caller encodes all items before anything runs and decodes the results after; in between, only bytes move. A
//! worker that dies takes nothing with it that is not here too.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use mp_core::function::{Many, Remote};
use mp_core::message::{Fds, SharedFd, discard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{PoolError, TaskError, TaskFailure};
use crate::lock;
use crate::wire::{next_part, push_part};

/// A call.
pub(crate) struct Job {
    pub function: Function,
    /// Items per task.
    pub chunk: usize,
    /// How often a task is tried again when the worker dies that works on it.
    pub retries: u32,
    /// The bodies of all tasks, one behind the other.
    bodies: Vec<u8>,
    /// Where each body ends.
    ends: Vec<usize>,
    /// What the tasks carry that have handles: each worker that is given one gets a copy.
    fds: HashMap<usize, Fds>,
    /// Number of items.
    items: usize,
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// The function of a call, with its captured values.
pub(crate) struct Function {
    pub remote: Remote<Many>,
    /// The encoded definition for a worker.
    pub definition: Vec<u8>,
    /// What it carries: each worker gets a copy.
    pub fds: Fds,
}

#[derive(Default)]
struct Progress {
    results: Vec<u8>,
    tasks: Vec<TaskState>,
    items_done: usize,
    tasks_done: usize,
    aborted: Option<PoolError>,
}

#[derive(Default)]
enum TaskState {
    #[default]
    Waiting,
    /// The part of `results`, and the descriptors.
    Value(Range<usize>, Vec<SharedFd>),
    /// The same for the items before the one that failed.
    CutShort(Range<usize>, Vec<SharedFd>, Box<TaskError>),
    /// Nobody knows anything about any item.
    Failed(Box<TaskFailure>),
}

impl Function {
    pub fn new<C: Serialize>(remote: Remote<Many>, captures: Option<&C>) -> Result<Function, PoolError> {
        let mut definition = Vec::new();
        let mut fds = Fds::new();
        push_part(&mut definition, |bytes| mp_core::codec::encode_value(&remote, bytes))
            .and_then(|()| {
                push_part(&mut definition, |bytes| match captures {
                    Some(captures) => mp_core::message::encode_into(captures, bytes, &mut fds),
                    None => Ok(()),
                })
            })
            .map_err(|error| PoolError::Encode {
                what: "the captured values".into(),
                source: error.into(),
            })?;
        Ok(Function { remote, definition, fds })
    }
}

impl Job {
    /// Encodes `items` by `encode`, `chunk` of them in each task.
    pub fn new<T>(
        function: Function,
        items: impl IntoIterator<Item = T>,
        chunk: usize,
        retries: u32,
        encode: impl Fn(&T, &mut Vec<u8>, &mut Fds) -> mp_core::Result<()>,
    ) -> Result<Job, PoolError> {
        let items = items.into_iter();
        let (mut bodies, mut all_fds) = (Vec::new(), HashMap::new());
        let mut ends = Vec::with_capacity(items.size_hint().0.div_ceil(chunk));
        let mut count = 0;
        let mut fds = Fds::new();
        for item in items {
            let encoded = if chunk == 1 {
                encode(&item, &mut bodies, &mut fds)
            } else {
                push_part(&mut bodies, |bytes| encode(&item, bytes, &mut fds))
            };
            encoded
                .map_err(|error| PoolError::Encode { what: format!("item {count}"), source: error.into() })?;
            count += 1;
            if count % chunk == 0 {
                end_task(&mut ends, &bodies, &mut all_fds, &mut fds);
            }
        }
        if count % chunk != 0 {
            end_task(&mut ends, &bodies, &mut all_fds, &mut fds);
        }
        let mut progress = Progress::default();
        progress.tasks.resize_with(ends.len(), TaskState::default);
        Ok(Job {
            function,
            chunk,
            retries,
            bodies,
            ends,
            fds: all_fds,
            items: count,
            progress: Mutex::new(progress),
            changed: Condvar::new(),
        })
    }

    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// The body of a task.
    pub fn body(&self, task: usize) -> &[u8] {
        let start = task.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bodies[start..self.ends[task]]
    }

    /// What a task carries.
    pub fn fds(&self, task: usize) -> &Fds {
        static NOTHING: Fds = Fds::new();
        self.fds.get(&task).unwrap_or(&NOTHING)
    }

    /// Position of the first item of a task.
    pub fn first_item(&self, task: usize) -> usize {
        task * self.chunk
    }

    /// Number of items of a task.
    pub fn items_of(&self, task: usize) -> usize {
        self.chunk.min(self.items - self.first_item(task))
    }

    /// Notes a result. The last one wakes the caller.
    pub fn succeed(&self, task: usize, result: &[u8], fds: Vec<SharedFd>) {
        let mut progress = lock(&self.progress);
        let range = progress.keep(result);
        self.finish(progress, task, TaskState::Value(range, fds));
    }

    /// Notes the values of the first `count` items of a chunk, and what happened to the one after them.
    pub fn cut_short(
        &self,
        task: usize,
        values: &[u8],
        fds: Vec<SharedFd>,
        count: usize,
        cause: TaskFailure,
    ) {
        let error = self.error(self.first_item(task) + count, cause);
        let mut progress = lock(&self.progress);
        let range = progress.keep(values);
        self.finish(progress, task, TaskState::CutShort(range, fds, error));
    }

    /// Notes that no item of a task has a result.
    pub fn fail(&self, task: usize, cause: TaskFailure) {
        self.finish(lock(&self.progress), task, TaskState::Failed(cause.into()));
    }

    fn finish(&self, mut progress: MutexGuard<'_, Progress>, task: usize, state: TaskState) {
        progress.tasks[task] = state;
        progress.tasks_done += 1;
        progress.items_done += self.items_of(task);
        if progress.tasks_done == self.len() {
            // Otherwise the caller would wake up only to wait for the lock.
            drop(progress);
            self.changed.notify_all();
        }
    }

    /// Ends the call: its caller gets `error`.
    pub fn abort(&self, error: PoolError) {
        let mut progress = lock(&self.progress);
        if progress.tasks_done < self.len() {
            progress.aborted.get_or_insert(error);
            self.changed.notify_all();
        }
    }

    /// Waits until all is done; `tell` is called with the number of items done, now and then.
    pub fn wait(&self, mut tell: Option<&mut dyn FnMut(usize)>) -> Result<(), PoolError> {
        const INTERVAL: Duration = Duration::from_millis(100);
        let mut progress = lock(&self.progress);
        while progress.tasks_done < self.len() && progress.aborted.is_none() {
            match &mut tell {
                None => {
                    progress = self.changed.wait(progress).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
                Some(tell) => {
                    let waited = self.changed.wait_timeout(progress, INTERVAL);
                    progress = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                    let done = progress.items_done;
                    drop(progress);
                    tell(done);
                    progress = lock(&self.progress);
                }
            }
        }
        progress.aborted.clone().map_or(Ok(()), Err)
    }

    /// The results of all items, in order, after [`Job::wait`].
    pub fn results<R: DeserializeOwned>(&self) -> Vec<Result<R, Box<TaskError>>> {
        let mut progress =
            Undecoded { progress: std::mem::take(&mut *lock(&self.progress)), chunk: self.chunk };
        let progress = &mut progress.progress;
        let mut results = Vec::with_capacity(self.items);
        for (task, state) in progress.tasks.iter_mut().enumerate() {
            let items = self.first_item(task)..self.first_item(task) + self.items_of(task);
            match std::mem::take(state) {
                TaskState::Value(range, fds) => {
                    self.decode(items, &progress.results[range], fds, &mut results);
                }
                TaskState::CutShort(range, fds, error) => {
                    let failed = error.item;
                    self.decode(items.start..failed, &progress.results[range], fds, &mut results);
                    results.push(Err(error));
                    let skipped = |item| Err(self.error(item, TaskFailure::Skipped));
                    results.extend((failed + 1..items.end).map(skipped));
                }
                TaskState::Failed(cause) => {
                    results.extend(items.map(|item| Err(self.error(item, (*cause).clone()))));
                }
                TaskState::Waiting => {
                    let cause = TaskFailure::Result("it was never finished".into());
                    results.extend(items.map(|item| Err(self.error(item, cause.clone()))));
                }
            }
        }
        results
    }

    fn error(&self, item: usize, cause: TaskFailure) -> Box<TaskError> {
        Box::new(TaskError { item, function: self.function.remote.name().to_owned(), cause })
    }

    fn decode<R: DeserializeOwned>(
        &self,
        items: Range<usize>,
        bytes: &[u8],
        fds: Vec<SharedFd>,
        results: &mut Vec<Result<R, Box<TaskError>>>,
    ) {
        let mut values = Values::new(bytes, fds, self.chunk);
        for item in items {
            let part = values.next();
            let cut_off = || mp_core::Error::Decode {
                type_name: std::any::type_name::<R>(),
                reason: "it is cut off".into(),
            };
            let value = part
                .ok_or_else(cut_off)
                .and_then(|part| mp_core::message::decode_from(part, &mut values.fds));
            results.push(value.map_err(|error| self.error(item, TaskFailure::Result(error.to_string()))));
        }
    }
}

/// The values of a task that are not decoded yet: what they carry is given back if they never are.
pub(crate) struct Values<'a> {
    rest: &'a [u8],
    fds: Fds,
    chunk: usize,
}

impl<'a> Values<'a> {
    pub fn new(bytes: &'a [u8], descriptors: Vec<SharedFd>, chunk: usize) -> Values<'a> {
        let mut fds = Fds::new();
        descriptors.into_iter().for_each(|fd| _ = fds.attach(fd));
        Values { rest: bytes, fds, chunk }
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        match self.chunk {
            1 => Some(std::mem::take(&mut self.rest)),
            _ => next_part(&mut self.rest),
        }
    }
}

impl Drop for Values<'_> {
    fn drop(&mut self) {
        while !self.rest.is_empty()
            && let Some(part) = self.next()
        {
            discard(part, &mut self.fds);
        }
    }
}

/// What was not decoded.
struct Undecoded {
    progress: Progress,
    chunk: usize,
}

impl Drop for Undecoded {
    fn drop(&mut self) {
        for state in self.progress.tasks.drain(..) {
            if let TaskState::Value(range, fds) | TaskState::CutShort(range, fds, _) = state {
                drop(Values::new(&self.progress.results[range], fds, self.chunk));
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let progress = self.progress.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(Undecoded { progress: std::mem::take(progress), chunk: self.chunk });
    }
}

impl Progress {
    /// Keeps `result`; where it is.
    fn keep(&mut self, result: &[u8]) -> Range<usize> {
        let start = self.results.len();
        self.results.extend_from_slice(result);
        start..self.results.len()
    }
}

fn end_task(ends: &mut Vec<usize>, bodies: &[u8], all: &mut HashMap<usize, Fds>, fds: &mut Fds) {
    if !fds.is_empty() {
        all.insert(ends.len(), std::mem::take(fds));
    }
    ends.push(bodies.len());
}

/// A job in the hands of the pool: however it is let go of, even in a panic, its caller waits no longer.
pub(crate) struct Ticket(Arc<Job>);

impl Ticket {
    pub fn new(job: Arc<Job>) -> Ticket {
        Ticket(job)
    }
}

impl Deref for Ticket {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.abort(PoolError::Terminated);
    }
}

#[cfg(test)]
mod tests;
