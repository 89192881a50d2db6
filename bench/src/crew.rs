//! Processes that do the same work at the same time on something they share.

use crate::options::{Options, Pin};
use crate::placement;
use anyhow::{Context as _, Result, ensure};
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, Process};
use rustix::time::{ClockId, clock_gettime};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// What one process did: how much, and from when until when.
type Share = (u64, u64, u64);

/// Nanoseconds of a clock that all processes share.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Where the `index`-th child goes.
fn cpu(pin: Pin, index: usize) -> Option<usize> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    match pin {
        Pin::None => None,
        Pin::Same => Some(0),
        // This process is on one CPU only, so it does not know how many there are.
        Pin::Split => Some((index + 1) % cpus.max(2)),
    }
}

/// Puts the calling thread where the `index`-th child would be.
pub fn take_place(options: &Options, index: usize) {
    if let Some(cpu) = cpu(options.pin, index) {
        placement::pin_to(cpu).expect("a CPU");
    }
}

/// Starts a process that says when it is ready, waits for leave to begin, and then does `job`.
fn start<A, R, J>(pin: Pin, index: usize, argument: A, job: J) -> Result<(Process<R>, Connection)>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
    J: Fn(A, &Connection) -> R + Copy + Send + 'static,
{
    let child = move |gate: Connection, cpu: Option<usize>, argument: A| {
        if let Some(cpu) = cpu {
            placement::pin_to(cpu).expect("a CPU");
        }
        gate.send(&()).expect("ready");
        gate.recv::<()>().expect("leave to begin");
        job(argument, &gate)
    };
    let (here, there) = pipe()?;
    let child = Context::forkserver().process(child, (there, cpu(pin, index), argument)).start()?;
    here.recv::<()>().context("a child did not get ready")?;
    Ok((child, here))
}

/// Has `count` processes do `job` at the same time: how much they did in all, a second.
///
/// `job` returns how much it did.
pub fn rate<A, J>(options: &Options, count: usize, argument: &A, job: J) -> Result<f64>
where
    A: Serialize + DeserializeOwned + Clone,
    J: Fn(A) -> u64 + Copy + Send + 'static,
{
    let shares = each(options, count, argument, move |argument: A| -> Share {
        let start = now();
        let done = job(argument);
        (done, start, now())
    })?;
    let begin = shares.iter().map(|share| share.1).min().context("nobody")?;
    let end = shares.iter().map(|share| share.2).max().context("nobody")?;
    let done: u64 = shares.iter().map(|share| share.0).sum();
    ensure!(done > 0 && end > begin, "nothing was done");
    Ok(done as f64 * 1e9 / (end - begin) as f64)
}

/// Has one process for each of `arguments` do `job` at the same time: how much the slowest path took, as a rate of `items`.
pub fn rate_of<A, J>(options: &Options, items: u64, arguments: Vec<A>, job: J) -> Result<f64>
where
    A: Serialize + DeserializeOwned,
    J: Fn(A) + Copy + Send + 'static,
{
    let job = move |argument: A, _: &Connection| -> Share {
        let start = now();
        job(argument);
        (0, start, now())
    };
    let members = arguments.into_iter().enumerate();
    let members = members
        .map(|(index, argument)| start(options.pin, index, argument, job))
        .collect::<Result<Vec<_>>>()?;
    members.iter().try_for_each(|(_, gate)| gate.send(&()))?;
    let shares = members.iter().map(|(child, _)| Ok(child.join()?)).collect::<Result<Vec<Share>>>()?;
    let begin = shares.iter().map(|share| share.1).min().context("nobody")?;
    let end = shares.iter().map(|share| share.2).max().context("nobody")?;
    ensure!(end > begin, "nothing was done");
    Ok(items as f64 * 1e9 / (end - begin) as f64)
}

/// Has one process do `job` beside this one.
pub fn beside<A, R, J>(options: &Options, argument: A, job: J) -> Result<Process<R>>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
    J: Fn(A) -> R + Copy + Send + 'static,
{
    let (child, gate) = start(options.pin, 0, argument, move |argument: A, _: &Connection| job(argument))?;
    gate.send(&())?;
    Ok(child)
}

