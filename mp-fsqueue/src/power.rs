//! Cuts the power at every point of a queue's life, and looks whether what was promised is there.
//!
//! While a test works, every change below a directory is written down, and every sync. Afterwards, for each point in time,
//! directories are made as a disk could show them after a power cut then: what was synced is there; of the rest, nothing, or
//! all, or some changes and not others, in any mixture, writes also in part. Names count as synced with their directory.

use crate::host::pretend::BOOT;
use crate::{Durability, Error, FsQueue};
use rustix::fd::AsFd;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What happened, in order. Files are known by their inodes, names are relative.
#[derive(Clone, Debug)]
enum Event {
    Created(PathBuf, u64),
    MadeDir(PathBuf, u64),
    Renamed(PathBuf, PathBuf, u64),
    Removed(PathBuf),
    Written(u64, u64, Vec<u8>),
    Truncated(u64, u64),
    Synced(u64),
    /// What the test knows now.
    Told(Fact),
}

#[derive(Clone, Debug)]
enum Node {
    Dir(u64),
    File(u64, Vec<u8>),
}

type Tree = BTreeMap<PathBuf, Node>;

struct Tape {
    root: PathBuf,
    last: Tree,
    events: Vec<Event>,
}

thread_local! {
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

fn read_tree(root: &Path, below: &Path, tree: &mut Tree) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        let about = std::fs::symlink_metadata(root.join(&path)).unwrap();
        if about.is_dir() {
            tree.insert(path.clone(), Node::Dir(about.ino()));
            read_tree(root, &path, tree);
        } else {
            tree.insert(path.clone(), Node::File(about.ino(), std::fs::read(root.join(&path)).unwrap()));
        }
    }
}

/// Writes down what changed since the last call: it is called before each system call.
pub(crate) fn look() {
    TAPE.with_borrow_mut(|tape| {
        let Some(tape) = tape else { return };
        let mut now = Tree::new();
        read_tree(&tape.root, Path::new(""), &mut now);
        let old_files = tape.last.iter().filter_map(|(path, node)| match node {
            Node::File(inode, bytes) => Some((*inode, (path, bytes))),
            Node::Dir(_) => None,
        });
        let old_files = old_files.collect::<BTreeMap<_, _>>();
        let mut renamed = BTreeSet::new();
        for (path, node) in &now {
            match node {
                Node::Dir(inode) if !tape.last.contains_key(path) => {
                    tape.events.push(Event::MadeDir(path.clone(), *inode));
                }
                Node::Dir(_) => {}
                Node::File(inode, bytes) => {
                    let before = match old_files.get(inode) {
                        Some((old, before)) => {
                            if *old != path {
                                tape.events.push(Event::Renamed((*old).clone(), path.clone(), *inode));
                                renamed.insert((*old).clone());
                            }
                            before
                        }
                        None => {
                            tape.events.push(Event::Created(path.clone(), *inode));
                            &[][..]
                        }
                    };
                    let same = before.iter().zip(bytes).take_while(|(a, b)| a == b).count();
                    if bytes.len() > same {
                        tape.events.push(Event::Written(*inode, same as u64, bytes[same..].to_vec()));
                    }
                    if bytes.len() < before.len() {
                        tape.events.push(Event::Truncated(*inode, bytes.len() as u64));
                    }
                }
            }
        }
        let gone = tape.last.keys().filter(|p| !now.contains_key(*p) && !renamed.contains(*p));
        tape.events.extend(gone.map(|p| Event::Removed(p.clone())));
        tape.last = now;
    });
}

/// A file or a directory was brought to the disk.
pub(crate) fn synced(file: impl AsFd) {
    if TAPE.with_borrow(Option::is_some) {
        look();
        push(Event::Synced(rustix::fs::fstat(file).unwrap().st_ino));
    }
}

fn push(event: Event) {
    TAPE.with_borrow_mut(|tape| tape.iter_mut().for_each(|t| t.events.push(event.clone())));
}

fn told(fact: Fact) {
    look();
    push(Event::Told(fact));
}

/// Writes down what happens below an empty directory.
fn record(root: &Path, work: impl FnOnce()) -> Vec<Event> {
    TAPE.set(Some(Tape { root: root.to_owned(), last: Tree::new(), events: Vec::new() }));
    work();
    look();
    TAPE.take().unwrap().events
}

/// What the disk did with changes that nobody asked it to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disk {
    Lazy,
    Eager,
    Mixed(u64),
}

impl Disk {
    /// Of a change with so many parts: how many are kept.
    fn keeps(&mut self, parts: usize) -> usize {
        match self {
            Disk::Lazy => 0,
            Disk::Eager => parts,
            Disk::Mixed(random) => {
                *random ^= *random << 13;
                *random ^= *random >> 7;
                *random ^= *random << 17;
                match *random >> 20 & 3 {
                    0 => 0,
                    1 if parts > 1 => (*random >> 24) as usize % parts,
                    _ => parts,
                }
            }
        }
    }
}

