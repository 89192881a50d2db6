//! Hashes every file of some folders in worker processes and prints what `sha256sum` would.
//!
//! ```text
//! cargo run --release --example treehash -- /usr/share > list
//! sha256sum -c --quiet list
//! ```

mod args;
mod hash;
mod output;
#[cfg(test)]
mod scratch;
mod walk;

use args::Args;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Instant;

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
        // The reader of our output has seen enough (`treehash / | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("treehash: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Prints all hashes; returns how many files and folders could not be read.
fn run(args: &Args) -> io::Result<usize> {
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

    let mut out = BufWriter::new(io::stdout().lock());
    for path in &paths {
        match hash::hash_file(path) {
            Ok(hash) => output::write_line(&mut out, &hash, path)?,
            Err(error) => report(&format_args!("{}: {error}", path.display())),
        }
    }
    out.flush()?;
    if !args.quiet {
        let (workers, method) = (args.workers, args.start_method);
        eprintln!("{} files, {workers} workers ({method:?}), {:.2?}", paths.len(), start.elapsed());
    }
    Ok(unreadable)
}
