//! Locks and their kin: what they cost when nobody else wants them, when many do, and how long a wake-up takes.

use crate::crew::{self, for_a_while};
use crate::mutex::{self, RawMutex};
use crate::options::Options;
use crate::pthread::{self, Pthread};
use crate::record::{Label, Sink};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Result, ensure};
use multiprocess::core::connection::Connection;
use multiprocess::core::futex::{self, Ordering::*};
use multiprocess::sync::{Barrier, Condition, Event, Semaphore};
use multiprocess::{Lock, RLock, RawValue};
use std::time::{Duration, Instant};

/// The limit of events.
pub const FUTEX: &str = "futex, in turns";

/// How long processes compete in one run.
fn time(options: &Options) -> Duration {
    Duration::from_secs_f64(0.3 * options.scale())
}

pub fn measure(options: &Options, sink: &mut Sink) -> Result<()> {
    uncontended(options, sink)?;
    for count in [2, 4] {
        contended(options, sink, count)?;
    }
    event(options, sink)?;
    condition(options, sink)?;
    barrier(options, sink)
}

/// A contender whose sets are one number.
fn one<'a>(who: &'static str, label: Label, mut set: impl FnMut() -> Result<f64> + 'a) -> Contender<'a> {
    Contender::new(who, label, move || Ok(vec![set()?]))
}

fn ours<'a>(set: impl FnMut() -> Result<f64> + 'a) -> Contender<'a> {
    one("ours", Label::None, set)
}

fn limit<'a>(set: impl FnMut() -> Result<f64> + 'a) -> Contender<'a> {
    one("limit", Label::Via(mutex::VIA), set)
}

/// Nanoseconds of each of `n` calls.
fn each<T>(n: usize, mut call: impl FnMut() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    (0..n).try_for_each(|_| call().map(drop))?;
    Ok(start.elapsed().as_nanos() as f64 / n as f64)
}

fn uncontended(options: &Options, sink: &mut Sink) -> Result<()> {
    let n = options.samples(5_000_000);
    let (lock, rlock, semaphore, raw) = (Lock::new()?, RLock::new()?, Semaphore::new(1)?, RawMutex::new()?);
    let mut take = |what: &str, contenders| {
        let measure = format!("sync.{what}.uncontended");
        turns::take(options, sink, &measure, "ns/pair", Reduce::Median, contenders)
    };
    take(
        "lock",
        vec![
            ours(|| each(n, || Ok(lock.lock()?))),
            limit(|| {
                let raw = raw.find();
                each(n, || Ok(raw.with(|| 0)))
            }),
        ],
    )?;
    take("rlock", vec![ours(|| each(n, || Ok(rlock.lock()?)))])?;
    take("semaphore", vec![ours(|| each(n, || Ok(semaphore.acquire()?)))])
}

fn contended(options: &Options, sink: &mut Sink, count: usize) -> Result<()> {
    let time = time(options);
    let mut take = |measure: String, unit: &str, contenders| {
        turns::take(options, sink, &measure, unit, Reduce::Median, contenders)
    };
    let locks = ours(|| {
        let lock = Lock::new()?;
        let rate = crew::rate(options, count, &(lock.clone(), time), |(lock, time)| {
            for_a_while(time, || drop(lock.lock().expect("a lock")))
        })?;
        ensure!(!lock.locked(), "the lock is still held");
        Ok(rate)
    });
    let raw = limit(|| {
        crew::rate(options, count, &(RawMutex::new()?, time), |(mutex, time)| {
            let mutex = mutex.find();
            for_a_while(time, || mutex.with(|| ()))
        })
    });
    take(format!("sync.lock.contended{count}"), "ops/s", vec![locks, raw])?;
    // Apart, because looking at the clock each time changes what is measured.
    let locks = ours(|| {
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
    });
    let raw = limit(|| {
        let longest = crew::each(options, count, &(RawMutex::new()?, time), |(mutex, time)| {
            let (mutex, mut longest) = (mutex.find(), 0);
            for_a_while(time, || {
                let start = crew::now();
                longest = longest.max(mutex.with(crew::now) - start);
            });
            longest
        })?;
        Ok(longest.into_iter().max().unwrap_or(0) as f64 / 1e3)
    });
    take(format!("sync.lock.longest_wait{count}"), "us", vec![locks, raw])?;
    let semaphores = ours(|| {
        let semaphore = Semaphore::new(1)?;
        let rate = crew::rate(options, count, &(semaphore.clone(), time), |(semaphore, time)| {
            for_a_while(time, || drop(semaphore.acquire().expect("a permit")))
        })?;
        ensure!(semaphore.get_value() == 1, "a permit is missing");
        Ok(rate)
    });
    take(format!("sync.semaphore.contended{count}"), "ops/s", vec![semaphores])
}

fn event(options: &Options, sink: &mut Sink) -> Result<()> {
    let n = options.samples(500);
    let ours = Contender::new("ours", Label::None, || {
        let event = Event::new()?;
        let wait = |event: &Event, gate: &Connection| {
            gate.send(&()).expect("about to wait");
            event.wait();
            event.clear();
        };
        crew::wake_latencies(options, n, &event, wait, || {
            event.set();
            Ok(())
        })
    });
    let limit = Contender::new("limit", Label::Via(FUTEX), || {
        let word = RawValue::new(0_u32)?;
        let wait = |word: &RawValue<u32>, gate: &Connection| {
            let word = word.as_atomic();
            gate.send(&()).expect("about to wait");
            while word.load(Acquire) == 0 {
                futex::wait(word, 0, None);
            }
            word.store(0, Relaxed);
        };
        crew::wake_latencies(options, n, &word, wait, || {
            word.as_atomic().store(1, Release);
            futex::wake_all(word.as_atomic());
            Ok(())
        })
    });
    let contenders = vec![ours, limit];
    turns::take(options, sink, "sync.event.set_to_wake", "us", Reduce::Percentiles, contenders)
}

fn condition(options: &Options, sink: &mut Sink) -> Result<()> {
    let n = options.samples(500);
    let ours = Contender::new("ours", Label::None, || {
        let condition = Condition::with_lock(&Lock::new()?)?;
        let wait = |condition: &Condition, gate: &Connection| {
            let mut guard = condition.lock().expect("a lock");
            gate.send(&()).expect("about to wait");
            condition.wait(&mut guard).expect("notified");
        };
        crew::wake_latencies(options, n, &condition, wait, || {
            let guard = condition.lock()?;
            ensure!(condition.notify_one()? == 1, "nobody waits");
            drop(guard);
            Ok(())
        })
    });
    let limit = Contender::new("limit", Label::Via(pthread::VIA), || {
        let condition = Pthread::new()?;
        let wait = |condition: &Pthread, gate: &Connection| {
            condition.wait(|| gate.send(&()).expect("about to wait"));
        };
        crew::wake_latencies(options, n, &condition, wait, || {
            condition.notify();
            Ok(())
        })
    });
    let contenders = vec![ours, limit];
    turns::take(options, sink, "sync.condition.notify_to_wake", "us", Reduce::Percentiles, contenders)
}

fn barrier(options: &Options, sink: &mut Sink) -> Result<()> {
    let rounds = options.samples(5000) as u64;
    let ours = ours(|| {
        let barrier = Barrier::new(4)?;
        let rate = crew::rate(options, 4, &(barrier, rounds), |(barrier, rounds)| {
            (0..rounds).map(|_| u64::from(barrier.wait().is_ok())).sum()
        })?;
        // Each round is one for all four.
        Ok(rate / 4.0)
    });
    turns::take(options, sink, "sync.barrier4", "round/s", Reduce::Median, vec![ours])
}
