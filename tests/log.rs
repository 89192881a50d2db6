//! The library's logger (LOG-01 to LOG-04), and records of children in the logger of their parent (LOG-05).
//!
//! A process has room for one logger, so each test has a process of its own.

mod common;

use std::sync::Mutex;
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use multiprocess as mp;
use multiprocess::core::process::fork::other_threads;
use multiprocess::{Connection, Context, Process, Stdio, pipe};
use serde::{Deserialize, Serialize};

use common::{Belongings, Scratch, alone, for_each_method, for_methods, sleep_for_ever, wait_until};
use multiprocess::StartMethod::{ForkServer, Spawn};

/// The methods whose children have no copy of the parent's logger.
const FORWARDING: [mp::StartMethod; 2] = [Spawn, ForkServer];

/// A logger that keeps what it gets.
struct Sink;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    level: usize,
    target: String,
    file: String,
    line: u32,
    text: String,
}

static KEPT: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        if text.contains("panic, please") {
            panic!("a broken logger");
        }
        KEPT.lock().expect("not poisoned").push(Entry {
            level: record.level() as usize,
            target: record.target().to_owned(),
            file: record.file().unwrap_or_default().to_owned(),
            line: record.line().unwrap_or_default(),
            text,
        });
    }

    fn flush(&self) {}
}

fn install(level: LevelFilter) {
    log::set_logger(&Sink).expect("the first logger");
    log::set_max_level(level);
}

/// What came with `target`.
fn kept(target: &str) -> Vec<Entry> {
    let kept = KEPT.lock().expect("not poisoned");
    kept.iter().filter(|entry| entry.target == target).cloned().collect()
}

fn texts(target: &str) -> Vec<String> {
    kept(target).into_iter().map(|entry| entry.text).collect()
}

#[test]
fn log_01_the_logger_filters_by_its_level() {
    alone(|| {
        let logger = mp::get_logger();
        logger.error("there is no logger yet");
        install(LevelFilter::Trace);
        assert_eq!(logger.level(), LevelFilter::Trace, "unset, it lets through what is taken");
        logger.set_level(LevelFilter::Warn);
        logger.debug("too little");
        logger.info("too little");
        assert!(kept("multiprocess").is_empty());
        assert!(!logger.is_enabled(Level::Info));
        logger.warn("enough");
        logger.error(format_args!("{} enough", "more than"));
        assert_eq!(texts("multiprocess"), ["enough", "more than enough"]);
        // What the program's logger does not take is not enabled either.
        log::set_max_level(LevelFilter::Error);
        assert!(!logger.is_enabled(Level::Warn));
    });
}

#[test]
fn log_02_the_level_reaches_children_and_theirs() {
    for_each_method(|context| {
        mp::get_logger().set_level(LevelFilter::Debug);
        let level = || mp::get_logger().level() as usize;
        let family = move |context: String| {
            let context = mp::get_context(&*context).expect("a method");
            let grandchild = context.process(level, ()).start().expect("a grandchild");
            (level(), grandchild.join().expect("a level"))
        };
        let child = context.process(family, (context.start_method().name().to_owned(),));
        let levels = child.start().expect("a child").join().expect("levels");
        assert_eq!(levels, (LevelFilter::Debug as usize, LevelFilter::Debug as usize));
    });
}

#[test]
fn log_03_records_name_the_place_of_the_call() {
    alone(|| {
        install(LevelFilter::Trace);
        let logger = mp::get_logger();
        let first = line!() + 1;
        logger.log(Level::Trace, "t");
        logger.debug("d");
        logger.info("i");
        logger.warn("w");
        logger.error("e");
        let places: Vec<_> =
            kept("multiprocess").into_iter().map(|entry| (entry.file, entry.line, entry.text)).collect();
        let expected = ["t", "d", "i", "w", "e"].into_iter().zip(first..);
        let expected: Vec<_> =
            expected.map(|(text, line)| (file!().to_owned(), line, text.to_owned())).collect();
        assert_eq!(places, expected);
    });
}

/// A child and a grandchild, for [`log_04_life_cycles_on_stderr`].
fn talkative_family(method: String) {
    let again = mp::log_to_stderr(None);
    assert_eq!(again.level(), LevelFilter::Info);
    let context = mp::get_context(&*method).expect("a method");
    let child = |method: String| {
        mp::get_logger().debug("too little");
        let context = mp::get_context(&*method).expect("a method");
        context.process(|| (), ()).name("grandchild").start().expect("a grandchild").join().expect("its end");
    };
    let child = context.process(child, (method,)).name("child").start().expect("a child");
    mp::get_logger().warn("doomed");
    child.join().expect("its end");
}

