//! START: start methods and contexts.

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use multiprocess as mp;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, StartError, StartMethod};

use common::{Belongings, alone, for_each_method, for_methods};

/// The same end once more, for another process.
fn again(connection: &Connection) -> Connection {
    let duplicate = connection.as_fd().try_clone_to_owned().expect("a descriptor");
    Connection::from_fd(duplicate).expect("a connection")
}

#[test]
fn start_01_explicit_context() {
    for_each_method(|context| {
        let name = context.start_method().name();
        assert_eq!(mp::get_context(name).expect("a context"), context);
        assert_eq!(context.get_start_method(), name);
        assert_eq!(context.get_context(None).expect("itself"), context);
        for method in [Some("spawn"), None] {
            for force in [false, true] {
                let error = context.set_start_method(method, force).expect_err("fixed");
                assert!(matches!(error, StartError::FixedMethod { .. }), "{error}");
            }
        }
        let own = || mp::current_process().start_method().map(StartMethod::name).map(str::to_owned);
        let child = context.process(own, ()).start().expect("a child");
        assert_eq!(child.join().expect("a method").as_deref(), Some(name));
    });
}

#[test]
fn start_02_and_08_global_default_and_what_a_child_sees_of_it() {
    for_each_method(|context| {
        let name = context.start_method().name();
        mp::set_start_method(name, true).expect("set");
        assert_eq!(mp::get_start_method(), name);
        assert_eq!(mp::get_context(None).expect("the default"), context);
        assert_eq!(Context::default(), context);
        let view = || {
            let own = mp::current_process().start_method().expect("a method");
            (own, mp::default_start_method().to_owned(), Context::default().start_method())
        };
        let child = mp::process(view, ()).start().expect("a child");
        assert_eq!(
            child.join().expect("a view"),
            (context.start_method(), name.to_owned(), context.start_method())
        );
    });
}

#[test]
fn start_02_default_is_fixed_by_use_and_set_once() {
    alone(|| {
        assert_eq!(mp::default_start_method(), "unset");
        assert_eq!(mp::get_start_method(), "forkserver");
        assert_eq!(mp::default_start_method(), "forkserver");
        let error = mp::set_start_method("spawn", false).expect_err("fixed by asking");
        assert!(matches!(error, StartError::MethodIsSet { set: StartMethod::ForkServer }), "{error}");
        mp::set_start_method("spawn", true).expect("forced");
        assert_eq!(mp::get_start_method(), "spawn");
        mp::set_start_method(None, true).expect("unset");
        assert_eq!(mp::default_start_method(), "unset");
    });
}

#[test]
fn start_03_unknown_method() {
    let error = mp::get_context("not_available").expect_err("unknown");
    assert!(matches!(&error, StartError::UnknownMethod { name } if name == "not_available"), "{error}");
    assert!(error.to_string().contains("not_available"), "{error}");
    "not_available".parse::<StartMethod>().expect_err("unknown");
    mp::set_start_method("not_available", true).expect_err("unknown");
}

#[test]
fn start_04_and_05_list_of_methods_with_the_default_first() {
    assert_eq!(mp::get_all_start_methods(), ["forkserver", "spawn", "fork"]);
    assert_eq!(mp::recommended_start_method().expect("a method"), "forkserver");
    alone(|| assert_eq!(mp::get_start_method(), mp::get_all_start_methods()[0]));
}

#[test]
fn start_05_recommendation_from_the_environment() {
    let _watchdog = common::watchdog();
    let recommended = || mp::recommended_start_method().map(str::to_owned).map_err(|error| error.to_string());
    let with = |value: &str| {
        let child = Context::spawn().process(recommended, ()).env("MULTIPROCESS_START_METHOD", value);
        child.start().expect("a child").join().expect("an answer")
    };
    assert_eq!(with("spawn"), Ok("spawn".to_owned()));
    assert!(with("quickly").expect_err("unknown").contains("quickly"));
    let initialize = || {
        mp::initialize().expect("ready");
        mp::initialize().expect("ready again");
        mp::get_start_method().to_owned()
    };
    let child = Context::spawn().process(initialize, ()).env("MULTIPROCESS_START_METHOD", "spawn");
    assert_eq!(child.start().expect("a child").join().expect("a name"), "spawn");
}

#[test]
fn start_06_methods_mix() {
    // Everything is made of descriptors, so what was made here works with any method, in one family.
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let put = |there: Connection, n: u32| there.send(&n).expect("sent");
        for (n, other) in (0..).zip(StartMethod::ALL) {
            let nested = |there: Connection, n: u32, method: StartMethod| {
                let put = |there: Connection, n: u32| there.send(&n).expect("sent");
                let grandchild = Context::new(method).process(put, (again(&there), n + 10)).start();
                grandchild.expect("a grandchild").join().expect("a good end");
            };
            let child = context.process(nested, (again(&there), n, other)).start().expect("a child");
            child.join().unwrap_or_else(|error| panic!("{other} within {context:?}: {error}"));
            let child = Context::new(other).process(put, (again(&there), n)).start().expect("a child");
            child.join().unwrap_or_else(|error| panic!("{other} beside {context:?}: {error}"));
        }
        let mut numbers: Vec<u32> = (0..6).map(|_| here.recv().expect("a number")).collect();
        numbers.sort();
        assert_eq!(numbers, [0, 1, 2, 10, 11, 12]);
    });
}

