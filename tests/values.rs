//! What goes into a process and what comes out of it: functions, arguments, results (PROC-03), and what is set up for
//! it (PROC-20).

mod common;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, Process, ProcessError, Resource, ReturnWhen, StartError, StartMethod};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use common::{Belongings, Scratch, for_each_method, for_methods, sleep_for_ever};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Dot,
    Circle { radius: f64 },
    Named(String, Box<Shape>),
}

fn comes_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + Clone>(
    context: Context,
    value: T,
) {
    let child = context.process(|value: T| value, (value.clone(),)).start().expect("a child");
    assert_eq!(child.join().expect("a value"), value);
    assert_eq!(child.exit_code(), Some(0));
}

#[test]
fn proc_03_argument_shapes_survive_the_trip() {
    for_each_method(|context| {
        comes_back(context, 1);
        comes_back(context, "text".to_owned());
        comes_back(context, vec![1]);
        comes_back(context, (1,));
        comes_back(context, ());
        comes_back(context, (Some(1.5), None::<u8>, 'x', u128::MAX));
        comes_back(context, vec![f64::MIN, 0.0, f64::INFINITY]);
        comes_back(context, BTreeMap::from([("a".to_owned(), vec![1u8, 2]), ("b".to_owned(), vec![])]));
        comes_back(context, vec![Shape::Dot, Shape::Named("c".into(), Shape::Circle { radius: 2.0 }.into())]);
        comes_back(context, Err::<(), String>("an error is a value too".into()));
    });
}

fn item(a: u32, b: u32) -> u32 {
    a - b
}

#[test]
fn proc_03_functions_of_any_kind_with_none_to_eight_arguments() {
    for_each_method(|context| {
        assert_eq!(context.process(item, (3, 1)).start().expect("a child").join().expect("a number"), 2);
        assert_eq!(
            context.process(u32::swap_bytes, (1,)).start().expect("a child").join().expect("one"),
            1 << 24
        );
        assert_eq!(context.process(String::new, ()).start().expect("a child").join().expect("a text"), "");
        macro_rules! sum {
            ($($name:ident)*) => {{
                let f = |$($name: u32),*| -> u32 { 0 $(+ $name)* };
                let child = context.process(f, ($({ let $name = 1u32; $name },)*)).start().expect("a child");
                assert_eq!(child.join().expect("a sum"), 0 $(+ { let $name = 1; $name })*);
            }};
        }
        sum!();
        sum!(a);
        sum!(a b);
        sum!(a b c);
        sum!(a b c d);
        sum!(a b c d e);
        sum!(a b c d e f);
        sum!(a b c d e f g);
        sum!(a b c d e f g h);
    });
}

#[test]
fn proc_03_a_hundred_megabytes_there_and_back() {
    for_each_method(|context| {
        const LENGTH: usize = 100 << 20;
        let check = |bytes: Vec<u8>| (bytes.len(), bytes[LENGTH / 2], bytes[LENGTH - 1]);
        let mut large = vec![0u8; LENGTH];
        (large[LENGTH / 2], large[LENGTH - 1]) = (7, 9);
        let child = context.process(check, (large,)).start().expect("a child");
        assert_eq!(child.join().expect("three numbers"), (LENGTH, 7, 9));
        let make = |last: u8| {
            let mut large = vec![0u8; LENGTH];
            large[LENGTH - 1] = last;
            large
        };
        let child = context.process(make, (5u8,)).start().expect("a child");
        // It does not wait for anybody to take its result.
        assert!(common::holds_within(common::SOON, || child.done()));
        assert_eq!(check(child.join().expect("bytes")), (LENGTH, 0, 5));
    });
}

#[derive(Debug, Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("I stay here"))
    }
}

#[derive(Debug, Serialize)]
struct Homesick;

impl<'de> Deserialize<'de> for Homesick {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("I want to go back"))
    }
}

