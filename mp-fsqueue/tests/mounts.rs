//! Two hosts on one file system, as far as one machine can have them: processes with mounts, networks, users and pids of
//! their own, which know the queue by different paths. Where the system allows no such spaces, the tests say so and end.

mod common;

use common::{Scratch, command, files, role};
use mp_fsqueue::FsQueue;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
const ITEMS: u32 = 2000;

/// Host and number; no number asks a consumer to stop.
type Item = (String, Option<u32>);

/// A process with spaces of its own, in which `dir` is mounted at another path as well.
fn elsewhere(host: &str, role: &str, scratch: &Scratch) -> Command {
    let mount = scratch.0.join(host);
    std::fs::create_dir_all(&mount).unwrap();
    let itself = command("worker", role, &mount);
    let script =
        format!("mount --bind '{}' '{}' && exec \"$0\" \"$@\"", scratch.queue().display(), mount.display());
    let mut outer = Command::new("unshare");
    outer.args([
        "--map-root-user",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        &script,
    ]);
    outer.arg(itself.get_program()).args(itself.get_args()).stdout(Stdio::null());
    outer.env("FSQUEUE_ROLE", role).env("FSQUEUE_DIR", &mount).env("FSQUEUE_NOTES", &scratch.0);
    outer
}

/// Whether this system lets us have such processes.
fn allowed(scratch: &Scratch) -> bool {
    std::fs::create_dir_all(scratch.queue()).unwrap();
    let allowed =
        elsewhere("probe", "nothing", scratch).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !allowed {
        eprintln!("skipped: this system gives us no mounts, networks and pids of our own (unshare)");
    }
    allowed
}

fn wait_for(path: &Path, child: &mut Child) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < LONG, "no {}", path.display());
        assert!(child.try_wait().unwrap().is_none(), "a child has ended without {}", path.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn worker() {
    let Some((role, dir)) = role() else { return };
    if role == "nothing" {
        return;
    }
    let q = FsQueue::<Item>::open(&dir).unwrap();
    let host = dir.file_name().unwrap().to_str().unwrap();
    let notes = Path::new(&std::env::var_os("FSQUEUE_NOTES").unwrap()).to_owned();
    // Its first process has the same number in each space of pids.
    assert_eq!(std::process::id(), 1);
    match &*role {
        "both" => std::thread::scope(|s| {
            s.spawn(|| {
                (0..ITEMS).for_each(|n| q.put(&(host.to_owned(), Some(n))).unwrap());
                std::fs::write(notes.join(format!("{host}.put")), "").unwrap();
            });
            let mut got = String::new();
            while let (from, Some(n)) = q.get_timeout(LONG).unwrap() {
                got += &format!("{from} {n}\n");
            }
            std::fs::write(notes.join(format!("{host}.got")), got).unwrap();
        }),
        "claim" => {
            let batch = q.receive(5).unwrap();
            assert_eq!(batch.len(), 5);
            std::fs::write(notes.join("claimed"), "").unwrap();
            std::thread::sleep(LONG);
            drop(batch);
        }
        _ => unreachable!(),
    }
}

#[test]
fn na_31_two_mounts_share_without_loss_or_doubles() {
    let scratch = Scratch::new();
    if !allowed(&scratch) {
        return;
    }
    let mut hosts = ["a", "b"].map(|host| elsewhere(host, "both", &scratch).spawn().unwrap());
    for (host, child) in ["a", "b"].iter().zip(&mut hosts) {
        wait_for(&scratch.0.join(format!("{host}.put")), child);
    }
    // All puts are over: these come last.
    let q = FsQueue::<Item>::open(scratch.queue()).unwrap();
    (0..2).for_each(|_| q.put(&(String::new(), None)).unwrap());
    let mut all = Vec::new();
    for (host, mut child) in ["a", "b"].iter().zip(hosts) {
        assert!(child.wait().unwrap().success());
        let text = std::fs::read_to_string(scratch.0.join(format!("{host}.got"))).unwrap();
        let got = text.lines().map(|l| l.split_once(' ').unwrap());
        let got = got.map(|(from, n)| (from.to_owned(), n.parse::<u32>().unwrap())).collect::<Vec<_>>();
        for from in ["a", "b"] {
            let order = got.iter().filter(|g| g.0 == from).map(|g| g.1);
            assert!(order.is_sorted(), "{host} got what {from} put in another order");
        }
        all.extend(got);
    }
    all.sort();
    let expected = ["a", "b"].iter().flat_map(|h| (0..ITEMS).map(|n| (h.to_string(), n)));
    assert!(all.into_iter().eq(expected));
    assert!(q.is_empty().unwrap());
}

#[test]
fn can_23_claims_of_one_killed_behind_another_mount_come_back() {
    let scratch = Scratch::new();
    if !allowed(&scratch) {
        return;
    }
    let q = FsQueue::<Item>::open(scratch.queue()).unwrap();
    let items = (0..5).map(|n| ("here".to_owned(), Some(n))).collect::<Vec<Item>>();
    q.put_many(&items).unwrap();
    let mut far = elsewhere("far", "claim", &scratch).spawn().unwrap();
    wait_for(&scratch.0.join("claimed"), &mut far);
    // Its pid means nothing here, and it lives.
    assert_eq!(q.requeue_stale(Duration::ZERO).unwrap(), 0);
    far.kill().unwrap();
    far.wait().unwrap();
    let got = (0..5).map(|_| q.get_timeout(LONG).unwrap()).collect::<Vec<_>>();
    assert_eq!(got, items);
    assert!(files(&scratch.queue().join("consumers")).is_empty());
}
