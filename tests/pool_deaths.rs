//! Pools whose workers die, stop, or hold others up (NA-1, NA-10, NA-17, NA-19).

mod common;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{Belongings, Scratch, alone, is_running, state_of, wait_until};
use multiprocess as mp;
use multiprocess::{Pool, PoolError, Process, Results, TaskFailure, WorkerLost};
use rustix::process::{Pid, Signal, getpid, kill_process};

/// The running workers of all pools of this process.
fn workers() -> Vec<Process<()>> {
    let mut children = mp::active_children();
    children.retain(|child| child.name().contains("PoolWorker"));
    children
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).expect("a pid"), signal).expect("a signal sent");
}

fn die(how: u32) {
    match how {
        0 => kill_process(getpid(), Signal::KILL).expect("sent"),
        1 => std::process::exit(0),
        2 => mp::exit(3),
        3 => std::process::abort(),
        // The first one meets the handler of the runtime, which then steps aside.
        _ => (0..2).for_each(|_| kill_process(getpid(), Signal::SEGV).expect("sent")),
    }
    std::thread::sleep(Duration::from_secs(60));
}

fn lost(failure: &TaskFailure) -> &WorkerLost {
    match failure {
        TaskFailure::WorkerLost(lost) => lost,
        other => panic!("not a lost worker: {other:?}"),
    }
}

/// Appends a byte to a file.
fn mark(file: &Path) {
    let file = OpenOptions::new().append(true).create(true).open(file);
    file.and_then(|mut file| file.write_all(b".")).expect("written");
}

fn marks(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |data| data.len())
}

fn await_file(file: &Path) {
    wait_until("a file that lets a task go on", || file.exists());
}

#[test]
fn na_01_a_task_that_ends_its_worker_fails_alone_and_soon() {
    alone(|| {
        let pool = Pool::new(2).expect("a pool");
        for (how, code) in [(0, -9), (1, 0), (2, 3), (3, -6), (4, -11)] {
            let task = |(item, how): (u32, u32)| {
                if item == 7 {
                    die(how);
                }
                (item, std::process::id())
            };
            let began = Instant::now();
            let results: Results<(u32, u32)> =
                pool.chunksize(1).try_map(task, (0..40).map(|item| (item, how))).expect("results");
            assert!(began.elapsed() < Duration::from_secs(1), "{how}: {:?}", began.elapsed());
            for (item, result) in results.iter().enumerate() {
                match result {
                    Ok((value, _)) => assert_eq!(*value as usize, item),
                    Err(error) => {
                        let lost = lost(&error.cause);
                        assert_eq!(
                            (item, error.item, lost.item, lost.exit_code),
                            (7, 7, Some(7), Some(code))
                        );
                        assert!(
                            lost.pid > 0 && lost.name.contains("PoolWorker") && !lost.retried,
                            "{lost:?}"
                        );
                        assert!(!is_running(lost.pid));
                    }
                }
            }
            assert!(results[7].is_err());
            wait_until("the pool is whole again", || workers().len() == 2);
            let error = pool.map(task, [(7, how)]).expect_err("a lost worker");
            assert!(matches!(error, PoolError::Task(_)), "{error}");
        }
        assert_eq!(pool.stats().workers_lost, 10);
    });
}

#[test]
fn na_01_retries_until_they_are_used_up() {
    alone(|| {
        let scratch = Scratch::new();
        let pool = Pool::builder().processes(2).build().expect("a pool");
        // Item 3 kills its worker `deadly` times; `retries` are granted.
        for (deadly, succeeds) in [(2, true), (9, false)] {
            let file = scratch.file(&format!("tries of {deadly}"));
            let items = (0..50u32).map(|item| (item, file.clone(), deadly));
            let task = |(item, file, deadly): (u32, PathBuf, u64)| {
                if item == 3 {
                    mark(&file);
                    if marks(&file) <= deadly {
                        die(0);
                    }
                }
                item * 2
            };
            let before = pool.stats().workers_lost;
            let results = pool.retries(2).try_map(task, items).expect("results");
            let deaths = pool.stats().workers_lost - before;
            assert_eq!((marks(&file), deaths), if succeeds { (3, 2) } else { (3, 3) });
            for (item, result) in results.iter().enumerate() {
                match result {
                    Ok(value) => assert_eq!(*value as usize, 2 * item),
                    Err(error) => {
                        assert!(!succeeds && item == 3, "{error}");
                        assert!(!lost(&error.cause).retried);
                    }
                }
            }
            assert_eq!(results[3].is_ok(), succeeds);
        }
    });
}

