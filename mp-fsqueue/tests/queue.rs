//! What a user relies on, in one process and between several.

mod common;

use common::{Scratch, child, files, role, segments};
use mp_fsqueue::{Durability, Error, FsQueue};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn can_15_the_directory_is_created_with_those_above_it() {
    let scratch = Scratch::new();
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\n odd");
    for dir in [scratch.0.join("a/b/c"), scratch.0.join("a").join(odd).join(odd)] {
        let q = FsQueue::<u32>::open(&dir).unwrap();
        assert!(q.is_empty().unwrap() && dir.is_dir());
        assert!(segments(&dir).is_empty(), "a queue that is only looked at gets no segments");
        q.put(&7).unwrap();
        assert_eq!(FsQueue::<u32>::open(&dir).unwrap().get().unwrap(), 7);
    }
}

/// CAN-16, CAN-17, CAN-18.
#[test]
fn can_16_17_18_items_come_in_order_once() {
    let scratch = Scratch::new();
    let (a, b) = (FsQueue::open(scratch.queue()).unwrap(), FsQueue::open(scratch.queue()).unwrap());
    let c = FsQueue::<u32>::open(scratch.queue()).unwrap();
    assert!(matches!(c.try_get(), Err(Error::Empty { .. })));
    // Two producers: the order of completed puts.
    for i in 0..200 {
        if i % 3 == 0 {
            a.put(&i).unwrap()
        } else {
            b.put(&i).unwrap()
        }
        assert!(!c.is_empty().unwrap());
    }
    assert_eq!(c.len().unwrap(), 200);
    // Two consumers, by turns.
    for i in 0..200 {
        assert_eq!(if i % 2 == 0 { c.try_get() } else { a.try_get() }.unwrap(), i);
    }
    assert!(b.is_empty().unwrap());
    assert_eq!(b.stats().unwrap().taken, 200);
}

#[test]
fn can_16_what_was_put_while_others_read_ahead_does_not_overtake() {
    let scratch = Scratch::new();
    let (a, b) = (FsQueue::open(scratch.queue()).unwrap(), FsQueue::open(scratch.queue()).unwrap());
    let c = FsQueue::<u32>::open(scratch.queue()).unwrap();
    a.put(&0).unwrap();
    a.put(&1).unwrap();
    // The consumer has looked at all writers, `b` had nothing.
    assert_eq!(c.get().unwrap(), 0);
    b.put(&2).unwrap();
    a.put(&3).unwrap();
    assert_eq!(c.drain().unwrap().items, [1, 2, 3]);
}

#[test]
fn can_16_a_writer_that_goes_on_to_another_file_is_not_overtaken() {
    let scratch = Scratch::new();
    let open = || FsQueue::<(u32, Vec<u8>)>::builder().segment_bytes(4096).open(scratch.queue()).unwrap();
    let (a, b, c) = (open(), open(), open());
    // Two items fill a file of `a`, and `b` always has something.
    for n in 0..60 {
        if n % 3 == 2 { &b } else { &a }.put(&(n, vec![0; 1500])).unwrap();
    }
    for n in 0..30 {
        assert_eq!(c.get().unwrap().0, n);
    }
    let order = |items: &[(u32, Vec<u8>)]| items.iter().map(|i| i.0).collect::<Vec<_>>();
    assert_eq!(order(&c.drain().unwrap().items), (30..60).collect::<Vec<_>>());
}

#[test]
fn can_19_drain_returns_what_it_got_beside_a_bad_item() {
    let scratch = Scratch::new();
    let texts = FsQueue::<String>::open(scratch.queue()).unwrap();
    let numbers = FsQueue::<u32>::open(scratch.queue()).unwrap();
    numbers.put(&1).unwrap();
    texts.put(&"poison".to_owned()).unwrap();
    numbers.put(&2).unwrap();
    let drained = numbers.drain().unwrap();
    assert_eq!(drained.items, [1, 2]);
    assert!(matches!(&drained.bad[..], [Error::Decode { kept, .. }] if kept.is_file()));
    // Nothing is deleted because it could not be read: it is there, with the reason, and can be had again.
    let failed = numbers.failed().unwrap();
    assert_eq!(failed[0].value::<String>().unwrap(), "poison");
    assert!(failed[0].reason.starts_with("no u32: "), "{}", failed[0].reason);
    assert_eq!(texts.retry_failed().unwrap(), 1);
    assert_eq!(texts.get().unwrap(), "poison");
    assert!(texts.failed().unwrap().is_empty());
}

