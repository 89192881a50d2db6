//! Clocks that are wrong, other hosts, and forked children, as far as one machine can have them.

use crate::FsQueue;
use crate::host::pretend::{ADVANCE, BOOT, REMOTE};
use std::path::PathBuf;
use std::time::Duration;

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("fsqueue-hosts-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// Acts as another host, whose clock is wrong by some seconds.
fn as_host<R>(boot: u128, advance: i64, act: impl FnOnce() -> R) -> R {
    BOOT.set(Some(boot));
    ADVANCE.set(advance);
    let result = act();
    BOOT.set(None);
    ADVANCE.set(0);
    result
}

#[test]
fn can_21_a_clock_that_jumps_back_changes_no_order() {
    let dir = scratch("jump");
    let mut expected = Vec::new();
    for (n, advance) in [0i64, -3600, 7200, -86_400].into_iter().enumerate() {
        // A new writer each time, on one host.
        let q = FsQueue::<usize>::open(&dir).unwrap();
        as_host(7, advance, || (0..10).for_each(|i| q.put(&(n * 10 + i)).unwrap()));
        expected.extend(n * 10..n * 10 + 10);
    }
    let q = FsQueue::<usize>::open(&dir).unwrap();
    assert_eq!(q.drain().unwrap().items, expected);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn na_31_two_hosts_with_different_clocks() {
    two_hosts("two");
}

#[test]
fn na_31_two_hosts_on_a_network_file_system() {
    REMOTE.set(true);
    two_hosts("remote");
    // Others see only what was synced, so it is, whatever was asked for.
    let dir = scratch("remote-sync");
    let q = FsQueue::<u32>::open(&dir).unwrap();
    q.put(&1).unwrap();
    let calls = crate::sys::fault::trace(|| q.put(&2).unwrap());
    assert_eq!(calls, ["pwrite", "fdatasync"]);
    REMOTE.set(false);
    std::fs::remove_dir_all(dir).unwrap();
}

fn two_hosts(name: &str) {
    let dir = scratch(name);
    let (a, b) = (FsQueue::<(u8, u32)>::open(&dir).unwrap(), FsQueue::<(u8, u32)>::open(&dir).unwrap());
    let hosts = [(&a, 1u8, 0i64), (&b, 2, 3600)];
    for i in 0..50 {
        for (q, boot, advance) in hosts {
            as_host(boot.into(), advance, || q.put(&(boot, i)).unwrap());
        }
    }
    // Whoever consumes: each producer's order, each item once, and none waits for a clock.
    let mut got = Vec::new();
    for i in 0..100 {
        let (q, boot, advance) = hosts[i % 2];
        got.push(as_host(boot.into(), advance, || q.try_get().unwrap()));
    }
    for (_, boot, _) in hosts {
        let mine = got.iter().filter(|g| g.0 == boot).map(|g| g.1).collect::<Vec<_>>();
        assert!(mine.iter().copied().eq(0..50), "{mine:?}");
    }
    assert!(as_host(1, 0, || a.is_empty().unwrap()));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn can_23_a_consumer_of_another_host_is_dead_after_a_while_only() {
    let dir = scratch("stale");
    let open = || FsQueue::<u32>::open(&dir).unwrap();
    let (q, there) = (open(), open());
    q.put(&1).unwrap();
    let id = as_host(9, 0, || {
        there.receive(1).unwrap().into_iter().for_each(crate::Claim::forget);
        let name = crate::sys::list(&dir.join("consumers")).unwrap().remove(0);
        u64::from_str_radix(name.to_str().unwrap(), 16).unwrap()
    });
    let layout = crate::layout::Layout::new(&dir);
    let dead =
        |remote, after| crate::consumer::is_dead(&layout, id, remote, Duration::from_secs(after)).unwrap();
    // As long as the lock is held it lives, wherever it is.
    assert!(!dead(true, 0) && !dead(false, 0));
    crate::queue::forget_consumer(there);
    // On a local file system the lock says all. On another, its silence must have lasted.
    ADVANCE.set(100);
    assert!(dead(false, 900) && !dead(true, 900) && dead(true, 60));
    ADVANCE.set(0);
    assert_eq!(q.get().unwrap(), 1);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_forked_child_is_a_writer_and_a_consumer_of_its_own() {
    let dir = scratch("fork");
    let q = FsQueue::<u32>::open(&dir).unwrap();
    q.put_many(&[1, 2]).unwrap();
    let claim = q.receive(1).unwrap().into_iter().next().unwrap();
    crate::queue::pretend_fork(&q);
    q.put(&3).unwrap();
    assert_eq!(q.stats().unwrap().segments, 2, "it does not write to its parent's file");
    assert_eq!(q.peek(9).unwrap().len(), 2);
    // It has no claims: this one is its parent's.
    assert!(matches!(claim.ack(), Err(crate::Error::ClaimLost { .. })));
    std::fs::remove_dir_all(dir).unwrap();
}
