//! PROC: the life of a process, from its description to its closed handle.

mod common;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::core::wait::wait_ready;
use multiprocess::{Context, Process, ProcessError, StartMethod};
use serde::{Deserialize, Serialize};

use common::{Mark, Scratch, alone, for_each_method, for_methods, holds_within, sleep_for_ever, wait_until};

/// "At once", with room for a busy machine where nothing but a hang could take longer.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A child that has said so and then sleeps.
fn sleeper(context: Context) -> Process<()> {
    let (here, there) = pipe().expect("a pipe");
    let tell_and_sleep = |there: Connection| {
        there.send(&()).expect("sent");
        sleep_for_ever();
    };
    let child = context.process(tell_and_sleep, (there,)).daemon(true).start().expect("a child");
    here.recv::<()>().expect("a word of the child");
    child
}

/// A child that lives until something is sent. (Closing is not enough: a forked child has a copy of our end.)
fn waiter(context: Context) -> (Process<()>, Connection) {
    let (here, there) = pipe().expect("a pipe");
    (context.process(wait_for_leave, (there,)).start().expect("a child"), here)
}

fn wait_for_leave(there: Connection) {
    there.recv::<()>().expect("leave to go");
}

fn is_listed(pid: u32) -> bool {
    mp::active_children().iter().any(|child| child.pid() == pid)
}

#[test]
fn proc_01_handle_of_the_current_process() {
    let me = mp::current_process();
    assert!(me.is_alive());
    assert!(!me.daemon());
    assert_eq!(me.exit_code(), None);
    assert_eq!(me.pid(), std::process::id());
    assert_eq!(me.name(), "MainProcess");
    assert!(!me.authkey().as_bytes().is_empty());
    assert_eq!(me.start_method(), None);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    numbers: (i32, i32),
    map: BTreeMap<String, f64>,
    name: String,
    authkey: Vec<u8>,
    pid: u32,
    daemon: bool,
}

fn report(to: Connection, a: i32, b: i32, map: BTreeMap<String, f64>) {
    let me = mp::current_process();
    let (name, daemon) = (me.name(), me.daemon());
    let report =
        Report { numbers: (a, b), map, name, daemon, authkey: me.authkey().as_bytes().to_vec(), pid: me.pid() };
    to.send(&report).expect("sent");
    to.recv::<()>().expect("leave to go");
}

#[test]
fn proc_02_whole_life_of_a_named_child() {
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let map = BTreeMap::from([("hello".to_owned(), 23.0), ("bye".to_owned(), 2.54)]);
        let described = context.process(report, (there, 1, 2, map.clone())).name("SomeProcess").daemon(true);
        assert!(format!("{described:?}").contains("initial"), "{described:?}");
        assert!(mp::active_children().is_empty(), "nothing is started yet");

        let child = described.start().expect("a child");
        assert!(child.is_alive());
        assert!(is_listed(child.pid()));
        assert_eq!(child.exit_code(), None);
        assert_eq!(child.name(), "SomeProcess");
        assert!(child.daemon());
        let authkey = mp::current_process().authkey().as_bytes().to_vec();
        let name = "SomeProcess".to_owned();
        let expected = Report { numbers: (1, 2), map, name, authkey, pid: child.pid(), daemon: true };
        assert_eq!(here.recv::<Report>().expect("a report"), expected);

        here.send(&()).expect("sent");
        child.join().expect("a good end");
        assert_eq!(child.exit_code(), Some(0));
        assert!(!child.is_alive());
        assert!(child.done());
        assert!(!is_listed(child.pid()));
    });
}

#[test]
fn proc_02_default_names_tell_method_and_family() {
    for_each_method(|context| {
        let name = || context.process(|| mp::current_process().name(), ()).start().expect("a child").join();
        let (first, second) = (name().expect("a name"), name().expect("a name"));
        let kind = match context.start_method() {
            StartMethod::Spawn => "SpawnProcess-",
            StartMethod::ForkServer => "ForkServerProcess-",
            StartMethod::Fork => "ForkProcess-",
        };
        assert!(first.starts_with(kind), "{first}");
        assert_ne!(first, second);
    });
}

