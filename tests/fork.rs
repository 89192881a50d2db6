//! Closures that are forked along with all they capture.

mod common;

use common::alone;
use multiprocess as mp;
use multiprocess::{Context, ProcessError, StartError};

#[test]
fn a_forked_closure_has_what_it_captures_and_returns_a_value() {
    alone(|| {
        let table: Vec<u64> = (0..100_000).collect();
        let process = Context::fork().fork_with(|| table.iter().sum::<u64>()).expect("started");
        assert_eq!(process.join().expect("its result"), table.iter().sum::<u64>());
        assert_eq!(process.exit_code(), Some(0));
        assert!(process.name().starts_with("ForkProcess-"), "{process:?}");

        // What it changes are copies.
        let mut count = 1;
        let process = Context::fork().fork_with(|| {
            count += 1;
            count
        });
        assert_eq!(process.expect("started").join().expect("its result"), 2);
        assert_eq!(count, 1);
    });
}

#[test]
fn a_panic_in_a_forked_closure_is_told() {
    alone(|| {
        let word = String::from("captured");
        let process = Context::fork().fork_with(|| -> u8 { panic!("no {word}") }).expect("started");
        match process.join() {
            Err(ProcessError::Panicked { report, .. }) => {
                assert_eq!(report.message, "no captured");
                assert!(report.location.contains("tests/fork.rs"), "{report}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(process.exit_code(), Some(1));
    });
}

#[test]
fn only_the_fork_context_copies_captured_values() {
    let number = 7;
    for context in [Context::spawn(), Context::forkserver()] {
        let error = context.fork_with(|| number).expect_err("refused");
        assert!(matches!(error, StartError::CannotCapture { .. }), "{error}");
    }
}

/// START-10: the threads are named.
#[test]
fn a_process_with_threads_is_not_forked() {
    alone(|| {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        // A thread names itself when it begins.
        let (begin, begun) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("busy-bee".into()).spawn(move || {
            let _ = begin.send(());
            wait.recv()
        });
        begun.recv().expect("it has begun");
        let error = Context::fork().fork_with(|| 7).expect_err("refused").to_string();
        assert!(error.contains("busy-bee") && error.contains("forkserver or spawn"), "{error}");
        assert!(mp::active_children().is_empty());
        drop(stop);
        let _ = thread.expect("a thread").join();
        assert_eq!(Context::fork().fork_with(|| 7).expect("started").join().expect("its result"), 7);
    });
}
