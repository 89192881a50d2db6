//! What becomes of children when `main` returns, exits or panics (REL-04), and whose streams they write to (EXIT).

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use multiprocess as mp;
use multiprocess::StartMethod;
use multiprocess::core::connection::{Connection, pipe};

use crate::common::{Scratch, sleep_for_ever};
use crate::program::Program;
use crate::{Main, Test};

pub const PROGRAMS: &[(&str, Main)] =
    &[("leaves", leaves), ("daemons", daemons), ("prints", prints), ("streamless", streamless)];

pub const TESTS: &[(&str, Test)] = &[
    ("rel_04_children_are_joined_when_main_returns", || joined("returns", Some(0))),
    ("rel_04_children_are_joined_when_main_exits", || joined("exits", Some(3))),
    ("rel_04_children_are_joined_when_main_panics", || joined("panics", Some(101))),
    ("rel_04_children_that_nobody_has_a_handle_of_are_joined_too", || joined("forgets", Some(0))),
    ("rel_04_daemons_are_terminated_at_exit", || daemons_end("quiet")),
    ("rel_04_daemons_that_ignore_sigterm_are_killed_at_exit", || daemons_end("deaf")),
    ("exit_03_buffered_output_is_not_duplicated", not_twice),
    ("exit_04_closed_standard_streams", closed_streams),
];

/// A program that leaves in its own way is there until its child has written its file.
fn joined(way: &str, code: Option<i32>) {
    for method in StartMethod::ALL {
        let scratch = Scratch::new();
        let path = scratch.file("complete");
        let program = Program::start("leaves", &[way, method.name(), path.to_str().expect("a path")]);
        let (status, printed) = program.finish();
        assert_eq!(status.code(), code, "{way} with {method}");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "complete\n", "{way} with {method}");
        assert_eq!(printed, "main is over\n");
    }
}

/// The program `leaves WAY METHOD PATH`.
fn leaves(arguments: Vec<String>) {
    let [way, method, path] = &arguments[..] else {
        panic!("arguments are WAY METHOD PATH, not {arguments:?}")
    };
    let context = mp::get_context(&**method).expect("a method");
    let slow = |path: String| {
        let mut file = File::create(path).expect("a file");
        file.write_all(b"com").expect("written");
        std::thread::sleep(Duration::from_millis(300));
        file.write_all(b"plete\n").expect("written");
    };
    let child = context.process(slow, (path.clone(),)).daemon(false).start().expect("a child");
    println!("main is over");
    match &**way {
        "exits" => std::process::exit(3),
        "panics" => {
            std::panic::set_hook(Box::new(|_| {}));
            panic!("by the way")
        }
        "forgets" => std::mem::forget(child),
        _ => {}
    }
}

fn daemons_end(how: &str) {
    for method in StartMethod::ALL {
        let mut program = Program::start("daemons", &[how, method.name()]);
        assert_eq!(program.line(), "ready");
        let (status, rest) = program.finish();
        assert_eq!((status.code(), &*rest), (Some(0), ""), "{how} with {method}");
    }
}

/// The program `daemons HOW METHOD` leaves two of them to themselves.
fn daemons(arguments: Vec<String>) {
    let [how, method] = &arguments[..] else { panic!("arguments are HOW METHOD, not {arguments:?}") };
    let context = mp::get_context(&**method).expect("a method");
    let (here, there) = pipe().expect("a pipe");
    let deaf = |there: Connection| {
        // Only a shell can ignore a signal without unsafe code here; it stays in the daemon's stead.
        use std::os::unix::process::CommandExt;
        there.send(&()).expect("sent");
        let error = Command::new("sh").args(["-c", "trap '' TERM; while :; do sleep 1; done"]).exec();
        panic!("{error}");
    };
    let quiet = |there: Connection| {
        there.send(&()).expect("sent");
        sleep_for_ever();
    };
    let child = match &**how {
        "deaf" => context.process(deaf, (there,)).daemon(true).start(),
        _ => context.process(quiet, (there,)).daemon(true).start(),
    };
    let second = context.process(sleep_for_ever, ()).daemon(true).start().expect("a daemon");
    here.recv::<()>().expect("a word of the daemon");
    println!("ready");
    drop((child.expect("a daemon"), second));
}

/// EXIT-03.
fn not_twice() {
    for method in StartMethod::ALL {
        let (status, printed) = Program::start("prints", &[method.name()]).finish();
        assert!(status.success());
        assert_eq!(printed, "foobar", "with {method}");
    }
}

/// The program `prints METHOD`: text without the end of a line, before and after a child that flushes.
fn prints(arguments: Vec<String>) {
    let context = mp::get_context(&*arguments[0]).expect("a method");
    print!("foo");
    let flush = || std::io::stdout().flush().expect("flushed");
    context.process(flush, ()).start().expect("a child").join().expect("a good end");
    print!("bar");
    flush();
}

/// EXIT-04: with descriptor 1 or 2 closed, or both.
fn closed_streams() {
    for method in StartMethod::ALL {
        let ways = [("", ">&-"), ("", "2>&-"), ("", ">&- 2>&-"), ("", "<&- >&- 2>&-"), ("later", "")];
        for (how, redirection) in ways {
            let scratch = Scratch::new();
            let path = scratch.file("seen");
            let own = std::env::current_exe().expect("the path of this program");
            let script = format!("exec \"$0\" program streamless \"{how}\" {method} \"$1\" {redirection}");
            let mut command = Command::new("sh");
            command.arg("-c").arg(script).arg(own).arg(&path);
            let (status, _) = Program::from_command(&mut command).finish();
            assert!(status.success(), "{how} {redirection} with {method}: {status}");
            let seen = std::fs::read_to_string(&path).expect("a report");
            assert_eq!(seen, "set\n", "{how} {redirection} with {method}");
        }
    }
}

/// The program `streamless HOW METHOD PATH` (HOW `later`: without streams that were there when it started): its child writes into PATH what it has as its streams, if that is wrong.
fn streamless(arguments: Vec<String>) {
    let [how, method, path] = &arguments[..] else {
        panic!("arguments are HOW METHOD PATH, not {arguments:?}")
    };
    let context = mp::get_context(&**method).expect("a method");
    if how == "later" {
        for fd in [0, 1, 2] {
            // SAFETY: nobody in this program holds the standard streams as owned descriptors.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    // What this one leaves open must not become a stream of the next.
    context.process(|| (), ()).start().expect("a child").join().expect("a good end");
    let (here, there) = pipe().expect("a pipe");
    let look = |there: Connection, path: String| {
        println!("nobody may see this");
        eprint!("");
        let target = |fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).expect("an open stream");
        let unrelated = |fd| {
            let target = target(fd).to_string_lossy().into_owned();
            target != "/dev/null" && !target.starts_with("pipe:") && fd != 2
        };
        let wrong: Vec<_> = [0, 1, 2].into_iter().filter(|fd| unrelated(*fd)).map(target).collect();
        let word = if wrong.is_empty() { "set\n".to_owned() } else { format!("{wrong:?}\n") };
        std::fs::write(path, word).expect("written");
        there.send(&()).expect("sent");
    };
    let child = context.process(look, (there, path.clone())).start().expect("a child");
    here.recv::<()>().expect("a word of the child");
    child.join().expect("a good end");
    assert_eq!(child.exit_code(), Some(0));
}