#[test]
fn proc_03_values_that_cannot_travel_are_errors_that_say_so() {
    for_each_method(|context| {
        let error =
            context.process(|_: Stubborn| (), (Stubborn,)).name("there").start().expect_err("not encoded");
        assert!(matches!(error, StartError::Arguments { .. }), "{error}");
        assert!(error.to_string().contains("I stay here") && error.to_string().contains("there"), "{error}");
        let error = context.process(|_: Homesick| (), (Homesick,)).start().expect_err("not decoded");
        assert!(matches!(error, StartError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("I want to go back"), "{error}");
        assert!(mp::active_children().is_empty());

        let silent = || std::fs::File::create("/dev/null").expect("a device");
        let child = context.process(|| Stubborn, ()).stderr(silent()).start().expect("a child");
        let error = child.join().expect_err("not encoded");
        assert!(matches!(error, ProcessError::Result { .. }), "{error}");
        assert!(error.to_string().contains("I stay here"), "{error}");
        assert_eq!(child.exit_code(), Some(1));
        let child = context.process(|| Homesick, ()).start().expect("a child");
        let error = child.join().expect_err("not decoded");
        assert!(error.to_string().contains("I want to go back"), "{error}");
        assert_eq!(child.exit_code(), Some(0));
    });
}

#[test]
fn proc_03_connections_travel_in_both_directions() {
    for_each_method(|context| {
        let make = || {
            let (a, b) = pipe().expect("a pipe");
            a.send(&"sent by one that is gone").expect("sent");
            b
        };
        let end = context.process(make, ()).start().expect("a child").join().expect("a connection");
        assert_eq!(end.recv::<String>().expect("a word"), "sent by one that is gone");
        end.recv::<String>().expect_err("and it is gone");
    });
}

fn variable(name: String) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn proc_20_environment_of_one_child() {
    for_each_method(|context| {
        let see = |name: &str| context.process(variable, (name.to_owned(),));
        let path = std::env::var("PATH").expect("a path");
        assert_eq!(see("PATH").start().expect("a child").join().expect("a value"), Some(path.clone()));
        let other = see("PATH").env("PATH", "/elsewhere").start().expect("a child");
        assert_eq!(other.join().expect("a value").as_deref(), Some("/elsewhere"));
        let none = see("PATH").env_remove("PATH").start().expect("a child");
        assert_eq!(none.join().expect("nothing"), None);
        let last = see("MP_NEW").env("MP_NEW", "1").env_remove("MP_NEW").env("MP_NEW", "2").start();
        assert_eq!(last.expect("a child").join().expect("a value").as_deref(), Some("2"));
        assert_eq!(std::env::var("PATH").expect("unchanged"), path);
        assert_eq!(std::env::var("MP_NEW").ok(), None);
        // It is there for grandchildren too, and the start itself leaves no trace.
        let nested = |method: StartMethod| {
            let child =
                Context::new(method).process(variable, ("MP_NEW".to_owned(),)).start().expect("a grandchild");
            let ours =
                std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MULTIPROCESS_"));
            (child.join().expect("a value"), ours.count())
        };
        let child =
            context.process(nested, (context.start_method(),)).env("MP_NEW", "3").start().expect("a child");
        assert_eq!(child.join().expect("values"), (Some("3".to_owned()), 0));
    });
}

#[test]
fn settings_folder() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        let folder = || std::env::current_dir().expect("a folder");
        let own = folder();
        let start = || context.process(folder, ());
        let told = start().current_dir(scratch.path()).start().expect("a child").join().expect("a folder");
        assert_eq!(told, scratch.path().canonicalize().expect("a path"));
        assert_eq!(start().start().expect("a child").join().expect("a folder"), own);
        let error = start().current_dir("/nowhere/at/all").start().expect_err("no folder");
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
        // A change in this process is known to children, those of a server that runs already too.
        std::env::set_current_dir(scratch.path()).expect("a folder");
        assert_eq!(start().start().expect("a child").join().expect("a folder"), told);
        // Also to one whose name is not UTF-8.
        let odd = PathBuf::from(std::ffi::OsString::from_vec(vec![0xff]));
        std::fs::create_dir(&odd).expect("a folder");
        std::env::set_current_dir(&odd).expect("a folder");
        let name = || std::env::current_dir().expect("a folder").into_os_string();
        let seen = context.process(name, ()).start().expect("a child").join().expect("a name");
        assert_eq!(PathBuf::from(seen), told.join(odd));
        std::env::set_current_dir(own).expect("a folder");
    });
}

#[test]
fn settings_cpus_niceness_and_limits() {
    for_each_method(|context| {
        let allowed = rustix::thread::sched_getaffinity(None).expect("a set");
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("a CPU");
        let look = || {
            let cpus = rustix::thread::sched_getaffinity(None).expect("a set").count();
            let nice = rustix::process::nice(0).expect("a number");
            let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            (cpus, nice, files.current, files.maximum)
        };
        let (_, nice, ..) = look();
        let described = context.process(look, ()).cpu_affinity([first]).nice(3);
        let described = described.limit(Resource::OpenFiles, Some(50), Some(60));
        let seen = described.start().expect("a child").join().expect("numbers");
        assert_eq!(seen, (1, nice + 3, Some(50), Some(60)));
        assert_eq!(look().1, nice, "nothing changes here");
        let error = context.process(look, ()).cpu_affinity([100_000]).start().expect_err("no such CPU");
        assert!(error.to_string().contains("100000"), "{error}");
        let error = context.process(look, ()).cpu_affinity([]).start().expect_err("no CPU at all");
        assert!(matches!(error, StartError::Refused { .. }), "{error}");
    });
}

