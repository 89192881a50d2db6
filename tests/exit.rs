//! EXIT: exit codes, what a process says when it ends badly, and its standard streams. See also `programs/`.

mod common;

use std::fs::File;
use std::path::Path;

use multiprocess as mp;
use multiprocess::core::handle::Handle;
use multiprocess::{Context, ProcessBuilder, ProcessError, Resource};
use rustix::process::{Signal, getpid, kill_process};

use common::{Scratch, alone, for_each_method};

/// Runs a process that ends without a result.
fn fails<F, A>(described: ProcessBuilder<F, A>) -> (i32, ProcessError)
where
    F: mp::core::function::Callable<A, Output = ()>,
    A: mp::core::function::Arguments,
{
    let child = described.start().expect("a child");
    let error = child.join_timeout(common::SOON).expect_err("no result");
    (child.exit_code().expect("it has ended"), error)
}

/// What `write` makes of a file that is the standard error stream of a process.
fn errors_of<F, A>(describe: impl FnOnce(File) -> ProcessBuilder<F, A>) -> (i32, ProcessError, String)
where
    F: mp::core::function::Callable<A, Output = ()>,
    A: mp::core::function::Arguments,
{
    let scratch = Scratch::new();
    let path = scratch.file("stderr");
    let (code, error) = fails(describe(File::create_new(&path).expect("a new file")));
    (code, error, text_of(&path))
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a text")
}

#[test]
fn exit_01_codes_and_truth_values() {
    for_each_method(|context| {
        let exit = |code: i32| mp::exit(code);
        // PRC-10: codes are cut to eight bits.
        for (code, expected) in [(8, 8), (1, 1), (0, 0), (255, 255), (300, 44), (-1, 255), (256, 0)] {
            let (code, error) = fails(context.process(exit, (code,)));
            assert_eq!(code, expected);
            assert!(matches!(error, ProcessError::Exited { code, .. } if code == expected), "{error}");
        }
        assert_eq!(fails(context.process(|| mp::exit(true), ())).0, 1);
        assert_eq!(fails(context.process(|| mp::exit(false), ())).0, 0);
        assert_eq!(fails(context.process(|| mp::exit(()), ())).0, 0);
        let child = context.process(|| (), ()).start().expect("a child");
        child.join().expect("nothing");
        assert_eq!(child.exit_code(), Some(0));
    });
}

#[test]
fn exit_01_the_exit_of_the_standard_library() {
    for_each_method(|context| {
        assert_eq!(fails(context.process(|| std::process::exit(8), ())).0, 8);
        assert_eq!(fails(context.process(|| std::process::exit(300), ())).0, 44);
    });
}

#[test]
fn exit_01_exit_from_deep_inside_and_from_another_thread() {
    for_each_method(|context| {
        fn dig(depth: u32) {
            if depth == 0 { mp::exit(7) } else { dig(depth - 1) }
        }
        assert_eq!(fails(context.process(dig, (50u32,))).0, 7);
        let in_a_thread = || {
            std::thread::scope(|scope| {
                scope.spawn(|| mp::exit(9));
            });
        };
        assert_eq!(fails(context.process(in_a_thread, ())).0, 9);
    });
}

#[test]
fn exit_02_exit_with_a_message() {
    for_each_method(|context| {
        let (code, error, text) =
            errors_of(|file| context.process(|| mp::exit("there is no more paper"), ()).stderr(file));
        assert_eq!((code, &*text), (1, "there is no more paper\n"));
        assert!(matches!(error, ProcessError::Exited { code: 1, .. }), "{error}");
        let list = || mp::exit(format!("{:?}", [1, 2, 3]));
        assert_eq!(errors_of(|file| context.process(list, ()).stderr(file)).2, "[1, 2, 3]\n");
    });
}

#[inline(never)]
fn where_it_went_wrong(why: &str) {
    panic!("it went wrong: {why}");
}

#[test]
fn exit_a_panic_comes_back_with_message_place_and_stack() {
    for_each_method(|context| {
        let line = line!() + 1;
        let described = context.process(|why: String| where_it_went_wrong(&why), ("no paper".to_owned(),));
        let (code, error, text) =
            errors_of(|file| described.name("printer").env("RUST_BACKTRACE", "1").stderr(file));
        assert_eq!(code, 1);
        let ProcessError::Panicked { name, report, pid } = &error else { panic!("{error}") };
        assert_eq!(
            (&**name, &*report.message, &*report.thread),
            ("printer", "it went wrong: no paper", "main")
        );
        assert!(report.location.contains(file!()), "{}", report.location);
        let at: u32 =
            report.location.split(':').nth(1).and_then(|line| line.parse().ok()).expect("a line number");
        assert!(at < line && at + 10 > line, "{}", report.location);
        for part in ["where_it_went_wrong", "exit.rs"] {
            assert!(report.backtrace.contains(part), "no {part} in {}", report.backtrace);
        }
        // One line, or all of it.
        let (short, long) = (format!("{error}"), format!("{error:#}"));
        assert!(
            short.contains("printer") && short.contains(&pid.to_string()) && short.contains("no paper"),
            "{short}"
        );
        assert!(!short.contains('\n') && long.contains("where_it_went_wrong"), "{long}");
        // And the child has said the same on its own, once, also if it is a copy of a process that would do so too.
        assert_eq!(text.matches("Process ").count(), 1, "{text}");
        for part in ["Process printer", "it went wrong: no paper", "exit.rs"] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    });
}

