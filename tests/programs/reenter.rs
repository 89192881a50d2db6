//! MAIN: a program that is entered anew for its children, however it was launched, and FSRV-09.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use multiprocess as mp;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, OnError, ProcessError, StartError, StartMethod};

use crate::common::{Belongings, SOON, Scratch};
use crate::program::Program;
use crate::{Main, Test};

pub const PROGRAMS: &[(&str, Main)] = &[
    ("one line", |_| one_line()),
    ("squares", |_| squares()),
    ("once", |_| main_is_run_once()),
    ("places", |_| places()),
    ("nested", |_| nested()),
    ("lazy", |_| lazy()),
    ("arguments", arguments),
    ("environment", |_| environment()),
    ("constructors", |_| constructors()),
    ("other build", other_build),
    ("silent", silent),
    ("not ours", |_| not_ours()),
    ("panic", |_| panic()),
];

pub const TESTS: &[(&str, Test)] = &[
    ("main_01_a_function_of_the_main_program", || check("one line", "from the child\n")),
    ("main_02_launched_by_its_path", || launched(&mut Command::new(own_path()))),
    ("main_02_launched_by_a_relative_path", || {
        let own = own_path();
        let folder = own.parent().expect("a folder");
        launched(Command::new(Path::new(".").join(own.file_name().expect("a name"))).current_dir(folder));
    }),
    ("main_02_launched_through_a_symbolic_link", launched_by_link),
    ("main_02_launched_through_path", launched_through_path),
    ("main_02_launched_from_another_folder", || launched(Command::new(own_path()).current_dir("/"))),
    ("main_02_launched_under_another_name", || launched(Command::new(own_path()).arg0("other name"))),
    ("main_02_launched_without_a_name", || launched(Command::new(own_path()).arg0(""))),
    ("main_02_its_file_is_deleted", launched_and_deleted),
    ("main_03_main_is_not_run_by_children", || check("once", "main\n")),
    ("main_04_working_directory_and_search_paths", || check("places", "ok\n")),
    ("main_05_nested_through_a_symbolic_link", nested_by_link),
    ("main_07_inside_a_lazy_static", || check("lazy", "42\n")),
    ("fsrv_09_arguments_are_the_same_everywhere", same_arguments),
    ("main_the_marker_of_a_child_never_shows", || check("environment", "ok\n")),
    ("main_a_left_over_marker_is_ignored", left_over_marker),
    ("main_constructors_run_once", || check("constructors", "ok\n")),
    ("main_another_build_is_refused_at_once", || in_scratch("other build")),
    ("main_a_program_that_never_answers_is_a_timeout", || in_scratch("silent")),
    ("main_a_program_that_is_not_ours_is_an_error", || check("not ours", "ok\n")),
    ("main_the_panic_of_a_child_is_told", || check("panic", "ok\n")),
];

fn own_path() -> PathBuf {
    std::env::current_exe().expect("the path of this program")
}

/// Runs the program, which must print `expected` and end well.
fn check(name: &str, expected: &str) {
    let (status, output) = Program::start::<&str>(name, &[]).finish();
    assert!(status.success(), "{status}, after {output:?}");
    assert_eq!(output, expected);
}

fn in_scratch(name: &str) {
    let scratch = Scratch::new();
    let (status, output) = Program::start(name, &[scratch.path()]).finish();
    assert!(status.success(), "{status}, after {output:?}");
    assert_eq!(output, "ok\n");
}

fn run<R>(context: Context, function: impl mp::core::function::Callable<(), Output = R>) -> R
where
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    context.process(function, ()).start().expect("a start").join().expect("a result")
}

// MAIN-01

fn one_line() {
    let child = Context::spawn().process(|| println!("from the child"), ()).start().expect("a start");
    let _ = child.join();
    std::process::exit(child.exit_code().expect("it has ended"));
}

// MAIN-02, with processes; with a pool in `pool_reentry.rs`.

