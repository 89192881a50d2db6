//! Measures `multiprocess`, Python, Rust peers and the limits of the machine in one run, and prints the ratios.
//!
//! ```text
//! cargo xtask bench [AREA ..] [--quick] [--only TEXT] [--out DIR] [--pin same|split]
//! ```
//!
//! Contenders in this program take turns, set by set, so that a slow minute of the machine falls on all of them.
//! Python and the limits probe run in programs of their own. Every result is a line of `DIR/results.jsonl`.
//! Only ratios within one run mean anything.

mod area;
mod crew;
mod fsqueue;
mod lines;
mod mutex;
mod options;
mod pipe;
mod placement;
mod pool;
mod process;
mod programs;
mod pthread;
mod queue;
mod raw;
mod record;
mod ring;
mod shm;
mod sync;
mod table;
mod turns;

use anyhow::Result;
use options::Options;
use record::Sink;
use std::process::ExitCode;

fn main() -> ExitCode {
    // This program is also its own smallest child: nothing may come before these two.
    match std::env::args().nth(1).as_deref() {
        Some(raw::NOOP) => return ExitCode::SUCCESS,
        Some(raw::FORKS) => return raw::forks_main(),
        _ => {}
    }
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("error: {mistake}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    placement::pin_parent(options.pin)?;
    let mut sink = Sink::create(options)?;
    for area in &options.areas {
        eprintln!("== {}", area.name);
        (area.here)(options, &mut sink)?;
        if !options.only.is_empty() {
            continue;
        }
        programs::limits(area, options, &mut sink)?;
        programs::peers(area, options, &mut sink)?;
        programs::python(area, options, &mut sink)?;
    }
    table::print(options, &sink);
    Ok(())
}