#[test]
fn a_child_has_its_streams_and_what_was_passed_and_nothing_else() {
    // Forked ones have copies of all that their parent has, as fork promises.
    for_methods(&[StartMethod::Spawn, StartMethod::ForkServer], |context| {
        let _ours = std::fs::File::open("/proc/self/status").expect("a file");
        let look =
            |_passed: Option<Connection>| Belongings::now().fds().values().cloned().collect::<Vec<_>>();
        let bare = context.process(look, (None,)).start().expect("a child").join().expect("a list");
        assert!(!bare.iter().any(|target| target.contains("status")), "{bare:?}");
        // Its streams, its link to the parent, the parent's pidfd.
        assert!(bare.len() <= 3 + 3, "{bare:?}");
        let (_here, there) = pipe().expect("a pipe");
        let more = context.process(look, (Some(there),)).start().expect("a child").join().expect("a list");
        assert_eq!(more.len(), bare.len() + 1, "{more:?}");
    });
}

fn sleeps(context: Context) -> Process<()> {
    context.process(sleep_for_ever, ()).daemon(true).start().expect("a child")
}

#[test]
fn wait_for_the_first_the_first_failure_or_all() {
    for_each_method(|context| {
        let (slow, good) = (sleeps(context), context.process(|| (), ()).start().expect("a child"));
        let all = [&slow, &good];
        assert_eq!(mp::wait(&all, None, ReturnWhen::FirstCompleted).expect("a wait"), [1]);
        let (asked, limit) = (Instant::now(), Duration::from_millis(50));
        assert_eq!(mp::wait(&all, Some(limit), ReturnWhen::AllCompleted).expect("a wait"), [1]);
        assert_eq!(mp::wait(&all, Some(limit), ReturnWhen::FirstException).expect("a wait"), [1]);
        assert!(asked.elapsed() >= 2 * limit);
        slow.kill().expect("a signal sent");
        assert_eq!(mp::wait(&all, None, ReturnWhen::AllCompleted).expect("a wait"), [0, 1]);
        assert_eq!(mp::wait(&all, None, ReturnWhen::FirstException).expect("a wait"), [0, 1]);
        let (slow, bad) = (sleeps(context), context.process(|| mp::exit(1), ()).start().expect("a child"));
        assert_eq!(mp::wait(&[&bad, &slow, &bad], None, ReturnWhen::FirstException).expect("a wait"), [0, 2]);
        assert_eq!(mp::wait::<()>(&[], None, ReturnWhen::AllCompleted).expect("a wait"), []);
        slow.kill().expect("a signal sent");
        slow.join().expect_err("killed");
    });
}

#[test]
fn task_04_results_in_the_order_of_completion() {
    for_each_method(|context| {
        let gates: Vec<_> = (0..3).map(|_| pipe().expect("a pipe")).collect();
        let (gates, theirs): (Vec<_>, Vec<_>) = gates.into_iter().unzip();
        let wait = |n: usize, there: Connection| {
            there.recv::<()>().expect("leave to go");
            n * 10
        };
        let start = |(n, there)| context.process(wait, (n, there)).start().expect("a child");
        let children: Vec<_> = theirs.into_iter().enumerate().map(start).collect();
        let order = [2, 0, 1];
        gates[order[0]].send(&()).expect("sent");
        let mut next = 1;
        for (n, result) in mp::as_completed(&children) {
            assert_eq!((n, result.expect("a number")), (order[next - 1], order[next - 1] * 10));
            if let Some(following) = order.get(next) {
                gates[*following].send(&()).expect("sent");
            }
            next += 1;
        }
        assert_eq!(next, 4);
    });
}

#[test]
fn task_01_a_process_as_a_future_of_its_result() {
    for_each_method(|context| {
        let (gate, there) = pipe().expect("a pipe");
        let double = |n: u32, there: Connection| {
            there.recv::<()>().expect("leave to go");
            n * 2
        };
        let child = context.process(double, (3u32, there)).start().expect("a child");
        assert!(!child.done() && child.is_alive());
        let error = child.result_timeout(Duration::from_millis(10)).expect_err("it waits");
        assert!(matches!(error, ProcessError::Timeout { .. }), "{error}");
        gate.send(&()).expect("sent");
        assert_eq!(child.result().expect("a number"), 6);
        assert!(child.exception().is_none());
        assert!(child.done());
    });
}
