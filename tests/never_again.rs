//! Troubles that other libraries have had with processes, each by its number. NA-12 is in `programs/killed.rs`.

mod common;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, OnError, ProcessError, StartError, StartMethod};

use common::{Belongings, Scratch, alone, for_each_method, sleep_for_ever};

/// NA-7
#[test]
fn na_07_a_thousand_children_of_a_parent_with_busy_threads() {
    alone(|| {
        let (stop, shared) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let hammer = || {
            let mut n = 0usize;
            while !stop.load(Relaxed) {
                n = n.wrapping_mul(31).wrapping_add(7);
                let block = vec![n as u8; n % 5000];
                *shared.lock().expect("no panic") = block;
            }
        };
        // A child that inherited a locked allocator or a locked mutex would never come to an end here.
        let work = |n: u64| {
            let lock = Mutex::new(vec![n; 100]);
            let sum: u64 = lock.lock().expect("no panic").iter().sum();
            format!("{sum}")
        };
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(hammer)));
            let mut finished = 0;
            for batch in (0..1000u64).collect::<Vec<_>>().chunks(50) {
                let starting: Vec<_> =
                    batch.iter().map(|n| mp::process(work, (*n,)).begin_start().expect("a start")).collect();
                for (n, child) in batch.iter().zip(starting) {
                    assert_eq!(
                        child.finish().expect("a child").join().expect("a sum"),
                        (n * 100).to_string()
                    );
                    finished += 1;
                }
            }
            stop.store(true, Relaxed);
            assert_eq!(finished, 1000);
        });
    });
}

/// NA-7
#[test]
fn na_07_fork_names_the_threads_that_forbid_it() {
    // See also start_10.
    alone(|| {
        std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || stopped.recv());
            let error = Context::fork().process(|| (), ()).start().expect_err("refused");
            assert!(matches!(error, StartError::System { method: StartMethod::Fork, .. }), "{error}");
            drop(stop);
        });
    });
}

/// NA-29
#[test]
fn na_29_all_threads_see_the_same_status() {
    for_each_method(|context| {
        let run = |end: usize, there: Connection| {
            let ends: [fn(Connection); 3] = [good_end, exit_17, kill_oneself];
            ends[end](there);
        };
        for (end, expected) in [(0, 0), (1, 17), (2, -9)] {
            for _ in 0..10 {
                let (gate, there) = pipe().expect("a pipe");
                let child = context.process(run, (end, there)).start().expect("a child");
                std::thread::scope(|scope| {
                    let joiners = (0..4).map(|_| {
                        scope.spawn(|| {
                            let _ = child.join();
                            child.exit_code()
                        })
                    });
                    let pollers = (0..4).map(|_| {
                        scope.spawn(|| {
                            while child.is_alive() {
                                std::thread::yield_now();
                            }
                            child.exit_code()
                        })
                    });
                    let listers = (0..2).map(|_| {
                        scope.spawn(|| {
                            while !mp::active_children().is_empty() {
                                std::thread::yield_now();
                            }
                            child.exit_code()
                        })
                    });
                    let threads: Vec<_> = joiners.chain(pollers).chain(listers).collect();
                    gate.send(&()).expect("sent");
                    for thread in threads {
                        assert_eq!(thread.join().expect("a code"), Some(expected));
                    }
                });
                for late in [child.kill(), child.terminate(), child.interrupt()] {
                    late.expect("signals to a process that is gone are lost");
                }
            }
        }
    });
}

fn good_end(there: Connection) {
    there.recv().expect("leave to go")
}

fn exit_17(there: Connection) {
    good_end(there);
    mp::exit(17)
}

fn kill_oneself(there: Connection) {
    good_end(there);
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("a signal sent")
}

/// NA-29
#[test]
fn na_29_a_child_that_somebody_else_reaps() {
    // Other code may wait for any child; the end is noticed all the same, and nothing hangs.
    for_each_method(|context| {
        let (gate, there) = pipe().expect("a pipe");
        let child = context.process(exit_17, (there,)).start().expect("a child");
        gate.send(&()).expect("sent");
        // Only children that spawn and fork make are there to be taken away; the server is too, but it runs on.
        if context != Context::forkserver() {
            let pid = rustix::process::Pid::from_raw(child.pid() as i32).expect("a pid");
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                .expect("a child")
                .expect("ended");
        }
        let error = child.join_timeout(common::SOON).expect_err("no result");
        match error {
            ProcessError::Exited { code: 17, .. } => assert_eq!(child.exit_code(), Some(17)),
            // Before Linux 6.15 nobody can say.
            ProcessError::Vanished { .. } => assert_eq!(child.exit_code(), Some(255)),
            error => panic!("{error}"),
        }
        assert!(mp::active_children().is_empty());
    });
}