/// Kills workers at random until `stop`; returns how many.
fn kill_at_random(stop: &AtomicBool, pause: Duration) -> u32 {
    let (mut kills, mut random) = (0, 1u64);
    while !stop.load(Relaxed) {
        std::thread::sleep(pause);
        let workers = workers();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let Some(victim) = workers.get((random >> 33) as usize % workers.len().max(1)) else { continue };
        if victim.kill().is_ok() {
            kills += 1;
        }
    }
    kills
}

/// Ends the killing, after a failure, too.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Calls `map` while workers are killed, until `least` were; then looks at what is left behind.
fn chaos(processes: usize, least: u64, pause: Duration, map: impl Fn(&Pool) + Sync) {
    drop(Pool::new(1).expect("what comes with the first pool"));
    let before = Belongings::now();
    {
        let pool = Pool::new(processes).expect("a pool");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| kill_at_random(&stop, pause));
            let stopping = StopOnDrop(&stop);
            while pool.stats().workers_lost < least {
                map(&pool);
            }
            drop(stopping);
            assert!(u64::from(killer.join().expect("kills")) >= least);
        });
        map(&pool);
        wait_until("the pool is whole again", || workers().len() == processes);
    }
    before.assert_same();
}

/// The results of one call: each is right or, without retries, lost with its worker.
fn check<R: PartialEq>(retries: u32, results: Results<R>, count: usize, expected: impl Fn(usize) -> R) {
    assert_eq!(results.len(), count);
    for (item, result) in results.into_iter().enumerate() {
        match result {
            Ok(value) => assert!(value == expected(item), "item {item}"),
            Err(error) => {
                assert_eq!(retries, 0, "{error}");
                assert_eq!(lost(&error.cause).item, Some(item));
            }
        }
    }
}

/// More than any item can be unlucky.
const MANY: u32 = 1000;

#[test]
fn na_01_random_kills_during_tiny_tasks() {
    alone(|| {
        chaos(2, 100, Duration::from_millis(2), |pool| {
            for retries in [MANY, 0] {
                let results = pool.retries(retries).try_map(|x: u64| x * x, 0..20_000).expect("results");
                check(retries, results, 20_000, |item| (item * item) as u64);
            }
        });
    });
}

#[test]
fn na_01_random_kills_during_tasks_of_milliseconds() {
    alone(|| {
        chaos(3, 100, Duration::from_millis(5), |pool| {
            for retries in [MANY, 0] {
                let work = |x: u64| {
                    std::thread::sleep(Duration::from_millis(1 + x % 5));
                    x + 1
                };
                let results = pool.retries(retries).try_map(work, 0..200).expect("results");
                check(retries, results, 200, |item| item as u64 + 1);
            }
        });
    });
}

#[test]
fn na_01_random_kills_during_large_items_and_results() {
    alone(|| {
        let item = |i: usize| vec![i as u8; 1 << 20];
        chaos(2, 100, Duration::from_millis(8), |pool| {
            for retries in [MANY, 0] {
                let turn = |bytes: Vec<u8>| -> Vec<u8> { bytes.iter().map(|byte| !byte).collect() };
                let results = pool.retries(retries).try_map(turn, (0..50).map(item)).expect("results");
                check(retries, results, 50, |i| vec![!(i as u8); 1 << 20]);
            }
        });
    });
}