#[test]
fn na_31_get_tells_of_a_poison_item_once_and_goes_on() {
    let scratch = Scratch::new();
    let texts = FsQueue::<String>::open(scratch.queue()).unwrap();
    let numbers = FsQueue::<u32>::open(scratch.queue()).unwrap();
    texts.put(&"poison".to_owned()).unwrap();
    numbers.put(&2).unwrap();
    let error = numbers.get().unwrap_err().to_string();
    let pid = std::process::id().to_string();
    assert!(error.contains("u32") && error.contains(&pid) && error.contains("failed/"), "{error}");
    assert_eq!(numbers.get().unwrap(), 2);
    assert_eq!(numbers.stats().unwrap().reasons.len(), 1);
}

#[test]
fn can_22_claims_are_acknowledged_released_and_failed() {
    let scratch = Scratch::new();
    let q = FsQueue::<u32>::open(scratch.queue()).unwrap();
    let other = FsQueue::<u32>::open(scratch.queue()).unwrap();
    q.put_many(&(0..10).collect::<Vec<_>>()).unwrap();
    let batch = q.receive(6).unwrap();
    assert_eq!(batch.iter().map(|c| **c).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!((other.len().unwrap(), other.stats().unwrap().claimed), (4, 6));
    let mut claims = batch.into_iter();
    claims.next().unwrap().ack().unwrap();
    claims.next().unwrap().release().unwrap();
    claims.next().unwrap().fail("because").unwrap();
    drop(claims.next().unwrap()); // given back
    let rest = claims.collect::<Vec<_>>();
    // What came back comes first.
    assert_eq!(other.drain().unwrap().items, [1, 3, 6, 7, 8, 9]);
    rest.into_iter().for_each(|c| c.ack().unwrap());
    let stats = other.stats().unwrap();
    assert_eq!((stats.acknowledged, stats.returned, stats.in_quarantine, stats.claimed), (3, 2, 1, 0));
    assert_eq!(stats.reasons, [("because".to_owned(), 1)]);
}

#[test]
fn can_22_received_items_are_decoded_without_the_lock() {
    use std::cell::RefCell;
    thread_local!(static OTHER: RefCell<Option<FsQueue<u32>>> = const { RefCell::new(None) });
    /// Uses the queue while it is decoded; 3 panics.
    #[derive(Serialize)]
    struct Busy(u32);
    impl<'de> Deserialize<'de> for Busy {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let n = u32::deserialize(from)?;
            assert_ne!(n, 3, "three");
            OTHER.with_borrow(|q| q.as_ref().unwrap().get_timeout(LONG).unwrap());
            Ok(Busy(n))
        }
    }
    let scratch = Scratch::new();
    let other = FsQueue::<u32>::open(scratch.queue()).unwrap();
    other.put_many(&[0, 1, 10, 10, 3, 5, 6]).unwrap();
    OTHER.set(Some(other.clone()));
    let q = FsQueue::<Busy>::open(scratch.queue()).unwrap();
    let batch = q.receive(2).unwrap();
    assert_eq!(batch.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1]);
    batch.ack().unwrap();
    // A panic gives back all that was not decoded.
    let panicked = std::panic::catch_unwind(|| q.receive(3).map(drop));
    assert!(panicked.is_err());
    let texts = FsQueue::<String>::open(scratch.queue()).unwrap();
    let batch = texts.receive(100).unwrap();
    assert!(batch.is_empty() && batch.bad.iter().all(|e| matches!(e, Error::Decode { .. })));
    let kept = texts.failed().unwrap().iter().map(|f| f.value::<u32>().unwrap()).collect::<Vec<_>>();
    assert_eq!(kept, [3, 5, 6]);
    assert_eq!(texts.stats().unwrap().claimed, 0);
}