#[test]
fn proc_04_what_is_not_started_is_no_process() {
    // Asking it for a pid, a sentinel or a result does not compile, see compile_fail/unstarted.rs.
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        drop(context.process(|to: Connection| to.send(&1).expect("sent"), (there,)));
        assert!(mp::active_children().is_empty());
        here.recv::<i32>().expect_err("nobody runs");
    });
}

#[test]
fn proc_05_join_with_no_time_at_all() {
    for_each_method(|context| {
        let child = sleeper(context);
        let asked = Instant::now();
        for _ in 0..2 {
            let error = child.join_timeout(Duration::ZERO).expect_err("it sleeps");
            assert!(matches!(error, ProcessError::Timeout { .. }), "{error}");
        }
        assert!(asked.elapsed() < AT_ONCE);
        assert!(child.is_alive());
        child.kill().expect("a signal sent");
        child.join().expect_err("killed");
    });
}

#[test]
fn proc_05_join_with_a_time_limit() {
    for_each_method(|context| {
        let child = sleeper(context);
        let (asked, limit) = (Instant::now(), Duration::from_millis(50));
        let error = child.join_timeout(limit).expect_err("it sleeps");
        assert!(matches!(&error, ProcessError::Timeout { pid, .. } if *pid == child.pid()), "{error}");
        assert!(asked.elapsed() >= limit);
        child.kill().expect("a signal sent");
        child.join().expect_err("killed");
    });
}

/// Ends a sleeping child by `end`, which sends it `signal`.
fn ends_by(context: Context, end: fn(&Process<()>) -> Result<(), ProcessError>, signal: i32, signal_name: &str) {
    let child = sleeper(context);
    end(&child).expect("a signal sent");
    let error = child.join_timeout(Duration::from_secs(10)).expect_err("killed");
    assert!(matches!(&error, ProcessError::Killed { signal: by, .. } if *by == signal), "{error}");
    let text = error.to_string();
    for part in [signal_name, child.name(), &child.pid().to_string()] {
        assert!(text.contains(part), "{text} does not say {part}");
    }
    assert_eq!(child.exit_code(), Some(-signal));
    assert!(!child.is_alive());
    assert!(!is_listed(child.pid()));
    child.join().expect_err("still killed");
    assert_eq!(child.exit_code(), Some(-signal));
    end(&child).expect("a signal to a process that has ended is no error");
}

#[test]
fn proc_06_terminate() {
    for_each_method(|context| ends_by(context, Process::terminate, 15, "SIGTERM"));
}

#[test]
fn proc_07_kill() {
    for_each_method(|context| ends_by(context, Process::kill, 9, "SIGKILL"));
}

#[test]
fn proc_08_interrupt_ends_a_child_that_does_not_handle_it() {
    for_each_method(|context| ends_by(context, Process::interrupt, 2, "SIGINT"));
}

#[test]
fn proc_09_active_children_are_live_started_children() {
    for_each_method(|context| {
        assert!(mp::active_children().is_empty());
        let (gate, there) = pipe().expect("a pipe");
        let described = context.process(wait_for_leave, (there,));
        assert!(mp::active_children().is_empty());
        let child = described.start().expect("a child");
        let mut listed = mp::active_children();
        assert_eq!(listed.iter().map(Process::pid).collect::<Vec<_>>(), [child.pid()]);
        listed.clear();
        assert!(is_listed(child.pid()), "the list is a fresh one each time");
        gate.send(&()).expect("sent");
        child.join().expect("a good end");
        assert!(mp::active_children().is_empty());
    });
}

#[test]
fn proc_09_children_nobody_kept_a_handle_of_leave_no_zombie() {
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        for _ in 0..5 {
            let there = Connection::from_fd(there.as_fd().try_clone_to_owned().expect("a copy")).expect("a socket");
            drop(context.process(|_there: Connection| (), (there,)).start().expect("a child"));
        }
        drop(there);
        here.recv::<()>().expect_err("they all end");
        wait_until("no child is left", || mp::active_children().is_empty());
        let children = format!("{:?}", common::Belongings::now());
        assert!(!children.contains("Some('Z')"), "{children}");
    });
}