/// Microseconds of each of `n` calls of `ask`, which another process answers as often by `echo`, after some that do not
/// count; with a pause before each in which both fall asleep, if `asleep`.
pub fn round_trips<A, J>(
    options: &Options,
    n: usize,
    asleep: bool,
    argument: A,
    echo: J,
    mut ask: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<f64>>
where
    A: Serialize + DeserializeOwned,
    J: Fn(&A) + Copy + Send + 'static,
{
    let all = (n + warm_up(asleep)) as u64;
    let job = move |(argument, all): (A, u64), gate: &Connection| {
        (0..all).for_each(|_| echo(&argument));
        // What the end of a process takes is no part of the last answer.
        gate.recv::<()>().expect("leave to end");
    };
    let (child, gate) = start(options.pin, 0, (argument, all), job)?;
    gate.send(&())?;
    let times = trips(n, asleep, &mut ask)?;
    gate.send(&())?;
    child.join()?;
    Ok(times)
}

fn warm_up(asleep: bool) -> usize {
    if asleep { 5 } else { 500 }
}

/// Microseconds of each of `n` calls of `ask`, as in [`round_trips`], whoever answers.
pub fn trips(n: usize, asleep: bool, mut ask: impl FnMut(u64) -> Result<()>) -> Result<Vec<f64>> {
    let warm = warm_up(asleep);
    let mut times = Vec::with_capacity(n);
    for index in 0..(n + warm) as u64 {
        if asleep {
            std::thread::sleep(Duration::from_millis(1));
        }
        let begin = now();
        ask(index)?;
        if index >= warm as u64 {
            times.push((now() - begin) as f64 / 1e3);
        }
    }
    Ok(times)
}

/// Has `count` processes do `job` at the same time: what each returns.
pub fn each<A, R, J>(options: &Options, count: usize, argument: &A, job: J) -> Result<Vec<R>>
where
    A: Serialize + DeserializeOwned + Clone,
    R: Serialize + DeserializeOwned,
    J: Fn(A) -> R + Copy + Send + 'static,
{
    let job = move |argument: A, _: &Connection| job(argument);
    let members = (0..count)
        .map(|index| start(options.pin, index, argument.clone(), job))
        .collect::<Result<Vec<_>>>()?;
    members.iter().try_for_each(|(_, gate)| gate.send(&()))?;
    members.iter().map(|(child, _)| Ok(child.join()?)).collect()
}

/// Microseconds from each of `n` calls of `wake` to the return of the `wait` that it ends, in another process that has
/// been asleep for a millisecond.
pub fn wake_latencies<A, J>(
    options: &Options,
    n: usize,
    argument: &A,
    wait: J,
    wake: impl Fn() -> Result<()>,
) -> Result<Vec<f64>>
where
    A: Serialize + DeserializeOwned + Clone,
    J: Fn(&A, &Connection) + Copy + Send + 'static,
{
    let sleeper = move |(argument, n): (A, usize), gate: &Connection| -> Vec<u64> {
        let one = |_| {
            wait(&argument, gate);
            now()
        };
        (0..n).map(one).collect()
    };
    let (child, gate) = start(options.pin, 0, (argument.clone(), n), sleeper)?;
    gate.send(&())?;
    let mut woken = Vec::with_capacity(n);
    for _ in 0..n {
        gate.recv::<()>().context("about to wait")?;
        std::thread::sleep(Duration::from_millis(1));
        woken.push(now());
        wake()?;
    }
    let awake: Vec<u64> = child.join()?;
    Ok(woken.iter().zip(&awake).map(|(from, to)| to.saturating_sub(*from) as f64 / 1e3).collect())
}

/// Calls `call` in batches until `time` has passed; how often.
pub fn for_a_while(time: Duration, mut call: impl FnMut()) -> u64 {
    let end = now() + time.as_nanos() as u64;
    let mut calls = 0;
    while now() < end {
        (0..256).for_each(|_| call());
        calls += 256;
    }
    calls
}
