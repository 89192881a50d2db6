//! FSRV: what the fork server lives through, and what its user sees when it does not.
//!
//! Each scenario has a process of its own, and with it a fork server of its own.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{Belongings, SOON, Scratch, alone, is_running, sleep_for_ever, wait_until, watchdog};
use mp::core::connection::{Connection, pipe};
use mp::core::function::Callable;
use mp::{Context, OnError, ProcessBuilder, ProcessError, StartError};
use multiprocess as mp;
use rustix::process::{Pid, Signal, kill_process};

/// "At once", on a loaded machine: no wait of any kind is behind it.
const AT_ONCE: Duration = Duration::from_secs(10);

fn nothing() {}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    // A server that was just killed is a zombie until this process starts a new one, so the pid stays its own.
    let _ = kill_process(pid, signal);
}

/// Runs the process and returns what it and its descendants wrote to the two standard streams.
fn output_of<F: Callable<(), Output = ()>>(process: ProcessBuilder<F, ()>) -> [String; 2] {
    let _watchdog = watchdog();
    let (stdout, stdout_write) = std::io::pipe().expect("a pipe");
    let (stderr, stderr_write) = std::io::pipe().expect("a pipe");
    let process = process.stdout(OwnedFd::from(stdout_write)).stderr(OwnedFd::from(stderr_write));
    let process = process.start().expect("a process");
    // The last writer is the fork server, which ends with its user.
    let texts = [OwnedFd::from(stdout), OwnedFd::from(stderr)].map(|stream| {
        let mut text = String::new();
        File::from(stream).read_to_string(&mut text).expect("text");
        text
    });
    process.join().unwrap_or_else(|error| panic!("{error:#}\n{texts:?}"));
    texts
}

/// Starts a child through the server and ends it, so that the server runs.
fn server() -> u32 {
    Context::forkserver().process(nothing, ()).start().expect("a start").join().expect("an end");
    mp::server_pid().expect("a running server")
}

/// Says that it runs, waits for a word, and answers it.
fn answer(connection: Connection) {
    connection.send("ready").expect("sent");
    let word: String = connection.recv_timeout(SOON).expect("a word");
    connection.send(&word).expect("sent");
}

fn end_with(code: i32) {
    match code {
        0 => {}
        1.. => mp::exit(code),
        // A handler may be there that only lets the first one pass.
        _ => loop {
            signal(std::process::id(), Signal::from_named_raw(-code).expect("a signal"));
        },
    }
}

/// Starts a child while another, started before something happened to the server, waits; then lets both end.
fn start_around(happening: impl FnOnce(u32)) {
    let server = server();
    let (ours, theirs) = pipe().expect("a pipe");
    let first = Context::forkserver().process(answer, (theirs,)).start().expect("the first start");
    assert_eq!(ours.recv_timeout::<String>(SOON).expect("the first runs"), "ready");
    happening(server);
    let (ours_2, theirs_2) = pipe().expect("a pipe");
    let second = Context::forkserver().process(answer, (theirs_2,)).start().expect("the second start");
    for (connection, process) in [(&ours_2, &second), (&ours, &first)] {
        connection.send("go on").expect("sent");
        while connection.recv_timeout::<String>(SOON).expect("an answer") != "go on" {}
        process.join_timeout(SOON).expect("an end");
        assert_eq!(process.exit_code(), Some(0));
    }
}

#[test]
fn fsrv_01_sigint_to_the_server() {
    alone(|| {
        start_around(|server| {
            signal(server, Signal::INT);
            signal(server, Signal::TERM);
            assert!(mp::server_pid() == Some(server));
        });
    });
}

#[test]
fn fsrv_01_sigkill_of_the_server() {
    alone(|| {
        start_around(|server| {
            signal(server, Signal::KILL);
            wait_until("the server to end", || !is_running(server));
        });
    });
}

