//! FD: which descriptors a child has, what its standard input is, and what a start costs in a large process.

mod common;

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Belongings, SOON, alone, for_each_method, for_methods, watchdog};
use mp::core::connection::{Connection, pipe};
use mp::{Context, StartMethod};
use multiprocess as mp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The methods whose children get nothing that is not meant for them.
const CLEAN: [StartMethod; 2] = [StartMethod::Spawn, StartMethod::ForkServer];

fn report_fds(connection: Connection) {
    connection.send(&Belongings::now().fds().len()).expect("sent");
    connection.recv::<()>().expect("a word");
}

#[test]
fn fd_01_descriptors_do_not_grow_with_siblings() {
    for_methods(&CLEAN, |context| {
        let family: Vec<_> = (0..5)
            .map(|_| {
                let (ours, theirs) = pipe().expect("a pipe");
                let child = context.process(report_fds, (theirs,)).start().expect("a start");
                let count: usize = ours.recv_timeout(SOON).expect("a number");
                (ours, child, count)
            })
            .collect();
        let counts: Vec<usize> = family.iter().map(|(_, _, count)| *count).collect();
        assert_eq!(counts, [counts[0]; 5]);
        for (connection, child, _) in family {
            connection.send(&()).expect("sent");
            child.join().expect("an end");
        }
    });
}

/// Every descriptor of a child is one that it can account for.
#[test]
fn fd_01_a_child_has_its_streams_and_links_and_nothing_else() {
    for_methods(&CLEAN, |context| {
        let list = || -> Vec<(i32, String)> { Belongings::now().fds().clone().into_iter().collect() };
        let fds = context.process(list, ()).start().expect("a start").join().expect("a list");
        // The streams; the socket and the lifeline to the parent, and the parent's pidfd.
        let others: Vec<_> = fds.iter().filter(|(number, _)| *number > 2).collect();
        let of_kind = |kind: &str| others.iter().filter(|(_, target)| target.contains(kind)).count();
        assert_eq!((of_kind("socket:"), of_kind("pipe:"), of_kind("pidfd")), (1, 1, 1), "{fds:?}");
        assert_eq!(others.len(), 3, "{fds:?}");
        assert_eq!(fds[0], (0, "/dev/null".into()));
    });
}

#[test]
fn fd_02_unrelated_descriptors_are_not_inherited() {
    fn has(fd: i32) -> bool {
        std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|path| path.ends_with("version"))
    }
    alone(|| {
        let file = std::fs::File::open("/proc/version").expect("a file");
        // Not close-on-exec, as other libraries open theirs.
        let fd: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&file, 50).expect("a descriptor");
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).expect("an inheritable descriptor");
        for method in StartMethod::ALL {
            let child = Context::new(method).process(has, (fd.as_raw_fd(),)).start().expect("a start");
            assert_eq!(child.join().expect("an answer"), method == StartMethod::Fork, "{method}");
        }
    });
}

/// What is sent stays open, whatever its number was.
#[test]
fn fd_02_descriptors_in_the_arguments_are_there() {
    for_each_method(|context| {
        let (ours, theirs) = pipe().expect("a pipe");
        let high: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&theirs, 77).expect("a descriptor");
        let theirs = Connection::from_fd(high).expect("a connection");
        let child = context.process(|link: Connection| link.send(&5).expect("sent"), (theirs,));
        child.start().expect("a start").join().expect("an end");
        assert_eq!(ours.recv_timeout::<i32>(SOON).expect("a number"), 5);
    });
}

#[test]
fn fd_03_stdin_of_a_child_ends_at_once() {
    let _watchdog = watchdog();
    let scenario = || {
        for method in StartMethod::ALL {
            let child = || {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).expect("the end of the input");
                let cat = Command::new("cat").stdin(std::process::Stdio::inherit()).output().expect("cat");
                assert!(cat.status.success());
                (text, cat.stdout)
            };
            let child = Context::new(method).process(child, ()).start().expect("a start");
            assert_eq!(child.join().expect("nothing"), (String::new(), Vec::new()), "{method}");
        }
        let mut text = String::new();
        std::io::stdin().read_line(&mut text).expect("the input of this process");
        text
    };
    let (input, mut input_write) = std::io::pipe().expect("a pipe");
    std::io::Write::write_all(&mut input_write, b"for the parent\n").expect("written");
    let parent = Context::spawn().process(scenario, ()).stdin(OwnedFd::from(input)).start().expect("a start");
    assert_eq!(parent.join().expect("a line"), "for the parent\n");
}

