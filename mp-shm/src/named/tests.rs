use std::fs;

use mp_core::liveness::ProcessId;
use mp_core::message::Message;
use proptest::prelude::*;

use super::*;

fn names_of(part: &str) -> Vec<String> {
    let entries = fs::read_dir(name::FOLDER).unwrap().map(|entry| entry.unwrap().file_name().into_string());
    entries.flatten().filter(|name| name.contains(part)).collect()
}

/// SHM-01, SHM-02.
#[test]
fn shm_01_02_create_inspect_and_open() {
    let block = SharedMemory::create("mp_test_basic", 512).unwrap();
    assert_eq!((block.name(), block.len(), block.is_owner()), ("mp_test_basic", 512, true));
    assert_eq!(format!("{block:?}"), "SharedMemory('mp_test_basic', size=512)");
    assert_eq!(block.to_vec(), [0; 512]);
    block.store(0, 42).unwrap();
    let same = SharedMemory::open("/mp_test_basic").unwrap();
    assert_eq!((same.load(0).unwrap(), same.len(), same.is_owner()), (42, 512, false));
    let status = rustix::fs::stat("/dev/shm/mp_test_basic").unwrap();
    assert_eq!((status.st_mode & 0o7777, status.st_size), (0o600, 512));
    drop(block);
    assert!(matches!(SharedMemory::open("mp_test_basic"), Err(Error::NotFound { .. })));
    assert_eq!(same.load(0).unwrap(), 42);
    assert_eq!(names_of("mp_test_basic"), [""; 0]);
}

/// SHM-03, SHM-05.
#[test]
fn shm_03_05_bad_arguments_taken_and_absent_names() {
    assert!(matches!(SharedMemory::create("mp_test_bad", 0), Err(Error::Invalid { .. })));
    assert!(matches!(SharedMemory::create("mp_test_bad", usize::MAX), Err(Error::Invalid { .. })));
    assert!(matches!(SharedMemory::open_or_create("mp_test_bad", 0), Err(Error::Invalid { .. })));
    assert!(matches!(SharedMemory::open(""), Err(Error::Invalid { .. })));
    assert!(
        matches!(SharedMemory::open("mp_test_bad"), Err(Error::NotFound { name }) if name == "mp_test_bad")
    );
    let block = SharedMemory::create("mp_test_taken", 1).unwrap();
    let error = SharedMemory::create("mp_test_taken", 1).unwrap_err();
    assert!(matches!(&error, Error::AlreadyExists { name } if name == "mp_test_taken"), "{error}");
    assert_eq!(names_of("mp_test_taken").len(), 2, "what failed left nothing behind");
    drop(block);
}

#[test]
fn shm_04_a_generated_name_that_is_taken() {
    let taken = SharedMemory::create("mp_test_first", 8).unwrap();
    let mut names = ["mp_test_first", "mp_test_second"].into_iter();
    let generate = || Ok(names.next().unwrap().to_owned());
    let block = make::first_free(generate, |name| SharedMemory::create(name, 8)).unwrap();
    assert_eq!((taken.name(), block.name()), ("mp_test_first", "mp_test_second"));
}

#[test]
fn shm_06_open_or_create() {
    let block = SharedMemory::open_or_create("mp_test_either", 100).unwrap();
    block.write(0, b"here").unwrap();
    let same = SharedMemory::open_or_create("mp_test_either", 999).unwrap();
    assert_eq!((same.len(), &same.to_vec()[..4]), (100, &b"here"[..]));
}

#[test]
fn shm_07_a_handle_in_a_message_is_the_name() {
    let block = SharedMemory::create_unnamed(16).unwrap();
    let message = Message::encode(&block).unwrap();
    assert!(message.fds.is_empty());
    let other: SharedMemory = message.decode().unwrap();
    block.write(0, b"howdy").unwrap();
    other.write(5, b"HELLO").unwrap();
    assert_eq!((block.to_vec(), block.name()), (other.to_vec(), other.name()));
    drop(other);
    assert!(SharedMemory::open(block.name()).is_ok(), "only the owner removes it");
    let late = Message::encode(&block).unwrap();
    drop(block);
    let error = late.decode::<SharedMemory>().unwrap_err().to_string();
    assert!(error.contains("not found"), "{error}");
}

