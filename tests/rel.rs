//! REL: daemons, parents and children. What happens when a whole program ends is in `programs/family.rs`.

mod common;

use multiprocess as mp;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, StartError, StartMethod};

use common::{Belongings, for_each_method};

#[test]
fn rel_01_daemon_flag() {
    for_each_method(|context| {
        let flag = || mp::current_process().daemon();
        let inherited = context.process(flag, ()).start().expect("a child");
        let daemon = context.process(flag, ()).daemon(true).start().expect("a child");
        let none = context.process(flag, ()).daemon(false).start().expect("a child");
        let outside = [inherited.daemon(), daemon.daemon(), none.daemon()];
        let inside = [inherited, daemon, none].map(|child| child.join().expect("a flag"));
        assert_eq!(outside, [false, true, false]);
        assert_eq!(inside, outside);
    });
}

#[test]
fn rel_02_daemon_flag_is_frozen_by_start() {
    // There is no setter on a started process (compile_fail/daemon_after_start.rs); before, the last word counts.
    for_each_method(|context| {
        let described = context.process(|| mp::current_process().daemon(), ()).daemon(true).daemon(false);
        assert!(!described.start().expect("a child").join().expect("a flag"));
    });
}

#[test]
fn rel_03_daemons_have_no_children() {
    for_each_method(|context| {
        let try_to_start = |method: StartMethod| -> Result<(), String> {
            let before = Belongings::now();
            let started = Context::new(method).process(|| (), ()).start();
            before.assert_same();
            match started {
                Err(StartError::DaemonicParent { name }) if name == "imp" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        let daemon = context.process(try_to_start, (context.start_method(),)).name("imp").daemon(true);
        daemon.start().expect("a daemon").join().expect("an answer").expect("the right error");
        let text = StartError::DaemonicParent { name: "imp".into() }.to_string();
        assert!(text.contains("imp") && text.contains("not allowed to have children"), "{text}");
    });
}

#[test]
fn rel_05_there_is_no_parent_of_the_first_process() {
    assert!(mp::parent_process().is_none());
}

#[test]
fn rel_05_parent_as_its_child_sees_it() {
    for_each_method(|context| {
        let look = || {
            let parent = mp::parent_process().expect("a parent");
            assert!(parent.is_alive());
            assert!(!parent.join_timeout(std::time::Duration::ZERO));
            (parent.name().to_owned(), parent.pid(), format!("{parent:?}"))
        };
        let me = mp::current_process();
        let (name, pid, form) =
            context.process(look, ()).start().expect("a child").join().expect("an answer");
        assert_eq!((name, pid), (me.name(), me.pid()));
        assert!(form.contains("started"), "{form}");
        me.set_name("renamed");
        let (name, ..) = context.process(look, ()).start().expect("a child").join().expect("an answer");
        assert_eq!(name, "renamed");
    });
}

#[test]
fn rel_06_children_of_children_are_not_mine() {
    fn pids() -> Vec<u32> {
        mp::active_children().iter().map(mp::Process::pid).collect()
    }
    for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let middle = |there: Connection, method: StartMethod| {
            let at_first = pids();
            let leave = |there: Connection| there.recv::<()>().expect("leave to go");
            let (here, gate) = pipe().expect("a pipe");
            let child = Context::new(method).process(leave, (gate,)).start().expect("a grandchild");
            there.send(&(at_first, pids(), child.pid())).expect("sent");
            there.recv::<()>().expect("leave to go");
            here.send(&()).expect("sent");
            child.join().expect("a good end");
            assert!(pids().is_empty());
        };
        // A sibling that a forked child must not take for its own.
        let sibling = context.process(common::sleep_for_ever, ()).start().expect("a sibling");
        let child = context.process(middle, (there, context.start_method())).start().expect("a child");
        let (at_first, listed, grandchild): (Vec<u32>, Vec<u32>, u32) = here.recv().expect("lists");
        assert_eq!(at_first, []);
        assert_eq!(listed, [grandchild]);
        assert_eq!(pids(), [sibling.pid(), child.pid()]);
        here.send(&()).expect("sent");
        child.join().expect("a good end");
        sibling.kill().expect("a signal sent");
        sibling.join().expect_err("killed");
    });
}

#[test]
fn rel_06_names_tell_the_place_in_the_family() {
    for_each_method(|context| {
        let nested = |method: StartMethod| {
            let name = || mp::current_process().name();
            let start = || Context::new(method).process(name, ()).start().expect("a grandchild");
            let names = [start(), start()].map(|child| child.join().expect("a name"));
            (mp::current_process().name(), names)
        };
        let child = context.process(nested, (context.start_method(),)).start().expect("a child");
        let (own, [first, second]) = child.join().expect("names");
        assert_eq!((first, second), (format!("{own}:1"), format!("{own}:2")));
    });
}
