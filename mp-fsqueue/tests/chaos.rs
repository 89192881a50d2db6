//! Eight producers and four consumers, killed at random and replaced, and an exact account of every item.
//!
//! Five seconds, or as many as `FSQUEUE_CHAOS_SECONDS` says.

mod common;

use common::{Scratch, child, files, role, segments};
use mp_fsqueue::{FsQueue, ItemId};
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// Producer, number, and something to carry.
type Item = (u64, u64, Vec<u8>);

/// What a process wrote down, by one system call each, so that its death cannot tear it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u64)]
enum Did {
    Put,
    Received,
    Acknowledge,
    Acknowledged,
    Got,
}

struct Log(std::fs::File);

impl Log {
    fn open(dir: &Path) -> Log {
        Log(std::fs::File::create(dir.join("logs").join(std::process::id().to_string())).unwrap())
    }

    fn note(&mut self, did: Did, producer: u64, number: u64) {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let nanos = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        let words = [did as u64, producer, number, nanos];
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        self.0.write_all(&bytes).unwrap();
    }
}

fn read_log(path: &Path) -> Vec<(Did, u64, u64, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let word = |b: &[u8], i: usize| u64::from_le_bytes(b[i * 8..i * 8 + 8].try_into().unwrap());
    let did = |n| [Did::Put, Did::Received, Did::Acknowledge, Did::Acknowledged, Did::Got][n as usize];
    bytes.chunks_exact(32).map(|b| (did(word(b, 0)), word(b, 1), word(b, 2), word(b, 3))).collect()
}

fn open(dir: &Path) -> FsQueue<Item> {
    FsQueue::<Item>::builder().segment_bytes(64 << 10).open(dir.join("queue")).unwrap()
}

