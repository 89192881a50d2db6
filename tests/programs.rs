//! Stand-alone programs: what only shows when `main` returns, exits, is killed, or is not there.
//!
//! This executable is two things. Called as `programs program NAME ARGUMENT..` it is the program of that name; else it
//! runs the tests, which start it anew as the programs that they need, see [`program::Program`]. A module of `programs/` holds
//! the programs and the tests of one subject.

// First, so that the linker puts its constructor last; see `reenter`.
extern crate mp_test_constructor;

mod common;

#[path = "programs/family.rs"]
mod family;
#[path = "programs/killed.rs"]
mod killed;
#[path = "programs/pools.rs"]
mod pools;
#[path = "programs/program.rs"]
mod program;
#[path = "programs/reenter.rs"]
mod reenter;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A named program: gets its arguments, and ends the process by returning or otherwise.
type Main = fn(Vec<String>);

/// A test.
type Test = fn();

/// All programs, by name.
fn programs() -> Vec<(&'static str, Main)> {
    [family::PROGRAMS, killed::PROGRAMS, pools::PROGRAMS, reenter::PROGRAMS].concat()
}

/// All tests, by name.
fn tests() -> Vec<(&'static str, Test)> {
    [family::TESTS, killed::TESTS, pools::TESTS, reenter::TESTS].concat()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("program") {
        let name = arguments.next().unwrap_or_default();
        let Some((_, main)) = programs().into_iter().find(|(known, _)| *known == name) else {
            eprintln!("there is no program {name:?}");
            return ExitCode::from(2);
        };
        main(arguments.collect());
        return ExitCode::SUCCESS;
    }
    let trial = |(name, test): (&str, Test)| {
        Trial::test(name, move || {
            let _watchdog = common::watchdog();
            test();
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), tests().into_iter().map(trial).collect()).exit_code()
}
