//! SHM: named shared memory between processes, and what else `mp-shm` shares without a lock (VAL-02, VAL-05). What can be
//! seen from one process is tested in `mp-shm/src/named/tests.rs`, under the same ids.

mod common;

use std::fs;
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use mp_shm::{Error, RawArray, RawValue, SharedMemory, SharedSlice, SharedVec};
use multiprocess::core::arena::Arena;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, ProcessError};

use common::{Belongings, Mark, SOON, alone, for_each_method, sleep_for_ever, wait_until, watchdog};

/// A name that no other test uses at the same time.
fn fresh(what: &str) -> String {
    format!("mp_{what}_{}", Mark::new().value())
}

fn names_with(part: &str) -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").expect("a folder").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.contains(part)).collect()
}

/// Another program: this one, running the test `role` alone, with `argument` for it.
fn program(role: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.args(["--exact", role, "--nocapture"]).env("MP_SHM_ARGUMENT", argument);
    command
}

/// What `program` was given; none when the test runs with all others, and has nothing to do.
fn argument() -> Option<String> {
    std::env::var("MP_SHM_ARGUMENT").ok()
}

/// SHM-08, NA-5: neither those who open a block nor those who are sent one remove it when they end.
#[test]
fn shm_08_across_processes() {
    for_each_method(|context| {
        let block = SharedMemory::create_unnamed(512).expect("a block");
        let by_name = |name: String| {
            let block = SharedMemory::open(&name).expect("the block");
            block.write(0, b"howdy").expect("room");
            block.is_owner()
        };
        let child = context.process(by_name, (block.name().to_owned(),)).start().expect("a child");
        assert!(!child.join().expect("written"));
        assert_eq!(&block.to_vec()[..5], b"howdy");

        let by_handle = |block: SharedMemory| block.write(0, b"HELLO").expect("room");
        context.process(by_handle, (block.clone(),)).start().expect("a child").join().expect("written");
        assert_eq!(&block.to_vec()[..5], b"HELLO");
        let third = |name: String| SharedMemory::open(&name).expect("still there").to_vec();
        let child = context.process(third, (block.name().to_owned(),)).start().expect("a child");
        assert_eq!(&child.join().expect("bytes")[..5], b"HELLO");
    });
}

#[test]
fn opens_and_ends() {
    let Some(name) = argument() else { return };
    let block = SharedMemory::open(&name).expect("the block");
    block.as_atomic(0).expect("room").fetch_add(1, SeqCst);
}

/// SHM-09, SHM-10, NA-5: only creators own; there is nobody who would warn of a leak.
#[test]
fn shm_09_10_an_unrelated_program_leaves_the_block_alone() {
    let _watchdog = watchdog();
    let block = SharedMemory::create_unnamed(8).expect("a block");
    for round in 1..=2 {
        let output = program("opens_and_ends", block.name()).output().expect("a program");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(block.load(0).expect("a byte"), round);
    }
    assert!(SharedMemory::open(block.name()).is_ok());
}

/// Its own blocks go with it; those of the parent stay (RTRK-07).
#[test]
fn a_forked_child_owns_what_it_creates() {
    alone(|| {
        let block = SharedMemory::create_unnamed(8).expect("a block");
        let child = Context::fork().fork_with(|| {
            let own = SharedMemory::create_unnamed(8).expect("a block of its own");
            (block.is_owner(), own.is_owner(), own.name().to_owned())
        });
        let (owns, owns_its_own, name) = child.expect("a child").join().expect("an answer");
        assert_eq!((owns, owns_its_own), (false, true));
        assert!(SharedMemory::open(block.name()).is_ok());
        assert!(matches!(SharedMemory::open(&name), Err(Error::NotFound { .. })));
    });
}

/// Creates as many blocks as it is told, and waits.
fn owner_of_many(there: Connection, part: String) {
    let name = |number| format!("{part}_{number}");
    let blocks: Vec<_> =
        (0..100).map(|number| SharedMemory::create(&name(number), 100).expect("a block")).collect();
    there.send(&blocks.len()).expect("sent");
    sleep_for_ever();
}

/// NA-6: after the next look at one of them, or a sweep.
#[test]
fn na_06_blocks_of_a_killed_owner_go() {
    for_each_method(|context| {
        let part = fresh("orphans");
        let (here, there) = pipe().expect("a pipe");
        let owner =
            context.process(owner_of_many, (there, part.clone())).daemon(true).start().expect("a child");
        assert_eq!(here.recv::<usize>().expect("a number"), 100);
        let held = SharedMemory::open(&format!("{part}_0")).expect("the block of a living owner");
        SharedMemory::sweep().expect("a look");
        assert_eq!(names_with(&part).len(), 200);

        owner.kill().expect("a signal");
        assert!(owner.join().is_err());
        assert!(matches!(SharedMemory::open(&format!("{part}_1")), Err(Error::NotFound { .. })));
        SharedMemory::sweep().expect("a sweep");
        assert_eq!(names_with(&part), [""; 0]);
        assert_eq!(held.to_vec(), [0; 100], "whoever has it mapped keeps it");
    });
}

