//! `cargo xtask test`: makes every run of the table and closes with one line, `N passed, M failed[, K skipped]`.
//!
//! A failing run does not stop the others. A test program that dies without a result counts as one failure, and so does
//! a run that fails without a failing test (it did not compile) or that is killed for its silence.

use crate::child::{self, End};
use crate::runs::{RUNS, Run};
use crate::tools::{cargo, root, target_dir};
use anyhow::Result;
use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// A run that prints nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(600);

/// How many runs are made at a time: most are a linker or a model checker, which use one processor each.
const LANES: usize = 2;

pub fn run(args: &[OsString]) -> Result<bool> {
    let ends = Mutex::new(Vec::new());
    let keep = |run: &Run, args: &[OsString]| -> Result<()> {
        let end = make(run, args)?;
        ends.lock().unwrap_or_else(|e| e.into_inner()).push(end);
        Ok(())
    };
    let (chosen, left_out): (Vec<_>, Vec<_>) =
        RUNS.iter().partition(|run| run.tests.is_empty() || args.is_empty());
    for run in left_out {
        eprintln!("== {}: left out, it takes no arguments", run.name);
    }
    let (first, others) = chosen.split_at(1);
    first.iter().try_for_each(|run| keep(run, args))?;
    let next = Mutex::new(others.iter());
    let lane = || -> Result<()> {
        loop {
            let run = next.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some(run) = run else { return Ok(()) };
            keep(run, args)?;
        }
    };
    thread::scope(|scope| {
        let lanes = [(); LANES].map(|()| scope.spawn(lane));
        lanes.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    })?;

    let mut total = Counts::default();
    for (counts, failure) in ends.into_inner().unwrap_or_else(|e| e.into_inner()) {
        total.add(&counts);
        if let Some(failure) = failure {
            eprintln!("run failed: {failure}");
        }
    }
    println!("{total}");
    Ok(total.failed == 0)
}

/// Makes one run; what came of it, and what to say if it failed.
fn make(run: &Run, args: &[OsString]) -> Result<(Counts, Option<String>)> {
    let start = Instant::now();
    let mut results = Results::default();
    let end = match run.flags {
        [] => test(cargo_test(run, args), run, &mut results)?,
        _ => {
            let mut program = None;
            let command = cargo_rustc(run);
            tell(run, &command);
            let built = child::run(command, SILENCE, |line| program = executable(line).or(program.take()))?;
            match (built, program) {
                (End::Exited(status), Some(program)) if status.success() => {
                    let mut command = Command::new(program);
                    command.current_dir(root()).args(run.tests).args(args);
                    test(command, run, &mut results)?
                }
                (End::Exited(status), None) if status.success() => {
                    return Ok((
                        Counts { failed: 1, ..Counts::default() },
                        Some(format!("{}: no program was built", run.name)),
                    ));
                }
                (end, _) => end,
            }
        }
    };
    let mut counts = results.finish();
    let failure = match end {
        End::Exited(status) if status.success() && counts.failed == 0 => None,
        End::Exited(status) => {
            counts.failed = counts.failed.max(1);
            Some(format!("{}: {counts} ({status})", run.name))
        }
        End::Silent => {
            counts.failed += 1;
            Some(format!("{}: {counts}; killed, it printed nothing for {SILENCE:?}", run.name))
        }
    };
    eprintln!("== {}: {counts} in {:.0?}", run.name, start.elapsed());
    Ok((counts, failure))
}

fn tell(run: &Run, command: &Command) {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    eprintln!("== {}: {} {}", run.name, command.get_program().to_string_lossy(), words.join(" "));
}

/// Runs test programs, copying their output to ours line by line.
fn test(command: Command, run: &Run, results: &mut Results) -> Result<End> {
    tell(run, &command);
    child::run(command, SILENCE, |line| {
        // Our own reader may be gone (`| head`); the result is still worth having.
        let _ = writeln!(std::io::stdout(), "{line}");
        results.line(line);
    })
}

fn cargo_test(run: &Run, args: &[OsString]) -> Command {
    let mut cargo = cargo_for(run);
    cargo.args(["test", "--no-fail-fast"]).args(run.args);
    if !run.tests.is_empty() || !args.is_empty() {
        cargo.arg("--").args(run.tests).args(args);
    }
    cargo
}

/// Builds the program of a run that has flags.
fn cargo_rustc(run: &Run) -> Command {
    let mut cargo = cargo_for(run);
    cargo
        .arg("rustc")
        .args(run.args)
        .args(["--message-format=json-render-diagnostics", "--"])
        .args(run.flags);
    cargo
}

fn cargo_for(run: &Run) -> Command {
    let mut cargo = cargo();
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

/// The program that cargo says it has built, if this line is about one.
fn executable(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(r#""executable":""#)?;
    // A quote in the path would end it early; then there is no such file, and the run fails.
    rest.split_once('"').map(|(path, _)| path.to_owned())
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
    fn the_program_that_cargo_built_is_found() {
        let artifact = |executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","fresh":true,"executable":{executable},"filenames":["/x"]}}"#
            )
        };
        assert_eq!(executable(&artifact(r#""/a b/programs-1""#)).as_deref(), Some("/a b/programs-1"));
        assert_eq!(executable(&artifact("null")), None);
        assert_eq!(executable("test executable ... ok"), None);
    }

    #[test]
    fn the_closing_line_names_skipped_tests_only_if_there_are_any() {
        assert_eq!(Counts { passed: 3, failed: 0, skipped: 0 }.to_string(), "3 passed, 0 failed");
        assert_eq!(Counts { passed: 3, failed: 1, skipped: 2 }.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