/// The quarantine needs the lock as well: without it in time, the item is not lost, and goes there with a later call.
#[test]
fn can_22_na_31_a_limit_holds_while_an_item_should_go_to_the_quarantine() {
    static LOCK: std::sync::Mutex<Option<(std::path::PathBuf, Option<std::fs::File>)>> =
        std::sync::Mutex::new(None);
    struct Grudge;
    impl serde::Serialize for Grudge {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_unit()
        }
    }
    impl<'de> serde::Deserialize<'de> for Grudge {
        /// Has somebody else take the lock at once, then fails.
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Grudge, D::Error> {
            if let Some((path, held @ None)) = &mut *LOCK.lock().unwrap() {
                let file = std::fs::File::open(path).unwrap();
                rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
                *held = Some(file);
            }
            Err(serde::de::Error::custom("a grudge"))
        }
    }
    let scratch = Scratch::new();
    let q = FsQueue::<Grudge>::open(scratch.queue()).unwrap();
    q.put(&Grudge).unwrap();
    *LOCK.lock().unwrap() = Some((q.path().join("lock"), None));
    let began = Instant::now();
    let batch = q.receive_timeout(1, Duration::from_millis(100)).unwrap();
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    assert!(batch.is_empty() && matches!(&batch.bad[..], [Error::Busy { .. }]), "{:?}", batch.bad);
    assert!(LOCK.lock().unwrap().take().is_some_and(|(_, held)| held.is_some()), "the lock was held");
    let batch = q.receive(1).unwrap();
    assert!(matches!(&batch.bad[..], [Error::Decode { .. }]), "{:?}", batch.bad);
    assert_eq!((q.len().unwrap(), q.failed().unwrap().len()), (0, 1));
}

#[test]
fn can_22_a_batch_is_acknowledged_at_once_and_its_segment_goes() {
    let scratch = Scratch::new();
    let q = FsQueue::<Vec<u8>>::builder().segment_bytes(4096).open(scratch.queue()).unwrap();
    for _ in 0..20 {
        q.put(&vec![7; 1000]).unwrap();
    }
    assert!(segments(&scratch.queue()).len() > 4);
    while let Ok(batch) = q.receive_timeout(3, Duration::ZERO) {
        assert!(batch.bad.is_empty());
        batch.ack().unwrap();
    }
    assert!(q.is_empty().unwrap());
    assert_eq!(segments(&scratch.queue()).len(), 1, "the one that the writer may still write to");
    drop(q);
    let q = FsQueue::<Vec<u8>>::open(scratch.queue()).unwrap();
    assert!(q.is_empty().unwrap());
    assert!(segments(&scratch.queue()).is_empty(), "nothing is left behind");
}

#[test]
fn bounds_are_exact() {
    let scratch = Scratch::new();
    let q = FsQueue::<u32>::builder().max_items(3).open(scratch.queue()).unwrap();
    let other = FsQueue::<u32>::builder().max_items(3).open(scratch.queue()).unwrap();
    assert!(matches!(q.put_many(&[0, 1, 2, 3, 4]), Err(Error::Partial { put: 3, .. })));
    assert!(other.put(&9).unwrap_err().is_full());
    assert!(other.put_timeout(&9, Duration::from_millis(20)).unwrap_err().is_full());
    assert_eq!(other.get().unwrap(), 0);
    other.put(&9).unwrap();
    assert_eq!(q.drain().unwrap().items, [1, 2, 9]);
    let small = FsQueue::<Vec<u8>>::builder().max_bytes(1000).open(scratch.queue()).unwrap();
    small.put(&vec![1; 500]).unwrap();
    assert!(small.put(&vec![1; 500]).unwrap_err().is_full());
}

#[test]
fn a_waiting_get_is_woken() {
    let scratch = Scratch::new();
    let q = FsQueue::<u32>::open(scratch.queue()).unwrap();
    let waiter = q.clone();
    let thread = std::thread::spawn(move || (waiter.get_timeout(LONG).unwrap(), waiter.get().unwrap()));
    // The thread sleeps or not: it must get both.
    q.put(&1).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    FsQueue::open(scratch.queue()).unwrap().put(&2).unwrap();
    assert_eq!(thread.join().unwrap(), (1, 2));
    let start = Instant::now();
    assert!(q.get_timeout(Duration::from_millis(30)).unwrap_err().is_empty());
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert!(q.try_get().unwrap_err().is_empty());
}