/// Creates and drops blocks for ever, under few names.
fn restless(part: String) {
    for round in 0.. {
        let name = format!("{part}_{}", round % 3);
        let Ok(block) = SharedMemory::create(&name, 70_000) else { continue };
        let again = SharedMemory::open(&name).expect("the block of a living owner");
        assert_eq!(again.len(), 70_000);
        if round % 7 == 0 {
            block.unlink().expect("the name");
        }
    }
}

/// NA-6: killed at any moment, of creating, opening and removing; while others do the same under the same names.
#[test]
fn na_06_owners_killed_at_any_moment() {
    alone(|| {
        let part = fresh("moments");
        let context = Context::fork();
        let start = || context.process(restless, (part.clone(),)).daemon(true).start().expect("a child");
        let mut children = [start(), start()];
        for round in 0..60_u64 {
            std::thread::sleep(Duration::from_micros(997 * (round % 7)));
            let child = &mut children[round as usize % 2];
            child.kill().expect("a signal");
            let ended = std::mem::replace(child, start()).join();
            assert!(matches!(ended, Err(ProcessError::Killed { .. })), "{ended:?}");
        }
        for child in &children {
            child.kill().expect("a signal");
            assert!(matches!(child.join(), Err(ProcessError::Killed { .. })));
        }
        SharedMemory::sweep().expect("a sweep");
        assert_eq!(names_with(&part), [""; 0]);
    });
}

#[test]
fn fills_a_small_folder() {
    let Some(_) = argument() else { return };
    match SharedMemory::create("large", 1 << 20) {
        Err(Error::NoSpace { name, size }) => assert_eq!((name.as_str(), size), ("large", 1 << 20)),
        other => panic!("{other:?}"),
    }
    assert_eq!(names_with(""), [""; 0], "nothing is left of it");
    let small = SharedMemory::create("small", 48 << 10).expect("room");
    small.write(0, &vec![1; 48 << 10]).expect("room");
    assert!(matches!(SharedMemory::create("second", 48 << 10), Err(Error::NoSpace { .. })));
    drop(small);
    SharedMemory::create("second", 48 << 10).expect("the room of the first");
    println!("filled");
}

/// NA-14: with 64 KiB in `/dev/shm`. Needs a machine that lets its users have mount namespaces.
#[test]
fn na_14_too_little_room_is_an_error_and_no_signal() {
    let _watchdog = watchdog();
    let inside = program("fills_a_small_folder", "64k");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=64k tmpfs /dev/shm && echo mounted && exec \"$@\"").arg("sh");
    command.arg(inside.get_program()).args(inside.get_args()).env("MP_SHM_ARGUMENT", "64k");
    let output = command.output();
    let text = output.as_ref().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if !text.as_ref().is_ok_and(|text| text.contains("mounted")) {
        eprintln!("left out: no mount namespaces here: {output:?}");
        return;
    }
    assert!(text.is_ok_and(|text| text.contains("filled")), "{output:?}");
}

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").expect("/proc is mounted").lines().count()
}

/// NA-17
#[test]
fn na_17_ten_thousand_rounds_leave_nothing() {
    alone(|| {
        let part = fresh("rounds");
        let round = |number: usize| {
            let block = SharedMemory::create(&format!("{part}_{}", number % 2), 100).expect("a block");
            let same = SharedMemory::open(block.name()).expect("the block");
            same.write(0, b"x").expect("room");
            let array = RawArray::from_slice(&[number; 4]).expect("an array");
            assert_eq!((array.get(3).expect("a number"), block.load(0).expect("a byte")), (number, b'x'));
            if number.is_multiple_of(10) {
                SharedSlice::from_slice(&[number]).expect("a slice");
            }
        };
        round(0);
        let (before, mapped) = (Belongings::now(), mappings());
        (0..10_000).for_each(round);
        before.assert_same();
        // What the allocator of the process does with its own memory is not ours.
        assert!(mappings() <= mapped + 3, "{} mappings, before {mapped}", mappings());
        assert_eq!(names_with(&part), [""; 0]);
    });
}

