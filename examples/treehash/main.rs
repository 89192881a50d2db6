//! Hashes every file of some folders in worker processes and prints what `sha256sum` would.
//!
//! ```text
//! cargo run --release --example treehash -- /usr/share > list
//! sha256sum -c --quiet list
//! ```
//!
//! Kill a worker on the way (`pkill -9 -f PoolWorker`): the list is complete and correct all the same.

mod args;
mod hash;
mod output;
#[cfg(test)]
mod scratch;
mod summary;
mod walk;

use args::Args;
use hash::Hash;
use multiprocess as mp;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use summary::Summary;

/// How often a file is tried again after the worker was lost that hashed it.
const RETRIES: u32 = 10;

/// What a worker makes of a file.
#[derive(Serialize, Deserialize)]
struct Hashed {
    /// The hash, or why there is none.
    hash: Result<Hash, String>,
    bytes: u64,
    worker: String,
}

/// Runs in a worker: hashes the file of that name.
fn hash_one(name: Vec<u8>) -> Hashed {
    let (hash, bytes) = match hash::hash_file(Path::new(OsStr::from_bytes(&name))) {
        Ok((hash, bytes)) => (Ok(hash), bytes),
        Err(error) => (Err(error.to_string()), 0),
    };
    Hashed { hash, bytes, worker: mp::current_process().name() }
}

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("treehash: {mistake}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("treehash: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of our output has seen enough (`treehash / | head`).
fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints all hashes; returns how many files and folders could not be read.
fn run(args: &Args) -> Result<usize, Box<dyn std::error::Error>> {
    let pool = mp::Pool::builder()
        .processes(args.workers)
        .context(mp::Context::new(args.start_method))
        .on_worker_lost(|lost| eprintln!("treehash: {lost}"))
        .build()?;

    let start = Instant::now();
    let mut unreadable = 0;
    let mut report = |what: &dyn std::fmt::Display| {
        eprintln!("treehash: {what}");
        unreadable += 1;
    };
    let mut paths = Vec::new();
    for file in walk::files(&args.dirs) {
        match file {
            Ok(path) => paths.push(path),
            Err(error) => report(&error),
        }
    }
    paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));

    let names = paths.iter().map(|path| path.as_os_str().as_bytes().to_vec());
    let results = pool.retries(RETRIES).progress(!args.quiet).try_map(hash_one, names)?;
    let mut summary = Summary::default();
    let mut out = BufWriter::new(io::stdout().lock());
    for (path, result) in paths.iter().zip(results) {
        match result {
            Ok(Hashed { hash: Ok(hash), bytes, worker }) => {
                output::write_line(&mut out, &hash, path)?;
                summary.add(bytes, worker);
            }
            Ok(Hashed { hash: Err(error), .. }) => report(&format_args!("{}: {error}", path.display())),
            Err(error) => report(&format_args!("{}: {error}", path.display())),
        }
    }
    out.flush()?;
    if !args.quiet {
        eprintln!("{}", summary.text(start.elapsed()));
    }
    Ok(unreadable)
}