/// Makes the directory as it is found after a power cut behind the first `events`.
fn rebuild(events: &[Event], mut disk: Disk, to: &Path) {
    // Up to which event each file and directory is on the disk, and which directory an inode is.
    let (mut safe, mut directories) = (BTreeMap::<u64, usize>::new(), BTreeMap::<PathBuf, u64>::new());
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Synced(inode) => drop(safe.insert(*inode, at)),
            Event::MadeDir(path, inode) => drop(directories.insert(path.clone(), *inode)),
            _ => {}
        }
    }
    let root = u64::MAX; // its parent is not ours to sync: given
    let parent = |path: &Path| match path.parent() {
        Some(p) if p != Path::new("") => directories[p],
        _ => root,
    };
    safe.insert(root, usize::MAX);
    let (mut names, mut dirs) = (BTreeMap::<PathBuf, u64>::new(), BTreeSet::<PathBuf>::new());
    let mut contents = BTreeMap::<u64, Vec<u8>>::new();
    for (at, event) in events.iter().enumerate() {
        let mut kept = |inode: u64, parts: usize| match safe.get(&inode) {
            Some(until) if *until > at => parts,
            _ => disk.keeps(parts),
        };
        match event {
            Event::Created(path, inode) if kept(parent(path), 1) == 1 => {
                names.insert(path.clone(), *inode);
            }
            Event::MadeDir(path, _) if kept(parent(path), 1) == 1 => drop(dirs.insert(path.clone())),
            Event::Renamed(from, path, inode) if kept(parent(path), 1) == 1 => {
                names.remove(from);
                names.insert(path.clone(), *inode);
            }
            Event::Removed(path) if kept(parent(path), 1) == 1 => drop(names.remove(path)),
            Event::Written(inode, offset, bytes) => {
                let content = contents.entry(*inode).or_default();
                let end = *offset as usize + kept(*inode, bytes.len());
                if end > *offset as usize {
                    content.resize(content.len().max(end), 0);
                    content[*offset as usize..end].copy_from_slice(&bytes[..end - *offset as usize]);
                }
            }
            Event::Truncated(inode, size) if kept(*inode, 1) == 1 => {
                contents.entry(*inode).or_default().truncate(*size as usize);
            }
            _ => {}
        }
    }
    let there = |path: &Path| path.ancestors().skip(1).all(|p| p == Path::new("") || dirs.contains(p));
    std::fs::create_dir_all(to).unwrap();
    for dir in dirs.iter().filter(|d| there(d)) {
        std::fs::create_dir(to.join(dir)).unwrap();
    }
    for (path, inode) in names.iter().filter(|n| there(n.0)) {
        std::fs::write(to.join(path), contents.get(inode).map_or(&[][..], |c| c)).unwrap();
    }
}

type Item = (u32, Vec<u8>);

fn item(n: u32) -> Item {
    (n, vec![n as u8; 1500])
}

/// What becomes of an item, as its user knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fact {
    /// `put` has returned.
    Put(u32),
    /// Someone begins to take, acknowledge or fail it.
    Begun(u32),
    /// The call has returned; nobody may see it again.
    Done(u32),
    /// In the quarantine.
    Failed(u32),
    /// Taken by someone who does not wait for the disk.
    Careless(u32),
}

fn open(dir: &Path, durability: Durability) -> FsQueue<Item> {
    FsQueue::<Item>::builder().durability(durability).segment_bytes(4096).open(dir).unwrap()
}

/// Writers and consumers by turns; the third kind of consumer does not care for power cuts.
fn life(dir: &Path, durability: Durability) {
    let [a, b, c] = [(); 3].map(|()| open(dir, durability));
    let careless = open(dir, Durability::None);
    let put = |q: &FsQueue<Item>, n| {
        q.put(&item(n)).unwrap();
        told(Fact::Put(n));
    };
    let get = |q: &FsQueue<Item>, n| {
        told(Fact::Begun(n));
        assert_eq!(q.try_get().unwrap().0, n);
        told(Fact::Done(n));
    };
    (0..5).for_each(|n| put(&a, n));
    a.put_many(&(5..8).map(item).collect::<Vec<_>>()).unwrap();
    (5..8).for_each(|n| told(Fact::Put(n)));
    get(&c, 0);
    (100..103).for_each(|n| put(&b, n));
    for (i, claim) in c.receive(4).unwrap().into_iter().enumerate() {
        let n = claim.0;
        assert_eq!(n, i as u32 + 1);
        match i {
            0 | 1 => {
                told(Fact::Begun(n));
                claim.ack().unwrap();
                told(Fact::Done(n));
            }
            2 => claim.release().unwrap(),
            _ => {
                told(Fact::Begun(n));
                claim.fail("because").unwrap();
                told(Fact::Failed(n));
            }
        }
    }
    get(&b, 3);
    for n in [5, 6] {
        told(Fact::Begun(n));
        assert_eq!(careless.try_get().unwrap().0, n);
        told(Fact::Careless(n));
    }
    put(&a, 8);
    // What is no item for others goes to the quarantine, whoever finds it.
    told(Fact::Begun(7));
    let texts = FsQueue::<String>::open(dir).unwrap();
    assert!(matches!(texts.try_get(), Err(Error::Decode { .. })));
    told(Fact::Failed(7));
    for n in [100, 101, 102] {
        get(&c, n);
    }
    let batch = a.receive(10).unwrap();
    assert_eq!(batch.iter().map(|i| i.0).collect::<Vec<_>>(), [8]);
    told(Fact::Begun(8));
    batch.ack().unwrap();
    told(Fact::Done(8));
    (9..11).for_each(|n| put(&a, n));
    drop((a, b));
    c.reap().unwrap();
    put(&c, 200);
    get(&c, 9);
}

