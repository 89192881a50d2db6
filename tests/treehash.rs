//! The example `treehash` as its user runs it: its lines are those of `sha256sum`, whatever happens to its workers.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use common::{Mark, Scratch, holds_within, wait_until, watchdog};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The program, built if it is not there.
fn program() -> PathBuf {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().expect("a path");
    let profile = test.parent().and_then(Path::parent).expect("the folder of the profile");
    let program = profile.join("examples/treehash");
    BUILT.call_once(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--example", "treehash", "--target-dir"]);
        cargo.arg(profile.parent().expect("the folder of the build")).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo").success());
    });
    program
}

fn treehash(mark: &Mark) -> Command {
    let mut command = Command::new(program());
    command.env(Mark::VARIABLE, mark.value()).stdin(Stdio::null());
    command
}

fn run(command: &mut Command, mark: &Mark) -> Output {
    let output = command.output().expect("treehash runs");
    mark.assert_gone();
    output
}

/// What `sha256sum` prints for the files, by the system's own program.
fn sha256sum(folder: &Path) -> Vec<u8> {
    let script = "find \"$1\" -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(folder).output().expect("sh");
    assert!(output.status.success());
    output.stdout
}

/// A folder with all sorts of files.
fn tree() -> Scratch {
    let tree = Scratch::new();
    let write = |name: &[u8], content: &[u8]| {
        let path = tree.path().join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    };
    write(b"empty", b"");
    write(b"a/b/c/deep", b"deep");
    write(b"a b/with blanks ", b"1");
    write(b"odd/line\nbreak", b"2");
    write(b"odd/back\\slash", b"3");
    write(b"odd/\xff\xfe", b"4");
    write(b"large", &vec![7; 3_000_001]);
    for n in 0..200u32 {
        write(format!("many/{n}").as_bytes(), &n.to_le_bytes());
    }
    std::os::unix::fs::symlink("large", tree.path().join("link")).expect("a link");
    tree
}

#[test]
fn its_lines_are_those_of_sha256sum_for_every_method_and_number_of_workers() {
    let _watchdog = watchdog();
    let (tree, mark) = (tree(), Mark::new());
    let expected = sha256sum(tree.path());
    assert!(expected.split(|byte| *byte == b'\n').count() > 200);
    for method in ["forkserver", "spawn", "fork"] {
        for workers in ["1", "3"] {
            let mut command = treehash(&mark);
            command.arg(tree.path()).args(["--start-method", method, "--workers", workers]);
            let output = run(&mut command, &mark);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{method}: {said}");
            assert!(output.stdout == expected, "{method} with {workers} workers");
            assert!(
                said.contains("207 files") && said.contains("MB/s") && said.contains("PoolWorker-"),
                "{said}"
            );
        }
    }
}

#[test]
fn unreadable_files_are_named_and_all_others_are_right() {
    let _watchdog = watchdog();
    let (tree, mark) = (tree(), Mark::new());
    let expected = sha256sum(tree.path());
    // Everybody may run this copy, and root could read everything.
    let copy = tree.path().join("../").join(format!("treehash-{}", std::process::id()));
    fs::copy(program(), &copy).expect("a copy");
    let secret = tree.file("secret");
    fs::write(&secret, "secret").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("permissions");
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let mut command = Command::new(&copy);
    command.env(Mark::VARIABLE, mark.value()).arg("--quiet").arg(tree.path()).arg("/nowhere/at/all");
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = run(&mut command, &mark);
    fs::remove_file(copy).expect("removed");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout == expected, "the others");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("secret: Permission denied") && said.contains("/nowhere/at/all"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

/// Files so large that hashing takes a while, and nearly no room on the disk.
fn large_tree(files: u32, bytes: u64) -> Scratch {
    let tree = Scratch::new();
    for n in 0..files {
        let mut file = File::create(tree.file(&format!("large{n}"))).expect("a file");
        file.write_all(&n.to_le_bytes()).expect("written");
        file.set_len(bytes).expect("a length");
    }
    tree
}

fn workers(mark: &Mark, main: u32) -> Vec<u32> {
    let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let family = mark.bearers().into_keys().filter(|pid| *pid != main);
    family.filter(|pid| name(*pid).contains("PoolW")).collect()
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("treehash starts")
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    // It may have ended in between.
    let _ = kill_process(pid, Signal::KILL);
}

/// NA-1: the loss of workers is told, and the result is complete and correct.
#[test]
fn killed_workers_change_nothing_but_what_is_said() {
    let _watchdog = watchdog();
    let (tree, mark) = (large_tree(8, 64 << 20), Mark::new());
    let child = start(treehash(&mark).arg(tree.path()).args(["--quiet", "--workers", "2"]));
    let main = child.id();
    let mut killed = BTreeSet::new();
    wait_until("four workers are killed", || {
        if let Some(worker) = workers(&mark, main).into_iter().find(|worker| !killed.contains(worker)) {
            kill(worker);
            killed.insert(worker);
        }
        assert!(common::is_running(main), "it has ended before four workers were killed: {killed:?}");
        killed.len() == 4
    });
    let output = child.wait_with_output().expect("its output");
    mark.assert_gone();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(output.stdout == sha256sum(tree.path()), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(said.contains("was killed by signal 9 (SIGKILL)"), "{said}");
}

/// As a terminal does it: the signal goes to the whole group.
#[test]
fn an_interrupt_ends_it_within_a_second_and_leaves_no_orphan() {
    let _watchdog = watchdog();
    for method in ["forkserver", "spawn", "fork"] {
        let (tree, mark) = (large_tree(4, 64 << 30), Mark::new());
        let mut command = treehash(&mark);
        let mut child = start(command.arg(tree.path()).args(["--start-method", method]).process_group(0));
        wait_until("its workers are there", || !workers(&mark, child.id()).is_empty());
        let group = Pid::from_raw(child.id() as i32).expect("a pid");
        let interrupted = Instant::now();
        kill_process_group(group, Signal::INT).expect("interrupted");
        let status = child.wait().expect("its status");
        assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{method}");
        let gone = holds_within(Duration::from_secs(1), || mark.bearers().is_empty());
        assert!(gone && interrupted.elapsed() < Duration::from_secs(2), "{method}: {:?}", mark.bearers());
    }
}
