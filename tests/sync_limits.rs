//! What shared things take: limits that the system sets are errors, also where the kernel would send a signal, and everything
//! is given back (NA-17).

mod common;

use std::time::Duration;

use multiprocess as mp;
use multiprocess::core::arena::Arena;
use multiprocess::core::message::Message;
use multiprocess::shm::{Result, SharedVec};
use multiprocess::{
    Array, Barrier, BoundedSemaphore, Condition, Event, Lock, Queue, RLock, RawArray, Semaphore,
    ShareableList, SharedMemory, Value,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use common::{Belongings, alone};

/// Sets the limit that counts, and leaves the one that it may be raised to.
fn limit(resource: Resource, current: u64) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(current), maximum }).expect("a lower limit");
}

fn unlimit(resource: Resource) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: maximum, maximum }).expect("the limit that there was");
}

/// One of each kind that needs memory that was not there before.
fn make_all() -> Vec<(&'static str, Option<String>)> {
    fn attempt<T>(what: &'static str, made: Result<T>) -> (&'static str, Option<String>) {
        (what, made.err().map(|error| error.to_string()))
    }
    let queue = || Queue::<u8>::unbounded().map(drop).map_err(|error| error.to_string());
    vec![
        attempt("lock", Lock::new().map_err(Into::into)),
        attempt("semaphore", Semaphore::new(5000).map_err(Into::into)),
        attempt("barrier", Barrier::new(5000).map_err(Into::into)),
        attempt("value", Value::new([0_u8; 100])),
        attempt("array", Array::<u8>::zeroed(1 << 20)),
        attempt("raw array", RawArray::<u8>::zeroed(1 << 20)),
        attempt("vector", SharedVec::<u8>::zeroed(1 << 20)),
        attempt("block", SharedMemory::create_unnamed(1 << 20)),
        attempt("list", ShareableList::new(["x".repeat(1 << 20)])),
        ("queue", queue().err()),
    ]
}

/// A file that grows beyond this limit is a `SIGXFSZ`, which ends the process; files in memory are files.
#[test]
fn a_limit_for_files_is_an_error_and_no_signal() {
    alone(|| {
        limit(Resource::Fsize, 16 << 10);
        for (what, error) in make_all() {
            let error = error.unwrap_or_else(|| panic!("{what}: made"));
            assert!(error.contains("RLIMIT_FSIZE") && error.contains("16384"), "{what}: {error}");
        }
        // What a process has is not touched, and more is to be had when the limit is raised.
        unlimit(Resource::Fsize);
        assert!(make_all().iter().all(|(_, error)| error.is_none()), "{:?}", make_all());
    });
}

/// A queue is then as long as a file may be.
#[test]
fn a_limit_for_files_is_one_for_what_waits_in_a_queue() {
    alone(|| {
        limit(Resource::Fsize, 16 << 20);
        let queue = Queue::<Vec<u8>>::unbounded().expect("a shorter file");
        let error = queue.put(vec![1; 16 << 20]).expect_err("too long").to_string();
        assert!(error.contains("queue item") && error.contains(&(8 << 20).to_string()), "{error}");
        let mut put = 0_u64;
        while queue.put(vec![put as u8; 1 << 20]).is_ok() {
            put += 1;
            assert!(put < 16, "more than the file holds");
        }
        assert!(put >= 8, "{put} only");
        for index in 0..put {
            assert_eq!(queue.get().expect("an item"), vec![index as u8; 1 << 20]);
        }
        queue.put(vec![7; 1 << 20]).expect("room again");
        assert_eq!(queue.len(), 1);
    });
}

/// A message too large for the buffer of a socket goes in a file.
#[test]
fn a_limit_for_files_and_large_messages() {
    alone(|| {
        let context = mp::Context::spawn();
        limit(Resource::Fsize, 16 << 10);
        let started = context.process(|bytes: Vec<u8>| bytes.len(), (vec![1; 8 << 20],)).start();
        let error = started.expect_err("too large").to_string();
        assert!(error.contains("RLIMIT_FSIZE"), "{error}");
        unlimit(Resource::Fsize);
        let child =
            context.process(|bytes: Vec<u8>| bytes.len(), (vec![1; 8 << 20],)).start().expect("a child");
        assert_eq!(child.join().expect("a number"), 8 << 20);
    });
}

