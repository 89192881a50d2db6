//! Programs without the feature `auto`: their children start through `freeze_support()`, and without that a start is an
//! error before anything is made. Needs `--no-default-features`; there is nothing to see otherwise.
//!
//! Called as `no_auto PROGRAM` this executable is one of the two programs, else it runs the tests.

#[cfg(feature = "auto")]
fn main() {}

#[cfg(not(feature = "auto"))]
mod common;

#[cfg(not(feature = "auto"))]
fn main() -> std::process::ExitCode {
    without_auto::main()
}

#[cfg(not(feature = "auto"))]
mod without_auto {
    use std::process::{Command, ExitCode};

    use libtest_mimic::{Arguments, Trial};
    use multiprocess as mp;
    use multiprocess::{Context, StartError};

    use crate::common::{Belongings, watchdog};

    const TESTS: &[(&str, fn())] = &[
        ("freeze_support_starts_children", || check("with freeze_support")),
        ("without_freeze_support_a_start_is_an_error", || check("without")),
        ("freeze_support_may_be_called_again", || check("with freeze_support twice")),
    ];

    pub fn main() -> ExitCode {
        match std::env::args().nth(1).as_deref() {
            Some("with freeze_support") => {
                mp::freeze_support();
                children_work();
            }
            Some("with freeze_support twice") => {
                mp::freeze_support();
                mp::freeze_support();
                children_work();
            }
            Some("without") => starts_are_errors(),
            _ => {
                let trial = |(name, test): &(&str, fn())| {
                    let test = *test;
                    Trial::test(*name, move || {
                        let _watchdog = watchdog();
                        test();
                        Ok(())
                    })
                };
                return libtest_mimic::run(&Arguments::from_args(), TESTS.iter().map(trial).collect())
                    .exit_code();
            }
        }
        ExitCode::SUCCESS
    }

    fn check(program: &str) {
        let own = std::env::current_exe().expect("the path of this program");
        let output = Command::new(own).arg(program).output().expect("a program");
        assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }

    fn children_work() {
        for context in [Context::spawn(), Context::forkserver()] {
            for number in 0..3u32 {
                let nested = |number: u32| {
                    let child = Context::spawn().process(|x: u32| x + 1, (number,)).start().expect("a start");
                    child.join().expect("a result")
                };
                let child = context.process(nested, (number,)).start().expect("a start");
                assert_eq!(child.join().expect("a result"), number + 1);
            }
        }
    }

    fn starts_are_errors() {
        let before = Belongings::now();
        for context in [Context::spawn(), Context::forkserver()] {
            let error = context.process(|| (), ()).start().expect_err("nobody would turn into a child");
            assert!(matches!(error, StartError::System { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("freeze_support()") && text.contains("`auto`"), "{text}");
            // Not even for a moment: there is nothing to take away.
            assert_eq!(Belongings::now(), before);
            assert!(mp::server_pid().is_none() && mp::active_children().is_empty());
        }
        let forked = Context::fork().process(|| 3, ()).start().expect("a copy needs no entry");
        assert_eq!(forked.join().expect("a result"), 3);
    }
}
