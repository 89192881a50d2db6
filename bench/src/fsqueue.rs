//! A directory as a queue: items of 100 bytes, put and got by one process and by several, durable and not.
//!
//! Everything happens in fresh directories at one place; ours encodes and decodes, the others move bytes.

use crate::options::Options;
use crate::record::{Label, Sink};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Context, Result, ensure};
use mp_fsqueue::{Durability, FsQueue};
use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Writers at the same time.
const WRITERS: usize = 8;

/// 100 bytes, 98 of them text: so much msgpack adds.
fn item() -> String {
    "x".repeat(98)
}

/// A fresh directory, gone in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let path = std::env::temp_dir().join(format!("bench-fsqueue-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Items a second of `n` calls.
fn rate(n: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    (0..n).try_for_each(&mut call)?;
    Ok(n as f64 / start.elapsed().as_secs_f64())
}

fn ours(dir: &Path, durability: Durability) -> Result<FsQueue<String>> {
    Ok(FsQueue::<String>::builder().durability(durability).open(dir)?)
}

pub fn measure(options: &Options, sink: &mut Sink) -> Result<()> {
    let n = options.samples(200_000);
    put_and_get(options, sink, n)?;
    alone(options, sink, "filequeue.put_many", &|| {
        let (dir, items) = (Scratch::new()?, vec![item(); 1000]);
        let q = ours(&dir.0, Durability::None)?;
        let calls = rate(n / 1000, |_| {
            ensure!(q.put_many(&items)? == 1000, "not all were put");
            Ok(())
        })?;
        Ok(1000.0 * calls)
    })?;
    alone(options, sink, "filequeue.receive_ack", &|| {
        let (dir, items) = (Scratch::new()?, vec![item(); n]);
        let q = ours(&dir.0, Durability::None)?;
        q.put_many(&items)?;
        let calls = rate(n / 100, |_| {
            let batch = q.receive(100)?;
            ensure!(batch.len() == 100, "{} items", batch.len());
            Ok(batch.ack()?)
        })?;
        Ok(100.0 * calls)
    })?;
    alone(options, sink, "filequeue.put.p8", &|| processes(n, false))?;
    durable(options, sink)?;
    alone(options, sink, "filequeue.put_durable.p8", &|| processes(options.samples(500), true))?;
    million(options, sink)
}

/// Items a second of several processes that put at the same time.
fn processes(n: usize, durable: bool) -> Result<f64> {
    let dir = Scratch::new()?;
    let path = dir.0.to_string_lossy().into_owned();
    let start = |_| multiprocess::process(put_all, (path.clone(), n, durable)).start();
    let processes = (0..WRITERS).map(start).collect::<Result<Vec<_>, _>>()?;
    fs::write(dir.0.join("go"), "")?;
    let spans = processes.iter().map(|p| p.join()).collect::<Result<Vec<(u64, u64)>, _>>()?;
    let q = ours(&dir.0.join("queue"), Durability::None)?;
    ensure!(q.len()? == (WRITERS * n) as u64, "{} items", q.len()?);
    let first = spans.iter().map(|s| s.0).min().unwrap_or_default();
    let last = spans.iter().map(|s| s.1).max().unwrap_or_default();
    Ok((WRITERS * n) as f64 / ((last - first) as f64 / 1e9))
}

/// What each of several processes does; when it began and ended, in nanoseconds since boot.
fn put_all(dir: String, n: usize, durable: bool) -> (u64, u64) {
    let dir = Path::new(&dir);
    let durability = if durable { Durability::GROUP } else { Durability::None };
    let q = ours(&dir.join("queue"), durability).expect("a queue");
    let item = item();
    while !dir.join("go").exists() {
        std::thread::yield_now();
    }
    let now = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    };
    let start = now();
    (0..n).for_each(|_| q.put(&item).expect("room"));
    (start, now())
}

fn alone(options: &Options, sink: &mut Sink, measure: &str, one: &dyn Fn() -> Result<f64>) -> Result<()> {
    let ours = Contender::new("ours", Label::None, || Ok(vec![one()?]));
    turns::take(options, sink, measure, "item/s", Reduce::Median, vec![ours])
}

