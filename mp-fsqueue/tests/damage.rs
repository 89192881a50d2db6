//! Cut files, flipped bits, foreign files, missing files, full disks, read-only roots: errors with names, other items
//! unaffected, the cause visible in the statistics.

mod common;

use common::{Scratch, command, files, role, segments};
use mp_fsqueue::{Error, FsQueue};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const ITEMS: u32 = 5;

type Queue = FsQueue<(u32, String)>;

fn item(n: u32) -> (u32, String) {
    (n, "abc".repeat(n as usize + 1))
}

/// A queue of dead writers with `ITEMS` items behind one that was taken.
fn filled(dir: &Path) {
    let q = Queue::open(dir).unwrap();
    q.put(&(99, String::new())).unwrap();
    (0..ITEMS).for_each(|n| q.put(&item(n)).unwrap());
    assert_eq!(q.get().unwrap().0, 99);
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    for place in ["", "segments", "consumers", "failed"] {
        std::fs::create_dir_all(to.join(place)).unwrap();
        for file in files(&from.join(place)).into_iter().filter(|f| f.is_file()) {
            std::fs::copy(&file, to.join(place).join(file.file_name().unwrap())).unwrap();
        }
    }
}

/// Takes everything; the items, and how many errors told of damage.
fn take_all(dir: &Path) -> (Vec<u32>, Vec<Error>) {
    let q = Queue::open(dir).unwrap();
    let drained = q.drain().unwrap();
    // Dead writers are noticed within a tenth of a second.
    let start = Instant::now();
    while q.stats().unwrap().segments > 0 {
        assert!(q.is_empty().unwrap() && start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    drained.items.iter().for_each(|i| assert!(i.0 == 99 || *i == item(i.0)));
    (drained.items.iter().map(|i| i.0).collect(), drained.bad)
}

fn kept(dir: &Path) -> u64 {
    files(&dir.join("failed")).iter().map(|f| std::fs::metadata(f).unwrap().len()).sum()
}

#[test]
fn na_31_a_segment_cut_at_every_byte() {
    let scratch = Scratch::new();
    let (whole, cut) = (scratch.0.join("whole"), scratch.0.join("cut"));
    filled(&whole);
    let segment = segments(&whole).remove(0);
    let bytes = std::fs::read(&segment).unwrap();
    let mut most = 0;
    for size in 0..bytes.len() {
        copy(&whole, &cut);
        let path = cut.join("segments").join(segment.file_name().unwrap());
        std::fs::write(&path, &bytes[..size]).unwrap();
        let (items, bad) = take_all(&cut);
        assert!(bad.is_empty(), "cut at {size}: {bad:?}");
        assert!(items.iter().copied().eq(0..items.len() as u32), "cut at {size}: {items:?}");
        assert!(items.len() >= most && items.len() < ITEMS as usize, "cut at {size}: {items:?}");
        let torn = Queue::open(&cut).unwrap().stats().unwrap().torn_bytes;
        if items.len() == most && most > 0 && torn > 0 {
            // What cannot be read is kept.
            assert_eq!(kept(&cut), torn, "cut at {size}");
        }
        most = items.len();
        assert!(segments(&cut).is_empty(), "cut at {size}");
    }
    assert_eq!(most, ITEMS as usize - 1);
}

#[test]
fn na_31_a_bit_flipped_in_every_byte_of_a_segment() {
    let scratch = Scratch::new();
    let (whole, hurt) = (scratch.0.join("whole"), scratch.0.join("hurt"));
    filled(&whole);
    let segment = segments(&whole).remove(0);
    let bytes = std::fs::read(&segment).unwrap();
    let mut lost_some = 0;
    for at in 0..bytes.len() {
        copy(&whole, &hurt);
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(hurt.join("segments").join(segment.file_name().unwrap()), &bytes).unwrap();
        let problems = Queue::open(&hurt).unwrap().check().unwrap();
        let (items, bad) = take_all(&hurt);
        assert!(items.is_sorted() && items.len() + 1 >= ITEMS as usize, "byte {at}: {items:?}");
        if items.len() < ITEMS as usize {
            lost_some += 1;
            assert_eq!(problems.len(), 1, "byte {at}: {problems:?}");
            // It is kept, whether it was seen to be an item or not.
            let stats = Queue::open(&hurt).unwrap().stats().unwrap();
            assert!(kept(&hurt) > 40, "byte {at}");
            assert_eq!(stats.failed, bad.len() as u64, "byte {at}: {stats:?}");
            assert!(!bad.is_empty() || stats.torn_bytes > 0, "byte {at}");
            for error in bad {
                assert!(
                    matches!(&error, Error::Damaged { path, kept, .. }
                    if path.extension() == Some(OsStr::new("seg")) && kept.is_file()),
                    "byte {at}: {error}"
                );
            }
        }
    }
    assert!(lost_some > bytes.len() / 2, "{lost_some}");
}

#[test]
fn na_31_a_damaged_journal_loses_nothing() {
    let scratch = Scratch::new();
    let (whole, hurt) = (scratch.0.join("whole"), scratch.0.join("hurt"));
    filled(&whole);
    let bytes = std::fs::read(whole.join("journal")).unwrap();
    let all = (0..ITEMS).collect::<BTreeSet<_>>();
    let mut damaged = 0;
    for at in 0..bytes.len() {
        for cut in [true, false] {
            copy(&whole, &hurt);
            let mut bytes = bytes.clone();
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << (at % 8);
            }
            std::fs::write(hurt.join("journal"), &bytes).unwrap();
            let q = Queue::open(&hurt).unwrap();
            damaged += q.stats().unwrap().damaged_entries;
            let items = q.drain().unwrap();
            assert!(items.bad.is_empty(), "byte {at}, cut {cut}: {:?}", items.bad);
            // What was taken may come again, if its taking cannot be read.
            let items = items.items.into_iter().map(|i| i.0).filter(|n| *n != 99).collect::<Vec<_>>();
            assert!(items.iter().copied().collect::<BTreeSet<_>>() == all, "byte {at}, cut {cut}: {items:?}");
            assert!(items.is_sorted());
        }
    }
    assert!(damaged > 64, "{damaged}");
}

#[test]
fn na_31_foreign_files_and_odd_names_do_no_harm() {
    let scratch = Scratch::new();
    let dir = scratch.queue();
    filled(&dir);
    let odd = OsStr::from_bytes(b"\xff\xfe\n odd");
    for place in ["", "segments", "consumers", "failed"] {
        std::fs::write(dir.join(place).join(odd), "what is this").unwrap();
        std::fs::write(dir.join(place).join("empty"), "").unwrap();
        std::fs::write(dir.join(place).join("x.item"), "no item").unwrap();
    }
    // Named as a segment: text, a directory, an empty file.
    std::fs::write(dir.join("segments/0000000000000001-00000000.seg"), "x".repeat(5000)).unwrap();
    std::fs::create_dir(dir.join("segments/0000000000000002-00000000.seg")).unwrap();
    std::fs::write(dir.join("segments/0000000000000003-00000000.seg"), "").unwrap();
    let q = Queue::open(&dir).unwrap();
    assert_eq!(q.len().unwrap(), u64::from(ITEMS));
    let (items, bad) = take_all(&dir);
    assert!(items.iter().copied().eq(0..ITEMS) && bad.is_empty(), "{items:?} {bad:?}");
    let foreign = q.stats().unwrap().foreign;
    assert!(
        foreign.contains(&dir.join(odd)) && foreign.contains(&dir.join("segments").join(odd)),
        "{foreign:?}"
    );
    assert!(foreign.contains(&dir.join("segments/0000000000000001-00000000.seg")), "{foreign:?}");
    assert!(dir.join("failed/x.item").is_file() && q.failed().unwrap().is_empty());
    assert!(q.check().unwrap().len() >= foreign.len());
}

#[test]
fn na_31_a_missing_segment_affects_no_other() {
    let scratch = Scratch::new();
    let dir = scratch.queue();
    filled(&dir);
    let first = segments(&dir).remove(0);
    filled_more(&dir);
    std::fs::remove_file(first).unwrap();
    let q = Queue::open(&dir).unwrap();
    assert!(q.stats().unwrap().unreadable[0].contains("is missing"));
    assert_eq!(take_all(&dir).0, [7]);
    assert!(q.is_empty().unwrap());
}

fn filled_more(dir: &Path) {
    Queue::open(dir).unwrap().put(&item(7)).unwrap();
}

#[test]
fn what_is_no_queue_is_named() {
    let scratch = Scratch::new();
    let file = scratch.0.join("file");
    std::fs::write(&file, "").unwrap();
    let error = Queue::open(&file).unwrap_err().to_string();
    assert!(
        error.contains(file.to_str().unwrap()) && error.contains(&std::process::id().to_string()),
        "{error}"
    );
    let dir = scratch.0.join("other");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("journal"), "Dear diary, today nothing happened. ".repeat(10)).unwrap();
    let error = Queue::open(&dir).unwrap_err();
    assert!(matches!(&error, Error::NotAQueue { path, .. } if path.ends_with("journal")), "{error}");
    assert_eq!(std::fs::metadata(dir.join("journal")).unwrap().len(), 360, "it is left alone");
}