#[test]
fn exit_a_panic_is_known_to_all_who_ask() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        let silent = File::create_new(scratch.file("stderr")).expect("a file");
        let child = context.process(|| -> u32 { std::panic::panic_any(3u8) }, ()).stderr(silent).start();
        let child = child.expect("a child");
        let error = child.exception().expect("a panic");
        assert!(error.to_string().contains("not text"), "{error}");
        assert!(matches!(child.join().expect_err("a panic"), ProcessError::Panicked { .. }));
        assert!(matches!(child.clone().result().expect_err("a panic"), ProcessError::Panicked { .. }));
        assert_eq!(child.panic_report().expect("a report").thread, "main");
        assert_eq!(child.exit_code(), Some(1));
    });
}

#[test]
fn exit_no_stack_if_none_is_wanted() {
    for_each_method(|context| {
        let described = context.process(|| panic!("quietly"), ()).env("RUST_BACKTRACE", "0");
        let (_, error, _) = errors_of(|file| described.stderr(file));
        let ProcessError::Panicked { report, .. } = &error else { panic!("{error}") };
        assert_eq!((&*report.message, &*report.backtrace), ("quietly", ""));
    });
}

#[test]
fn exit_a_panic_that_is_caught_is_no_end() {
    for_each_method(|context| {
        let catches = || std::panic::catch_unwind(|| panic!("caught")).is_err();
        let scratch = Scratch::new();
        let silent = File::create_new(scratch.file("stderr")).expect("a file");
        let child = context.process(catches, ()).stderr(silent).start().expect("a child");
        assert!(child.join().expect("a truth"));
        assert_eq!(child.exit_code(), Some(0));
    });
}

#[test]
fn exit_results_may_be_errors_of_ones_own() {
    for_each_method(|context| {
        let parse = |text: String| text.parse::<u32>().map_err(|error| error.to_string());
        let child = context.process(parse, ("seven".to_owned(),)).start().expect("a child");
        child.join().expect("a result").expect_err("no number");
        assert_eq!(child.exit_code(), Some(0), "an error that is returned is a result like any other");
    });
}

#[test]
fn exit_05_death_by_signal_is_a_negative_code() {
    for_each_method(|context| {
        // Sent for as long as it takes: the runtime's own handler of SIGSEGV lets go only the second time.
        let die = |signal: i32| loop {
            let signal = Signal::from_named_raw(signal).expect("a signal");
            kill_process(getpid(), signal).expect("a signal sent");
        };
        for (signal, name) in
            [(11, "SIGSEGV"), (6, "SIGABRT"), (15, "SIGTERM"), (9, "SIGKILL"), (10, "SIGUSR1")]
        {
            let described = context.process(die, (signal,)).limit(Resource::CoreDump, Some(0), Some(0));
            let (code, error) = fails(described);
            assert_eq!(code, -signal);
            assert!(matches!(&error, ProcessError::Killed { signal: by, .. } if *by == signal), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        let described =
            context.process(|| std::process::abort(), ()).limit(Resource::CoreDump, Some(0), Some(0));
        assert_eq!(fails(described).0, -6);
    });
}

#[test]
fn exit_05_a_death_while_the_result_is_large() {
    // Whatever was sent by then, there is no half result.
    for_each_method(|context| {
        struct Deadly;
        impl serde::Serialize for Deadly {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let _ = serializer;
                kill_process(getpid(), Signal::KILL).expect("a signal sent");
                unreachable!("killed")
            }
        }
        impl<'de> serde::Deserialize<'de> for Deadly {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                unreachable!("nothing was sent")
            }
        }
        let child = context.process(|| (vec![7u8; 1 << 20], Deadly), ()).start().expect("a child");
        let error = child.join().err().expect("killed");
        assert!(matches!(error, ProcessError::Killed { signal: 9, .. }), "{error}");
    });
}

#[test]
fn exit_the_children_of_a_child_that_exits_are_waited_for() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        let path = scratch.file("done");
        let parent = |method: String, path: String| {
            let slow = |path: String| {
                std::thread::sleep(std::time::Duration::from_millis(100));
                std::fs::write(path, "done\n").expect("written");
            };
            mp::get_context(&*method)
                .expect("a method")
                .process(slow, (path,))
                .start()
                .expect("a grandchild");
            mp::exit(3);
        };
        let path_text = path.to_str().expect("a path").to_owned();
        let (code, _) = fails(context.process(parent, (context.get_start_method().to_owned(), path_text)));
        assert_eq!(code, 3);
        assert_eq!(text_of(&path), "done\n");
    });
}