/// FSRV-02, FSRV-03: The server has no address and no key: it talks through a pair of sockets without names, whose other end its user
/// alone holds. So instead of a wrong key being refused, there is nothing to send it to.
#[test]
fn fsrv_02_fsrv_03_nobody_can_reach_the_server() {
    let scratch = Scratch::new();
    let scenario = || {
        let server = server();
        // Paths and listening sockets of the whole network namespace, by inode.
        let mut reachable = Vec::new();
        for line in std::fs::read_to_string("/proc/net/unix").expect("/proc").lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let flags = u32::from_str_radix(columns[3], 16).expect("flags");
            if columns.len() > 7 || flags & 0x1_0000 != 0 {
                reachable.push(columns[6].to_owned());
            }
        }
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            reachable.extend(
                text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9)).map(str::to_owned),
            );
        }
        let mut sockets = 0;
        for fd in std::fs::read_dir(format!("/proc/{server}/fd")).expect("/proc").flatten() {
            let target = std::fs::read_link(fd.path()).expect("a descriptor").to_string_lossy().into_owned();
            let number: u32 = fd.file_name().to_string_lossy().parse().expect("a number");
            if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                assert!(
                    number < 3 || !reachable.contains(&inode.to_owned()),
                    "{fd:?} {target} can be connected to"
                );
                sockets += usize::from(number > 2);
            }
            let temporary = std::env::temp_dir();
            assert!(number < 3 || !target.starts_with(&*temporary.to_string_lossy()), "{fd:?}: {target}");
        }
        assert_eq!(sockets, 1, "the pair with its user, and no other");
        let left: Vec<_> = std::fs::read_dir(std::env::temp_dir()).expect("the folder").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    };
    let texts = output_of(Context::spawn().process(scenario, ()).env("TMPDIR", scratch.path()));
    assert_eq!(texts, ["", ""]);
}

#[test]
fn fsrv_04_an_interrupt_of_the_process_group_passes_the_server_by() {
    alone(|| {
        rustix::process::setpgid(None, None).expect("a group");
        let server = server();
        static SEEN: AtomicBool = AtomicBool::new(false);
        extern "C" fn note(_: i32) {
            SEEN.store(true, Relaxed);
        }
        let handler = note as extern "C" fn(i32);
        // SAFETY: the handler stores to an atomic and does nothing else.
        unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
        rustix::process::kill_process_group(rustix::process::getpid(), Signal::INT).expect("a signal");
        wait_until("the interrupt", || SEEN.load(Relaxed));

        let (ours, theirs) = pipe().expect("a pipe");
        let child = Context::forkserver().process(answer, (theirs,)).start().expect("a start");
        assert_eq!(mp::server_pid(), Some(server), "the server has survived");
        assert_eq!(ours.recv_timeout::<String>(SOON).expect("it runs"), "ready");
        child.interrupt().expect("a signal");
        assert!(matches!(child.join_timeout(SOON), Err(ProcessError::Killed { signal: 2, .. })));
        assert_eq!(child.exit_code(), Some(-2), "it does not ignore interrupts as its maker does");
    });
}

#[test]
fn fsrv_05_exit_statuses_are_relayed() {
    alone(|| {
        let codes = [0, 7, -9, -11, 255, 1];
        let start = |code| Context::forkserver().process(end_with, (code,)).start().expect("a start");
        let running: Vec<_> =
            codes.iter().flat_map(|code| [*code; 4]).map(|code| (code, start(code))).collect();
        for (code, process) in running {
            let result = process.join_timeout(SOON);
            assert_eq!(process.exit_code(), Some(code), "{result:?}");
        }
    });
}

/// Python refuses more than 256 descriptors; here their number is not limited by what one request can carry.
#[test]
fn fsrv_06_three_hundred_descriptors_in_the_arguments() {
    for context in [Context::forkserver(), Context::spawn()] {
        let scenario = |context: String| {
            let context = mp::get_context(&*context).expect("a context");
            let (ours, theirs): (Vec<_>, Vec<_>) = (0..300).map(|_| pipe().expect("a pipe")).unzip();
            let greet = |connections: Vec<Connection>| {
                connections.iter().enumerate().for_each(|(i, connection)| connection.send(&i).expect("sent"));
            };
            context.process(greet, (theirs,)).start().expect("a start").join().expect("an end");
            for (i, connection) in ours.iter().enumerate() {
                assert_eq!(connection.recv_timeout::<usize>(SOON).expect("a number"), i);
            }
            context.process(nothing, ()).start().expect("a start").join().expect("the server works on");
        };
        let process = Context::spawn().process(scenario, (context.get_start_method().to_owned(),)).start();
        process.expect("a start").join_timeout(SOON).expect("the scenario");
    }
}