#[test]
fn worker() {
    let Some((role, dir)) = role() else { return };
    let (q, mut log, me) = (open(&dir), Log::open(&dir), u64::from(std::process::id()));
    match &*role {
        "produce" => {
            for number in 0.. {
                let size = (number * 37 % 300) as usize + usize::from(number % 500 == 7) * 20_000;
                q.put(&(me, number, vec![number as u8; size])).unwrap();
                log.note(Did::Put, me, number);
                if number % 5 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        "receive" => loop {
            let Ok(batch) = q.receive_timeout(7, Duration::from_secs(60)) else { return };
            assert!(batch.bad.is_empty(), "{:?}", batch.bad);
            batch.iter().for_each(|c| log.note(Did::Received, c.0, c.1));
            for (i, claim) in batch.into_iter().enumerate() {
                assert!(claim.2.iter().all(|b| *b == claim.1 as u8));
                let (producer, number) = (claim.0, claim.1);
                if i == 5 {
                    claim.release().unwrap();
                } else {
                    log.note(Did::Acknowledge, producer, number);
                    claim.ack().unwrap();
                    log.note(Did::Acknowledged, producer, number);
                }
            }
        },
        "get" => loop {
            let Ok(item) = q.get_timeout(Duration::from_secs(60)) else { return };
            log.note(Did::Got, item.0, item.1);
        },
        _ => unreachable!(),
    }
}

/// All that was written down of an item.
fn history(dir: &Path, producer: u64, number: u64) -> String {
    let mut lines = vec![format!("producer {producer}, item {number}")];
    for path in files(&dir.join("logs")) {
        let of_it = read_log(&path).into_iter().filter(|e| (e.1, e.2) == (producer, number));
        lines.extend(of_it.map(|e| format!("{} {:?} by {:?}", e.3, e.0, path.file_name())));
    }
    lines.sort();
    lines.join("\n")
}

#[derive(Default)]
struct Fate {
    put: bool,
    got: u32,
    acknowledged: Option<u64>,
    maybe_acknowledged: bool,
    received: Vec<u64>,
}

#[test]
fn na_31_producers_and_consumers_killed_at_random_lose_and_double_nothing() {
    let seconds = std::env::var("FSQUEUE_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.0.join("logs")).unwrap();
    let roles = [["produce"; 8].as_slice(), &["receive"; 3], &["get"]].concat();
    let start = |role: &str| child("worker", role, &scratch.0);
    let mut children: Vec<(&str, Child)> = roles.iter().map(|r| (*r, start(r))).collect();
    let (begin, mut random, mut kills, mut getter_kills) = (Instant::now(), 88172645463325252u64, 0, 0);
    while begin.elapsed() < Duration::from_secs(seconds) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_millis(5 + random % 30));
        let victim = random as usize / 64 % children.len();
        let (role, mut child) = (children[victim].0, children.swap_remove(victim).1);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "a {role} ended by itself: {status}");
        kills += 1;
        getter_kills += usize::from(role == "get");
        children.push((role, start(role)));
    }
    for (role, child) in &mut children {
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "a {role} ended by itself");
        getter_kills += usize::from(*role == "get");
    }

    // Everyone is dead. What is left can be had at once, in each producer's order.
    let q = open(&scratch.0);
    let rest = q.drain().unwrap();
    assert!(rest.bad.is_empty(), "{:?}", rest.bad);
    let mut last = HashMap::new();
    let mut fates: HashMap<(u64, u64), Fate> = HashMap::new();
    let now = u64::MAX;
    for item in &rest.items {
        let before = last.insert(item.0, item.1);
        assert!(before.is_none_or(|b| b < item.1), "producer {}: {} after {before:?}", item.0, item.1);
        fates.entry((item.0, item.1)).or_default().received.push(now);
    }
    for path in files(&scratch.0.join("logs")) {
        for (did, producer, number, time) in read_log(&path) {
            let fate = fates.entry((producer, number)).or_default();
            match did {
                Did::Put => fate.put = true,
                Did::Got => fate.got += 1,
                Did::Received => fate.received.push(time),
                Did::Acknowledge => fate.maybe_acknowledged = true,
                Did::Acknowledged => {
                    assert_eq!(fate.acknowledged, None, "{}", history(&scratch.0, producer, number));
                    fate.acknowledged = Some(time);
                }
            }
        }
    }
    let (mut puts, mut vanished, mut again) = (0, 0, 0);
    for (item, fate) in &fates {
        puts += usize::from(fate.put);
        let what = format!("{item:?}: got {}, received at {:?}", fate.got, fate.received);
        assert!(fate.got <= 1, "two consumers got {what}");
        if let Some(done) = fate.acknowledged {
            assert_eq!(fate.got, 0, "acknowledged at {done}, yet {what}");
            assert!(fate.received.iter().all(|t| *t < done), "acknowledged at {done}, yet {what}");
        }
        if fate.got == 1 {
            assert!(!fate.received.contains(&now), "given out for ever, yet there: {what}");
        }
        again += usize::from(fate.received.len() > 1);
        let gone = fate.got == 0
            && fate.acknowledged.is_none()
            && !fate.maybe_acknowledged
            && !fate.received.contains(&now);
        // A `get` that was killed takes its item with it; nothing else may vanish.
        vanished += usize::from(gone);
    }
    println!(
        "{puts} puts, {kills} kills, {} left, {again} delivered again, {vanished} gone with `get`",
        rest.len()
    );
    assert!(vanished <= getter_kills, "{vanished} items vanished, {getter_kills} getters were killed");
    assert!(puts > 1000 && kills as u64 > seconds * 10, "{puts} puts, {kills} kills: too little happened");

    // Nothing is left behind.
    assert!(q.is_empty().unwrap());
    q.reap().unwrap();
    assert_eq!(segments(&scratch.queue()), [] as [&Path; 0]);
    assert!(files(&scratch.queue().join("consumers")).is_empty());
    assert_eq!(q.failed().unwrap().iter().map(|f| f.id()).collect::<Vec<ItemId>>(), []);
    assert!(q.check().unwrap().is_empty());
    let stats = q.stats().unwrap();
    assert_eq!((stats.waiting, stats.claimed, stats.damaged_entries), (0, 0, 0));
}
