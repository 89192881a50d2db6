//! RTRK: nothing is left of the shared memory of a process that ended, and no tracker is needed for that. Which process
//! owns a block is told by a second name of the block itself; see `mp-shm/src/named/owner.rs`.

mod common;

use std::path::Path;

use mp_shm::{Error, ShareableList, SharedMemory};
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, Pool};

use common::{Mark, alone, for_each_method, sleep_for_ever};

fn create_and_wait(there: Connection) {
    let blocks = [SharedMemory::create_unnamed(10), SharedMemory::create_unnamed(10)]
        .map(|block| block.expect("a block"));
    let lists = [ShareableList::new([1]), ShareableList::new([2])].map(|list| list.expect("a list"));
    let names =
        blocks.iter().chain(lists.iter().map(ShareableList::shm)).map(|block| block.name().to_owned());
    there.send(&names.collect::<Vec<_>>()).expect("sent");
    sleep_for_ever();
}

/// How many names the block has, that of its owner included.
fn is_there(name: &str) -> bool {
    Path::new("/dev/shm").join(name).exists()
}

/// Names of owners that mention the block.
fn tags(name: &str) -> usize {
    let entries = std::fs::read_dir("/dev/shm").expect("a folder").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|other| other.ends_with(name) && other != name).count()
}

#[test]
fn rtrk_01_creator_killed() {
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let creator = context.process(create_and_wait, (there,)).daemon(true).start().expect("a child");
        let names: Vec<String> = here.recv().expect("names");
        assert!(names.iter().all(|name| is_there(name) && tags(name) == 1));
        for first in [&names[0], &names[2]] {
            std::fs::remove_file(Path::new("/dev/shm").join(first)).expect("removed from outside");
        }
        creator.terminate().expect("a signal");
        assert!(creator.join().is_err());
        assert!(SharedMemory::sweep().is_ok());
        assert!(names.iter().all(|name| !is_there(name) && tags(name) == 0));
    });
}

/// RTRK-02: a signal to whoever looks after blocks; here, the owner that survives it.
#[test]
fn rtrk_02_owners_that_survive_a_signal_keep_their_blocks() {
    alone(|| {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
        let block = SharedMemory::create_unnamed(10).expect("a block");
        // SAFETY: no preconditions.
        unsafe { libc::raise(libc::SIGINT) };
        SharedMemory::sweep().expect("a look");
        assert!(SharedMemory::open(block.name()).is_ok());
    });
}

#[test]
fn rtrk_03_name_too_long() {
    let name = format!("mp_{}", "x".repeat(600));
    assert!(matches!(SharedMemory::create(&name, 1), Err(Error::Invalid { .. })));
    let longest = format!("mp_{}", Mark::new().value());
    let longest = format!("{longest}{}", "x".repeat(190 - longest.len()));
    let block = SharedMemory::create(&longest, 1).expect("a block");
    assert!(SharedMemory::open(&longest).is_ok());
    drop(block);
    assert!(!is_there(&longest) && tags(&longest) == 0);
}

/// RTRK-07: a fork outside of the library makes no second owner.
#[test]
fn rtrk_07_raw_fork() {
    alone(|| {
        let block = SharedMemory::create_unnamed(10).expect("a block");
        let name = block.name().to_owned();
        // SAFETY: the child drops its handle and ends without running anything of the parent.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let owns = block.is_owner();
            drop(block);
            // SAFETY: no preconditions.
            unsafe { libc::_exit(i32::from(owns)) }
        }
        let mut status = 1;
        // SAFETY: `status` is a valid place.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(is_there(&name) && tags(&name) == 1);
        drop(block);
        assert!(!is_there(&name) && tags(&name) == 0);
    });
}

#[test]
fn rtrk_08_errors_in_nested_pools() {
    alone(|| {
        let outer = Pool::builder().processes(1).context(Context::spawn()).build().expect("a pool");
        let task = |_: u8| {
            let block = SharedMemory::create_unnamed(10).expect("a block");
            let inner = Pool::builder().processes(1).context(Context::spawn()).build().expect("a pool");
            let fail = |block: SharedMemory| assert_eq!(block.len(), 0, "it fails");
            let failed = inner.apply(fail, (block.clone(),)).is_err();
            (failed, block.name().to_owned())
        };
        let (failed, name) = outer.apply(task, (0,)).expect("an answer");
        assert!(failed && !is_there(&name) && tags(&name) == 0);
    });
}