/// Short orders come with the request, long ones through the child's socket: nobody can tell which way theirs took.
#[test]
fn fsrv_06_orders_of_any_length_arrive() {
    alone(|| {
        let echo = |connections: Vec<Connection>, text: String| {
            connections.iter().for_each(|connection| connection.send(&text.len()).expect("sent"));
            let long = std::env::var("LONG").expect("a variable").len();
            let parent = mp::parent_process().expect("a parent");
            (text, long, parent.pid(), parent.is_alive())
        };
        let lens = (0..4096).step_by(256).chain([40_000, 1 << 20]);
        for (len, pipes, long) in
            lens.map(|len| (len, 1, 0)).chain((60..70).map(|n| (0, n, 0))).chain([(9, 2, 5000)])
        {
            let (ours, theirs): (Vec<_>, Vec<_>) = (0..pipes).map(|_| pipe().expect("a pipe")).unzip();
            let text = "x".repeat(len);
            let process =
                Context::forkserver().process(echo, (theirs, text.clone())).env("LONG", "y".repeat(long));
            let answer = process.start().expect("a start").join().expect("an end");
            assert_eq!(answer, (text, long, std::process::id(), true));
            for connection in ours {
                assert_eq!(connection.recv_timeout::<usize>(SOON).expect("a number"), len);
            }
        }
    });
}

#[test]
fn fsrv_07_a_preload_hook_creates_a_primitive() {
    static PIPE: OnceLock<(Connection, Connection)> = OnceLock::new();
    let scenario = || {
        mp::set_forkserver_preload(|| PIPE.set(pipe().expect("a pipe")).expect("the first"), OnError::Warn);
        let child = || {
            let (a, b) = PIPE.get().expect("made by the hook");
            a.send("ok").expect("sent");
            println!("{}", b.recv::<String>().expect("a word"));
        };
        Context::forkserver().process(child, ()).start().expect("a start").join().expect("an end");
        assert!(PIPE.get().is_none(), "the hook runs in the server alone");
    };
    let output = output_of(Context::spawn().process(scenario, ()));
    assert_eq!(output, ["ok\n", ""]);
}

#[test]
fn fsrv_08_hooks_run_once_and_in_order() {
    let scenario = || {
        println!("main");
        mp::set_forkserver_preload(|| println!("first hook"), OnError::Warn);
        mp::set_forkserver_preload(|| print!("second "), OnError::Warn);
        mp::set_forkserver_preload(|| println!("hook"), OnError::Warn);
        for _ in 0..2 {
            let child = Context::forkserver().process(|| println!("f"), ()).start().expect("a start");
            child.join().expect("an end");
        }
    };
    let output = output_of(Context::spawn().process(scenario, ()));
    assert_eq!(output, ["main\nfirst hook\nsecond hook\nf\nf\n", ""]);
}

/// Those of the program are also checked with arguments of its own, in `programs.rs`.
#[test]
fn fsrv_09_hooks_and_children_see_the_arguments_of_the_program() {
    let scenario = || {
        mp::set_forkserver_preload(|| println!("{:?}", std::env::args_os()), OnError::Warn);
        let child = || println!("{:?}", std::env::args_os());
        Context::forkserver().process(child, ()).start().expect("a start").join().expect("an end");
    };
    let [stdout, _] = output_of(Context::spawn().process(scenario, ()));
    let own = format!("{:?}", std::env::args_os());
    assert_eq!(stdout.lines().collect::<Vec<_>>(), [&*own, &*own]);
}

fn bad_hook() -> Result<(), String> {
    Err("the table is missing".into())
}

fn panicking_hook() {
    panic!("no luck");
}