/// The child that lives in a shell's cage.
#[test]
fn worker() {
    let Some((role, dir)) = role() else { return };
    if role == "nobody" {
        let error = Queue::open(&dir).unwrap_err();
        assert_eq!(error.io_kind(), Some(ErrorKind::PermissionDenied), "{error}");
        let (text, pid) = (error.to_string(), std::process::id().to_string());
        assert!(text.contains(dir.to_str().unwrap()) && text.contains(&pid), "{text}");
        return std::fs::write(std::env::var_os("FSQUEUE_DONE").unwrap(), "").unwrap();
    }
    let q = Queue::open(&dir).unwrap();
    match &*role {
        // Nothing can be written any more after a while.
        "full" => {
            let mut put = 0;
            let error = loop {
                match q.put(&(put, "x".repeat(1000))) {
                    Ok(()) => put += 1,
                    Err(e) => break e,
                }
                assert!(put < 100_000);
            };
            let kind = error.io_kind().unwrap();
            assert!(matches!(kind, ErrorKind::FileTooLarge | ErrorKind::StorageFull), "{error}");
            assert!(error.to_string().contains("segments"), "{error}");
            assert_eq!(q.len().unwrap(), u64::from(put));
            // Those who would empty the queue can.
            for n in 0..put {
                assert_eq!(q.try_get().unwrap().0, n);
            }
            // The file that was full goes, now that its items are done, and there is room again.
            let start = Instant::now();
            while let Err(e) = q.put(&(0, String::new())) {
                assert!(start.elapsed() < Duration::from_secs(20), "{e}");
                assert!(q.is_empty().unwrap());
            }
            assert_eq!(q.drain().unwrap().items.len(), 1);
        }
        "read-only" => {
            assert_eq!(q.len().unwrap(), u64::from(ITEMS));
            assert_eq!(q.peek(100).unwrap().len(), ITEMS as usize);
            assert!(!q.is_empty().unwrap());
            for error in [q.put(&item(0)).unwrap_err(), q.try_get().unwrap_err(), q.receive(1).unwrap_err()] {
                let text = error.to_string();
                assert!(text.contains(dir.to_str().unwrap()), "{text}");
                assert!(!error.is_empty(), "{text}");
            }
            assert!(q.check().unwrap().is_empty());
        }
        _ => unreachable!(),
    }
    std::fs::write(std::env::var_os("FSQUEUE_DONE").unwrap(), "").unwrap();
}

