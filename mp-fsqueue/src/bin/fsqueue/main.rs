//! `fsqueue`: a queue in a directory for shell scripts and other languages, JSON lines in and out.
//!
//! ```text
//! echo '{"id": 7}' | fsqueue put /var/spool/events
//! fsqueue get /var/spool/events --timeout 60 | handle-one
//! ```
//!
//! An item leaves the queue when its line has been written: if this process dies before, the item is there for the next.

mod any;
mod arguments;

use any::Any;
use arguments::{Arguments, Command, USAGE};
use mp_fsqueue::{Durability, Error, FsQueue};
use serde::Serialize;
use std::fmt;
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

/// How many items are printed before they are acknowledged together.
const BATCH: usize = 100;

/// Why the command failed.
enum Failure {
    Queue(Error),
    /// Standard input or output.
    Stream(std::io::Error),
    /// A line that is no JSON.
    Line(u64, serde_json::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Queue(e) => write!(f, "{e}"),
            Failure::Stream(e) => write!(f, "cannot read or write a line: {e}"),
            Failure::Line(number, e) => write!(f, "line {number} is no JSON: {e}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Queue(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Failure::Stream(e)
    }
}

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("fsqueue: {mistake}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("fsqueue: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Does it; false if there was nothing to get, or something to complain about.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let durability = if arguments.durable { Durability::GROUP } else { Durability::None };
    let q = FsQueue::<Any>::builder().durability(durability).named_fields(true).open(&arguments.dir)?;
    match arguments.command {
        Command::Put => put(&q),
        Command::Get => get(&q, arguments),
        Command::Drain => drain(&q),
        Command::List => {
            #[derive(Serialize)]
            struct Line {
                id: String,
                item: Any,
            }
            for (id, item) in q.peek(arguments.limit.unwrap_or(usize::MAX))? {
                print(&Line { id: id.to_string(), item })?;
            }
            Ok(true)
        }
        Command::Stats => print(&q.stats()?).map(|()| true),
        Command::Requeue => {
            let returned = q.requeue_stale(arguments.older_than)?;
            let retried = if arguments.failed { q.retry_failed()? } else { 0 };
            print(&serde_json::json!({"returned": returned, "retried": retried})).map(|()| true)
        }
        Command::Watch => watch(&q, arguments),
        Command::Check => {
            let problems = q.check()?;
            problems.iter().try_for_each(print)?;
            Ok(problems.is_empty())
        }
    }
}

fn print(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(value).map_err(std::io::Error::from)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// One item a line; what came before a bad line is in the queue.
fn put(q: &FsQueue<Any>) -> Result<bool, Failure> {
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line?;
        if !line.trim().is_empty() {
            q.put(&serde_json::from_str(&line).map_err(|e| Failure::Line(number, e))?)?;
        }
    }
    Ok(true)
}

fn get(q: &FsQueue<Any>, arguments: &Arguments) -> Result<bool, Failure> {
    for _ in 0..arguments.limit.unwrap_or(1) {
        let batch = match arguments.timeout {
            Some(timeout) => q.receive_timeout(1, timeout),
            None => q.receive(1),
        };
        match batch {
            Err(e) if e.is_empty() => return Ok(false),
            Ok(batch) if batch.is_empty() && batch.bad.is_empty() => return Ok(false),
            batch => {
                let batch = batch?;
                complain(&batch.bad);
                batch.iter().try_for_each(|item| print(&**item))?;
                batch.ack()?;
            }
        }
    }
    Ok(true)
}

fn drain(q: &FsQueue<Any>) -> Result<bool, Failure> {
    let mut fine = true;
    loop {
        let batch = q.receive(BATCH)?;
        if batch.is_empty() && batch.bad.is_empty() {
            return Ok(fine);
        }
        fine &= complain(&batch.bad);
        batch.iter().try_for_each(|item| print(&**item))?;
        batch.ack()?;
    }
}

fn complain(bad: &[Error]) -> bool {
    bad.iter().for_each(|e| eprintln!("fsqueue: {e}"));
    bad.is_empty()
}

/// The statistics, whenever they change.
fn watch(q: &FsQueue<Any>, arguments: &Arguments) -> Result<bool, Failure> {
    let mut last = None;
    let mut left = arguments.limit.unwrap_or(usize::MAX);
    while left > 0 {
        let now = q.stats()?;
        if last.as_ref() != Some(&now) {
            print(&now)?;
            left -= 1;
            last = Some(now);
        }
        if left > 0 {
            std::thread::sleep(arguments.timeout.unwrap_or(Duration::from_millis(200)));
        }
    }
    Ok(true)
}
