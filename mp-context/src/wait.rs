//! Waiting for several processes.

use std::time::{Duration, Instant};

use mp_core::wait::wait_ready;
use serde::de::DeserializeOwned;

use crate::error::ProcessError;
use crate::process::Process;

/// When [`wait`] returns. Follows the constants of Python's `concurrent.futures`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnWhen {
    /// When one has ended.
    FirstCompleted,
    /// When one has ended without a result, or all have ended.
    FirstException,
    /// When all have ended.
    #[default]
    AllCompleted,
}

/// Waits until `when`, or until `timeout` passes; returns the positions of the processes that have ended, in order.
///
/// The positions of all others are those that still run. A process that appears twice is reported twice. Follows
/// `wait` of Python's `concurrent.futures`, and of `mpservice`.
///
/// # Errors
/// [`ProcessError::System`] when the system cannot wait for so many.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mp_context::{ReturnWhen, process, wait};
///
/// let slow = process(|| std::thread::sleep(std::time::Duration::from_secs(60)), ()).daemon(true).start()?;
/// let quick = process(|| (), ()).start()?;
/// assert_eq!(wait(&[&slow, &quick], None, ReturnWhen::FirstCompleted)?, [1]);
/// slow.kill()?;
/// # Ok(())
/// # }
/// ```
pub fn wait<R>(
    processes: &[&Process<R>],
    timeout: Option<Duration>,
    when: ReturnWhen,
) -> Result<Vec<usize>, ProcessError> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let (done, running): (Vec<usize>, Vec<usize>) =
            (0..processes.len()).partition(|i| processes[*i].done());
        let failed = || done.iter().any(|i| processes[*i].exception().is_some());
        let enough = match when {
            ReturnWhen::FirstCompleted => !done.is_empty(),
            ReturnWhen::FirstException => failed(),
            ReturnWhen::AllCompleted => false,
        };
        if enough || running.is_empty() {
            return Ok(done);
        }
        let sentinels: Vec<_> = running.iter().map(|i| processes[*i].sentinel()).collect();
        let rest = match (timeout, deadline) {
            (Some(_), Some(deadline)) => Some(deadline.saturating_duration_since(Instant::now())),
            _ => None,
        };
        let ready =
            wait_ready(&sentinels, rest).map_err(|error| processes[running[0]].child().system(error))?;
        if ready.is_empty() {
            return Ok(done);
        }
    }
}

/// The results of `processes`, each with its position, in the order in which they end.
///
/// Follows `as_completed` of Python's `concurrent.futures`, and of `mpservice`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let processes = [1u64, 2, 3].map(|n| mp_context::process(|n: u64| n * n, (n,)).start());
/// let processes: Vec<_> = processes.into_iter().collect::<Result<_, _>>()?;
/// let mut squares = mp_context::as_completed(&processes).map(|(_, square)| square).collect::<Result<Vec<_>, _>>()?;
/// squares.sort();
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok(())
/// # }
/// ```
pub fn as_completed<R: DeserializeOwned>(
    processes: &[Process<R>],
) -> impl Iterator<Item = (usize, Result<R, ProcessError>)> {
    let mut running: Vec<usize> = (0..processes.len()).collect();
    std::iter::from_fn(move || {
        let handles: Vec<_> = running.iter().map(|i| &processes[*i]).collect();
        let position = match wait(&handles, None, ReturnWhen::FirstCompleted) {
            Ok(done) => *done.first()?,
            // Waiting for one is always possible.
            Err(_) => 0,
        };
        let index = running.remove(position);
        Some((index, processes[index].join()))
    })
}