const SQUARES: &str = "forkserver -> [1, 4, 9]\nspawn -> [1, 4, 9]\nfork -> [1, 4, 9]\n";

fn squares() {
    for method in StartMethod::ALL {
        let start = |x: u64| Context::new(method).process(|x: u64| x * x, (x,)).start().expect("a start");
        let children = [1, 2, 3].map(start);
        println!("{method} -> {:?}", children.map(|child| child.join().expect("a square")));
    }
}

fn launched(command: &mut Command) {
    let (status, output) = Program::from_command(command.args(["program", "squares"])).finish();
    assert!(status.success(), "{status}, after {output:?}");
    assert_eq!(output, SQUARES);
}

/// A link to this program; its name has no suffix and a space.
fn link(scratch: &Scratch) -> PathBuf {
    let link = scratch.file("a link");
    std::os::unix::fs::symlink(own_path(), &link).expect("a link");
    link
}

fn launched_by_link() {
    let scratch = Scratch::new();
    launched(&mut Command::new(link(&scratch)));
}

fn launched_through_path() {
    let scratch = Scratch::new();
    link(&scratch);
    let mut path = OsString::from(scratch.path());
    path.push(":/bin:/usr/bin");
    launched(Command::new("sh").args(["-c", "exec 'a link' \"$@\"", "sh"]).env("PATH", path));
}

/// The running file, and no other that may stand at its path by now, is what children run.
fn launched_and_deleted() {
    let scratch = Scratch::new();
    let copy = scratch.file("copy");
    // Through a process of its own: no other thread's child holds the file open for writing when it is run.
    assert!(Command::new("cp").arg(own_path()).arg(&copy).status().expect("cp").success());
    let script = "exec 3<\"$0\"; rm \"$0\"; echo 'exit 9' > \"$0\"; exec /proc/self/fd/3 program squares";
    let command = &mut Command::new("sh");
    let (status, output) = Program::from_command(command.args(["-c", script]).arg(&copy)).finish();
    assert!(status.success(), "{status}, after {output:?}");
    assert_eq!(output, SQUARES);
}

// MAIN-03

fn main_is_run_once() {
    println!("main");
    assert!(mp::parent_process().is_none(), "main is run by a child");
    for context in StartMethod::ALL.map(Context::new) {
        // Only a function of the library.
        assert_eq!(run(context, || mp::parent_process().map(|p| p.pid())), Some(std::process::id()));
    }
}

// MAIN-04

fn places() {
    let scratch = Scratch::new();
    let tool = scratch.file("only-here");
    std::os::unix::fs::symlink("/bin/true", tool).expect("a link");
    // The server starts before anything changes.
    run(Context::forkserver(), || ());
    let path = std::env::var("PATH").expect("a path");
    // SAFETY: this process has no other thread.
    unsafe {
        std::env::set_var("PATH", format!("relative:{}:{path}", scratch.path().display()));
        std::env::set_var("LD_LIBRARY_PATH", scratch.path());
        std::env::remove_var("HOME");
    }
    std::env::set_current_dir(scratch.path()).expect("a folder");
    let view = || {
        let variables = ["PATH", "LD_LIBRARY_PATH", "HOME"].map(|name| std::env::var(name).ok());
        let ran = Command::new("only-here").status().is_ok_and(|status| status.success());
        (variables, std::env::current_dir().ok(), ran)
    };
    let own = view();
    assert!(own.2);
    for context in StartMethod::ALL.map(Context::new) {
        assert_eq!(run(context, view), own, "{context:?}");
    }
    println!("ok");
}

// MAIN-05

fn nested() {
    let child = || {
        let (reader, writer) = pipe().expect("a pipe");
        let code = std::process::id() as u64 * 7919;
        let put = |link: Connection, code: u64| link.send(&code).expect("sent");
        let get = |link: Connection, code: u64| {
            if link.recv_timeout::<u64>(SOON).ok() != Some(code) {
                mp::exit(1);
            }
        };
        let children = [
            Context::spawn().process(put, (writer, code)).start().expect("a start"),
            Context::spawn().process(get, (reader, code)).start().expect("a start"),
        ];
        children.iter().for_each(|child| child.join().expect("an end"));
    };
    let child = Context::spawn().process(child, ()).start().expect("a start");
    let _ = child.join();
    std::process::exit(child.exit_code().expect("it has ended"));
}

