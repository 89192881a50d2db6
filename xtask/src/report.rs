//! Reads what `cargo test` prints: counts the tests, shows a line for each program that passes and all that a failing
//! one has printed, and keeps what the failures had to say for the end.
//!
//! Tests of crashes make their children panic by the hundred, so what a passing program prints says nothing.

use std::fmt;

/// How a program's result begins, which it prints in several pieces.
const RESULT: &str = "test result: ";
/// How many lines of a failed test are told again at the end.
const RETOLD: usize = 40;

/// How many tests ended how.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
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

/// One run's output so far.
#[derive(Default)]
pub struct Report {
    pub counts: Counts,
    /// What failed tests said, and programs that ended without a result.
    pub failures: Vec<String>,
    /// Programs whose result was torn by what their children printed at that moment.
    pub torn: Vec<String>,
    program: Option<Program>,
}

/// A test program whose result is not known yet.
struct Program {
    name: String,
    /// It said `running N tests` and has not given its result.
    running: bool,
    printed: Vec<String>,
}

impl Report {
    /// Takes a line, and returns what there is to show now.
    pub fn line(&mut self, line: &str) -> Vec<String> {
        let starts = line.strip_prefix("     Running ").or_else(|| line.strip_prefix("   Doc-tests "));
        if let Some(name) = starts {
            let shown = self.end();
            self.begin(&title(name));
            return shown;
        }
        if line.contains(" has been running for over ") {
            // Whoever ends a run that hangs wants to know what hung.
            return vec![line.to_owned()];
        }
        if is_count(line) {
            let mut shown = Vec::new();
            // A second one from the same program: the first has died, or this is a program that we started ourselves.
            if self.program.as_ref().is_none_or(|program| program.running) {
                let name =
                    self.program.as_ref().map_or("a program".to_owned(), |program| program.name.clone());
                shown = self.end();
                self.begin(&name);
            }
            if let Some(program) = &mut self.program {
                program.running = true;
                program.printed.push(line.to_owned());
            }
            return shown;
        }
        let Some(program) = &mut self.program else { return vec![line.to_owned()] };
        program.printed.push(line.to_owned());
        match result(line) {
            Some(counts) if program.running => {
                program.running = false;
                self.counts.add(&counts);
                self.result(&counts)
            }
            _ => Vec::new(),
        }
    }

    /// The output has ended; returns what there is left to show.
    pub fn end(&mut self) -> Vec<String> {
        match self.program.take() {
            Some(program) if program.running => {
                if program.printed.iter().any(|line| line.starts_with(RESULT)) {
                    self.torn.push(program.name);
                } else {
                    self.counts.failed += 1;
                    self.failures.push(format!("{}: ended without a result", program.name));
                }
                program.printed
            }
            Some(program) => program.printed,
            None => Vec::new(),
        }
    }

    fn begin(&mut self, name: &str) {
        self.program = Some(Program { name: name.to_owned(), running: false, printed: Vec::new() });
    }

    /// The program has said how it went.
    fn result(&mut self, counts: &Counts) -> Vec<String> {
        let Some(program) = &mut self.program else { return Vec::new() };
        let printed = std::mem::take(&mut program.printed);
        if counts.failed == 0 {
            return match printed.last().and_then(|line| line.split_once("finished in ")) {
                _ if *counts == Counts::default() => Vec::new(),
                Some((_, time)) => vec![format!("     passed {}: {counts} in {time}", program.name)],
                None => vec![format!("     passed {}: {counts}", program.name)],
            };
        }
        self.failures.extend(words_of_failures(&program.name, &printed));
        let mut shown = vec![format!("     FAILED {}: {counts}; it printed:", program.name)];
        shown.extend(printed);
        shown
    }
}

/// `tests/pool.rs (target/debug/deps/pool-0123456789abcdef)`, or `unittests src/lib.rs (..)`, in which the crate is missing.
fn title(name: &str) -> String {
    let Some((source, program)) = name.split_once(" (") else { return name.to_owned() };
    let file = program.rsplit('/').next().unwrap_or(program);
    match file.rsplit_once('-') {
        Some((of, _)) if source.starts_with("unittests ") => format!("{source} of {of}"),
        _ => source.to_owned(),
    }
}

/// The sections `---- NAME stdout ----` that end a failing program's output.
fn words_of_failures(program: &str, printed: &[String]) -> Vec<String> {
    let mut sections: Vec<Vec<&str>> = Vec::new();
    let mut inside = false;
    for line in printed {
        if let Some(name) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" ----")) {
            inside = true;
            sections.push(vec![name]);
        } else if line == "failures:" {
            inside = false;
        } else if inside
            && !line.is_empty()
            && let Some(section) = sections.last_mut()
            && section.len() <= RETOLD
        {
            section.push(line);
        }
    }
    sections.iter().map(|lines| format!("{program}: {}", lines.join("\n    "))).collect()
}