#[test]
fn na_19_any_number_of_workers_tasks_and_chunks() {
    alone(|| {
        for processes in 1..=4 {
            chaos(processes, 3, Duration::from_millis(4), |pool| {
                for tasks in [0, 1, 2, 3, 7, 49, 50] {
                    for chunk in [1, 2, 3, 50, 99] {
                        let results = pool.chunksize(chunk).retries(MANY).map(|x: usize| x + 1, 0..tasks);
                        assert_eq!(results.expect("results"), (1..=tasks).collect::<Vec<_>>());
                    }
                }
            });
        }
    });
}

/// One task that waits for a file, at `position` among `quick` others; all others end first.
fn one_waits(pool: &Pool, position: usize, quick: usize) {
    let scratch = Scratch::new();
    let (go, count) = (scratch.file("go"), scratch.file("count"));
    let items = (0..=quick).map(|item| (item == position, go.clone(), count.clone()));
    let task =
        |(waits, go, count): (bool, PathBuf, PathBuf)| if waits { await_file(&go) } else { mark(&count) };
    std::thread::scope(|scope| {
        let call = scope.spawn(|| pool.map(task, items).expect("results"));
        wait_until("all quick tasks end", || marks(&count) == quick as u64);
        assert!(!call.is_finished());
        mark(&go);
        call.join().expect("a call");
    });
}

#[test]
fn a_slow_task_holds_nobody_up() {
    alone(|| {
        let pool = Pool::new(2).expect("a pool");
        for position in [0, 500, 1000, 999, 1, 100, 731] {
            one_waits(&pool, position, 1000);
        }
    });
}

#[test]
fn slow_tasks_of_several_callers_hold_nobody_up() {
    alone(|| {
        let pool = Pool::new(4).expect("a pool");
        std::thread::scope(|scope| {
            for position in [0, 150, 300] {
                let pool = &pool;
                scope.spawn(move || one_waits(pool, position, 300));
            }
        });
    });
}

#[test]
fn a_call_gets_its_turn_beside_a_long_one() {
    alone(|| {
        let scratch = Scratch::new();
        let go = scratch.file("go");
        let pool = Pool::new(2).expect("a pool");
        std::thread::scope(|scope| {
            // Each task of the long call waits for the short one to be done, or for ever.
            let long = scope.spawn(|| {
                let work = |go: PathBuf| {
                    std::thread::sleep(Duration::from_millis(5));
                    go.exists()
                };
                pool.map(work, vec![go.clone(); 2000]).expect("results")
            });
            wait_until("the long call has begun", || pool.stats().tasks > 10);
            assert_eq!(pool.apply(|x: u32| x + 1, (1,)).expect("a result"), 2);
            mark(&go);
            assert!(
                long.join().expect("a call").contains(&true),
                "the short call waited for all of the long one"
            );
        });
    });
}

#[test]
fn a_stopped_worker_is_relieved_of_what_it_has_not_begun() {
    alone(|| {
        let pool = Pool::new(2).expect("a pool");
        for stopped in [0, 1] {
            let pid = workers()[stopped].pid();
            send(pid, Signal::STOP);
            wait_until("it stops", || state_of(pid) == Some('T'));
            for count in [1, 2, 3, 200] {
                let pids = pool.map(|_: u32| std::process::id(), 0..count).expect("results");
                assert!(pids.iter().all(|other| *other != pid));
            }
            send(pid, Signal::CONT);
        }
        let pids = || pool.map(|_: u32| std::process::id(), 0..200).expect("results");
        wait_until("both work again", || pids().into_iter().collect::<BTreeSet<_>>().len() == 2);
    });
}

#[test]
fn a_worker_stopped_in_a_task_ends_it_when_it_continues() {
    alone(|| {
        let scratch = Scratch::new();
        let (count, own) = (scratch.file("count"), scratch.file("pid"));
        let pool = Pool::new(2).expect("a pool");
        let items = (0..300).map(|item: u32| (item, count.clone(), own.clone()));
        let task = |(item, count, own): (u32, PathBuf, PathBuf)| {
            if item == 100 {
                std::fs::write(own, format!("{}\n", std::process::id())).expect("written");
                kill_process(getpid(), Signal::STOP).expect("sent");
            }
            mark(&count);
            item
        };
        std::thread::scope(|scope| {
            let call = scope.spawn(|| pool.map(task, items).expect("results"));
            let pid: u32 = common::line_in(&own).parse().expect("a pid");
            wait_until("all others end", || marks(&count) == 299);
            assert!(!call.is_finished());
            send(pid, Signal::CONT);
            assert_eq!(call.join().expect("a call"), (0..300).collect::<Vec<_>>());
        });
    });
}