#[test]
fn exit_standard_output_that_is_not_a_whole_line_is_kept() {
    for_each_method(|context| {
        for way in 0..3 {
            let scratch = Scratch::new();
            let path = scratch.file("stdout");
            let print = |way: u32| {
                direct("foo");
                match way {
                    0 => {}
                    1 => mp::exit(()),
                    _ => std::process::exit(0),
                }
            };
            let file = File::create_new(&path).expect("a file");
            let child = context.process(print, (way,)).stdout(file).start().expect("a child");
            let _ = child.join();
            assert_eq!(child.exit_code(), Some(0));
            assert_eq!(text_of(&path), "foo", "way {way}");
        }
    });
}

/// Prints past the capture of the test harness.
fn direct(text: &str) {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).expect("written");
}

#[test]
fn exit_04_broken_standard_streams() {
    // A pipe that nobody reads, and a device that is always full; closed ones are in programs/streams.rs.
    for_each_method(|context| {
        let write = || {
            use std::io::Write;
            let _ = std::io::stdout().write_all(b"out\n");
            let _ = std::io::stderr().write_all(b"error\n");
            let _ = std::io::stdout().flush();
            5
        };
        let full = || File::options().write(true).open("/dev/full").expect("a device");
        let deaf = || std::io::pipe().map(|(_, writer)| std::os::fd::OwnedFd::from(writer)).expect("a pipe");
        for described in [
            context.process(write, ()).stdout(full()).stderr(full()),
            context.process(write, ()).stdout(deaf()).stderr(deaf()),
        ] {
            let child = described.start().expect("a child");
            assert_eq!(child.join().expect("a number"), 5);
            assert_eq!(child.exit_code(), Some(0));
        }
        // Also where it has something to complain about.
        let described = context.process(|| panic!("unheard"), ()).stdout(full()).stderr(deaf());
        let (code, error) = fails(described);
        assert_eq!(code, 1);
        assert!(matches!(error, ProcessError::Panicked { .. }), "{error}");
        let (_, error) = fails(context.process(|| mp::exit("unheard"), ()).stderr(full()));
        assert!(matches!(error, ProcessError::Exited { code: 1, .. }), "{error}");
    });
}

#[test]
fn exit_what_a_process_prints_goes_where_it_was_told_to() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        std::fs::write(scratch.file("in"), "hello\n").expect("written");
        let shout = || {
            use std::io::Write;
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).expect("a line");
            direct(&line.to_uppercase());
            std::io::stderr().write_all(line.as_bytes()).expect("written");
        };
        let create = |name| File::create_new(scratch.file(name)).expect("a file");
        let described = context.process(shout, ());
        let described = described.stdin(File::open(scratch.file("in")).expect("a file"));
        described
            .stdout(create("out"))
            .stderr(create("err"))
            .start()
            .expect("a child")
            .join()
            .expect("a good end");
        assert_eq!(text_of(&scratch.file("out")), "HELLO\n");
        assert_eq!(text_of(&scratch.file("err")), "hello\n");
    });
}

#[test]
fn exit_a_child_reads_nothing_unless_told_to() {
    for_each_method(|context| {
        let child = context.process(|| std::io::read_to_string(std::io::stdin()).expect("a text"), ());
        assert_eq!(child.start().expect("a child").join().expect("a text"), "");
    });
}

#[test]
fn exit_an_open_file_as_argument_is_the_same_file() {
    for_each_method(|context| {
        use std::io::Write;
        let scratch = Scratch::new();
        let file = File::create_new(scratch.file("log")).expect("a file");
        let copy = file.try_clone().expect("a copy");
        let write = |mut log: Handle<File>| log.write_all(b"from the child\n").expect("written");
        context.process(write, (Handle(copy),)).start().expect("a child").join().expect("a good end");
        (&file).write_all(b"from the parent\n").expect("written");
        assert_eq!(
            text_of(&scratch.file("log")),
            "from the child\nfrom the parent\n",
            "they share the position"
        );
    });
}

#[test]
fn exit_codes_through_the_default_method() {
    alone(|| {
        let child = mp::process(|| -> () { mp::exit(8) }, ()).start().expect("a child");
        child.join().expect_err("no result");
        assert_eq!(child.exit_code(), Some(8));
        assert_eq!(Context::default(), Context::forkserver());
    });
}

/// The stack of a remote panic is that of its reader's code: neither how panics work nor how children are run is in it.
#[test]
fn the_stack_of_a_panic_is_that_of_the_function() {
    for_each_method(|context| {
        #[inline(never)]
        fn deep_inside(word: &str) {
            panic!("no {word}");
        }
        let process = context.process(|word: String| deep_inside(&word), ("luck".to_owned(),)).start();
        let process = process.expect("a start");
        assert!(process.join().is_err());
        let report = process.panic_report().expect("a panic");
        assert!(report.backtrace.contains("deep_inside"), "{report:#}");
        for foreign in ["rust_begin_unwind", "mp_context", "mp_core", "bootstrap"] {
            assert!(!report.backtrace.contains(foreign), "{foreign}: {report:#}");
        }
    });
}
