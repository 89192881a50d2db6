//! Locks and their kin: what they cost when nobody else wants them, when many do, and how long a wake-up takes.

use crate::crew::{self, for_a_while};
use crate::options::Options;
use crate::record::{Label, Sink};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Result, ensure};
use multiprocess::{Lock, RLock};
use std::time::{Duration, Instant};

/// How long processes compete in one run.
fn time(options: &Options) -> Duration {
    Duration::from_secs_f64(0.3 * options.scale())
}

pub fn measure(options: &Options, sink: &mut Sink) -> Result<()> {
    uncontended(options, sink)?;
    for count in [2, 4] {
        contended(options, sink, count)?;
    }
    Ok(())
}

/// A measure that we take alone.
fn alone(
    options: &Options,
    sink: &mut Sink,
    measure: &str,
    unit: &str,
    set: impl FnMut() -> Result<f64>,
) -> Result<()> {
    let mut set = set;
    let contender = Contender::new("ours", Label::None, || Ok(vec![set()?]));
    turns::take(options, sink, measure, unit, Reduce::Median, vec![contender])
}

/// Nanoseconds of each of `n` calls.
fn each(n: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    (0..n).try_for_each(|_| call())?;
    Ok(start.elapsed().as_nanos() as f64 / n as f64)
}

fn uncontended(options: &Options, sink: &mut Sink) -> Result<()> {
    let n = options.samples(5_000_000);
    let (lock, rlock) = (Lock::new()?, RLock::new()?);
    alone(options, sink, "sync.lock.uncontended", "ns/pair", || each(n, || Ok(drop(lock.lock()?))))?;
    alone(options, sink, "sync.rlock.uncontended", "ns/pair", || each(n, || Ok(drop(rlock.lock()?))))
}

fn contended(options: &Options, sink: &mut Sink, count: usize) -> Result<()> {
    let time = time(options);
    alone(options, sink, &format!("sync.lock.contended{count}"), "ops/s", || {
        let lock = Lock::new()?;
        let rate = crew::rate(options, count, &(lock.clone(), time), |(lock, time)| {
            for_a_while(time, || drop(lock.lock().expect("a lock")))
        })?;
        ensure!(!lock.locked(), "the lock is still held");
        Ok(rate)
    })?;
    // Apart, because looking at the clock each time changes what is measured.
    alone(options, sink, &format!("sync.lock.longest_wait{count}"), "us", || {
        let longest = crew::each(options, count, &(Lock::new()?, time), |(lock, time)| {
            let mut longest = 0;
            for_a_while(time, || {
                let start = crew::now();
                let guard = lock.lock().expect("a lock");
                longest = longest.max(crew::now() - start);
                drop(guard);
            });
            longest
        })?;
        Ok(longest.into_iter().max().unwrap_or(0) as f64 / 1e3)
    })
}
