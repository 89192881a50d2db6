//! MAIN-02, MAIN-06 and FD-05: pools of main programs, of spawned processes and of children.

mod common;

use std::os::fd::OwnedFd;

use common::{SOON, for_each_method, watchdog};
use mp::{Context, Pool};
use multiprocess as mp;

/// FD-05: a pool inside a child that is not daemonic.
#[test]
fn fd_05_a_pool_inside_a_child() {
    for_each_method(|context| {
        let child = || {
            let pool = Pool::new(4).expect("a pool");
            let squares = pool.map(|x: u64| x * x, [3, 4, 5, 6, 7, 8, 9]).expect("squares");
            pool.close().expect("closed");
            pool.join().expect("joined");
            squares
        };
        let child = context.process(child, ()).start().expect("a start");
        assert_eq!(child.join_timeout(SOON).expect("squares"), [9, 16, 25, 36, 49, 64, 81]);
        assert_eq!(child.exit_code(), Some(0));
    });
}

/// MAIN-06: one spawned worker under a spawned process; workers do not die and come again for ever.
#[test]
fn main_06_a_pool_inside_a_spawned_process() {
    let _watchdog = watchdog();
    let child = || {
        let pool = Pool::builder().processes(1).context(Context::spawn()).build().expect("a pool");
        let pids = pool.map(|_: u64| std::process::id(), [1, 2, 3]).expect("pids");
        let upper = pool.map(|text: String| text.to_uppercase(), ["hello".to_owned()]).expect("a word");
        pool.close().expect("closed");
        pool.join().expect("joined");
        (pids.iter().all(|pid| *pid == pids[0]), upper)
    };
    let child = Context::spawn().process(child, ()).start().expect("a start");
    assert_eq!(child.join_timeout(SOON).expect("a result"), (true, vec!["HELLO".to_owned()]));
}

/// MAIN-02: this very executable, as a program that squares through a pool of five, by each start method. Its main is
/// the test harness; how programs of other kinds are launched is in `programs/reenter.rs`.
#[test]
fn main_02_a_pool_in_any_program() {
    let _watchdog = watchdog();
    for method in mp::get_all_start_methods() {
        let squares = |method: String| {
            let context = mp::get_context(&*method).expect("a context");
            let pool = Pool::builder().processes(5).context(context).build().expect("a pool");
            let squares = pool.map(|x: u64| x * x, [1, 2, 3]).expect("squares");
            println!("{method} -> {squares:?}");
            pool.close().expect("closed");
            pool.join().expect("joined");
        };
        let (output, output_write) = std::io::pipe().expect("a pipe");
        let process =
            Context::spawn().process(squares, (method.to_owned(),)).stdout(OwnedFd::from(output_write));
        let process = process.start().expect("a start");
        let text = std::io::read_to_string(output).expect("text");
        process.join().expect("an end");
        assert_eq!(text, format!("{method} -> [1, 4, 9]\n"));
    }
}