#[test]
fn start_07_a_child_passes_its_argument_on() {
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let child = |there: Connection, method: StartMethod| {
            there.send(&2).expect("sent");
            let put = |there: Connection| there.send(&1).expect("sent");
            let grandchild = Context::new(method).process(put, (there,)).start().expect("a grandchild");
            grandchild.join().expect("a good end");
        };
        let child = context.process(child, (there, context.start_method())).start().expect("a child");
        assert_eq!([here.recv::<u32>().expect("two"), here.recv().expect("one")], [2, 1]);
        child.join().expect("a good end");
        here.recv::<u32>().expect_err("that was all");
    });
}

/// The descriptors of this generation and of the last one.
fn generations(depth: u32, method: StartMethod) -> (Vec<String>, Vec<String>) {
    let own: Vec<String> = Belongings::now().fds().values().cloned().collect();
    if depth == 0 {
        return (own.clone(), own);
    }
    let child = Context::new(method).process(generations, (depth - 1, method)).start().expect("a child");
    (own, child.join().expect("lists").1)
}

#[test]
fn start_09_nothing_grows_with_the_generations() {
    for_each_method(|context| {
        let child = context.process(generations, (5u32, context.start_method())).start().expect("a child");
        let (first, last) = child.join().expect("lists");
        assert_eq!(first.len(), last.len(), "first {first:?}, last {last:?}");
    });
}

#[test]
fn start_10_fork_is_refused_while_there_are_threads() {
    for_methods(&[StartMethod::Fork], |context| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("busy-bee".into());
        let (up, is_up) = std::sync::mpsc::channel::<()>();
        let work = move || {
            up.send(()).expect("somebody waits");
            stopped.recv()
        };
        let thread = thread.spawn(work).expect("a thread");
        is_up.recv().expect("the thread runs");
        let before = Belongings::now();
        let error = context.process(|| (), ()).name("late").start().expect_err("refused");
        let text = error.to_string();
        for part in ["busy-bee", "late", "fork", "1 more", "forkserver"] {
            assert!(text.contains(part), "{text} does not say {part}");
        }
        before.assert_same();
        assert!(mp::active_children().is_empty());
        for other in [Context::spawn(), Context::forkserver()] {
            other.process(|| (), ()).start().expect("a child").join().expect("a good end");
        }
        drop(stop);
        let _ = thread.join().expect("it ends");
        context.process(|| (), ()).start().expect("allowed again").join().expect("a good end");
    });
}

#[test]
fn start_10_fork_right_after_the_last_thread_was_joined() {
    for_methods(&[StartMethod::Fork], |context| {
        for round in 0..300 {
            std::thread::spawn(|| ()).join().expect("it ends");
            let child = context.process(|| 1, ()).start();
            let child = child.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(child.join().expect("one"), 1);
        }
    });
}

#[test]
fn start_11_work_for_a_thread_that_the_child_starts() {
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let deferred = |there: Connection| {
            let thread = std::thread::spawn(move || there.send(&"done").expect("sent"));
            thread.join().expect("it ends");
        };
        context.process(deferred, (there,)).start().expect("a child").join().expect("a good end");
        assert_eq!(here.recv::<String>().expect("a word"), "done");
    });
}

#[test]
fn start_12_a_program_that_is_not_there() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let _watchdog = common::watchdog();
        let run = |method: StartMethod| {
            let context = Context::new(method);
            let before = Belongings::now();
            mp::set_executable("/nowhere/at/all");
            let error = context.process(|| (), ()).start().expect_err("no program");
            assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
            before.assert_same();
            mp::reset_executable();
            context.process(|| (), ()).start().expect("a child").join().expect("a good end");
        };
        let child = Context::spawn().process(run, (method,)).start().expect("a child");
        child.join().unwrap_or_else(|error| panic!("{method}: {error:#}"));
    }
}

#[test]
fn start_several_at_once_and_wait_for_them_later() {
    for_each_method(|context| {
        let starting: Vec<_> = (0..20u64)
            .map(|n| context.process(|n: u64| n * n, (n,)).begin_start().expect("a start"))
            .collect();
        let children: Vec<_> = starting.into_iter().map(|child| child.finish().expect("a child")).collect();
        for (n, child) in (0u64..).zip(&children) {
            assert_eq!(child.join_timeout(Duration::from_secs(30)).expect("a square"), n * n);
        }
    });
}

#[test]
fn start_one_that_nobody_waits_for_is_ended() {
    for_each_method(|context| {
        drop(context.process(common::sleep_for_ever, ()).begin_start().expect("a start"));
        // What is left of it is looked for after the scenario, zombies included.
    });
}

#[test]
fn start_08_a_child_has_the_default_method_of_its_parent() {
    alone(|| {
        for method in mp::get_all_start_methods() {
            mp::set_start_method(method, true).expect("a known method");
            let process = mp::process(
                || (mp::default_start_method().to_owned(), mp::get_start_method().to_owned()),
                (),
            );
            let seen = process.start().expect("a start").join().expect("what it sees");
            assert_eq!(seen, (method.to_owned(), method.to_owned()));
        }
    });
}