#[test]
fn log_04_life_cycles_on_stderr() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        let path = scratch.file("stderr");
        let parent = |method: String| {
            mp::log_to_stderr(LevelFilter::Info);
            talkative_family(method);
        };
        let file = std::fs::File::create(&path).expect("a file");
        let method = context.start_method().name().to_owned();
        let parent = Context::spawn().process(parent, (method.clone(),)).name("parent").stderr(file);
        parent.start().expect("a parent").join().expect("its end");
        let text = std::fs::read_to_string(&path).expect("text");
        let count = |line: &str| text.lines().filter(|other| other.starts_with(line)).count();
        for line in [
            "[WARN/parent] doomed",
            "[INFO/parent] process child (pid ",
            "[INFO/child] calls its function",
            "[INFO/child] process grandchild (pid ",
            "[INFO/grandchild] exits with code 0",
            "[INFO/child] exits with code 0",
            "[INFO/parent] exits with code 0",
        ] {
            // Start and end of a child are two lines.
            let expected = if line.contains("(pid") { 2 } else { 1 };
            assert_eq!(count(line), expected, "{line} in\n{text}");
        }
        assert!(text.contains(&format!("started with method {method}\n")), "{text}");
        assert!(text.contains(") exited with code 0\n"), "{text}");
        assert!(!text.contains("too little"), "{text}");
    });
}

#[test]
fn log_04_a_broken_stderr_harms_nobody() {
    for_each_method(|context| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let parent = |method: String| {
            mp::log_to_stderr(LevelFilter::Info);
            talkative_family(method);
        };
        let stderr: std::os::fd::OwnedFd = writer.into();
        let parent = Context::spawn()
            .process(parent, (context.start_method().name().to_owned(),))
            .stderr(Stdio::from(stderr));
        parent.start().expect("a parent").join().expect("its end");
    });
}

#[test]
fn log_04_the_place_for_a_logger_stays_free() {
    alone(|| {
        mp::log_to_stderr(LevelFilter::Info);
        install(LevelFilter::Info);
        mp::get_logger().info("here");
        assert_eq!(texts("multiprocess"), ["here"]);
    });
}

/// Writes three records; returns the line of the first.
fn write_three() -> u32 {
    let first = line!() + 1;
    log::warn!(target: "mine", "a warning");
    log::info!(target: "mine", "an {}", "information");
    log::debug!(target: "mine", "nobody wants this");
    first
}

#[test]
fn log_05_records_of_children_arrive_as_they_were() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let child = context.process(write_three, ()).name("writer").start().expect("a child");
        let from = format!("[writer {}]", child.pid());
        let line = child.join().expect("a line");
        let entry = |level: Level, line, text: &str| Entry {
            level: level as usize,
            target: "mine".into(),
            file: file!().into(),
            line,
            text: format!("{from} {text}"),
        };
        let expected =
            [entry(Level::Warn, line, "a warning"), entry(Level::Info, line + 1, "an information")];
        assert_eq!(kept("mine"), expected, "by the time of the join");
        let own = texts("multiprocess");
        assert!(own.contains(&format!("{from} calls its function")), "{own:?}");

        let silent = context.process(write_three, ()).forward_logs(false).start().expect("a child");
        silent.join().expect("a line");
        assert_eq!(kept("mine").len(), 2);
    });
}

#[test]
fn log_05_many_records_of_several_children_keep_their_order() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let write = || (0..2000).for_each(|n| log::info!(target: "mine", "{n}"));
        let children: Vec<Process<()>> =
            (0..2).map(|_| context.process(write, ()).start().expect("a child")).collect();
        for child in &children {
            child.join().expect("its end");
            let from = format!("[{} {}] ", child.name(), child.pid());
            let numbers = || -> Vec<u32> {
                let texts = texts("mine");
                let texts = texts.iter().filter_map(|text| text.strip_prefix(&from));
                texts.map(|text| text.parse().expect("a number")).collect()
            };
            // On a busy machine, giving so many to the logger may take longer than a join waits.
            wait_until("the last record", || numbers().last() == Some(&1999));
            assert!(numbers().into_iter().eq(0..2000), "{:?}", numbers());
        }
    });
}

#[test]
fn log_05_long_messages_are_cut() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let write = || log::info!(target: "mine", "{}", "ö".repeat(100_000));
        let child = context.process(write, ()).name("c").start().expect("a child");
        child.join().expect("its end");
        let texts = texts("mine");
        let message = texts[0].strip_prefix(&format!("[c {}] ", child.pid())).expect("where it comes from");
        assert_eq!(message, "ö".repeat(32 << 10));
    });
}