#[test]
fn proc_10_sentinel() {
    for_each_method(|context| {
        let (child, gate) = waiter(context);
        let ready = |limit| wait_ready(&[child.sentinel()], Some(limit)).expect("a wait");
        assert!(ready(Duration::ZERO).is_empty());
        gate.send(&()).expect("sent");
        assert_eq!(ready(common::SOON), [0]);
        assert_eq!(ready(Duration::ZERO), [0]);
        child.join().expect("a good end");
        assert_eq!(ready(Duration::ZERO), [0], "it stays ready");
        assert_eq!(wait_ready(&[&child], Some(Duration::ZERO)).expect("a wait"), [0], "the handle itself will do");
    });
}

#[test]
fn proc_10_sentinel_is_ready_though_a_grandchild_lives_on() {
    // PRC-12: nothing that the grandchild holds delays it.
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let parent = |to: Connection| {
            let command = std::process::Command::new("sleep").arg("100").spawn().expect("a foreign grandchild");
            to.send(&command.id()).expect("sent");
        };
        let child = context.process(parent, (there,)).start().expect("a child");
        let grandchild: u32 = here.recv().expect("its pid");
        child.join_timeout(common::SOON).expect("a good end");
        assert!(common::is_running(grandchild));
        let pid = rustix::process::Pid::from_raw(grandchild as i32).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a signal sent");
    });
}

#[test]
fn proc_11_close() {
    for_each_method(|context| {
        let (child, gate) = waiter(context);
        let error = child.close().expect_err("it runs");
        assert!(error.to_string().contains("still running"), "{error}");
        gate.send(&()).expect("sent");
        child.join_timeout(common::SOON).expect("a good end");
        assert_eq!(child.exit_code(), Some(0));
        child.close().expect("closed");
        child.close().expect("closing twice is fine");
        for error in [child.join().expect_err("closed"), child.kill().expect_err("closed")] {
            assert!(matches!(error, ProcessError::Closed { .. }), "{error}");
        }
        assert!(!child.is_alive());
    });
}

#[test]
fn proc_12_join_leaves_the_handle_readable() {
    for_each_method(|context| {
        let child = context.process(|| 7, ()).start().expect("a child");
        let pid = child.pid();
        assert_eq!(child.join().expect("a number"), 7);
        assert_eq!((child.exit_code(), child.pid(), child.is_alive()), (Some(0), pid, false));
        assert_eq!(child.join().expect("the same number"), 7);
        assert_eq!(child.clone().result().expect("the same number"), 7);
    });
}

#[test]
fn proc_13_a_hundred_short_children() {
    for_each_method(|context| {
        let nap = |n: u32| {
            std::thread::sleep(Duration::from_millis(10));
            n
        };
        let start = |n| context.process(nap, (n,)).begin_start().expect("a start");
        let starting: Vec<_> = (0..100).map(start).collect();
        let children: Vec<_> = starting.into_iter().map(|child| child.finish().expect("a child")).collect();
        for (n, child) in children.iter().enumerate() {
            assert_eq!(child.join().expect("its number"), n as u32);
            assert_eq!(child.exit_code(), Some(0));
        }
    });
}

#[test]
fn proc_14_a_child_ends_with_its_function_and_scoped_threads_end_before_that() {
    // Rust's threads are detached when `main` returns, and so they are here; scoped ones are waited for.
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let threads = |to: Connection| {
            std::thread::spawn(sleep_for_ever);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(100));
                    to.send(&"set").expect("sent");
                });
            });
        };
        let child = context.process(threads, (there,)).start().expect("a child");
        child.join_timeout(common::SOON).expect("a good end");
        assert_eq!(here.recv::<String>().expect("a word"), "set");
    });
}

#[test]
fn proc_15_the_main_thread_of_a_child_is_a_thread_of_its_own() {
    fn ids() -> (i32, i32) {
        let (thread, process) = (rustix::thread::gettid(), rustix::process::getpid());
        (thread.as_raw_nonzero().get(), process.as_raw_nonzero().get())
    }
    for_each_method(|context| {
        let child = context.process(ids, ()).start().expect("a child");
        let (thread, process) = child.join().expect("ids");
        assert_eq!((thread, process as u32), (process, child.pid()), "the function runs in the main thread");
        assert_ne!(thread, ids().0);
    });
}

#[derive(Serialize, Deserialize)]
struct Shouter {
    socket: Connection,
}