/// Runs the child under a shell that first does `cage`.
fn caged(role: &str, cage: &str, scratch: &Scratch, wrapper: &[&str]) -> bool {
    let itself = command("worker", role, &scratch.queue());
    let done = scratch.0.join("done");
    let _ = std::fs::remove_file(&done);
    let shell = ["sh", "-c", &format!("{cage} && exec \"$0\" \"$@\"")];
    let words = wrapper.iter().copied().chain(shell).collect::<Vec<_>>();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(itself.get_program()).args(itself.get_args());
    command.env("FSQUEUE_ROLE", role).env("FSQUEUE_DIR", scratch.queue()).env("FSQUEUE_DONE", &done);
    let Ok(output) = command.output() else { return false };
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() || !text.contains("panicked"), "{role}: {text}");
    done.exists()
}

#[test]
fn na_31_no_room_for_more_is_an_error_and_consumers_go_on() {
    let scratch = Scratch::new();
    // A limit on the size of files, whose signal is ignored, stands for a full disk.
    assert!(caged("full", "trap '' XFSZ && ulimit -f 4096", &scratch, &[]));
}

#[test]
fn na_31_a_full_disk_is_an_error_and_consumers_go_on() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.queue()).unwrap();
    let mount = format!("mount -t tmpfs -o size=8m none '{}'", scratch.queue().display());
    if !caged("full", &mount, &scratch, &["unshare", "-rm"]) {
        eprintln!("this system lets us mount nothing: see the test above");
    }
}

#[test]
fn na_31_no_permission_is_an_error_with_a_name() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    filled(&scratch.queue());
    let allow = |dir: &Path, mode| std::fs::set_permissions(dir, PermissionsExt::from_mode(mode)).unwrap();
    allow(&scratch.0, 0o777);
    allow(&scratch.queue(), 0);
    // The superuser may do all, but as nobody.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let root = rustix::process::geteuid().is_root();
    if !caged("nobody", "true", &scratch, if root { &nobody } else { &[] }) {
        assert!(root, "no error with a name");
        eprintln!("skipped: no setpriv here, or nobody may not run this program");
    }
    allow(&scratch.queue(), 0o755);
    assert_eq!(take_all(&scratch.queue()).0, [0, 1, 2, 3, 4]);
}

#[test]
fn na_31_a_read_only_root_can_be_looked_at() {
    let scratch = Scratch::new();
    filled(&scratch.queue());
    let dir = scratch.queue();
    let mount = format!("mount --bind '{0}' '{0}' && mount -o remount,bind,ro '{0}'", dir.display());
    if caged("read-only", &mount, &scratch, &["unshare", "-rm"]) {
        return;
    }
    // Without mounts: permissions, which say something to all but the superuser.
    assert!(!rustix::process::geteuid().is_root(), "root, but no mounts");
    assert!(caged("read-only", &format!("chmod -R a-w '{}'", dir.display()), &scratch, &[]));
}