fn starts_nevertheless() {
    let child = Context::forkserver().process(|| 42, ()).start().expect("a start");
    assert_eq!(child.join().expect("a value"), 42);
    assert_eq!(child.exit_code(), Some(0));
}

#[test]
fn fsrv_10_a_failing_hook_is_ignored() {
    for policy in [|| OnError::default(), || OnError::Ignore] {
        assert_eq!(policy(), OnError::Ignore);
    }
    let scenario = || {
        mp::set_forkserver_preload(bad_hook, OnError::default());
        mp::set_forkserver_preload(bad_hook, OnError::Ignore);
        starts_nevertheless();
    };
    assert_eq!(output_of(Context::spawn().process(scenario, ())), ["", ""]);
}

#[test]
fn fsrv_11_a_failing_hook_is_told() {
    let scenario = || {
        mp::set_forkserver_preload(bad_hook, OnError::Warn);
        mp::set_forkserver_preload(panicking_hook, OnError::Warn);
        starts_nevertheless();
    };
    let [_, stderr] = output_of(Context::spawn().process(scenario, ()));
    for part in ["warning", "fsrv::bad_hook", "the table is missing", "no luck", file!()] {
        assert!(stderr.contains(part), "{part:?} is not in {stderr:?}");
    }
}

#[test]
fn fsrv_11_a_failing_hook_can_fail_the_start() {
    alone(|| {
        mp::set_forkserver_preload(bad_hook, OnError::Fail);
        let before = Belongings::now();
        for _ in 0..2 {
            let begun = Instant::now();
            let error =
                Context::forkserver().process(nothing, ()).start().expect_err("no server").to_string();
            assert!(begun.elapsed() < AT_ONCE);
            assert!(error.contains("bad_hook") && error.contains("the table is missing"), "{error}");
            assert_eq!(mp::server_pid(), None);
        }
        before.assert_same();
        Context::spawn().process(nothing, ()).start().expect("spawn needs no server").join().expect("an end");
    });
}

/// A hook that never returns takes the start's time, and not more.
#[test]
fn fsrv_a_server_that_does_not_get_ready_is_a_timeout() {
    alone(|| {
        mp::set_forkserver_preload(sleep_for_ever, OnError::Fail);
        let before = Belongings::now();
        let begun = Instant::now();
        let process = Context::forkserver().process(nothing, ()).start_timeout(Duration::from_millis(200));
        let error = process.start().expect_err("no server");
        assert!(matches!(error, StartError::Timeout { .. }), "{error}");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        before.assert_same();
    });
}

/// The pipe for the exit status ends with the server, long before the child does.
#[test]
fn fsrv_a_wait_for_a_child_keeps_its_limit_when_the_server_is_killed() {
    alone(|| {
        let (here, there) = mp::pipe().expect("a pipe");
        let child = |there: mp::Connection| there.recv::<u8>().expect("a number");
        let child = Context::forkserver().process(child, (there,)).start().expect("a start");
        signal(server(), Signal::KILL);
        let begun = Instant::now();
        let limit = Duration::from_millis(200);
        assert!(matches!(child.join_timeout(limit), Err(mp::ProcessError::Timeout { .. })));
        assert!(begun.elapsed() >= limit && begun.elapsed() < AT_ONCE);
        assert!(child.is_alive());
        here.send(&7u8).expect("sent");
        assert_eq!(child.join().expect("its result"), 7);
        assert_eq!(child.exit_code(), Some(0));
    });
}

/// A server that does not move is a time-out, whose child does not come to life later.
#[test]
fn fsrv_a_stopped_server_is_a_timeout() {
    alone(|| {
        let server = server();
        let scratch = Scratch::new();
        let marker = scratch.file("late");
        signal(server, Signal::STOP);
        for _ in 0..3 {
            let begun = Instant::now();
            let process = Context::forkserver()
                .process(|path: PathBuf| std::fs::write(path, "late").expect("written"), (marker.clone(),))
                .start_timeout(Duration::from_millis(200));
            let error = process.start().expect_err("no answer");
            assert!(matches!(error, StartError::Timeout { .. }), "{error}");
            assert!(error.to_string().contains(&format!("fork server (pid {server}) is stopped")), "{error}");
            assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < AT_ONCE);
        }
        signal(server, Signal::CONT);
        Context::forkserver().process(nothing, ()).start().expect("the next start").join().expect("an end");
        assert!(!marker.exists(), "a child that nobody waited for has run");
    });
}