#[test]
fn log_05_records_of_grandchildren_arrive_too() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let child = |method: String| {
            let context = mp::get_context(&*method).expect("a method");
            let grandchild = context.process(write_three, ()).name("young").start().expect("a grandchild");
            grandchild.join().expect("its end");
            // The child passes on the line itself, so nothing keeps it from forking.
            let forked = Context::fork().process(write_three, ()).name("forked").start().expect("a fork");
            forked.join().expect("its end");
            (grandchild.pid(), forked.pid())
        };
        let child = context.process(child, (context.start_method().name().to_owned(),));
        let (young, forked) = child.start().expect("a child").join().expect("pids");
        let expected = [("young", young), ("forked", forked)].map(|(name, pid)| {
            [format!("[{name} {pid}] a warning"), format!("[{name} {pid}] an information")]
        });
        assert_eq!(texts("mine"), expected.concat());
    });
}

#[test]
fn log_05_what_a_killed_child_wrote_arrives() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let child = |ready: Connection| {
            log::info!(target: "mine", "last words");
            ready.send(&()).expect("sent");
            sleep_for_ever();
        };
        let (ours, theirs) = pipe().expect("a pipe");
        let child = context.process(child, (theirs,)).name("c").start().expect("a child");
        ours.recv::<()>().expect("ready");
        child.kill().expect("killed");
        child.join().expect_err("no result");
        assert_eq!(texts("mine"), [format!("[c {}] last words", child.pid())]);
    });
}

#[test]
fn log_05_a_logger_that_panics_gets_the_next_record() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let child = || {
            log::info!(target: "mine", "panic, please");
            log::info!(target: "mine", "thank you");
        };
        let child = context.process(child, ()).name("c").start().expect("a child");
        child.join().expect("its end");
        // Printing the stack of a panic may take longer than a join waits.
        wait_until("the record", || texts("mine") == [format!("[c {}] thank you", child.pid())]);
    });
}

#[test]
fn log_05_a_stuck_logger_does_not_hold_a_child_up() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let child = |parent: Connection| {
            (0..5000).for_each(|n| log::info!(target: "mine", "{n}"));
            parent.send(&()).expect("sent");
            let mut more = 5000;
            while !parent.poll(Duration::from_millis(5)).expect("a pipe") {
                log::info!(target: "mine", "{more}");
                more += 1;
            }
            more
        };
        let (ours, theirs) = pipe().expect("a pipe");
        let child = context.process(child, (theirs,)).name("c").start().expect("a child");
        let from = format!("[c {}] ", child.pid());
        let stuck = KEPT.lock().expect("not poisoned");
        // It gets through all of its records although none is taken.
        ours.recv::<()>().expect("a word");
        drop(stuck);
        let counts = || {
            let texts = texts("multiprocess");
            let counts = texts
                .iter()
                .filter_map(|text| text.strip_prefix(&from)?.strip_suffix(" records were dropped"));
            counts.map(|count| count.parse::<usize>().expect("a count")).collect::<Vec<_>>()
        };
        wait_until("the count of dropped records", || !counts().is_empty());
        ours.send(&()).expect("sent");
        let written: usize = child.join().expect("a count");
        let arrived: Vec<usize> =
            texts("mine").iter().filter_map(|text| text.strip_prefix(&from)?.parse().ok()).collect();
        assert!(arrived.is_sorted(), "{arrived:?}");
        assert_eq!(arrived.len() + counts().iter().sum::<usize>(), written);
    });
}

#[test]
fn log_05_a_stuck_logger_does_not_hold_a_join_up() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        // So that the join itself writes nothing.
        mp::get_logger().set_level(LevelFilter::Error);
        let write = || log::info!(target: "mine", "late");
        let child = context.process(write, ()).name("c").start().expect("a child");
        let stuck = KEPT.lock().expect("not poisoned");
        child.join().expect("its end");
        drop(stuck);
        wait_until("the record", || texts("mine") == [format!("[c {}] late", child.pid())]);
    });
}

#[test]
fn log_05_a_child_with_a_logger_of_its_own_keeps_it() {
    alone(|| {
        install(LevelFilter::Info);
        mp::set_forkserver_preload(|| install(LevelFilter::Trace), mp::OnError::Fail);
        let child = || {
            write_three();
            texts("mine")
        };
        let child = Context::forkserver().process(child, ()).start().expect("a child");
        assert_eq!(child.join().expect("texts"), ["a warning", "an information", "nobody wants this"]);
        assert!(kept("mine").is_empty());

        // One that installs its own later has room for it if it is told not to forward.
        let child = || {
            install(LevelFilter::Trace);
            write_three();
            texts("mine").len()
        };
        let child = Context::spawn().process(child, ()).forward_logs(false).start().expect("a child");
        assert_eq!(child.join().expect("a count"), 3);
        assert!(kept("mine").is_empty());
    });
}