#[test]
fn na_31_a_process_stopped_with_the_lock_delays_no_put_and_no_timed_call() {
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
    let scratch = Scratch::new();
    let q = FsQueue::<u32>::open(scratch.queue()).unwrap();
    let new = FsQueue::<u32>::open(scratch.queue()).unwrap();
    let bounded = FsQueue::<u32>::builder().max_items(1000).open(scratch.queue()).unwrap();
    q.put(&0).unwrap();
    bounded.put(&1).unwrap();
    let mut holder = child("worker", "stop", &scratch.queue());
    let pid = Pid::from_child(&holder);
    let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap().1;
    assert!(stopped.stopped(), "{stopped:?}");
    // A thread that waits without a limit has the handle's getting side.
    let other = q.clone();
    let stuck = std::thread::spawn(move || other.get().unwrap());
    for i in 2..100 {
        q.put(&i).unwrap();
    }
    let limit = Duration::from_millis(30);
    let timed = |name: &str, call: &dyn Fn() -> Error| {
        let start = Instant::now();
        let error = call();
        assert!(error.is_busy() && error.to_string().contains("stopped"), "{name}: {error}");
        assert!(start.elapsed() >= limit && start.elapsed() < LONG, "{name}: {:?}", start.elapsed());
    };
    timed("get", &|| q.get_timeout(limit).unwrap_err());
    timed("get by another handle", &|| new.get_timeout(limit).unwrap_err());
    timed("receive", &|| q.receive_timeout(3, limit).unwrap_err());
    timed("receive by another handle", &|| new.receive_timeout(3, limit).unwrap_err());
    timed("the first put of a handle", &|| new.put_timeout(&7, limit).unwrap_err());
    timed("a put that counts", &|| bounded.put_timeout(&7, limit).unwrap_err());
    q.put_timeout(&100, limit).unwrap();
    assert!(!stuck.is_finished());
    std::fs::write(scratch.queue().with_extension("go"), "").unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    assert!(holder.wait().unwrap().success());
    assert_eq!(stuck.join().unwrap(), 0);
    assert_eq!(new.drain().unwrap().items, (1..=100).collect::<Vec<_>>());
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Event {
    name: String,
    at: f64,
    tags: Vec<Option<u8>>,
}

#[test]
fn values_of_all_sizes_and_both_encodings() {
    let scratch = Scratch::new();
    let (named, plain) = (
        FsQueue::<Event>::builder().named_fields(true).open(scratch.queue()).unwrap(),
        FsQueue::<Event>::open(scratch.queue()).unwrap(),
    );
    let event = |name: &str| Event { name: name.to_owned(), at: 0.5, tags: vec![None, Some(7)] };
    named.put(&event("a")).unwrap();
    plain.put(&event("b")).unwrap();
    assert_eq!([named.get().unwrap(), named.get().unwrap()], [event("a"), event("b")]);
    // From nothing at all to larger than a segment.
    let dir = scratch.0.join("bytes");
    let q = FsQueue::<String>::builder().segment_bytes(1 << 16).read_buffer(4096).open(dir).unwrap();
    let sizes = [0, 1, 100, 4000, 70_000, 5, 3 << 20, 8];
    for size in sizes {
        q.put(&"x".repeat(size)).unwrap();
    }
    assert_eq!(q.iter().map(|i| i.unwrap().len()).collect::<Vec<_>>(), sizes);
    assert_eq!(q.peek(10).unwrap().len(), 0);
}

#[test]
fn can_20_modes_and_durable_modes() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    for (i, durability) in [
        Durability::Item,
        Durability::GROUP,
        Durability::Group { within: Duration::from_millis(1), count: 3 },
    ]
    .into_iter()
    .enumerate()
    {
        let dir = scratch.0.join(i.to_string());
        let q =
            FsQueue::<usize>::builder().durability(durability).file_mode(0o664).dir_mode(0o775).open(&dir);
        let q = q.unwrap();
        std::thread::scope(|s| {
            for t in 0..3 {
                let q = &q;
                s.spawn(move || (0..5).for_each(|n| q.put(&(t * 100 + n)).unwrap()));
            }
        });
        let batch = q.receive(4).unwrap();
        batch.ack().unwrap();
        assert_eq!(q.drain().unwrap().items.len(), 11);
        for place in ["", "segments", "failed", "consumers"] {
            let mode = std::fs::metadata(dir.join(place)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o775, "{place}");
        }
        for file in segments(&dir).into_iter().chain([dir.join("journal")]) {
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o664, "{file:?}");
        }
    }
}