fn nested_by_link() {
    let scratch = Scratch::new();
    let (status, output) =
        Program::from_command(Command::new(link(&scratch)).args(["program", "nested"])).finish();
    assert!(status.success(), "{status}, after {output:?}");
}

// MAIN-07

fn lazy() {
    static ANSWER: LazyLock<u64> = LazyLock::new(|| {
        let through_a_child = |context: Context| {
            let (ours, theirs) = pipe().expect("a pipe");
            let put = |link: Connection| link.send(&14u64).expect("sent");
            context.process(put, (theirs,)).start().expect("a start").join().expect("an end");
            ours.recv_timeout::<u64>(Duration::from_secs(3)).expect("a number")
        };
        StartMethod::ALL.map(Context::new).map(through_a_child).iter().sum()
    });
    println!("{}", *ANSWER);
}

// FSRV-09

fn arguments(own: Vec<String>) {
    println!("{own:?}");
    let print = || println!("{:?}", std::env::args().skip(3).collect::<Vec<_>>());
    mp::set_forkserver_preload(print, OnError::Fail);
    StartMethod::ALL.map(Context::new).into_iter().for_each(|context| run(context, print));
}

fn same_arguments() {
    let arguments = ["foo", "bar", "", "with space", "--flag=ü"];
    let (status, output) = Program::start("arguments", &arguments).finish();
    assert!(status.success());
    // The program, the hook, and three children.
    assert_eq!(output, format!("{arguments:?}\n").repeat(5));
}

// The marker

const MARKER: &str = "MULTIPROCESS_CHILD";

fn environment() {
    fn seen() -> Vec<String> {
        let own = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        let tool = Command::new("env").output().expect("env").stdout;
        let of_tool = String::from_utf8_lossy(&tool).into_owned();
        own.chain(of_tool.lines().map(str::to_owned)).filter(|line| line.contains(MARKER)).collect()
    }
    assert_eq!(seen(), [""; 0]);
    for context in StartMethod::ALL.map(Context::new) {
        assert_eq!(run(context, seen), [""; 0], "{context:?}");
        for method in StartMethod::ALL {
            let child = |method: StartMethod| run(Context::new(method), seen);
            let grandchild =
                context.process(child, (method,)).start().expect("a start").join().expect("a list");
            assert_eq!(grandchild, [""; 0], "{context:?}, then {method}");
        }
    }
    println!("ok");
}

/// A program that is started with the marker of somebody else, but without what belongs to it, is no child.
fn left_over_marker() {
    for marker in ["", "1", "0:0000000000000000000000000000000000000000", "\u{fc}"] {
        for program in ["environment", "squares"] {
            let mut command = Command::new(own_path());
            let (status, output) =
                Program::from_command(command.args(["program", program]).env(MARKER, marker)).finish();
            assert!(status.success(), "{marker:?}: {status}, after {output:?}");
            assert_eq!(output, if program == "squares" { SQUARES } else { "ok\n" });
        }
    }
}

// Constructors of the program

static RUNS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_run() {
    RUNS.fetch_add(1, Relaxed);
}

#[used]
// SAFETY: the entry is a function of the type that entries of this section have; it needs no runtime.
#[unsafe(link_section = ".init_array")]
static COUNT_RUN: extern "C" fn() = count_run;

fn constructors() {
    let counts = || (RUNS.load(Relaxed), mp_test_constructor::runs());
    assert_eq!(counts(), (1, 1));
    for context in StartMethod::ALL.map(Context::new) {
        assert_eq!(run(context, counts), (1, 1), "{context:?}");
    }
    // Or this would not show that constructors behind that of the library are run in a child.
    assert!(run(Context::spawn(), mp_test_constructor::was_behind), "the linker has put it first");
    println!("ok");
}

