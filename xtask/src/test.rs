//! `cargo xtask test`: makes every run of the table and closes with one line, `N passed, M failed[, K skipped]`.
//!
//! A failing run does not stop the others. A test program that dies without a result counts as one failure, and so does
//! a run that fails without a failing test (it did not compile) or that is killed for its silence.

use crate::child::{self, End};
use crate::runs::{RUNS, Run};
use crate::tools::{cargo, target_dir};
use anyhow::Result;
use std::ffi::OsString;
use std::fmt;
use std::process::Command;
use std::time::Duration;

/// A run that prints nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(600);

pub fn run(args: &[OsString]) -> Result<bool> {
    let mut total = Counts::default();
    let mut failures = Vec::new();
    for run in RUNS {
        if run.picks_tests && !args.is_empty() {
            eprintln!("== {}: left out, it takes no arguments", run.name);
            continue;
        }
        eprintln!("== {}: cargo test {}", run.name, run.args.join(" "));
        let mut results = Results::default();
        let end = child::run(command(run, args), SILENCE, |line| results.line(line))?;
        let mut counts = results.finish();
        match end {
            End::Exited(status) if status.success() && counts.failed == 0 => {}
            End::Exited(status) => {
                counts.failed = counts.failed.max(1);
                failures.push(format!("{}: {counts} ({status})", run.name));
            }
            End::Silent => {
                counts.failed += 1;
                failures.push(format!("{}: {counts}; killed, it printed nothing for {SILENCE:?}", run.name));
            }
        }
        total.add(&counts);
    }
    for failure in &failures {
        eprintln!("run failed: {failure}");
    }
    println!("{total}");
    Ok(total.failed == 0)
}

fn command(run: &Run, args: &[OsString]) -> Command {
    let mut cargo = cargo();
    cargo.args(["test", "--no-fail-fast"]).args(run.args);
    if !args.is_empty() {
        cargo.arg("--").args(args);
    }
    for &(key, value) in run.env {
        let added = match std::env::var(key) {
            Ok(mine) if key == "RUSTFLAGS" && !mine.is_empty() => format!("{mine} {value}"),
            _ => value.to_owned(),
        };
        cargo.env(key, added);
    }
    if let Some(folder) = run.target {
        cargo.env("CARGO_TARGET_DIR", target_dir().join(folder));
    }
    cargo
}

/// How many tests ended how.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Reads the output of test programs.
#[derive(Default)]
struct Results {
    counts: Counts,
    /// A program said `running N tests` and has not given its result.
    running: bool,
}

impl Results {
    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("running ") {
            if rest.ends_with(" tests") || rest.ends_with(" test") {
                self.died();
                self.running = true;
            }
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            // ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
            let numbers = rest.split_once(". ").map_or("", |(_, numbers)| numbers);
            for part in numbers.split("; ") {
                let Some((number, what)) = part.split_once(' ') else { continue };
                let Ok(number) = number.parse::<u64>() else { continue };
                match what {
                    "passed" => self.counts.passed += number,
                    "failed" => self.counts.failed += number,
                    "ignored" => self.counts.skipped += number,
                    _ => {}
                }
            }
            self.running = false;
        }
    }

    /// The running program, if any, ended without a result.
    fn died(&mut self) {
        self.counts.failed += u64::from(std::mem::take(&mut self.running));
    }

    fn finish(mut self) -> Counts {
        self.died();
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(output: &str) -> Counts {
        let mut results = Results::default();
        output.lines().for_each(|l| results.line(l));
        results.finish()
    }

    #[test]
    fn results_of_several_programs_add_up() {
        let output = "\nrunning 2 tests\ntest a ... ok\n\
            test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            running 3 tests\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.10s";
        assert_eq!(counts(output), Counts { passed: 2, failed: 2, skipped: 1 });
    }

    #[test]
    fn a_program_that_dies_counts_as_a_failure() {
        let ok =
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let died_first = format!("running 5 tests\nrunning 1 test\n{ok}");
        let died_last = format!("running 1 test\n{ok}\nrunning 5 tests\ntest a ... ok");
        for output in [died_first, died_last] {
            assert_eq!(counts(&output), Counts { passed: 1, failed: 1, skipped: 0 });
        }
    }

    #[test]
    fn what_tests_print_is_not_taken_for_results() {
        assert_eq!(counts("running late\nthe test result: ok. 9 passed; 9 failed"), Counts::default());
    }

    #[test]
    fn the_closing_line_names_skipped_tests_only_if_there_are_any() {
        assert_eq!(Counts { passed: 3, failed: 0, skipped: 0 }.to_string(), "3 passed, 0 failed");
        assert_eq!(Counts { passed: 3, failed: 1, skipped: 2 }.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