/// Whether a test program starts here: `running N tests`.
fn is_count(line: &str) -> bool {
    let count = line
        .strip_prefix("running ")
        .and_then(|rest| rest.strip_suffix(" tests").or_else(|| rest.strip_suffix(" test")));
    count.is_some_and(|count| count.parse::<u64>().is_ok())
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn result(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix(RESULT)?.split_once(". ").filter(|_| line.contains(" passed; "))?;
    let mut counts = Counts::default();
    for part in numbers.split("; ") {
        let Some((number, what)) = part.split_once(' ') else { continue };
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "ignored" => counts.skipped = number,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a whole output comes to: the report, and all that was shown.
    fn read(output: &str) -> (Report, Vec<String>) {
        let mut report = Report::default();
        let mut shown: Vec<String> = output.lines().flat_map(|line| report.line(line)).collect();
        shown.extend(report.end());
        (report, shown)
    }

    fn counts(output: &str) -> Counts {
        read(output).0.counts
    }

    const OK: &str =
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn results_of_several_programs_add_up() {
        let output = "\nrunning 2 tests\ntest a ... ok\n\
            test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            running 3 tests\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.10s";
        assert_eq!(counts(output), Counts { passed: 2, failed: 2, skipped: 1 });
    }

    #[test]
    fn a_program_that_dies_counts_as_a_failure_and_is_shown() {
        let died_first = format!(
            "     Running a.rs (x)\nrunning 5 tests\noh\n     Running b.rs (y)\nrunning 1 test\n{OK}"
        );
        let died_last = format!(
            "     Running b.rs (x)\nrunning 1 test\n{OK}\n     Running a.rs (y)\nrunning 5 tests\noh"
        );
        let without_names = format!("running 5 tests\noh\nrunning 1 test\n{OK}");
        for output in [died_first, died_last, without_names] {
            let (report, shown) = read(&output);
            assert_eq!(report.counts, Counts { passed: 1, failed: 1, skipped: 0 });
            assert_eq!(report.failures.len(), 1, "{output}");
            assert!(report.failures[0].ends_with(": ended without a result"));
            assert!(shown.iter().any(|line| line == "oh"), "{shown:?}");
        }
    }

    #[test]
    fn what_tests_print_is_not_taken_for_results() {
        assert_eq!(
            counts("running late\nthe test result: ok. 9 passed; 9 failed\nrunning some tests"),
            Counts::default()
        );
    }

    #[test]
    fn a_program_that_passes_is_one_line_and_cargo_is_shown_as_it_is() {
        let output = format!(
            "   Compiling b\n     Running tests/b.rs (target/b-1)\n\nrunning 1 test\nnoise\ntest a ... ok\n\n{OK}\n\n   Doc-tests b"
        );
        let (report, shown) = read(&output);
        assert_eq!(report.counts.passed, 1);
        assert_eq!(shown[..2], ["   Compiling b", "     passed tests/b.rs: 1 passed, 0 failed in 0.00s"]);
        assert!(shown[2..].iter().all(String::is_empty), "{shown:?}");
    }

    #[test]
    fn a_torn_result_is_told_apart_from_none() {
        let output =
            "     Running a.rs (x)\nrunning 1 test\ntest a ... ok\n\ntest result: oh\nok. 1 passed; 0 failed";
        let (report, _) = read(output);
        assert_eq!(report.counts, Counts::default());
        assert_eq!((report.failures.len(), report.torn), (0, vec!["a.rs".to_owned()]));
    }

    #[test]
    fn programs_are_named_by_source_and_crate() {
        assert_eq!(title("tests/b.rs (target/debug/deps/b-0f)"), "tests/b.rs");
        assert_eq!(
            title("unittests src/lib.rs (target/debug/deps/mp_core-0f)"),
            "unittests src/lib.rs of mp_core"
        );
        assert_eq!(title("mp_core"), "mp_core");
    }

    #[test]
    fn what_failed_tests_said_is_kept() {
        let output = "     Running tests/b.rs (target/b-1)\nrunning 2 tests\nnoise of a child\ntest a ... FAILED\n\n\
            failures:\n\n---- a stdout ----\nline 7\nleft: 1\n\n\nfailures:\n    a\n\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        let (report, shown) = read(output);
        assert_eq!(report.failures, ["tests/b.rs: a stdout\n    line 7\n    left: 1"]);
        assert_eq!(shown[0], "     FAILED tests/b.rs: 1 passed, 1 failed; it printed:");
        assert!(shown.iter().any(|line| line == "noise of a child"));
    }

    #[test]
    fn the_closing_line_names_skipped_tests_only_if_there_are_any() {
        assert_eq!(Counts { passed: 3, failed: 0, skipped: 0 }.to_string(), "3 passed, 0 failed");
        assert_eq!(Counts { passed: 3, failed: 1, skipped: 2 }.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