/// Whether the queue in `dir` holds what the facts promise.
fn inspect(dir: &Path, durability: Durability, facts: &[Fact], what: &str) {
    let q = open(dir, durability);
    let failed = q.failed().unwrap();
    let failed = failed.iter().filter_map(|f| f.value::<Item>().ok()).map(|i| i.0).collect::<BTreeSet<_>>();
    let drained = q.drain().unwrap();
    let found = drained.items.iter().map(|i| i.0).collect::<Vec<_>>();
    let what = format!("{what}: found {found:?}, failed {failed:?}, bad {:?}", drained.bad);
    drained.items.iter().for_each(|i| assert_eq!(*i, item(i.0), "{what}"));
    assert!(drained.bad.iter().all(|e| matches!(e, Error::Damaged { .. })), "{what}");
    for writer in 0..3 {
        let order = found.iter().filter(|n| **n / 100 == writer).collect::<Vec<_>>();
        assert!(order.is_sorted_by(|a, b| a < b), "{what}");
    }
    let mut last = BTreeMap::new();
    for fact in facts {
        let (Fact::Put(n) | Fact::Begun(n) | Fact::Done(n) | Fact::Failed(n) | Fact::Careless(n)) = fact;
        last.insert(*n, fact);
    }
    for (n, fact) in last {
        let there = found.contains(&n);
        match fact {
            Fact::Put(_) => assert!(there, "{n} was promised; {what}"),
            Fact::Done(_) => assert!(!there, "{n} was done; {what}"),
            // Whoever fails it promises that it is not lost; who does so carelessly may fail it again.
            Fact::Failed(_) => assert!(there || failed.contains(&n), "{n} failed and is gone; {what}"),
            // The process that was at it lost its power too.
            Fact::Begun(7) => assert!(there || failed.contains(&n), "{n} is gone; {what}"),
            Fact::Begun(_) | Fact::Careless(_) => {}
        }
    }
    // The queue goes on, counts right, and cleans up.
    q.put(&item(999)).unwrap();
    assert_eq!(q.len().unwrap(), 1, "{what}");
    assert_eq!(q.drain().unwrap().items, [item(999)], "{what}");
    drop(q);
    let q = open(dir, durability);
    let start = Instant::now();
    loop {
        assert!(q.is_empty().unwrap(), "{what}");
        q.reap().unwrap();
        let stats = q.stats().unwrap();
        if stats.segments == 0 {
            assert_eq!((stats.waiting, stats.claimed, stats.consumers), (0, 0, 0), "{what}: {stats:?}");
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn cut_everywhere(durability: Durability, name: &str, mixtures: u64) {
    // Memory, if there is such a place: nothing here waits for a disk.
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let base = place.join(format!("fsqueue-power-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&base);
    let (live, found) = (base.join("live"), base.join("found"));
    std::fs::create_dir_all(&live).unwrap();
    BOOT.set(Some(1));
    let events = record(&live, || life(&live.join("var/spool/queue"), durability));
    let syncs = events.iter().filter(|e| matches!(e, Event::Synced(_))).count();
    assert!(events.len() > 150 && syncs > 30, "{} events, {syncs} syncs", events.len());
    // After the power cut: another boot.
    BOOT.set(Some(2));
    let seeds = (1..=mixtures).map(|s| Disk::Mixed(s.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    for cut in 0..=events.len() {
        let facts = events[..cut].iter().filter_map(|e| if let Event::Told(f) = e { Some(*f) } else { None });
        let facts = facts.collect::<Vec<_>>();
        for disk in [Disk::Lazy, Disk::Eager].into_iter().chain(seeds.clone()) {
            let disk = match disk {
                Disk::Mixed(seed) => Disk::Mixed(seed ^ cut as u64),
                other => other,
            };
            let _ = std::fs::remove_dir_all(&found);
            rebuild(&events[..cut], disk, &found);
            let last = events[..cut].last().map(|e| format!("{e:.60?}"));
            let what = format!("{name}, cut at {cut} behind {last:.200?}, {disk:?}");
            inspect(&found.join("var/spool/queue"), durability, &facts, &what);
        }
    }
    BOOT.set(None);
    std::fs::remove_dir_all(base).unwrap();
}

#[test]
fn na_31_the_power_is_cut_anywhere_in_durable_queues() {
    cut_everywhere(Durability::Item, "item", 3);
}

#[test]
fn na_31_the_power_is_cut_anywhere_in_group_durable_queues() {
    cut_everywhere(Durability::GROUP, "group", 1);
}