#[test]
fn unlinking_by_hand_is_for_everybody_and_once() {
    let block = SharedMemory::create("mp_test_unlink", 8).unwrap();
    let same = SharedMemory::open("mp_test_unlink").unwrap();
    same.unlink().unwrap();
    assert!(matches!(block.unlink(), Err(Error::NotFound { .. })));
    // The name is another block's now, which neither removes.
    let new = SharedMemory::create("mp_test_unlink", 8).unwrap();
    assert!(matches!(same.unlink(), Err(Error::NotFound { .. })));
    same.close();
    drop(block);
    assert!(SharedMemory::open("mp_test_unlink").is_ok());
    drop(new);
    assert_eq!(names_of("mp_test_unlink"), [""; 0]);
}

#[test]
fn a_block_that_persists() {
    let block = SharedMemory::create("mp_test_persist", 8).unwrap();
    let same = SharedMemory::open("mp_test_persist").unwrap();
    assert!(matches!(same.persist(), Err(Error::Invalid { .. })));
    block.persist().unwrap();
    block.persist().unwrap();
    assert!(!block.is_owner());
    drop(block);
    SharedMemory::sweep().unwrap();
    assert_eq!(names_of("mp_test_persist"), ["mp_test_persist"]);
    SharedMemory::open("mp_test_persist").unwrap().unlink().unwrap();
    assert_eq!(names_of("mp_test_persist"), [""; 0]);
}

/// The tag of a process that lived before this one under the same pid.
fn tag_of_the_dead(name: &str) -> String {
    let me = ProcessId::current();
    let dead = format!(".{}.{}.", me.pid(), me.start_time() - 1);
    Tag::new(name).file().replace(&format!(".{}.{}.", me.pid(), me.start_time()), &dead)
}

#[test]
fn na_06_what_the_dead_left_is_swept_and_nothing_else() {
    let path = name::path;
    let leave = |name: &str, tag: &str| {
        fs::write(path(tag), "left").unwrap();
        fs::hard_link(path(tag), path(name)).unwrap();
    };
    // A whole block; the beginning of one; one whose name is another's now; one whose name was removed by hand.
    let whole = tag_of_the_dead("mp_test_dead_whole");
    leave("mp_test_dead_whole", &whole);
    fs::write(path(&tag_of_the_dead("mp_test_dead_begun")), "").unwrap();
    let replaced = tag_of_the_dead("mp_test_dead_replaced");
    fs::write(path(&replaced), "old").unwrap();
    fs::write(path("mp_test_dead_replaced"), "a file of somebody else").unwrap();
    // Whose owner lives; whose owner is in another pid namespace.
    let lives = SharedMemory::create("mp_test_dead_not", 8).unwrap();
    let elsewhere = tag_of_the_dead("mp_test_dead_elsewhere").replacen("mp-shm.", "mp-shm.1", 1);
    leave("mp_test_dead_elsewhere", &elsewhere);

    assert!(matches!(SharedMemory::open("mp_test_dead_whole"), Err(Error::NotFound { .. })));
    SharedMemory::sweep().unwrap();
    let mut left = names_of("mp_test_dead");
    left.retain(|name| !name.starts_with(owner::PREFIX));
    left.sort();
    assert_eq!(left, ["mp_test_dead_elsewhere", "mp_test_dead_not", "mp_test_dead_replaced"]);
    assert_eq!(names_of(".mp_test_dead").len(), 2, "tags of the living and of those elsewhere");
    drop(lives);
    for name in [elsewhere.as_str(), "mp_test_dead_elsewhere", "mp_test_dead_replaced"] {
        fs::remove_file(path(name)).unwrap();
    }

    // A name that a dead process had can be had at once.
    let tag = tag_of_the_dead("mp_test_dead_again");
    leave("mp_test_dead_again", &tag);
    let block = SharedMemory::create("mp_test_dead_again", 8).unwrap();
    assert_eq!(block.to_vec(), [0; 8]);
}