/// With closed standard streams in the parent, a child's descriptors do not end up in their places.
#[test]
fn fd_03_closed_streams_of_the_parent() {
    fn targets() -> Vec<String> {
        let target =
            |fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).map(|path| path.display().to_string());
        (0..3).map(|fd| target(fd).unwrap_or_else(|error| error.to_string())).collect()
    }
    let _watchdog = watchdog();
    for method in StartMethod::ALL {
        let parent = |method: StartMethod| {
            // SAFETY: nothing in this process uses its standard streams from here on.
            unsafe { (0..3).for_each(|fd| assert_eq!(libc::close(fd), 0)) };
            Context::new(method).process(targets, ()).start().expect("a start").join().expect("an end")
        };
        let parent = Context::spawn().process(parent, (method,)).start().expect("a start");
        assert_eq!(parent.join().expect("a list"), ["/dev/null"; 3], "{method}");
    }
}

#[test]
fn fd_04_a_pipe_used_in_a_process_inside_a_process() {
    for_each_method(|context| {
        let child = |method: StartMethod| {
            let (ours, theirs) = pipe().expect("a pipe");
            let grandchild = |link: Connection| link.poll(Duration::ZERO).expect("not a bad descriptor");
            let grandchild = Context::new(method).process(grandchild, (theirs,)).daemon(true).start();
            let answer = grandchild.expect("a start").join().expect("an end");
            drop(ours);
            answer
        };
        let child = context.process(child, (context.start_method(),)).start().expect("a start");
        assert!(!child.join_timeout(SOON).expect("an end"));
        assert_eq!(child.exit_code(), Some(0));
    });
}

/// Shortest time of a start and a join: a cost that every start has shows in it, and what else the machine does not.
fn start_time(context: Context) -> Duration {
    let time = |_| {
        let begun = Instant::now();
        context.process(|| (), ()).start().expect("a start").join().expect("an end");
        begun.elapsed()
    };
    (0..31).map(time).min().expect("some times")
}

/// A promise with a bound: what a start costs does not depend on how many descriptors there could be. Walking through
/// a million of them would take a tenth of a second. Without the right to raise the limit, it goes as high as it may.
#[test]
fn fd_06_a_high_descriptor_limit_costs_nothing() {
    alone(|| {
        let allowed = getrlimit(Resource::Nofile);
        let limit = |soft: u64, hard: Option<u64>| {
            setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: hard })
        };
        for context in [Context::spawn(), Context::forkserver()] {
            limit(256, allowed.maximum).expect("a low limit");
            let low = start_time(context);
            let high = allowed.maximum.map_or(1_000_000, |hard| hard.min(1_000_000));
            if limit(1_000_000, allowed.maximum.map(|hard| hard.max(1_000_000))).is_err() {
                limit(high, allowed.maximum).expect("a high limit");
            }
            let high = start_time(context);
            assert!(high < low * 3 + Duration::from_millis(5), "{context:?}: {low:?}, then {high:?}");
        }
    });
}

/// A promise with a bound: a large process starts children about as fast as a small one. Copying the page tables of a
/// gigabyte takes some 14 milliseconds, each time.
#[test]
fn fd_06_a_large_parent_costs_nothing() {
    alone(|| {
        let contexts = [Context::spawn(), Context::forkserver()];
        let small = contexts.map(start_time);
        let mut ballast = vec![0u8; 1 << 30];
        ballast.chunks_mut(4096).for_each(|page| page[0] = 1);
        let large = contexts.map(start_time);
        assert_eq!(std::hint::black_box(&ballast)[4096], 1);
        for (small, large) in small.into_iter().zip(large) {
            assert!(large < small * 3 + Duration::from_millis(5), "small: {small:?}, large: {large:?}");
        }
    });
}

/// Many starts and failures later, a process has what it had before.
#[test]
fn fd_nothing_is_left_after_starts_that_fail() {
    for_each_method(|context| {
        let before = Belongings::now();
        for _ in 0..20 {
            context.process(|| (), ()).current_dir("/nowhere/at/all").start().expect_err("refused");
            context
                .process(|| -> () { mp::exit(3) }, ())
                .start()
                .expect("a start")
                .join()
                .expect_err("no result");
        }
        before.assert_same();
    });
}
