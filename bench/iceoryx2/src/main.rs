//! Prints one JSON object a measure: what iceoryx2 does with the payloads of the areas `queue` and `pipe`.
//!
//! ```text
//! iceoryx2 [--only queue] [--reps 5] [--scale 1.0] [--pin none|same|split]
//! ```
//!
//! A publisher in this process, a subscriber in another, no sample lost: the publisher waits while the buffer is full. Items are
//! written into shared memory and copied out of it, as an encoding would. iceoryx2 has no blocking `receive`: one way is to look
//! again and again (`busy`), the other to send an event with each message (`event`).

mod pair;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pair::{Bytes, Echo, Link, Wait, Way};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pin {
    None,
    Same,
    Split,
}

struct Options {
    reps: usize,
    scale: f64,
    pin: Pin,
    root: PathBuf,
}

/// The sizes of messages: name, bytes, how many in a run.
const SIZES: [(&str, usize, usize); 5] = [
    ("16B", 16, 1_000_000),
    ("64B", 64, 1_000_000),
    ("1KiB", 1 << 10, 500_000),
    ("64KiB", 64 << 10, 20_000),
    ("1MiB", 1 << 20, 1_000),
];

/// The most items of so many bytes that wait, as for the other contenders.
fn bound(size: usize) -> usize {
    ((4 << 20) / size).clamp(4, 1000)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, root, name, size, n, wait, cpu] = &args[..]
        && role.starts_with("--as-")
    {
        if let Ok(cpu) = cpu.parse() {
            pin_to(cpu);
        }
        return child(role, Path::new(root), name, size.parse()?, n.parse()?, Wait::named(wait)?);
    }
    let root = std::env::temp_dir().join(format!("mp-bench-iceoryx2-{}", std::process::id()));
    let mut options = Options { reps: 5, scale: 1.0, pin: Pin::None, root };
    for pair in args.chunks(2) {
        match pair {
            [option, value] if option == "--only" => {
                ensure!(["queue", "pipe"].contains(&&**value), "--only queue")
            }
            [option, value] if option == "--reps" => options.reps = value.parse()?,
            [option, value] if option == "--scale" => options.scale = value.parse()?,
            [option, value] if option == "--pin" => {
                options.pin = match &**value {
                    "none" => Pin::None,
                    "same" => Pin::Same,
                    "split" => Pin::Split,
                    _ => bail!("--pin none, same or split"),
                }
            }
            other => bail!("unknown option {other:?}"),
        }
    }
    if options.pin != Pin::None {
        pin_to(0);
    }
    let measured = measure(&options);
    let _ = std::fs::remove_dir_all(&options.root);
    // A file of its own that it keeps for the next program.
    let ours = options.root.file_name().context("a name")?;
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(ours.as_encoded_bytes()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    measured
}

fn measure(options: &Options) -> Result<()> {
    let mut run = 0;
    for (label, size, full) in SIZES {
        let n = samples(options, full);
        let mut rates = Vec::new();
        for _ in 0..=options.reps {
            run += 1;
            rates.push(throughput(options, &format!("rate {run}"), size, n)?);
        }
        emit(options, &format!("queue.1to1.{label}"), "busy", "msg/s", &rates[1..]);
    }
    // Looking again and again from one CPU would only burn time slices.
    let busy = (options.pin != Pin::Same).then_some((Wait::Busy, "busy"));
    for (wait, via) in busy.into_iter().chain([(Wait::Event, "event")]) {
        for (measure, full, asleep) in
            [("queue.pingpong.64B", 20_000, false), ("queue.pingpong_asleep.64B", 300, true)]
        {
            if asleep && wait == Wait::Busy {
                // Nobody sleeps.
                continue;
            }
            let n = samples(options, full);
            let (mut p50, mut p99) = (Vec::new(), Vec::new());
            for _ in 0..=options.reps {
                run += 1;
                let mut times = round_trips(options, &format!("trip {run}"), n, asleep, wait)?;
                times.sort_by(f64::total_cmp);
                p50.push(times[times.len() / 2]);
                p99.push(times[times.len() * 99 / 100]);
            }
            emit(options, &format!("{measure}.p50"), via, "us", &p50[1..]);
            emit(options, &format!("{measure}.p99"), via, "us", &p99[1..]);
        }
    }
    Ok(())
}

fn samples(options: &Options, full: usize) -> usize {
    ((full as f64 * options.scale) as usize).max(4)
}