/// Each contender puts in its turn of the first measure and keeps its rate of getting for the second.
fn put_and_get(options: &Options, sink: &mut Sink, n: usize) -> Result<()> {
    let gets: [RefCell<Vec<f64>>; 4] = Default::default();
    let (text, bytes) = (item(), vec![b'x'; 100]);
    let keep = |who: usize, rate: f64| gets[who].borrow_mut().push(rate);
    let contenders = vec![
        Contender::new("ours", Label::None, || {
            let dir = Scratch::new()?;
            let q = ours(&dir.0, Durability::None)?;
            let put = rate(n, |_| Ok(q.put(&text)?))?;
            let get = rate(n, |_| {
                ensure!(q.get()? == text, "a wrong item");
                Ok(())
            })?;
            keep(0, get);
            Ok(vec![put])
        }),
        Contender::new("yaque", Label::None, || {
            let dir = Scratch::new()?;
            let (mut sender, mut receiver) = yaque::channel(dir.0.join("queue"))?;
            let put = rate(n, |_| sender.try_send(&bytes).map_err(|e| anyhow::anyhow!("{e:?}")))?;
            keep(
                1,
                rate(n, |_| {
                    let got = receiver.try_recv().map_err(|e| anyhow::anyhow!("{e:?}"))?;
                    ensure!(*got == bytes, "a wrong item");
                    Ok(got.commit()?)
                })?,
            );
            Ok(vec![put])
        }),
        Contender::new("queue-file", Label::None, || {
            let (dir, n) = (Scratch::new()?, n / 20);
            let mut q = queue_file::QueueFile::open(dir.0.join("queue"))?;
            q.set_sync_writes(false);
            q.set_overwrite_on_remove(false);
            let put = rate(n, |_| Ok(q.add(&bytes)?))?;
            let get = |_| {
                ensure!(q.peek()?.is_some_and(|got| *got == *bytes), "a wrong item");
                Ok(q.remove()?)
            };
            keep(2, rate(n, get)?);
            Ok(vec![put])
        }),
        Contender::new("limit", Label::Via("append of 100 bytes"), || {
            let dir = Scratch::new()?;
            let file = File::create(dir.0.join("log"))?;
            Ok(vec![rate(n, |i| Ok(file.write_all_at(&bytes, i as u64 * 100)?))?])
        }),
        Contender::new("limit", Label::Via("create and rename; read and unlink"), || {
            let (dir, n) = (Scratch::new()?, n / 20);
            let name = |i: usize| dir.0.join(format!("{i:09}"));
            let put = rate(n, |i| {
                let aside = dir.0.join(".new");
                fs::write(&aside, &bytes)?;
                Ok(fs::rename(aside, name(i))?)
            })?;
            keep(
                3,
                rate(n, |i| {
                    ensure!(fs::read(name(i))? == bytes, "a wrong item");
                    Ok(fs::remove_file(name(i))?)
                })?,
            );
            Ok(vec![put])
        }),
    ];
    turns::take(options, sink, "filequeue.put", "item/s", Reduce::Median, contenders)?;
    let [a, b, c, d] = gets;
    let labels = [
        ("ours", Label::None, a),
        ("yaque", Label::None, b),
        ("queue-file", Label::None, c),
        ("limit", Label::Via("create and rename; read and unlink"), d),
    ];
    for (who, label, rates) in labels {
        // The first set warmed up.
        let rates = rates.into_inner();
        if rates.len() > 1 {
            sink.add(who, label, "filequeue.get", "item/s", rates[1..].to_vec())?;
        }
    }
    Ok(())
}

fn durable(options: &Options, sink: &mut Sink) -> Result<()> {
    let n = options.samples(500);
    let append = |n: usize| {
        let dir = Scratch::new()?;
        let file = File::create(dir.0.join("log"))?;
        Ok(vec![rate(n, |i| {
            file.write_all_at(&[b'x'; 100], i as u64 * 100)?;
            Ok(file.sync_data()?)
        })?])
    };
    let contenders = vec![
        Contender::new("ours", Label::None, || {
            let (dir, text) = (Scratch::new()?, item());
            let q = ours(&dir.0, Durability::Item)?;
            // The segment's own creation is synced too: once, not per item.
            q.put(&text)?;
            Ok(vec![rate(n, |_| Ok(q.put(&text)?))?])
        }),
        Contender::new("limit", Label::Via("append and fdatasync"), || append(n)),
    ];
    turns::take(options, sink, "filequeue.put_durable", "item/s", Reduce::Median, contenders)?;
    let contenders = vec![
        Contender::new("ours", Label::None, || {
            let dir = Scratch::new()?;
            let q = ours(&dir.0, Durability::GROUP)?;
            q.put(&item())?;
            let start = Instant::now();
            std::thread::scope(|s| {
                let writer = |_| s.spawn(|| (0..n).try_for_each(|_| q.put(&item())));
                let writers = (0..WRITERS).map(writer).collect::<Vec<_>>();
                writers.into_iter().try_for_each(|w| w.join().expect("a writer"))
            })?;
            Ok(vec![(WRITERS * n) as f64 / start.elapsed().as_secs_f64()])
        }),
        Contender::new("limit", Label::Via("append and fdatasync"), || append(n)),
    ];
    turns::take(options, sink, "filequeue.put_durable.w8", "item/s", Reduce::Median, contenders)
}

/// A million items wait; the rate of getting the first and the last tenth of them.
fn million(options: &Options, sink: &mut Sink) -> Result<()> {
    let (tenth, runs) = (options.samples(100_000), options.runs());
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let dir = Scratch::new()?;
        let q = ours(&dir.0, Durability::None)?;
        q.put_many(&vec![item(); tenth * 10])?;
        for part in 0..10 {
            let rate = rate(tenth, |_| q.get().map(drop).map_err(Into::into))?;
            match part {
                0 => first.push(rate),
                9 => last.push(rate),
                _ => {}
            }
        }
    }
    sink.add("ours", Label::None, "filequeue.get_million.first_tenth", "item/s", first)?;
    sink.add("ours", Label::None, "filequeue.get_million.last_tenth", "item/s", last)
}