/// VAL-02, VAL-05
#[test]
fn val_02_05_raw_values_and_arrays() {
    for_each_method(|context| {
        let integer = RawValue::new(4343_i32).expect("a value");
        let float = RawValue::new(3.625_f64).expect("a value");
        let large = RawValue::new(1_i64 << 33).expect("a value");
        let array =
            RawArray::from_slice(&[680, 626, 934, 821, 150, 233, 548, 982, 714, 831]).expect("an array");
        assert_eq!((integer.get(), float.get(), large.get()), (4343, 3.625, 1 << 33));
        assert_eq!((array.len(), array.get(3).expect("an element")), (10, 821));
        let mut part = [0; 5];
        array.copy_to_slice(2, &mut part).expect("elements");
        assert_eq!(part, [934, 821, 150, 233, 548]);
        array.copy_from_slice(4, &[1, 2, 3, 4]).expect("room");

        let child =
            |integer: RawValue<i32>, float: RawValue<f64>, large: RawValue<i64>, array: RawArray<i32>| {
                integer.set(24234);
                float.set(-4.25);
                large.fetch_add(1 << 33);
                for index in 1..array.len() {
                    array.fetch_add(index, array.get(index - 1).expect("an element")).expect("an element");
                }
            };
        let arguments = (integer.clone(), float.clone(), large.clone(), array.clone());
        context.process(child, arguments).start().expect("a child").join().expect("done");
        assert_eq!((integer.get(), float.get(), large.get()), (24234, -4.25, 1 << 34));
        assert_eq!(array.to_vec(), [680, 1306, 2240, 3061, 3062, 3064, 3067, 3071, 3785, 4616]);
        // What it keeps for the next values is not left behind.
        drop((integer, float, large, array));
        Arena::global().sweep();
    });
}

#[test]
fn numbers_of_a_killed_process_are_whole() {
    alone(|| {
        let numbers = RawArray::<u64>::zeroed(64).expect("an array");
        let writer = |numbers: RawArray<u64>| {
            for round in 0_u64.. {
                numbers.copy_from_slice(0, &[round << 32 | round & 0xffff_ffff; 64]).expect("room");
            }
        };
        for _ in 0..20 {
            let child =
                Context::fork().process(writer, (numbers.clone(),)).daemon(true).start().expect("a child");
            wait_until("something is written", || numbers.swap(63, 0).expect("a number") != 0);
            child.kill().expect("a signal");
            assert!(child.join().is_err());
            assert!(numbers.iter().all(|number| number >> 32 == number & 0xffff_ffff));
        }
    });
}

#[test]
fn a_frozen_vector_travels_without_a_copy() {
    for_each_method(|context| {
        let mut vec = SharedVec::<u32>::zeroed(1_000_000).expect("a vector");
        vec.iter_mut().zip(0..).for_each(|(element, number)| *element = number);
        let slice = vec.freeze().expect("a slice");
        // Its own is made there, and comes back; the other comes back as it went.
        let double = |slice: SharedSlice<u32>| {
            let mut vec = SharedVec::zeroed(slice.len()).expect("a vector");
            vec.iter_mut().zip(&*slice).for_each(|(double, element)| *double = element * 2);
            (vec.freeze().expect("a slice"), slice)
        };
        let child = context.process(double, (slice.clone(),)).start().expect("a child");
        let (doubles, same) = child.join().expect("two slices");
        assert_eq!((doubles[999_999], same.len()), (1_999_998, 1_000_000));
        assert!(same == slice);
    });
}

/// It would be two processes that write to what each takes for its own.
#[test]
fn a_vector_is_not_a_forked_childs() {
    alone(|| {
        let vec = SharedVec::from_slice(&[1, 2, 3]).expect("a vector");
        let looks = Context::fork().fork_with(|| vec.len()).expect("a child").join();
        match looks {
            Err(ProcessError::Panicked { report, .. }) => {
                assert!(report.to_string().contains("SharedVec belongs to the process"), "{report}")
            }
            other => panic!("{other:?}"),
        }
        // A child that lives on has no part in it that would keep it from being frozen.
        let (here, there) = pipe().expect("a pipe");
        let child = Context::fork().fork_with(|| there.recv::<()>().expect("leave to go")).expect("a child");
        let frozen = vec.freeze().expect("a slice");
        here.send(&()).expect("sent");
        child.join().expect("an orderly end");
        let sum = Context::fork().fork_with(|| frozen.iter().sum::<i32>()).expect("a child").join();
        assert_eq!(sum.expect("a sum"), 6);
    });
}

#[test]
fn ends_with_blocks() {
    let Some(part) = argument() else { return };
    let blocks =
        ["dropped", "exit"].map(|what| SharedMemory::create(&format!("{part}_{what}"), 1).expect("a block"));
    let [dropped, kept] = blocks;
    let persists = SharedMemory::create(&format!("{part}_persists"), 1).expect("a block");
    persists.persist().expect("persists");
    drop(dropped);
    std::mem::forget(kept);
}

/// An orderly end that leaves handles undropped is like any other end.
#[test]
fn what_an_ended_program_leaves() {
    let _watchdog = watchdog();
    let part = fresh("ended");
    let output = program("ends_with_blocks", &part).output().expect("a program");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names_with(&format!("{part}_dropped")), [""; 0]);
    let name = format!("{part}_exit");
    assert!(matches!(SharedMemory::open(&name), Err(Error::NotFound { .. })));
    assert_eq!(names_with(&part), [format!("{part}_persists")]);
    SharedMemory::open(&format!("{part}_persists")).expect("a block").unlink().expect("the name");
    assert!(common::holds_within(SOON, || names_with(&part).is_empty()));
}