fn throughput(options: &Options, name: &str, size: usize, n: usize) -> Result<f64> {
    let link = Link::create(&options.root, name, size, bound(size), Wait::Busy)?;
    let (mut child, mut said) = start(options, "--as-getter", name, size, n, Wait::Busy)?;
    let mut item = vec![0; size];
    let way = link.sender()?;
    for i in 0..n {
        item[size - 1] = i as u8;
        way.send(&item)?;
        if i == 0 {
            // The two are connected when the first has come; before, a full buffer would drop what follows.
            let mut line = String::new();
            said.read_line(&mut line)?;
            ensure!(line == "begun\n", "the getter did not begin");
        }
    }
    let mut nanoseconds = String::new();
    said.read_to_string(&mut nanoseconds)?;
    ensure!(child.wait()?.success(), "the getter failed");
    Ok((n - 1) as f64 * 1e9 / nanoseconds.trim().parse::<f64>()?)
}

fn round_trips(options: &Options, name: &str, n: usize, asleep: bool, wait: Wait) -> Result<Vec<f64>> {
    let (ask, answer) = (format!("{name} ask"), format!("{name} answer"));
    let ask = Link::create(&options.root, &ask, 64, 64, wait)?;
    let answer = Link::create(&options.root, &answer, 64, 64, wait)?;
    let answers = answer.receiver()?;
    let warm = if asleep { 5 } else { 500 };
    let (mut child, _said) = start(options, "--as-echo", name, 64, n + warm, wait)?;
    let asks = ask.sender()?;
    let mut times = Vec::with_capacity(n);
    for i in 0..n + warm {
        if asleep {
            std::thread::sleep(Duration::from_millis(1));
        }
        let item: Bytes = vec![i as u8; 64];
        let began = Instant::now();
        asks.send(&item)?;
        ensure!(answers.receive()? == item, "another answer");
        if i >= warm {
            times.push(began.elapsed().as_nanos() as f64 / 1e3);
        }
    }
    ensure!(child.wait()?.success(), "the echo failed");
    Ok(times)
}

/// Starts this program in another role; it is ready.
fn start(
    options: &Options,
    role: &str,
    name: &str,
    size: usize,
    n: usize,
    wait: Wait,
) -> Result<(Child, BufReader<ChildStdout>)> {
    let cpu = match options.pin {
        Pin::None => "any",
        Pin::Same => "0",
        Pin::Split => "1",
    };
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            role,
            options.root.to_str().context("a path of text")?,
            name,
            &size.to_string(),
            &n.to_string(),
        ])
        .args([wait.name(), cpu])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(child.stdout.take().context("its output")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure!(line == "ready\n", "the child did not get ready");
    Ok((child, said))
}

fn child(role: &str, root: &Path, name: &str, size: usize, n: usize, wait: Wait) -> Result<()> {
    if role == "--as-echo" {
        let echo = Echo::open(root, name, wait)?;
        println!("ready");
        return (0..n).try_for_each(|_| echo.answer());
    }
    let link = Link::open(root, name, size, bound(size), wait)?;
    let way: Way = link.receiver()?;
    println!("ready");
    let mut began = Instant::now();
    for i in 0..n {
        let item = way.receive()?;
        ensure!(item.len() == size && item[size - 1] == i as u8, "item {i} is another one");
        if i == 0 {
            println!("begun");
            began = Instant::now();
        }
    }
    println!("{}", began.elapsed().as_nanos());
    Ok(())
}

fn pin_to(cpu: usize) {
    // SAFETY: an all-zero set is a set without members, and the call reads one set of that size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

fn emit(options: &Options, measure: &str, via: &str, unit: &str, runs: &[f64]) {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let value = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
    let list: Vec<String> = runs.iter().map(|run| format!("{run:.3}")).collect();
    let pin = match options.pin {
        Pin::None => "",
        Pin::Same => "\"pin\": \"same\", ",
        Pin::Split => "\"pin\": \"split\", ",
    };
    println!(
        "{{\"impl\": \"iceoryx2\", {pin}\"via\": \"{via}\", \"measure\": \"{measure}\", \"unit\": \"{unit}\", \
         \"value\": {value:.3}, \"min\": {:.3}, \"max\": {:.3}, \"runs\": [{}]}}",
        sorted[0],
        sorted[sorted.len() - 1],
        list.join(", ")
    );
}