#[test]
fn workers_killed_while_idle_are_replaced_however_often() {
    alone(|| {
        let pool = Pool::new(1).expect("a pool");
        for round in 0..15 {
            assert_eq!(pool.apply(|x: u32| x, (round,)).expect("a result"), round);
            workers()[0].kill().expect("a signal sent");
        }
        assert_eq!(pool.apply(|x: u32| x, (7,)).expect("a result"), 7);
    });
}

#[test]
fn captured_values_that_kill_every_worker_fail_their_call_only() {
    alone(|| {
        #[derive(serde::Serialize)]
        struct Deadly(u32);
        impl<'de> serde::Deserialize<'de> for Deadly {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                die(0);
                Ok(Deadly(0))
            }
        }
        let pool = Pool::new(2).expect("a pool");
        let results = pool.with(Deadly(1)).try_map(|_, x: u32| x, 0..100).expect("results");
        assert!(
            results
                .iter()
                .all(|result| result.as_ref().is_err_and(|error| lost(&error.cause).item.is_some()))
        );
        assert_eq!(pool.map(|x: u32| x, 0..100).expect("results").len(), 100);
    });
}

#[test]
fn na_18_a_callback_that_panics_harms_nobody() {
    alone(|| {
        let pool =
            Pool::builder().processes(2).on_worker_lost(|lost| panic!("{lost}")).build().expect("a pool");
        for _ in 0..3 {
            pool.apply(|| die(0), ()).expect_err("a lost worker");
        }
        assert_eq!(pool.map(|x: u32| x, 0..100).expect("results").len(), 100);
    });
}

#[test]
fn handles_to_dead_workers_do_not_keep_the_pool_busy() {
    alone(|| {
        let pool = Pool::new(2).expect("a pool");
        let dead = workers();
        dead.iter().for_each(|worker| worker.kill().expect("a signal sent"));
        wait_until("they are replaced", || {
            let now = workers();
            now.len() == 2 && now.iter().all(|worker| dead.iter().all(|other| other.pid() != worker.pid()))
        });
        pool.map(|x: u32| x, 0..10).expect("results");
        common::idle_for(Duration::from_millis(500), &[std::process::id()]);
        assert!(dead.iter().all(|worker| worker.exit_code() == Some(-9)));
    });
}

/// Links of this process to workers.
fn links() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let names = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    names.filter(|name| name.to_string_lossy().contains("multiprocess-link")).count()
}

#[test]
fn a_fork_server_killed_while_it_makes_workers_is_replaced() {
    alone(|| {
        mp::Context::forkserver().process(|| (), ()).start().expect("a start").join().expect("an end");
        let server = mp::server_pid().expect("a fork server");
        send(server, Signal::STOP);
        let build = || Pool::builder().processes(3).context(mp::Context::forkserver()).build();
        std::thread::scope(|scope| {
            let building = scope.spawn(build);
            wait_until("the first worker to be asked for", || links() > 0);
            // Any moment will do; by now the request is probably on its way, and gets no answer.
            std::thread::sleep(Duration::from_millis(20));
            send(server, Signal::KILL);
            let pool = building.join().expect("no panic").expect("a pool");
            assert_eq!(pool.map(|n: u64| n + 1, 0..5).expect("results"), [1, 2, 3, 4, 5]);
            assert_eq!(pool.stats().workers_lost, 0);
            let names: BTreeSet<_> = workers().iter().map(|worker| worker.name().to_owned()).collect();
            assert!(names.into_iter().eq((1..4).map(|n| format!("ForkServerPoolWorker-{n}"))));
        });
    });
}
