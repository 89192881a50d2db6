//! Shared blocks go back to the process that made them, whoever dies with handles to them (NA-17: what there was at the
//! start is what there is at the end).

mod common;

use common::{SOON, for_each_method, sleep_for_ever};
use mp::ProcessError;
use mp::core::arena::{Arena, Block};
use mp::core::connection::{Connection, pipe};
use multiprocess as mp;

/// Takes handles, and some more, says so, and keeps them.
fn hold(blocks: Vec<Block>, connection: Connection) {
    let _more: Vec<Block> = blocks.iter().step_by(3).cloned().collect();
    connection.send(&blocks.len()).expect("sent");
    sleep_for_ever();
}

/// Passes its handles on, and keeps them as well.
fn pass_on(blocks: Vec<Block>, here: Connection, there: Connection) {
    there.send(&blocks).expect("sent");
    hold(blocks, here);
}

fn receive(there: Connection, here: Connection) {
    hold(there.recv().expect("blocks"), here);
}

fn blocks(arena: &Arena, count: usize) -> Vec<Block> {
    (0..count).map(|_| arena.alloc(100, 8).expect("a block")).collect()
}

fn kill(child: mp::Process<()>) {
    child.kill().expect("a signal");
    assert!(matches!(child.join_timeout(SOON), Err(ProcessError::Killed { signal: 9, .. })));
}

#[test]
fn na_17_blocks_that_a_killed_process_held_go_back() {
    for_each_method(|context| {
        let arena = Arena::new();
        for _ in 0..3 {
            let blocks = blocks(&arena, 3000);
            let (here, there) = pipe().expect("a pipe");
            let child = context.process(hold, (blocks.clone(), there)).start().expect("a start");
            assert_eq!(here.recv_timeout::<usize>(SOON).expect("it holds them"), 3000);
            drop(blocks);
            arena.sweep();
            assert!(arena.chunks() > 0, "the child lives");
            kill(child);
            arena.sweep();
            assert_eq!(arena.chunks(), 0);
        }
    });
}

#[test]
fn na_17_what_another_process_still_holds_stays() {
    for_each_method(|context| {
        let arena = Arena::new();
        let blocks = blocks(&arena, 100);
        let (middle_out, end_in) = pipe().expect("a pipe");
        let (from_middle, middle) = pipe().expect("a pipe");
        let (from_end, end) = pipe().expect("a pipe");
        let middle = context.process(pass_on, (blocks.clone(), middle, middle_out)).start().expect("a start");
        let end = context.process(receive, (end_in, end)).start().expect("a start");
        assert_eq!(from_middle.recv_timeout::<usize>(SOON).expect("it holds them"), 100);
        assert_eq!(from_end.recv_timeout::<usize>(SOON).expect("it holds them"), 100);
        drop(blocks);
        kill(middle);
        arena.sweep();
        assert!(arena.chunks() > 0, "the last one lives");
        kill(end);
        arena.sweep();
        assert_eq!(arena.chunks(), 0);
    });
}

fn end_with(blocks: Vec<Block>, how: u8) {
    match how {
        0 => std::mem::forget(blocks),
        1 => mp::exit(0),
        _ => panic!("with {} blocks", blocks.len()),
    }
}

/// A process that exits leaves handles behind that no destructor ever sees.
#[test]
fn na_17_blocks_of_processes_that_exit_go_back() {
    for_each_method(|context| {
        let arena = Arena::new();
        for how in [0, 1, 2].repeat(3) {
            let child = context.process(end_with, (blocks(&arena, 100), how)).start().expect("a start");
            drop(child.join_timeout(SOON));
            assert_eq!(child.exit_code(), Some(i32::from(how == 2)));
            arena.sweep();
            assert_eq!(arena.chunks(), 0, "{how}");
        }
    });
}