#[test]
fn log_05_a_forked_child_logs_with_its_copy() {
    alone(|| {
        install(LevelFilter::Info);
        let child = || {
            write_three();
            texts("mine")
        };
        let child = Context::fork().process(child, ()).start().expect("a child");
        assert_eq!(child.join().expect("texts"), ["a warning", "an information"]);
        assert!(kept("mine").is_empty());
    });
}

#[test]
fn log_05_records_of_a_pool_arrive() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let pool = mp::Pool::builder().processes(2).context(context).build().expect("a pool");
        pool.map(|n: u32| log::info!(target: "mine", "task {n}"), 0..20).expect("done");
        pool.close().expect("closed");
        pool.join().expect("joined");
        let texts = texts("mine");
        for n in 0..20 {
            assert!(texts.iter().any(|text| text.ends_with(&format!("] task {n}"))), "{n}: {texts:?}");
        }
    });
}

#[test]
fn log_05_a_pool_may_keep_its_records_to_itself() {
    for_methods(&FORWARDING, |context| {
        install(LevelFilter::Info);
        let pool = mp::Pool::builder().processes(2).context(context).forward_logs(false);
        let pool = pool.build().expect("a pool");
        let task = |end: bool| {
            log::info!(target: "mine", "a task");
            if end {
                std::process::abort();
            }
        };
        // A worker of the first set, and one that took the place of another.
        pool.apply(task, (false,)).expect("done");
        pool.apply(task, (true,)).expect_err("lost");
        (0..4).for_each(|_| pool.apply(task, (false,)).expect("done"));
        pool.close().expect("closed");
        pool.join().expect("joined");
        assert_eq!(texts("mine"), [""; 0]);
    });
}

/// Without a logger nothing is created, and with one nothing for longer than there are children.
#[test]
fn log_05_nothing_is_there_that_is_not_needed() {
    for_methods(&FORWARDING, |context| {
        let held = || {
            let (ours, theirs) = pipe().expect("a pipe");
            let wait = |end: Connection| drop(end.recv::<()>());
            let child = context.process(wait, (theirs,)).start().expect("a child");
            let threads = || other_threads().expect("/proc");
            // A thread names itself when it begins.
            if log::max_level() > LevelFilter::Off {
                wait_until("the thread", || threads().iter().any(|thread| thread.contains("mp-log")));
            }
            let threads = threads();
            let fds = Belongings::now().fds().len();
            drop(ours);
            child.join().expect("its end");
            (threads, fds)
        };
        let (threads, without) = held();
        assert!(threads.is_empty(), "{threads:?}");

        install(LevelFilter::Info);
        let (threads, with) = held();
        assert!(matches!(&threads[..], [thread] if thread.starts_with("\"mp-log\"")), "{threads:?}");
        assert_eq!(with, without + 2, "the two ends of the line");

        // By the time that its child is joined, the thread is gone, so this process can be forked again.
        for _ in 0..20 {
            context.process(|| (), ()).start().expect("a child").join().expect("its end");
            Context::fork().process(|| (), ()).start().expect("a fork").join().expect("its end");
        }
        let child = context.process(sleep_for_ever, ()).daemon(true).start().expect("a child");
        let named = || other_threads().is_ok_and(|threads| threads[0].contains("mp-log"));
        wait_until("the thread", named);
        let error = Context::fork().process(|| (), ()).start().expect_err("refused");
        assert!(
            format!("{error:#}").contains("mp-log") || format!("{error:?}").contains("mp-log"),
            "{error}"
        );
        child.kill().expect("killed");
        child.join().expect_err("no result");
    });
}

/// What a parent logs of a child that ends otherwise names the end.
#[test]
fn log_04_ends_are_told() {
    for_each_method(|context| {
        install(LevelFilter::Info);
        let child = context.process(|| -> () { mp::exit(7) }, ()).name("c").start().expect("a child");
        child.join().expect_err("no result");
        let pid = child.pid();
        assert!(texts("multiprocess").contains(&format!("process c (pid {pid}) exited with code 7")));
        let child = context.process(sleep_for_ever, ()).name("c").start().expect("a child");
        child.kill().expect("killed");
        child.join().expect_err("no result");
        let pid = child.pid();
        assert!(texts("multiprocess").contains(&format!("process c (pid {pid}) was killed by SIGKILL")));
    });
}
