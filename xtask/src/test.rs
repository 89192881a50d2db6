//! `cargo xtask test`: makes every run of the table and closes with one line, `N passed, M failed[, K skipped]`.
//!
//! A test program that passes is one line; of one that fails, everything is shown, and what its failed tests said is told
//! again at the end. A failing run does not stop the others. A test program that dies without a result counts as one failure, and so does
//! a run that fails without a failing test (it did not compile) or that is killed for its silence.

use crate::child::{self, End};
use crate::report::{Counts, Report};
use crate::runs::{RUNS, Run};
use crate::tools::{cargo, root, target_dir};
use anyhow::Result;
use std::ffi::OsString;
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
    for end in ends.into_inner().unwrap_or_else(|e| e.into_inner()) {
        total.add(&end.counts);
        if let Some(how) = end.failure {
            end.failed_tests.iter().for_each(|test| println!("failed: {test}"));
            println!("run failed: {how}");
        }
    }
    println!("{total}");
    Ok(total.failed == 0)
}

/// What came of a run.
struct Made {
    counts: Counts,
    /// What its failed tests said.
    failed_tests: Vec<String>,
    /// How it failed, if it did.
    failure: Option<String>,
}

/// Makes one run.
fn make(run: &Run, args: &[OsString]) -> Result<Made> {
    let start = Instant::now();
    let mut report = Report::default();
    let (end, problem) = match run.flags {
        [] => (test(cargo_test(run, args), run, &mut report)?, None),
        _ => build_and_test(run, args, &mut report)?,
    };
    let Report { mut counts, failures: mut failed_tests, torn, .. } = report;
    let succeeded = matches!(end, End::Exited(status) if status.success());
    for program in torn {
        let what = format!("{program}: its result could not be read");
        // It came to its end: had it failed, so would the run have.
        match succeeded {
            true => eprintln!("{what}, its tests are not counted"),
            false => failed_tests.push(what),
        }
    }
    let failed = match end {
        End::Exited(status) if status.success() => {
            (counts.failed > 0 || problem.is_some()).then_some(status.to_string())
        }
        End::Exited(status) => Some(status.to_string()),
        End::Silent => Some(format!("killed, it printed nothing for {SILENCE:?}")),
    };
    if failed.is_some() {
        counts.failed = counts.failed.max(1);
    }
    eprintln!("== {}: {counts} in {:.0?}", run.name, start.elapsed());
    let failure = failed.map(|how| format!("{}: {counts} ({})", run.name, problem.unwrap_or(how)));
    Ok(Made { counts, failed_tests, failure })
}

/// Makes a run that has flags of its own for the test program; the text says what is wrong beside how it ended.
fn build_and_test(run: &Run, args: &[OsString], report: &mut Report) -> Result<(End, Option<String>)> {
    let mut program = None;
    let command = cargo_rustc(run);
    tell(run, &command);
    let end = child::run(command, SILENCE, |line| {
        if line.starts_with('{') {
            program = executable(line).or(program.take());
        } else {
            eprintln!("{line}");
        }
    })?;
    match (end, program) {
        (End::Exited(status), Some(program)) if status.success() => {
            let mut command = Command::new(program);
            command.current_dir(root()).env_remove("RUST_BACKTRACE").args(run.tests).args(args);
            Ok((test(command, run, report)?, None))
        }
        (End::Exited(status), None) if status.success() => {
            Ok((End::Exited(status), Some("no program was built".to_owned())))
        }
        (end, _) => Ok((end, None)),
    }
}

fn tell(run: &Run, command: &Command) {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    eprintln!("== {}: {} {}", run.name, command.get_program().to_string_lossy(), words.join(" "));
}

/// Runs test programs.
fn test(command: Command, run: &Run, report: &mut Report) -> Result<End> {
    tell(run, &command);
    let end = child::run(command, SILENCE, |line| show(&report.line(line)))?;
    show(&report.end());
    Ok(end)
}

fn show(lines: &[String]) {
    // Our own reader may be gone (`| head`); the result is still worth having.
    let mut stdout = std::io::stdout().lock();
    for line in lines {
        let _ = writeln!(stdout, "{line}");
    }
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
    // What most users have; the tests make children panic by the hundred.
    cargo.env_remove("RUST_BACKTRACE");
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