/// The server relays exit statuses; while it is stopped the kernel is asked, whichever way the wait goes.
#[test]
fn fsrv_05_children_of_a_stopped_server_are_joined() {
    alone(|| {
        let end_when_told = |there: Connection| end_with(there.recv().expect("a code"));
        let waits: [fn(&mp::Process<()>); 4] = [
            |child| drop(child.join()),
            |child| drop(child.join_timeout(SOON)),
            |child| wait_until("its end", || !child.is_alive()),
            |child| assert_eq!(mp::wait(&[child], None, mp::ReturnWhen::AllCompleted).expect("a wait"), [0]),
        ];
        let server = server();
        for code in [0, 7, -9, -11] {
            let start = || {
                let (here, there) = pipe().expect("a pipe");
                (here, Context::forkserver().process(end_when_told, (there,)).start().expect("a start"))
            };
            // Told before somebody waits for it, and while somebody does.
            let early = waits.map(|wait| (start(), wait));
            let late = waits.map(|wait| (start(), wait));
            signal(server, Signal::STOP);
            let begun = Instant::now();
            for ((here, child), wait) in &early {
                here.send(&code).expect("sent");
                wait(child);
                assert_eq!(child.exit_code(), Some(code), "{:?}", child.exception());
            }
            std::thread::scope(|scope| {
                for ((here, child), wait) in &late {
                    let waiting = scope.spawn(move || wait(child));
                    // Beyond the time in which a status is waited for alone; sooner would do as well.
                    assert!(matches!(
                        child.join_timeout(Duration::from_millis(60)),
                        Err(ProcessError::Timeout { .. })
                    ));
                    here.send(&code).expect("sent");
                    waiting.join().expect("it has ended");
                    assert_eq!(child.exit_code(), Some(code), "{:?}", child.exception());
                }
            });
            assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
            signal(server, Signal::CONT);
            let child = start();
            child.0.send(&code).expect("sent");
            drop(child.1.join_timeout(SOON));
            assert_eq!(child.1.exit_code(), Some(code));
            assert_eq!(mp::server_pid(), Some(server));
        }
    });
}

/// Requests pile up in front of a stopped server until no more fit: the starts must still end in time.
#[test]
fn fsrv_many_starts_at_a_stopped_server_are_timeouts() {
    alone(|| {
        let server = server();
        signal(server, Signal::STOP);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let process = Context::forkserver().process(nothing, ());
                        let error =
                            process.start_timeout(Duration::from_millis(20)).start().expect_err("no answer");
                        assert!(matches!(error, StartError::Timeout { .. }), "{error}");
                    }
                });
            }
        });
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        signal(server, Signal::CONT);
        Context::forkserver().process(nothing, ()).start().expect("the next start").join().expect("an end");
    });
}

/// Starts from many threads while somebody kills the server again and again.
fn starts_under_fire(hit: fn(u32)) {
    server();
    let done = AtomicBool::new(false);
    let (mut started, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let shooter = scope.spawn(|| {
            let mut shots = 0u32;
            while !done.load(Relaxed) {
                // Moments that drift over everything that a start consists of.
                std::thread::sleep(Duration::from_micros(2_000 + u64::from(shots % 23) * 1_117));
                if let Some(pid) = mp::server_pid() {
                    hit(pid);
                    shots += 1;
                }
            }
            shots
        });
        let starters: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut counts = [0, 0];
                    for code in [0, 7, -9, -11].repeat(10) {
                        let begun = Instant::now();
                        let start = Context::forkserver().process(end_with, (code,)).start();
                        assert!(begun.elapsed() < AT_ONCE, "a start took {:?}: {start:?}", begun.elapsed());
                        let process = match start {
                            Ok(process) => process,
                            Err(StartError::Died { .. }) => {
                                counts[1] += 1;
                                continue;
                            }
                            Err(error) => panic!("{error}"),
                        };
                        counts[0] += 1;
                        let result = process.join_timeout(SOON);
                        assert_eq!(process.exit_code(), Some(code), "{result:?}");
                    }
                    counts
                })
            })
            .collect();
        for starter in starters {
            // The shooter must end before a failed starter's panic can leave the scope.
            let counts = starter.join();
            if counts.is_err() {
                done.store(true, Relaxed);
            }
            let [ok, bad] = counts.expect("a starter");
            started += ok;
            refused += bad;
        }
        done.store(true, Relaxed);
        assert!(shooter.join().expect("the shooter") > 0);
    });
    // How many get through is a matter of luck and load; without the shooter, all of them.
    assert!(started > 0, "all {refused} starts failed");
    server();
    assert!(mp::active_children().is_empty());
}

