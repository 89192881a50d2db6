//! Values and arrays: changes under the lock, elements under a held guard and one by one, and what objects cost to make.

use crate::crew::{self, for_a_while};
use crate::mutex::{self, RawMutex};
use crate::options::Options;
use crate::record::{Label, Sink};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Result, ensure};
use multiprocess::{Array, Lock, RawArray, RawValue, Value};
use std::hint::black_box;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The limit of element access.
pub const SLICE: &str = "a slice of private memory";

/// Elements of the arrays.
const LENGTH: usize = 1024;

pub fn measure(options: &Options, sink: &mut Sink) -> Result<()> {
    for count in [1, 2, 4] {
        increments(options, sink, count)?;
    }
    elements(options, sink)?;
    create(options, sink)
}

fn increments(options: &Options, sink: &mut Sink, count: usize) -> Result<()> {
    let time = Duration::from_secs_f64(0.3 * options.scale());
    let set = || {
        let value = Value::new(0_u64)?;
        let total = Value::new(0_u64)?;
        let arguments = (value.clone(), total.clone(), time);
        let rate = crew::rate(options, count, &arguments, |(value, total, time)| {
            let done = for_a_while(time, || *value.lock().expect("a lock") += 1);
            total.update(|total| *total += done).expect("a lock");
            done
        })?;
        let (value, total) = (value.get()?, total.get()?);
        ensure!(value == total, "{value} of {total} increments");
        Ok(vec![rate])
    };
    let ours = Contender::new("ours", Label::None, set);
    // Here it is the lock that keeps the increments apart: a load and a store would not.
    let limit = Contender::new("limit", Label::Via(mutex::VIA), || {
        let (mutex, value) = (RawMutex::new()?, RawValue::new(0_u64)?);
        let arguments = (mutex, value.clone(), time);
        let rate = crew::rate(options, count, &arguments, |(mutex, value, time)| {
            let (mutex, value) = (mutex.find(), value.as_atomic());
            for_a_while(time, || mutex.with(|| value.store(value.load(Relaxed) + 1, Relaxed)))
        })?;
        ensure!(value.get() > 0, "no increments");
        Ok(vec![rate])
    });
    let measure = format!("shared.value_increment.p{count}");
    turns::take(options, sink, &measure, "inc/s", Reduce::Median, vec![ours, limit])
}

/// Nanoseconds of each of `n` reads by turns of all elements.
fn read(n: usize, mut get: impl FnMut(usize) -> Result<u64>) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut sum = 0_u64;
    for i in 0..n {
        sum = sum.wrapping_add(get(i % LENGTH)?);
    }
    let time = start.elapsed();
    let rounds = (n / LENGTH) as u64;
    let expected = rounds * (LENGTH as u64 * (LENGTH as u64 - 1) / 2);
    ensure!(n.is_multiple_of(LENGTH) && sum == expected, "a wrong sum");
    Ok(vec![time.as_nanos() as f64 / n as f64])
}

/// Nanoseconds of each of `n` writes by turns of all elements.
fn write(n: usize, mut set: impl FnMut(usize, u64)) -> Result<Vec<f64>> {
    let start = Instant::now();
    (0..n).for_each(|i| set(i % LENGTH, (i % LENGTH) as u64));
    Ok(vec![start.elapsed().as_nanos() as f64 / n as f64])
}

fn elements(options: &Options, sink: &mut Sink) -> Result<()> {
    let array = Array::from_slice(&(0..LENGTH as u64).collect::<Vec<_>>())?;
    let n = options.samples(100_000_000) / LENGTH * LENGTH;
    {
        let guard = array.lock()?;
        let slice = guard.to_vec();
        let contenders = vec![
            Contender::new("ours", Label::None, || read(n, |i| Ok(black_box(&guard)[i]))),
            Contender::new("limit", Label::Via(SLICE), || read(n, |i| Ok(black_box(&slice)[i]))),
        ];
        turns::take(options, sink, "shared.array.read", "ns", Reduce::Median, contenders)?;
    }
    {
        let (mut guard, mut slice) = (array.lock()?, vec![0; LENGTH]);
        let contenders = vec![
            Contender::new("ours", Label::None, || write(n, |i, x| black_box(&mut guard)[i] = x)),
            Contender::new("limit", Label::Via(SLICE), || write(n, |i, x| black_box(&mut slice)[i] = x)),
        ];
        turns::take(options, sink, "shared.array.write", "ns", Reduce::Median, contenders)?;
    }
    let n = options.samples(5_000_000) / LENGTH * LENGTH;
    let ours = Contender::new("ours", Label::None, || read(n, |i| Ok(array.get(i)?)));
    turns::take(options, sink, "shared.array_locked.read", "ns", Reduce::Median, vec![ours])?;
    let ours = Contender::new("ours", Label::None, || write(n, |i, x| array.set(i, x).expect("in bounds")));
    turns::take(options, sink, "shared.array_locked.write", "ns", Reduce::Median, vec![ours])?;
    let raw = RawArray::from_slice(&array.to_vec()?)?;
    let ours = Contender::new("ours", Label::None, || read(n, |i| Ok(raw.get(i)?)));
    turns::take(options, sink, "shared.array_raw.read", "ns", Reduce::Median, vec![ours])?;
    let ours = Contender::new("ours", Label::None, || write(n, |i, x| raw.set(i, x).expect("in bounds")));
    turns::take(options, sink, "shared.array_raw.write", "ns", Reduce::Median, vec![ours])
}

fn create(options: &Options, sink: &mut Sink) -> Result<()> {
    /// Microseconds of each of `n` objects, all of which are kept until they are made.
    fn each<T>(n: usize, make: impl Fn() -> Result<T>) -> Result<Vec<f64>> {
        let start = Instant::now();
        let all = (0..n).map(|_| make()).collect::<Result<Vec<T>>>()?;
        let time = start.elapsed();
        drop(all);
        Ok(vec![time.as_nanos() as f64 / 1e3 / n as f64])
    }
    let n = options.samples(1_000_000);
    let lock = Contender::new("ours", Label::None, || each(n, || Ok(Lock::new()?)));
    turns::take(options, sink, "shared.create_lock", "us/object", Reduce::Median, vec![lock])?;
    let value = Contender::new("ours", Label::None, || each(n, || Ok(Value::new(7_u64)?)));
    turns::take(options, sink, "shared.create_value", "us/object", Reduce::Median, vec![value])
}