/// The children of the tests below.
#[test]
fn worker() {
    let Some((role, dir)) = role() else { return };
    let q = FsQueue::<u32>::open(dir).unwrap();
    match &*role {
        "claim" => {
            let batch = q.receive(5).unwrap();
            assert_eq!(batch.len(), 5);
            // Tells that it has them, and waits to be killed.
            std::fs::write(q.path().with_extension("claimed"), "").unwrap();
            std::thread::sleep(LONG);
            drop(batch);
        }
        "stop" => {
            let lock = std::fs::File::open(q.path().join("lock")).unwrap();
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP).unwrap();
            // Another thread may be the first to be stopped.
            while !q.path().with_extension("go").exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(lock);
        }
        "consume" => {
            let mut mine = Vec::new();
            while let Ok(item) = q.try_get() {
                mine.push(item);
            }
            let out = q.path().with_extension(std::process::id().to_string());
            std::fs::write(out, mine.iter().map(|i| format!("{i}\n")).collect::<String>()).unwrap();
        }
        _ => unreachable!(),
    }
}

#[test]
fn can_23_claims_of_a_dead_consumer_come_back_at_once() {
    let scratch = Scratch::new();
    let q = FsQueue::<u32>::open(scratch.queue()).unwrap();
    q.put_many(&(0..5).collect::<Vec<_>>()).unwrap();
    let mut consumer = child("worker", "claim", &scratch.queue());
    let start = Instant::now();
    while !scratch.queue().with_extension("claimed").exists() {
        assert!(start.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(1));
    }
    // It lives: they are its.
    assert!(q.get_timeout(Duration::from_millis(50)).unwrap_err().is_empty());
    assert_eq!(q.requeue_stale(Duration::ZERO).unwrap(), 0);
    let waiter = q.clone();
    let thread =
        std::thread::spawn(move || (0..5).map(|_| waiter.get_timeout(LONG).unwrap()).collect::<Vec<_>>());
    consumer.kill().unwrap();
    consumer.wait().unwrap();
    assert_eq!(thread.join().unwrap(), [0, 1, 2, 3, 4]);
    assert!(files(&scratch.queue().join("consumers")).is_empty(), "nothing is left behind");
}

#[test]
fn na_31_two_listeners_share_without_loss_or_doubles() {
    let scratch = Scratch::new();
    let q = FsQueue::<u32>::open(scratch.queue()).unwrap();
    let all = (0..20_000).collect::<Vec<_>>();
    q.put_many(&all).unwrap();
    let children = [(); 2].map(|()| child("worker", "consume", &scratch.queue()));
    let mut got = Vec::new();
    for mut child in children {
        assert!(child.wait().unwrap().success());
        let text = std::fs::read_to_string(scratch.queue().with_extension(child.id().to_string())).unwrap();
        let mine = text.lines().map(|l| l.parse().unwrap()).collect::<Vec<u32>>();
        assert!(mine.is_sorted(), "each listener sees the producer's order");
        got.extend(mine);
    }
    got.sort_unstable();
    assert_eq!(got, all);
}

#[test]
fn can_24_a_million_items_wait_at_no_cost() {
    let scratch = Scratch::new();
    let q = FsQueue::<u64>::open(scratch.queue()).unwrap();
    let million = (0..1_000_000).collect::<Vec<u64>>();
    q.put_many(&million).unwrap();
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let other = FsQueue::<u64>::open(scratch.queue()).unwrap();
    assert_eq!(other.len().unwrap(), 1_000_000);
    assert_eq!(other.get().unwrap(), 0);
    // Other tests of this process take memory too: far below 64 bytes an item, yet not nothing.
    assert!(resident() < before + 32_000_000, "{} bytes", resident() - before);
    let mut next = 1;
    while let Ok(batch) = other.get_many(10_000) {
        if batch.is_empty() {
            break;
        }
        for item in batch {
            assert_eq!(item, next);
            next += 1;
        }
    }
    assert_eq!(next, 1_000_000);
}
