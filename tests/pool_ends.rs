//! How pools end, and what tasks may do to their workers without ending them (NA-17, NA-18, NA-20, NA-22).

mod common;

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Belongings, Scratch, alone, sleep_for_ever, state_of, wait_until};
use multiprocess as mp;
use multiprocess::{Context, Pool, PoolError, StartMethod, TaskFailure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// Within which everything that is to end at once has ended.
const AT_ONCE: Duration = Duration::from_secs(2);

fn worker_pids() -> Vec<u32> {
    let mut children = mp::active_children();
    children.retain(|child| child.name().contains("PoolWorker"));
    children.iter().map(|child| child.pid()).collect()
}

#[test]
fn close_and_join_let_tasks_end() {
    alone(|| {
        let scratch = Scratch::new();
        let go = scratch.file("go");
        let pool = Pool::new(2).expect("a pool");
        assert!(matches!(pool.join(), Err(PoolError::StillRunning)));
        std::thread::scope(|scope| {
            let begun = scratch.file("begun");
            let items: Vec<_> = (0..20).map(|item| (item, begun.clone(), go.clone())).collect();
            let call = scope.spawn(|| {
                let work = |(item, begun, go): (u32, PathBuf, PathBuf)| {
                    std::fs::write(begun, "").expect("written");
                    wait_until("the file", || go.exists());
                    item
                };
                pool.map(work, items)
            });
            wait_until("tasks run", || begun.exists());
            pool.close().expect("closed");
            pool.close().expect("closed twice");
            assert!(matches!(pool.map(|x: u32| x, 0..3), Err(PoolError::Closed)));
            assert!(matches!(pool.map(|x: u32| x, 0..0), Err(PoolError::Closed)));
            let joins: Vec<_> = (0..3).map(|_| scope.spawn(|| pool.join())).collect();
            std::fs::write(&go, "").expect("written");
            assert_eq!(call.join().expect("a call").expect("results"), (0..20).collect::<Vec<_>>());
            joins.into_iter().for_each(|join| join.join().expect("a thread").expect("joined"));
        });
        assert!(worker_pids().is_empty());
        assert!(matches!(pool.apply(|| (), ()), Err(PoolError::Closed)));
        pool.terminate().expect("nothing left to end");
    });
}

#[test]
fn ends_in_every_order_with_tasks_running_and_queued() {
    alone(|| {
        drop(Pool::new(1).expect("what comes with the first pool"));
        let before = Belongings::now();
        for order in 0..12 {
            let pool = Arc::new(Pool::new(2).expect("a pool"));
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let pool = pool.clone();
                    std::thread::spawn(move || pool.map(|_: u32| sleep_for_ever(), 0..50))
                })
                .collect();
            if order % 2 == 0 {
                wait_until("tasks are with the pool", || Arc::strong_count(&pool) == 4);
            }
            let began = Instant::now();
            std::thread::scope(|scope| {
                let steps: [fn(&Pool); 4] = [
                    |pool| _ = pool.close(),
                    |pool| _ = pool.terminate(),
                    |pool| _ = pool.terminate(),
                    |pool| _ = pool.join(),
                ];
                for step in 0..4 {
                    let pool = &pool;
                    scope.spawn(move || steps[(step + order) % 4](pool));
                }
            });
            assert!(began.elapsed() < AT_ONCE, "{order}: {:?}", began.elapsed());
            for caller in callers {
                let error = caller.join().expect("a thread").expect_err("terminated");
                assert!(matches!(error, PoolError::Terminated | PoolError::Closed), "{error}");
            }
        }
        before.assert_same();
    });
}

#[test]
fn the_last_handle_may_be_dropped_anywhere() {
    alone(|| {
        let pool = Arc::new(Pool::new(2).expect("a pool"));
        let caller = std::thread::spawn({
            let pool = pool.clone();
            move || pool.map(|x: u32| x, 0..1000).expect("results").len()
        });
        drop(pool);
        assert_eq!(caller.join().expect("a thread"), 1000);
        wait_until("the workers are gone", || worker_pids().is_empty());
        // Also in the pool's own thread, which cannot wait for itself, nor call the pool.
        let shared: &'static std::sync::Mutex<Option<Pool>> = Box::leak(Box::default());
        let build = Pool::builder().processes(2).on_worker_lost(move |_| {
            if let Some(pool) = shared.lock().expect("a lock").take() {
                assert!(matches!(pool.apply(|| (), ()), Err(PoolError::Invalid { .. })));
            }
        });
        *shared.lock().expect("a lock") = Some(build.build().expect("a pool"));
        let pid = worker_pids()[0];
        kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::KILL).expect("sent");
        wait_until("the pool ends", || shared.lock().expect("a lock").is_none() && worker_pids().is_empty());
    });
}

#[test]
fn na_22_terminate_ends_stopped_workers() {
    alone(|| {
        let pool = Pool::new(3).expect("a pool");
        for pid in worker_pids() {
            kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::STOP).expect("sent");
            wait_until("it stops", || state_of(pid) == Some('T'));
        }
        let began = Instant::now();
        pool.terminate().expect("terminated");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert!(worker_pids().is_empty());
    });
}