/// What makes looking and unlinking one step.
#[test]
fn whoever_holds_the_lock_of_a_file_removes_it() {
    let path = name::path("mp_test_locked");
    let tag = name::path(&tag_of_the_dead("mp_test_locked"));
    fs::write(&tag, "left").unwrap();
    fs::hard_link(&tag, &path).unwrap();
    let other = fs::File::open(&tag).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let sweep = || owner::sweep(Some("mp_test_locked"), std::time::Duration::ZERO).unwrap();
    assert_eq!((sweep(), path.exists(), tag.exists()), (0, true, true));
    drop(other);
    // Unless another test is at it.
    SharedMemory::sweep().unwrap();
    assert_eq!(names_of("mp_test_locked"), [""; 0]);
}

#[test]
fn sweeping_while_others_create_and_sweep() {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..200 {
                    let name = format!("mp_test_race_{}", (thread + round) % 3);
                    if round % 5 == 0 {
                        // Perhaps somebody has that name.
                        let _ = fs::write(name::path(&tag_of_the_dead(&name)), "dead");
                    }
                    if let Ok(block) = SharedMemory::create(&name, 8) {
                        assert!(SharedMemory::open(&name).is_ok(), "the block of a living owner");
                        drop(block);
                    }
                    SharedMemory::sweep().unwrap();
                }
            });
        }
    });
    SharedMemory::sweep().unwrap();
    assert_eq!(names_of("mp_test_race"), [""; 0]);
}

#[test]
fn other_files_are_not_memory() {
    let path = name::path("mp_test_other");
    fs::write(&path, "").unwrap();
    assert!(matches!(SharedMemory::open("mp_test_other"), Err(Error::Damaged { .. })));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    assert!(matches!(SharedMemory::open("mp_test_other"), Err(Error::Damaged { .. })));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(SharedMemory::open("mp_test_other"), Err(Error::Damaged { .. })));
    fs::remove_dir(&path).unwrap();
}

#[test]
fn bytes_words_and_bounds() {
    let mut block = SharedMemory::create_unnamed(20).unwrap();
    block.write(3, b"0123456789").unwrap();
    let mut bytes = [0; 4];
    block.read(7, &mut bytes).unwrap();
    assert_eq!(&bytes, b"4567");
    assert_eq!(block.as_atomic(8).unwrap().load(Relaxed).to_ne_bytes(), *b"56789\0\0\0");
    assert!(matches!(block.as_atomic(16), Err(Error::OutOfBounds { .. })));
    assert!(matches!(block.as_atomic(usize::MAX - 7), Err(Error::OutOfBounds { .. })));
    assert!(matches!(block.as_atomic(4), Err(Error::Invalid { .. })));
    let error = block.write(18, b"abc").unwrap_err().to_string();
    assert!(error.contains("length 20 has no index 20"), "{error}");
    assert!(
        block.load(19).is_ok() && block.load(20).is_err() && block.read(usize::MAX, &mut [0; 2]).is_err()
    );
    // SAFETY: nobody else knows the block.
    let slice = unsafe { block.as_mut_slice() };
    slice[19] = 1;
    // SAFETY: as above.
    assert_eq!(unsafe { block.as_slice() }, block.to_vec());
}

proptest! {
    #[test]
    fn any_name_is_a_block_or_an_error(name in "\\PC{0,12}|[/.\0a]{0,4}") {
        let name = format!("{name}_mp_test");
        let Ok(block) = SharedMemory::create(&name, 1) else { return Ok(()) };
        prop_assert!(SharedMemory::open(&name).is_ok());
        prop_assert!(name::path(block.name()).is_file());
    }
}