/// NA-17: also those with memory of their own, and what was in use when it was dropped.
#[test]
fn na_17_ten_thousand_of_each_leave_nothing() {
    alone(|| {
        let round = |number: u32| {
            let (lock, recursive) = (Lock::new().expect("a lock"), RLock::new().expect("a lock"));
            let guards = (lock.lock().expect("the lock"), recursive.lock().expect("the lock"));
            let few = BoundedSemaphore::new(2).expect("a semaphore");
            let many = Semaphore::new(number % 2 * 1000).expect("a semaphore");
            let permit = few.acquire().expect("a permit");
            many.release().expect("released");
            let condition = Condition::with_lock(&lock).expect("a condition");
            let event = Event::new().expect("an event");
            event.set();
            let barriers = [3, 300].map(|parties| Barrier::new(parties).expect("a barrier"));
            assert!(barriers[1].wait_timeout(Duration::ZERO).is_err());
            let message = Message::encode(&(&lock, &few, &many, &condition, &event, &barriers[1]));
            type Six = (Lock, BoundedSemaphore, Semaphore, Condition, Event, Barrier);
            let (same, _, _, _, event, barrier) = message.expect("a message").decode::<Six>().expect("six");
            assert!(same.locked() && event.is_set() && barrier.broken());
            // A message that nobody decodes.
            Message::encode(&(recursive.clone(), many.clone())).expect("a message");
            drop((guards, permit));
        };
        let mappings =
            || std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted").lines().count();
        round(1);
        let (before, mapped) = (Belongings::now(), mappings());
        (0..10_000).for_each(round);
        before.assert_same();
        assert!(mappings() <= mapped + 3, "{} mappings, before {mapped}", mappings());
        Arena::global().sweep();
        assert_eq!(Arena::global().chunks(), 0);
    });
}

fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages: u64 = status.split(' ').next().and_then(|size| size.parse().ok()).expect("a number");
    pages * rustix::param::page_size() as u64
}

#[test]
fn a_limit_for_addresses_is_an_error() {
    alone(|| {
        const LARGE: usize = 64 << 20;
        limit(Resource::As, address_space() + (32 << 20));
        let made = [
            Array::<u8>::zeroed(LARGE).map(drop),
            RawArray::<u8>::zeroed(LARGE).map(drop),
            SharedVec::<u8>::zeroed(LARGE).map(drop),
            SharedMemory::create_unnamed(LARGE).map(drop),
        ];
        for made in made {
            let error = made.expect_err("no room").to_string();
            assert!(error.contains("memory") || error.contains("room"), "{error}");
        }
        // Small ones until there are no addresses for a further chunk.
        let mut locks = Vec::with_capacity(1 << 20);
        let error = loop {
            match Lock::new() {
                Ok(lock) => locks.push(lock),
                Err(error) => break error.to_string(),
            }
            assert!(locks.len() < locks.capacity(), "more than there are addresses for");
        };
        assert!(error.contains("memory"), "{error}");
        assert!(locks.iter().step_by(97).all(|lock| lock.try_lock().is_ok()));
        let part = locks.len() / 2;
        locks.truncate(part);
        assert!(Lock::new().is_ok(), "there is room again");
        unlimit(Resource::As);
        assert!(Array::<u8>::zeroed(LARGE).is_ok());
    });
}

/// More memory than the machine has would end some process, perhaps this one, and not fail.
#[test]
fn more_memory_than_there_is_is_an_error() {
    alone(|| {
        const TOO_MUCH: usize = 1 << 44;
        for made in [
            Array::<u8>::zeroed(TOO_MUCH).map(drop),
            RawArray::<u8>::zeroed(TOO_MUCH).map(drop),
            SharedVec::<u8>::zeroed(TOO_MUCH).map(drop),
            SharedMemory::create_unnamed(TOO_MUCH).map(drop),
        ] {
            let error = made.expect_err("no room").to_string();
            assert!(error.contains(&TOO_MUCH.to_string()), "{error}");
        }
    });
}
