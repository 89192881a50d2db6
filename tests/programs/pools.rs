//! Pools at the end of a program, and pools whose workers cannot be started (NA-10, NA-22).

use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::{Context, Pool, PoolError};

use crate::common::{Belongings, cpu_ticks, sleep_for_ever};
use crate::program::Program;
use crate::{Main, Test};

pub const PROGRAMS: &[(&str, Main)] = &[("pool", pool)];

pub const TESTS: &[(&str, Test)] = &[
    ("a_pool_in_a_static_ends_with_the_program", || ends("static", 0)),
    ("a_pool_in_use_ends_with_an_exit", || ends("exit", 5)),
    ("na_10_workers_that_cannot_be_started_are_an_error_and_no_burden", || ends("keep-dying", 0)),
    ("na_10_a_pool_of_workers_that_cannot_be_started_is_refused", || ends("refused", 0)),
    ("na_10_a_worker_that_cannot_be_replaced_leaves_the_others_at_work", || ends("one-left", 0)),
    ("na_22_terminate_ends_workers_that_ignore_sigterm", || {
        let own = std::env::current_exe().expect("the path of this program");
        let mut command = Command::new("env");
        command.arg("--ignore-signal=TERM").arg(own).args(["program", "pool", "terminate"]);
        finish(Program::from_command(&mut command), 0);
    }),
];

/// Within which a program whose work is done has ended.
const PROMPTLY: Duration = Duration::from_secs(2);

fn ends(how: &str, code: i32) {
    finish(Program::start("pool", &[how]), code);
}

fn finish(mut program: Program, code: i32) {
    assert_eq!(program.line(), "done");
    let done = Instant::now();
    let (status, rest) = program.finish();
    assert!(done.elapsed() < PROMPTLY, "{:?}", done.elapsed());
    assert_eq!((status.code(), &*rest), (Some(code), ""));
}

/// The program `pool HOW`.
fn pool(arguments: Vec<String>) {
    match arguments.first().map(String::as_str) {
        Some("static") => {
            static POOL: OnceLock<Pool> = OnceLock::new();
            let build = Pool::builder().processes(2).on_worker_lost(|lost| println!("{lost}"));
            let pool = POOL.get_or_init(|| build.build().expect("a pool"));
            assert_eq!(pool.map(|x: u32| x, 0..100).expect("results").len(), 100);
        }
        Some("exit") => {
            let pool = Pool::builder().processes(2).on_worker_lost(|lost| println!("{lost}"));
            let pool = pool.build().expect("a pool");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let outcome = pool.map(|_: u32| sleep_for_ever(), 0..10);
                    println!("{outcome:?}");
                });
                scope.spawn(|| {
                    pool.map(|_: u32| std::thread::sleep(Duration::from_millis(1)), 0..10_000)
                        .expect("results")
                });
                std::thread::sleep(Duration::from_millis(50));
                println!("done");
                std::process::exit(5);
            });
        }
        Some("keep-dying") => keep_dying(),
        Some("refused") => refused(),
        Some("one-left") => one_left(),
        Some("terminate") => {
            let pool = Pool::builder().processes(2).context(Context::spawn()).build().expect("a pool");
            std::thread::scope(|scope| {
                let call = scope.spawn(|| pool.map(|_: u32| sleep_for_ever(), 0..10));
                std::thread::sleep(Duration::from_millis(50));
                let began = Instant::now();
                pool.terminate().expect("terminated");
                assert!(began.elapsed() < PROMPTLY, "{:?}", began.elapsed());
                assert!(matches!(call.join().expect("a thread"), Err(PoolError::Terminated)));
            });
        }
        other => panic!("no such program: {other:?}"),
    }
    println!("done");
}

fn kill_workers(count: usize) {
    mp::active_children().iter().take(count).for_each(|worker| worker.kill().expect("a signal sent"));
}

fn keep_dying() {
    let pool = Pool::builder().processes(2).context(Context::spawn()).build().expect("a pool");
    mp::set_executable("/bin/false");
    kill_workers(2);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let error = pool.retries(9).map(|x: u32| x, 0..10).expect_err("nobody can do it");
                assert!(matches!(error, PoolError::WorkersKeepDying { count, .. } if count >= 3), "{error}");
            });
        }
    });
    assert!(matches!(pool.apply(|| (), ()), Err(PoolError::WorkersKeepDying { .. })));
    let used = cpu_ticks(std::process::id());
    assert!(used < 100, "{used} ticks of CPU time for a few starts");
    crate::common::idle_for(Duration::from_secs(1), &[std::process::id()]);
    pool.close().expect("closed");
    pool.join().expect("joined");
}

fn refused() {
    let before = Belongings::now();
    mp::set_executable("/bin/false");
    for context in [Context::spawn(), Context::forkserver()] {
        let began = Instant::now();
        let error = Pool::builder().processes(3).context(context).build().expect_err("nobody can be started");
        assert!(matches!(error, PoolError::Start(_)), "{error}");
        assert!(began.elapsed() < PROMPTLY, "{:?}", began.elapsed());
        before.assert_same();
    }
    // Some can be started, the next cannot.
    mp::reset_executable();
    let pool = Pool::builder().processes(2).context(Context::spawn()).build().expect("a pool");
    drop(pool);
    before.assert_same();
}

/// The pool goes on with the worker that it has, and tries to replace the other one now and then, not all the time.
fn one_left() {
    let pool = Pool::builder().processes(2).context(Context::spawn()).build().expect("a pool");
    mp::set_executable("/bin/false");
    kill_workers(1);
    let before = cpu_ticks(std::process::id());
    let began = Instant::now();
    let work = |x: u64| {
        std::thread::sleep(Duration::from_millis(20));
        x
    };
    assert_eq!(pool.map(work, 0..150).expect("results").len(), 150);
    let used = cpu_ticks(std::process::id()) - before;
    assert!(used < 60, "{used} ticks of CPU time in {:?}", began.elapsed());
    // It is replaced when that is possible again.
    mp::reset_executable();
    crate::common::wait_until("the pool is whole again", || mp::active_children().len() == 2);
}
