//! Tiny tasks through a pool of two workers, and the life of a pool.

use crate::options::Options;
use crate::placement::split_off_descendants;
use crate::record::{Label, Sink};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Result, ensure};
use multiprocess::Pool;
use std::time::Instant;

/// The pool's workers.
const WORKERS: usize = 2;

fn check(squares: &[u64], n: u64) -> Result<()> {
    ensure!(squares.len() as u64 == n, "{} results of {n} tasks", squares.len());
    ensure!(squares.iter().zip(0..n).all(|(&square, x)| square == x * x), "a wrong result");
    Ok(())
}

pub fn measure(options: &Options, sink: &mut Sink) -> Result<()> {
    let pool = Pool::new(WORKERS)?;
    check(&pool.map(|x: u64| x * x, 0..1000)?, 1000)?;
    split_off_descendants(options.pin)?;

    let alone = |sink: &mut Sink, measure: &str, unit: &str, reduce, set: &dyn Fn() -> Result<Vec<f64>>| {
        turns::take(options, sink, measure, unit, reduce, vec![Contender::new("ours", Label::None, set)])
    };

    let n = options.samples(20_000) as u64;
    alone(sink, "pool.map_chunk1.w2", "us/task", Reduce::Median, &|| {
        let start = Instant::now();
        let squares = pool.chunksize(1).map(|x: u64| x * x, 0..n)?;
        let time = start.elapsed();
        check(&squares, n)?;
        Ok(vec![time.as_nanos() as f64 / 1e3 / n as f64])
    })?;

    let n = options.samples(100_000) as u64;
    alone(sink, "pool.map_default.w2", "us/task", Reduce::Median, &|| {
        let start = Instant::now();
        let squares = pool.map(|x: u64| x * x, 0..n)?;
        let time = start.elapsed();
        check(&squares, n)?;
        Ok(vec![time.as_nanos() as f64 / 1e3 / n as f64])
    })?;

    let n = options.samples(2000) as u64;
    alone(sink, "pool.apply_roundtrip.w2", "us", Reduce::Percentiles, &|| {
        let one = |x: u64| {
            let start = Instant::now();
            let square: u64 = pool.apply(|x: u64| x * x, (x,))?;
            let time = start.elapsed();
            ensure!(square == x * x, "a wrong result");
            Ok(time.as_nanos() as f64 / 1e3)
        };
        (0..n).map(one).collect()
    })?;
    pool.close()?;
    pool.join()?;

    alone(sink, "pool.create_map_close_join.w2", "ms", Reduce::Median, &|| {
        let start = Instant::now();
        let pool = Pool::new(WORKERS)?;
        let squares = pool.map(|x: u64| x * x, 0..WORKERS as u64)?;
        pool.close()?;
        pool.join()?;
        let time = start.elapsed();
        check(&squares, WORKERS as u64)?;
        Ok(vec![time.as_nanos() as f64 / 1e6])
    })
}