impl Shouter {
    fn run(self) -> usize {
        let words = std::iter::from_fn(|| self.socket.recv::<Option<String>>().expect("a word or the end"));
        words.map(|word| self.socket.send(&word.to_uppercase()).expect("sent")).count()
    }
}

#[test]
fn proc_16_an_object_that_runs() {
    for_each_method(|context| {
        let (here, socket) = pipe().expect("a pipe");
        let child = context.process(Shouter::run, (Shouter { socket },)).start().expect("a child");
        for (word, shout) in [("hello", "HELLO"), ("world", "WORLD")] {
            here.send(&Some(word)).expect("sent");
            assert_eq!(here.recv::<String>().expect("an answer"), shout);
        }
        here.send(&None::<String>).expect("sent");
        assert_eq!(child.join().expect("a count"), 2);
        assert_eq!(child.exit_code(), Some(0));
    });
}

#[test]
fn proc_17_an_executable_of_ones_own() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let programs: [fn() -> PathBuf; 3] = [
            || std::env::current_exe().expect("a path"),
            || PathBuf::from("/proc/self/exe"),
            // A path that is not valid UTF-8.
            || PathBuf::from(std::ffi::OsString::from_vec(b"\xff\xfe".to_vec())),
        ];
        for which in 0..programs.len() {
            let mut program = programs[which]();
            let scratch = Scratch::new();
            if which == 2 {
                program = scratch.path().join(program);
                std::os::unix::fs::symlink(std::env::current_exe().expect("a path"), &program).expect("a link");
            }
            let _watchdog = common::watchdog();
            let run = |bytes: Vec<u8>, method: StartMethod| {
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes));
                mp::set_executable(path);
                let child = Context::new(method).process(|| 5, ()).start().expect("a child");
                assert_eq!(child.join().expect("a number"), 5);
                let nested = || Context::spawn().process(|| 6, ()).start().expect("a grandchild").join().expect("6");
                let child = Context::new(method).process(nested, ()).start().expect("a child");
                assert_eq!(child.join().expect("the program is that of grandchildren too"), 6);
                mp::set_executable::<PathBuf>(None);
                Context::new(method).process(|| (), ()).start().expect("a child").join().expect("a good end");
            };
            let bytes = program.into_os_string().into_vec();
            let child = Context::spawn().process(run, (bytes, method)).start().expect("a child");
            child.join().unwrap_or_else(|error| panic!("{method}, program {which}: {error:#}"));
        }
    }
}

static SIBLING: Mutex<Option<Process<()>>> = Mutex::new(None);

#[test]
fn proc_18_a_handle_in_the_wrong_process() {
    // Handles are not serialisable (compile_fail/handle_as_argument.rs), so they get elsewhere only by fork.
    for_methods(&[StartMethod::Fork], |context| {
        let (sibling, gate) = waiter(context);
        *SIBLING.lock().expect("no panic") = Some(sibling.clone());
        let look = || {
            let sibling = SIBLING.lock().expect("no panic").take().expect("inherited");
            for error in [
                sibling.join().expect_err("not ours"),
                sibling.join_timeout(Duration::from_secs(60)).expect_err("not ours"),
                sibling.terminate().expect_err("not ours"),
                sibling.close().expect_err("not ours"),
                sibling.exception().expect("not ours"),
            ] {
                assert!(matches!(error, ProcessError::NotAChild { .. }), "{error}");
            }
            assert!(!sibling.is_alive());
            assert_eq!(sibling.exit_code(), None);
            assert!(format!("{sibling:?}").contains("unknown"), "{sibling:?}");
            assert!(mp::active_children().is_empty());
        };
        let child = context.process(look, ()).start().expect("a child");
        child.join().expect("a good end");
        assert!(sibling.is_alive());
        SIBLING.lock().expect("no panic").take();
        gate.send(&()).expect("sent");
        sibling.join().expect("a good end");
    });
}

