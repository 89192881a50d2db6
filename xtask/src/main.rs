//! Development commands of the workspace: `cargo xtask COMMAND`, a file each.
#![forbid(unsafe_code)]

mod bench;
mod child;
mod ci;
mod lint;
mod report;
mod runs;
mod test;
mod tools;

use anyhow::{Result, bail};
use std::ffi::OsString;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [-- ARGS]    every test of the workspace; ARGS go to each test program
  lint              rustfmt, clippy and rustdoc, warnings are errors
  ci                lint, then test
  bench [AREA ..] [--quick] [--out DIR] [--pin same|split]
                    ours beside Python, Rust peers and the limits of the machine";

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let command = args.remove(0);
    match dispatch(&command, &args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command; `false` means that it found something wrong and has said so.
fn dispatch(command: &OsString, args: &[OsString]) -> Result<bool> {
    match command.to_str() {
        Some("test") => match args {
            [] => test::run(&[]),
            [dashes, rest @ ..] if dashes == "--" => test::run(rest),
            [other, ..] => bail!("unknown argument {other:?}; arguments for the tests follow `--`\n{USAGE}"),
        },
        Some("bench") => bench::run(args),
        Some("lint" | "ci") if !args.is_empty() => bail!("{command:?} takes no arguments\n{USAGE}"),
        Some("lint") => lint::run(),
        Some("ci") => ci::run(),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => bail!("unknown command {command:?}\n{USAGE}"),
    }
}