#[test]
fn na_18_panics_tell_their_story_and_harm_nobody() {
    let scenario = || {
        let pool = Pool::new(1).expect("a pool");
        let pid = pool.apply(std::process::id, ()).expect("a pid");
        let results = pool.chunksize(1).try_map(|x: u32| 100 / x, 0..3).expect("results");
        let error = results[0].as_ref().expect_err("a division by zero");
        match &error.cause {
            TaskFailure::Panicked { worker, pid: there, report } => {
                assert!(worker.contains("PoolWorker"));
                assert_eq!(*there, pid);
                assert_eq!(report.message, "attempt to divide by zero");
                assert!(report.location.contains("pool_ends.rs"), "{}", report.location);
                assert!(report.backtrace.contains("pool_ends"), "{}", report.backtrace);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(results[1..].iter().flatten().collect::<Vec<_>>(), [&100, &50]);
        assert_eq!(pool.apply(std::process::id, ()).expect("a pid"), pid);
    };
    // Whatever is set where the tests run, stacks are wanted here.
    alone(move || {
        let process = Context::spawn().process(scenario, ()).env("RUST_BACKTRACE", "1").start();
        process.expect("a process").join().expect("no panic");
    });
}

#[derive(Debug)]
struct Odd(u32);

impl serde::Serialize for Odd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            1 => panic!("cannot be told"),
            2 => Err(serde::ser::Error::custom("will not be told")),
            other => serializer.serialize_u32(other),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Odd {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            3 => Err(serde::de::Error::custom("will not be heard")),
            other => Ok(Odd(other)),
        }
    }
}

#[test]
fn na_18_results_that_cannot_be_sent_or_received_fail_alone() {
    alone(|| {
        let pool = Pool::new(1).expect("a pool");
        let pid = pool.apply(std::process::id, ()).expect("a pid");
        for _ in 0..3 {
            let results = pool.chunksize(1).try_map(Odd, 0..6).expect("results");
            for (item, result) in results.iter().enumerate() {
                match (item, result) {
                    (1, Err(error)) => {
                        assert!(matches!(&error.cause, TaskFailure::Panicked { .. }), "{error}")
                    }
                    (2, Err(error)) => assert!(error.to_string().contains("will not be told"), "{error}"),
                    (3, Err(error)) => assert!(error.to_string().contains("will not be heard"), "{error}"),
                    (_, result) => assert_eq!(result.as_ref().expect("a value").0 as usize, item),
                }
            }
        }
        // An item that is not understood there.
        let results = pool.chunksize(1).try_map(|odd: Odd| odd.0, [Odd(0), Odd(3), Odd(5)]).expect("results");
        assert!(matches!(&results[1], Err(error) if matches!(error.cause, TaskFailure::Argument(_))));
        assert_eq!(results.iter().flatten().collect::<Vec<_>>(), [&0, &5]);
        assert!(matches!(pool.map(|odd: Odd| odd.0, [Odd(2)]), Err(PoolError::Encode { .. })));
        assert_eq!(pool.apply(std::process::id, ()).expect("a pid"), pid);
    });
}

#[test]
fn tasks_may_leave_threads_and_start_processes_and_pools() {
    alone(|| {
        let pool = Pool::new(2).expect("a pool");
        let task = |x: u64| -> u64 {
            std::thread::spawn(sleep_for_ever);
            let process = mp::process(|x: u64| x + 1, (x,)).start().expect("a process");
            let nested = Pool::new(2).expect("a pool in a task");
            let sum: u64 = nested.map(|x: u64| x * 2, 0..x).expect("results").iter().sum();
            sum + process.join().expect("a result")
        };
        let expected = |x: u64| x * x.saturating_sub(1) + x + 1;
        assert_eq!(pool.map(task, 0..6).expect("results"), (0..6).map(expected).collect::<Vec<_>>());
        let began = Instant::now();
        pool.close().and_then(|()| pool.join()).expect("joined");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    });
}

#[test]
fn large_and_open_things_travel_past_deaths() {
    alone(|| {
        use std::io::{Read, Seek, Write};
        let pool = Pool::new(2).expect("a pool");
        // Beyond what fits into a link: in files, passed as descriptors.
        let big = |i: u8| vec![i; 5 << 20];
        let results = pool.map(|bytes: Vec<u8>| bytes, (0..6).map(big)).expect("results");
        assert!(results.iter().enumerate().all(|(i, bytes)| *bytes == big(i as u8)));
        // Each item holds a file; the worker dies of every fifth, the first time.
        let scratch = Scratch::new();
        let file = |i: u32| {
            let path = scratch.file(&format!("item {i}"));
            std::fs::write(&path, i.to_string()).expect("written");
            mp::core::handle::Handle(std::fs::File::open(path).expect("a file").into())
        };
        let items: Vec<(u32, PathBuf, mp::core::handle::Handle<std::os::fd::OwnedFd>)> =
            (0..40).map(|i| (i, scratch.file(&format!("tried {i}")), file(i))).collect();
        let read = |(i, tried, handle): (u32, PathBuf, mp::core::handle::Handle<std::os::fd::OwnedFd>)| {
            if i % 5 == 0 && !tried.exists() {
                std::fs::File::create(tried).expect("written").write_all(b"x").expect("written");
                kill_process(rustix::process::getpid(), Signal::KILL).expect("sent");
            }
            let mut file = std::fs::File::from(handle.into_inner());
            let mut text = String::new();
            file.rewind().expect("a file");
            file.read_to_string(&mut text).expect("text");
            text.parse::<u32>().expect("a number")
        };
        assert_eq!(pool.retries(1).map(read, items).expect("results"), (0..40).collect::<Vec<_>>());
        assert_eq!(pool.stats().workers_lost, 8);
    });
}