#[test]
fn proc_19_printed_forms() {
    for_each_method(|context| {
        let shows = |form: String, parts: &[&str]| {
            parts.iter().for_each(|part| assert!(form.contains(part), "{form} does not say {part}"));
        };
        let (gate, there) = pipe().expect("a pipe");
        let described = context.process(wait_for_leave, (there,));
        shows(format!("{described:?}"), &["Process", "initial"]);
        let child = described.name("brave").start().expect("a child");
        let pid = child.pid().to_string();
        shows(format!("{child:?}"), &["Process", "brave", &pid, "started", &std::process::id().to_string()]);
        gate.send(&()).expect("sent");
        child.join().expect("a good end");
        shows(format!("{child:?}"), &["brave", &pid, "stopped", "exitcode=0"]);
        child.close().expect("closed");
        shows(format!("{child:?}"), &["brave", "closed"]);

        let child = sleeper(context);
        shows(format!("{child:?}"), &["started", "daemon"]);
        child.terminate().expect("a signal sent");
        child.join().expect_err("killed");
        shows(format!("{child:?}"), &["stopped", "exitcode=-SIGTERM"]);
    });
}

/// Tells its pid and sleeps, after having started the next generation.
fn dynasty(depth: u32, method: StartMethod, to: Connection) {
    let heir = (depth > 1).then(|| {
        let copy = Connection::from_fd(to.as_fd().try_clone_to_owned().expect("a copy")).expect("a connection");
        Context::new(method).process(dynasty, (depth - 1, method, copy)).start().expect("an heir")
    });
    to.send(&std::process::id()).expect("sent");
    sleep_for_ever();
    drop(heir);
}

fn end_a_dynasty(context: Context, end: fn(&Process<()>) -> Result<(), ProcessError>) {
    let (here, there) = pipe().expect("a pipe");
    let top = context.process(dynasty, (4u32, context.start_method(), there)).start().expect("a child");
    let pids: Vec<u32> = (0..4).map(|_| here.recv().expect("a pid")).collect();
    end(&top).expect("a signal sent");
    top.join().expect_err("ended");
    let gone = || !pids.iter().any(|pid| common::is_running(*pid));
    assert!(holds_within(Duration::from_secs(5), gone), "some of {pids:?} live on");
    here.recv::<u32>().expect_err("nobody holds the other end");
}

#[test]
fn proc_21_a_tree_ends_with_its_root() {
    for_each_method(|context| end_a_dynasty(context, Process::kill));
}

#[test]
fn proc_22_descendants_of_a_terminated_child_end_with_it() {
    for_each_method(|context| end_a_dynasty(context, Process::terminate));
}

/// A sum on threads.
fn threaded_sum() -> u64 {
    let quarter = |n: u64| (n * 250_000..(n + 1) * 250_000).sum::<u64>();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || quarter(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a sum")).sum()
    })
}

#[test]
fn proc_23_busy_threads_in_parent_and_child() {
    // Fork refuses while there are threads, see start_10.
    for_methods(&[StartMethod::Spawn, StartMethod::ForkServer], |context| {
        std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    threaded_sum();
                }
            });
            let child = context.process(threaded_sum, ()).start().expect("a child");
            assert_eq!(child.join_timeout(common::SOON).expect("a sum"), 999_999 * 500_000);
            drop(stop);
        });
    });
}

#[test]
fn proc_24_cpu_count() {
    assert!(mp::cpu_count() >= 1);
}

#[test]
fn processes_can_be_started_from_many_threads_at_once() {
    alone(|| {
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                scope.spawn(move || {
                    for n in 0..10u32 {
                        let context = if n % 2 == 0 { Context::spawn() } else { Context::forkserver() };
                        let child = context.process(|a: u32, b: u32| (a, b), (thread, n)).start().expect("a child");
                        assert_eq!(child.join().expect("a pair"), (thread, n));
                    }
                });
            }
        });
    });
}

#[test]
fn the_mark_of_the_tests_finds_families() {
    // What the other tests rely on to find what is left behind.
    let _watchdog = common::watchdog();
    let mark = Mark::new();
    for context in [Context::spawn(), Context::forkserver()] {
        let child = context.process(sleep_for_ever, ()).env(Mark::VARIABLE, mark.value()).start().expect("a child");
        if context == Context::spawn() {
            assert!(mark.bearers().contains_key(&child.pid()));
        }
        child.kill().expect("a signal sent");
        child.join().expect_err("killed");
        mark.assert_gone();
    }
}