#[test]
fn fsrv_starts_while_the_server_is_killed() {
    alone(|| {
        server();
        let before = Belongings::now();
        starts_under_fire(|pid| signal(pid, Signal::KILL));
        before.assert_same();
    });
}

#[test]
fn fsrv_starts_while_the_server_is_signalled() {
    alone(|| {
        let server = server();
        starts_under_fire(|pid| {
            signal(pid, Signal::INT);
            signal(pid, Signal::TERM);
            signal(pid, Signal::STOP);
            signal(pid, Signal::CONT);
        });
        assert_eq!(mp::server_pid(), Some(server), "none of these ends it");
    });
}

/// The server ends with its user, whatever ends that.
#[test]
fn fsrv_the_server_ends_with_its_user() {
    for kill in [false, true] {
        let (ours, theirs) = pipe().expect("a pipe");
        let user = |connection: Connection| {
            connection.send(&server()).expect("sent");
            let _ = connection.recv::<()>();
        };
        let process = Context::spawn().process(user, (theirs,)).start().expect("a start");
        let server: u32 = ours.recv_timeout(SOON).expect("its pid");
        if kill {
            process.kill().expect("a signal");
        } else {
            ours.close().expect("closed");
        }
        let _ = process.join_timeout(SOON);
        wait_until("the server to end with its user", || !is_running(server));
    }
}

/// A child made by a server that was killed since still ends with the user of both.
#[test]
fn fsrv_children_of_a_killed_server_end_with_the_user() {
    let (ours, theirs) = pipe().expect("a pipe");
    let user = |connection: Connection| {
        let server = server();
        let (held, waiting) = pipe().expect("a pipe");
        let child = Context::forkserver().process(answer, (waiting,)).start().expect("a start");
        assert_eq!(held.recv_timeout::<String>(SOON).expect("it runs"), "ready");
        signal(server, Signal::KILL);
        wait_until("the server to end", || !is_running(server));
        connection.send(&child.pid()).expect("sent");
        let _ = connection.recv::<()>();
    };
    let process = Context::spawn().process(user, (theirs,)).start().expect("a start");
    let child: u32 = ours.recv_timeout(SOON).expect("its pid");
    let pid = Pid::from_raw(child as i32).expect("a pid");
    let pidfd =
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("it still runs");
    process.kill().expect("a signal");
    let ended = mp::core::wait::wait_ready(&[pidfd.as_fd()], Some(SOON)).expect("a wait");
    assert!(!ended.is_empty(), "child {child} outlives its user");
}

/// NA-35: a long TMPDIR breaks no socket path, as there is none.
#[test]
fn na_35_tmpdir_of_120_characters() {
    let scratch = Scratch::new();
    let folder = scratch.file(&"x".repeat(120));
    std::fs::create_dir(&folder).expect("a folder");
    let scenario = || {
        assert!(std::env::temp_dir().as_os_str().len() >= 120);
        for method in mp::get_all_start_methods() {
            let child = mp::get_context(method).expect("a context").process(std::env::temp_dir, ()).start();
            assert_eq!(child.expect("a start").join().expect("an end"), std::env::temp_dir());
        }
    };
    let texts = output_of(Context::spawn().process(scenario, ()).env("TMPDIR", &folder));
    assert_eq!(texts, ["", ""]);
}