// Other programs in the place of this one

/// Writes a copy of this program that says of itself that it is another build; `None` if it has no build id.
fn write_other_build(path: &Path) -> Option<()> {
    let mut bytes = std::fs::read("/proc/self/exe").expect("this program");
    // Length of the name, length of the id, kind, name.
    let head = [4u32, 20, 3].map(u32::to_ne_bytes).concat();
    let head = [&head[..], b"GNU\0"].concat();
    let place = bytes.windows(head.len()).position(|window| window == head)? + head.len();
    bytes[place] ^= 1;
    std::fs::write(path, bytes).expect("a copy");
    make_executable(path);
    Some(())
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("an executable file");
}

fn other_build(arguments: Vec<String>) {
    let path = Path::new(&arguments[0]).join("other");
    if write_other_build(&path).is_none() {
        eprintln!("skipped: the linker writes no build id");
        println!("ok");
        return;
    }
    let before = Belongings::now();
    for context in [Context::spawn(), Context::forkserver()] {
        mp::set_executable(path.clone());
        let begun = std::time::Instant::now();
        let error = context.process(|| 1, ()).start().expect_err("refused");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let text = error.to_string();
        let is_id = |word: &&str| word.len() == 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut builds: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_id).collect();
        builds.dedup();
        assert_eq!(builds.len(), 2, "{text}");
        assert!(matches!(error, StartError::Refused { .. } | StartError::System { .. }), "{error:?}");
        mp::reset_executable();
    }
    before.assert_same();
    assert_eq!([Context::spawn(), Context::forkserver()].map(|context| run(context, || 1)), [1, 1]);
    println!("ok");
}

fn silent(arguments: Vec<String>) {
    let path = Path::new(&arguments[0]).join("silent");
    std::fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").expect("a script");
    make_executable(&path);
    let before = Belongings::now();
    for context in [Context::spawn(), Context::forkserver()] {
        mp::set_executable(path.clone());
        let limit = Duration::from_millis(300);
        let begun = std::time::Instant::now();
        let error = context.process(|| 1, ()).start_timeout(limit).start().expect_err("no answer");
        assert!(begun.elapsed() >= limit && begun.elapsed() < SOON, "{:?}", begun.elapsed());
        assert!(matches!(error, StartError::Timeout { .. }), "{error:?}");
        mp::reset_executable();
    }
    before.assert_same();
    println!("ok");
}

fn not_ours() {
    let before = Belongings::now();
    for context in [Context::spawn(), Context::forkserver()] {
        for (path, part) in
            [("/bin/true", "code 0"), ("/nowhere/at/all", "/nowhere/at/all"), ("/etc/passwd", "/etc/passwd")]
        {
            mp::set_executable(path);
            let error = context.process(|| 1, ()).start().expect_err("not this program").to_string();
            assert!(error.contains(part) || context == Context::forkserver(), "{context:?}, {path}: {error}");
        }
        mp::reset_executable();
        assert_eq!(run(context, || 1), 1);
    }
    assert_eq!(Belongings::now().fds().len(), before.fds().len() + 3, "the fork server's three");
    println!("ok");
}

// Panics, also where they abort

fn panic() {
    for context in StartMethod::ALL.map(Context::new) {
        let child = context.process(|| -> () { panic!("no {}", "luck") }, ()).start().expect("a start");
        match child.join() {
            Err(ProcessError::Panicked { report, pid, .. }) => {
                assert_eq!((&*report.message, &*report.thread, pid), ("no luck", "main", child.pid()));
                assert!(report.location.contains(file!()), "{}", report.location);
            }
            other => panic!("{context:?}: {other:?}"),
        }
        let code = if cfg!(panic = "abort") { -6 } else { 1 };
        assert_eq!(child.exit_code(), Some(code), "{context:?}");
    }
    println!("ok");
}
