//! Kills a process before each of its system calls in turn, and looks at what it left.

use crate::sys::fault;
use crate::{Durability, FsQueue};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

type Item = (u32, Vec<u8>);

static ALONE: Mutex<()> = Mutex::new(());

fn item(n: u32) -> Item {
    (n, vec![n as u8; 1500])
}

fn open(dir: &Path, mode: &str) -> FsQueue<Item> {
    let durability = match mode {
        "none" => Durability::None,
        "item" => Durability::Item,
        _ => Durability::GROUP,
    };
    FsQueue::<Item>::builder().durability(durability).segment_bytes(4096).open(dir).unwrap()
}

/// Memory, if there is such a place: what a process leaves does not depend on the disk, but time does.
fn scratch(name: &str) -> PathBuf {
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let dir = place.join(format!("fsqueue-crash-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// What a child does; it writes down what it knows to be done.
#[test]
fn child() {
    let Ok(role) = std::env::var("FSQUEUE_CRASH") else { return };
    let words = role.split(' ').collect::<Vec<_>>();
    let [role, mode, dir, at] = words[..] else { panic!("{role}") };
    let dir = Path::new(dir);
    let mut log = std::fs::File::create(dir.join("log")).unwrap();
    let mut note = |n: u32| log.write_all(format!("{n}\n").as_bytes()).unwrap();
    fault::kill_before(at.parse().unwrap());
    let q = open(&dir.join("queue"), mode);
    match role {
        "put" => (0..7).for_each(|n| {
            q.put(&item(n)).unwrap();
            note(n);
        }),
        "put_many" => {
            q.put_many(&(0..7).map(item).collect::<Vec<_>>()).unwrap();
            (0..7).for_each(note);
        }
        "get" => {
            while let Ok(got) = q.try_get() {
                note(got.0);
            }
        }
        "ack" => loop {
            let batch = q.receive(3).unwrap();
            if batch.is_empty() {
                break;
            }
            for (i, claim) in batch.into_iter().enumerate() {
                let n = claim.0;
                match (i, n) {
                    (_, 4) => drop(claim.fail("four").unwrap()),
                    (1, 1) => claim.release().unwrap(),
                    _ => claim.ack().unwrap(),
                }
                note(n);
            }
        },
        "reap" => {
            q.requeue_stale(Duration::ZERO).unwrap();
            q.reap().unwrap();
            assert_eq!(q.len().unwrap(), 7);
        }
        _ => panic!("{role}"),
    }
}

/// Runs the child, which dies before its `at`-th system call; what it knew to be done, and whether it came to its end.
fn run(role: &str, mode: &str, dir: &Path, at: u64) -> (Vec<u32>, bool) {
    // A process between its birth and its program has all our locks: none while another test prepares dead ones.
    let alone = ALONE.lock();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env("FSQUEUE_CRASH", format!("{role} {mode} {} {at}", dir.display()))
        .stdout(Stdio::null())
        .spawn();
    drop(alone);
    let status = child.unwrap().wait().unwrap();
    assert!(status.success() || status.signal() == Some(9), "{role} {mode} {at}: {status}");
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    (log.lines().map(|l| l.parse().unwrap()).collect(), status.success())
}

/// Does so for each system call, with a fresh queue that `prepare` fills, and lets `check` look.
fn before_each_call(
    role: &str,
    mode: &str,
    prepare: impl Fn(&Path),
    check: impl Fn(&FsQueue<Item>, Vec<u32>, bool, &str),
) {
    let dir = scratch(&format!("{role}-{mode}"));
    for at in 0.. {
        let _ = std::fs::remove_dir_all(dir.join("queue"));
        let alone = ALONE.lock();
        prepare(&dir.join("queue"));
        drop(alone);
        let (known, ended) = run(role, mode, &dir, at);
        let q = open(&dir.join("queue"), mode);
        check(&q, known, ended, &format!("{role} {mode}, killed before call {at}"));
        // Whatever happened, the queue goes on, and nothing is left behind.
        q.put(&item(99)).unwrap();
        assert_eq!(q.drain().unwrap().items, [item(99)], "{role} {mode} {at}");
        drop(q);
        let q = open(&dir.join("queue"), mode);
        let names = |place: &str| crate::sys::list(&dir.join("queue").join(place)).unwrap();
        let start = Instant::now();
        loop {
            assert!(q.is_empty().unwrap());
            q.reap().unwrap();
            let mut left = names("segments");
            left.retain(|n| n != "bell");
            left.extend(names("consumers"));
            left.extend(names("failed").into_iter().filter(|n| !n.to_string_lossy().ends_with(".item")));
            if left.is_empty() {
                break;
            }
            // A child of another test has our locks too, until it becomes another program.
            assert!(start.elapsed() < Duration::from_secs(20), "{role} {mode} {at} leaves {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        if ended {
            assert!(at > 5, "{role} {mode} made only {at} calls");
            break;
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}

fn numbers(q: &FsQueue<Item>) -> Vec<u32> {
    let drained = q.drain().unwrap();
    assert!(drained.bad.is_empty(), "{:?}", drained.bad);
    drained.items.iter().for_each(|i| assert_eq!(*i, item(i.0)));
    drained.items.into_iter().map(|i| i.0).collect()
}

fn filled(dir: &Path) {
    let q = open(dir, "none");
    (0..7).for_each(|n| q.put(&item(n)).unwrap());
}

fn writers(mode: &str) {
    for role in ["put", "put_many"] {
        before_each_call(
            role,
            mode,
            |_| {},
            |q, known, _, what| {
                let got = numbers(q);
                assert!(got.iter().copied().eq(0..got.len() as u32), "{what}: {got:?}");
                assert!(got.len() >= known.len(), "{what}: {known:?} was promised, {got:?} is there");
                assert!(role == "put_many" || got.len() <= known.len() + 1, "{what}: {known:?}, {got:?}");
            },
        );
    }
}

#[test]
fn na_31_a_writer_killed_before_each_call() {
    writers("none");
}

#[test]
fn na_31_a_durable_writer_killed_before_each_call() {
    writers("item");
    writers("group");
}

#[test]
fn na_31_a_consumer_killed_before_each_call() {
    for mode in ["none", "item", "group"] {
        before_each_call("get", mode, filled, |q, known, ended, what| {
            let rest = numbers(q);
            // At most the item that was just being taken is gone with its consumer.
            let next = known.len() as u32;
            assert!(known.iter().copied().eq(0..next), "{what}: {known:?}");
            let skipped = 7 - known.len() - rest.len();
            assert!(skipped <= usize::from(!ended), "{what}: {known:?}, {rest:?}");
            assert!(rest.iter().copied().eq(next + skipped as u32..7), "{what}: {known:?}, {rest:?}");
        });
    }
}

#[test]
fn can_22_a_claimer_killed_before_each_call() {
    for mode in ["none", "item", "group"] {
        before_each_call("ack", mode, filled, |q, known, ended, what| {
            let rest = numbers(q);
            let failed = q.failed().unwrap().into_iter().map(|f| f.value::<Item>().unwrap().0);
            let failed = failed.collect::<Vec<_>>();
            assert!(failed.is_empty() || failed == [4], "{what}: {failed:?}");
            // What was done is not done again; the released item is in the log twice.
            let done = known.iter().filter(|n| known.iter().filter(|m| m == n).count() == 2 || **n != 1);
            let done = done.copied().collect::<BTreeSet<_>>();
            assert!(rest.iter().all(|n| !done.contains(n)), "{what}: {known:?}, {rest:?}");
            // Nothing is lost: at most one acknowledgement was written down without our knowing.
            let mut all = done.clone();
            all.extend(&rest);
            all.extend(&failed);
            assert!(all.len() + usize::from(!ended) >= 7, "{what}: {known:?}, {rest:?}, {failed:?}");
            assert_eq!(rest.iter().collect::<BTreeSet<_>>().len(), rest.len(), "{what}: {rest:?}");
        });
    }
}

#[test]
fn can_23_a_reaper_killed_before_each_call() {
    for mode in ["none", "item", "group"] {
        let prepare = |dir: &Path| {
            filled(dir);
            // A dead consumer's claims, an empty segment of a dead writer, a file that never got its name.
            let q = open(dir, "none");
            q.receive(3).unwrap().into_iter().for_each(crate::Claim::forget);
            let id = crate::state::SegmentId { writer: 5, number: 0 };
            std::fs::write(dir.join("segments").join(id.name()), crate::segment::header(id, 0, 0)).unwrap();
            std::fs::write(dir.join("failed/1-1-1.new"), "half").unwrap();
            std::fs::write(dir.join("journal.new"), "half").unwrap();
            // Its claims end with its process; here, with its last descriptor.
            crate::queue::forget_consumer(q);
        };
        before_each_call("reap", mode, prepare, |q, _, _, what| {
            assert_eq!(numbers(q), [0, 1, 2, 3, 4, 5, 6], "{what}");
        });
    }
}

#[test]
fn na_31_a_disk_that_fails_to_sync_loses_nothing() {
    let dir = scratch("eio");
    let q = open(&dir, "item");
    (0..3).for_each(|n| q.put(&item(n)).unwrap());
    fault::SYNCS_FAIL.set(true);
    let says = |e: crate::Error| assert!(e.to_string().contains("cannot sync"), "{e}");
    says(q.put(&item(3)).unwrap_err());
    says(q.get_many(1).unwrap().bad.remove(0));
    says(q.receive(1).unwrap().ack().unwrap_err());
    fault::SYNCS_FAIL.set(false);
    assert_eq!(numbers(&q), [2, 3]);
    // What was taken and not handed over is kept.
    q.put(&item(4)).unwrap();
    fault::SYNCS_FAIL.set(true);
    let error = q.get().unwrap_err();
    fault::SYNCS_FAIL.set(false);
    says(error);
    let failed = q.failed().unwrap().remove(0);
    assert_eq!(failed.value::<Item>().unwrap(), item(4));
    assert!(failed.reason.contains("cannot sync"), "{}", failed.reason);
    assert!(q.is_empty().unwrap());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn durable_modes_sync_before_they_return() {
    let dir = scratch("trace");
    for (mode, syncs) in [("none", false), ("item", true), ("group", true)] {
        let q = open(&dir.join(mode), mode);
        let is_sync = |call: &&str| call.contains("sync");
        let first = fault::trace(|| q.put(&item(0)).unwrap());
        assert_eq!(first.contains(&"fsync"), syncs, "{mode}: the new segment's name: {first:?}");
        for calls in [
            fault::trace(|| q.put(&item(1)).unwrap()),
            fault::trace(|| assert_eq!(q.put_many(&[item(2)]).unwrap(), 1)),
            fault::trace(|| drop(q.get().unwrap())),
            fault::trace(|| q.receive(1).unwrap().ack().unwrap()),
        ] {
            assert_eq!(calls.last().is_some_and(is_sync), syncs, "{mode}: {calls:?}");
        }
        let calls = fault::trace(|| q.put(&item(3)).unwrap());
        let expected: &[&str] = if syncs { &["pwrite", "fdatasync"] } else { &["pwrite"] };
        if !calls.contains(&"open") {
            assert_eq!(calls, expected, "{mode}");
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}