/// NA-33
#[test]
fn na_33_cpu_count_knows_affinity_and_override() {
    // Quotas are tested where they are read, in mp-context/src/cpu.rs.
    for_each_method(|context| {
        let allowed = rustix::thread::sched_getaffinity(None).expect("a set");
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("a CPU");
        let count = mp::cpu_count;
        let pinned = context.process(count, ()).cpu_affinity([first]).start().expect("a child");
        assert_eq!(pinned.join().expect("a number"), 1);
        let chosen = |value: &str| {
            let child = context.process(count, ()).env("MULTIPROCESS_MAX_CPU_COUNT", value).start();
            child.expect("a child").join().expect("a number")
        };
        assert_eq!(chosen("1"), 1);
        assert_eq!(chosen("100000"), mp::cpu_count(), "an override only lowers it");
        assert_eq!(chosen("nonsense"), mp::cpu_count());
    });
}

/// NA-34
#[test]
fn na_34_a_slow_preload_is_paid_once() {
    alone(|| {
        const SLOW: Duration = Duration::from_millis(500);
        mp::set_forkserver_preload(|| std::thread::sleep(SLOW), OnError::Fail);
        let begun = Instant::now();
        let start = |n: u32| Context::forkserver().process(|n: u32| n, (n,)).begin_start().expect("a start");
        let starting: Vec<_> = (0..100).map(start).collect();
        assert!(begun.elapsed() >= SLOW);
        for (n, child) in (0u32..).zip(starting) {
            assert_eq!(child.finish().expect("a child").join().expect("a number"), n);
        }
        // A hundred times would be 50 seconds.
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    });
}

/// A program that is none of ours: it neither speaks nor, if it is `slow`, ends.
fn stranger(scratch: &Scratch, slow: bool) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = scratch.file("stranger");
    let script = if slow { "#!/bin/sh\nexec sleep 1000\n" } else { "#!/bin/sh\nexit 3\n" };
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    path.to_str().expect("a path").to_owned()
}

fn does_not_start(slow: bool) {
    let _watchdog = common::watchdog();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let scratch = Scratch::new();
        let run = |method: StartMethod, program: String, slow: bool| {
            let before = Belongings::now();
            mp::set_executable(PathBuf::from(&program));
            let limit = Duration::from_millis(300);
            let begun = Instant::now();
            let described = Context::new(method).process(|| (), ()).name("lost");
            let described = if slow { described.start_timeout(limit) } else { described };
            let error = described.start().expect_err("a stranger");
            let text = error.to_string();
            assert!(text.contains("lost"), "{text}");
            if slow {
                assert!(matches!(error, StartError::Timeout { .. }), "{text}");
                assert!(begun.elapsed() >= limit);
            } else if method == StartMethod::Spawn {
                assert!(matches!(error, StartError::Died { .. }), "{text}");
                assert!(text.contains("code 3"), "{text}");
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
            before.assert_same();
            // And afterwards all is well.
            mp::reset_executable();
            Context::new(method).process(|| (), ()).start().expect("a child").join().expect("a good end");
        };
        let mark = common::Mark::new();
        let child = Context::spawn().process(run, (method, stranger(&scratch, slow), slow));
        let child = child.env(common::Mark::VARIABLE, mark.value()).start().expect("a child");
        child.join().unwrap_or_else(|error| panic!("{method}: {error:#}"));
        mark.assert_gone();
    }
}

/// NA-34
#[test]
fn na_34_a_child_that_dies_before_it_is_ready_is_an_error_at_once() {
    does_not_start(false);
}

/// NA-34
#[test]
fn na_34_a_child_that_is_never_ready_is_an_error_after_the_time_limit() {
    does_not_start(true);
}

/// NA-34
#[test]
fn na_34_arguments_that_take_too_long_to_decode() {
    for_each_method(|context| {
        #[derive(serde::Serialize)]
        struct Slow;
        impl<'de> serde::Deserialize<'de> for Slow {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let _ = deserializer;
                sleep_for_ever();
                unreachable!("it sleeps")
            }
        }
        let limit = Duration::from_millis(200);
        let error =
            context.process(|_: Slow| (), (Slow,)).start_timeout(limit).start().expect_err("too slow");
        assert!(matches!(error, StartError::Timeout { .. }), "{error}");
        assert!(mp::active_children().is_empty());
    });
}