#[test]
fn a_result_whose_descriptors_find_no_room_fails_alone() {
    alone(|| {
        type File = mp::core::handle::Handle<std::os::fd::OwnedFd>;
        let open = |_: u32| -> File {
            mp::core::handle::Handle(std::fs::File::open("/dev/null").expect("a file").into())
        };
        let pool = Pool::new(2).expect("a pool");
        assert_eq!(pool.map(open, 0..300).expect("files").len(), 300);
        let before = getrlimit(Resource::Nofile);
        let lowest_free = std::fs::File::open("/dev/null").expect("a file").as_raw_fd() as u64;
        setrlimit(Resource::Nofile, Rlimit { current: Some(lowest_free), ..before }).expect("a limit");
        let results = pool.chunksize(1).try_map(open, 0..1).expect("results");
        assert!(
            matches!(&results[0], Err(error) if matches!(error.cause, TaskFailure::Result(_))),
            "{results:?}"
        );
        setrlimit(Resource::Nofile, before).expect("a limit");
        assert_eq!(pool.map(open, 0..10).expect("files").len(), 10);
        wait_until("the pool is whole again", || worker_pids().len() == 2);
    });
}

#[test]
fn na_17_pools_leave_nothing_behind() {
    alone(|| {
        let mappings = || std::fs::read_to_string("/proc/self/maps").expect("/proc").lines().count();
        let one = || {
            let pool = Pool::new(2).expect("a pool");
            assert_eq!(pool.map(|x: u32| x, 0..20).expect("results").len(), 20);
        };
        (0..20).for_each(|_| one());
        let (before, mapped) = (Belongings::now(), mappings());
        (0..280).for_each(|_| one());
        before.assert_same();
        assert!(mappings() <= mapped + 10, "{mapped} mappings before, {} now", mappings());
    });
}

#[test]
fn na_20_no_wake_up_is_lost() {
    alone(|| {
        let pool = Pool::new(2).expect("a pool");
        let longest = |count: u32| {
            let mut longest = Duration::ZERO;
            for item in 0..count {
                let began = Instant::now();
                assert_eq!(pool.apply(|x: u32| x + 1, (item,)).expect("a result"), item + 1);
                longest = longest.max(began.elapsed());
            }
            longest
        };
        let alone = longest(20_000);
        let together = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| longest(5_000))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread")).max()
        });
        assert!(
            alone < Duration::from_secs(1) && together < Some(Duration::from_secs(1)),
            "{alone:?} {together:?}"
        );
        assert_eq!(pool.map(|x: u32| x, 0..10_000).expect("results").len(), 10_000);
    });
}

#[test]
fn an_idle_pool_uses_no_cpu() {
    alone(|| {
        let pool = Pool::new(2).expect("a pool");
        assert_eq!(pool.map(|x: u32| x, 0..1000).expect("results").len(), 1000);
        let mut pids = worker_pids();
        assert_eq!(pids.len(), 2);
        pids.push(std::process::id());
        common::idle_for(Duration::from_secs(1), &pids);
        // Beside a long task, too.
        std::thread::scope(|scope| {
            let call = scope.spawn(|| pool.map(|_: u32| std::thread::sleep(Duration::from_secs(2)), 0..1));
            wait_until("the task runs", || !call.is_finished());
            common::idle_for(Duration::from_secs(1), &pids);
            call.join().expect("a thread").expect("a result");
        });
    });
}

#[test]
fn a_pool_works_with_every_start_method() {
    alone(|| {
        // Fork needs a process with a single thread, so none of the pools is left when the next one is made.
        for method in [StartMethod::Fork, StartMethod::Spawn, StartMethod::ForkServer] {
            let pool = Pool::builder().processes(2).context(Context::new(method)).build().expect("a pool");
            let pids = pool.map(|_: u32| std::process::id(), 0..200).expect("results");
            assert!(pids.iter().all(|pid| worker_pids().contains(pid)));
            pool.apply(|| mp::exit(3), ()).map(|(): ()| ()).expect_err("a lost worker");
            assert_eq!(pool.map(|x: u32| x, 0..200).expect("results").len(), 200);
        }
    });
}
