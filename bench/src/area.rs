//! The table of areas: what is measured in this program, in the limits probe, in Python, and what is compared.

use crate::options::{Options, Pin};
use crate::record::{Record, Sink};
use crate::{fsqueue, mutex, pipe, pool, process, pthread, queue, ring, shm, sync};
use anyhow::Result;

/// A part of the library and what it is measured against.
pub struct Area {
    /// Its name on the command line.
    pub name: &'static str,
    /// Measures of this program: ours, Rust peers and raw system calls, taking turns.
    pub here: fn(&Options, &mut Sink) -> Result<()>,
    /// What the limits probe measures (`--only`).
    pub limits: &'static str,
    /// Peers that are programs of their own, each a folder of this package.
    pub peers: &'static [&'static str],
    /// What Python measures.
    pub python: &'static [Python],
    /// The rows of the table.
    pub rows: &'static [Row],
}

impl std::fmt::Debug for Area {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// One run of a Python script.
pub struct Python {
    /// The script in `peers`.
    pub script: &'static str,
    /// The module that it measures; left out where it cannot be imported.
    pub module: &'static str,
    /// Further arguments; `--reps`, `--scale` and `--pin` are added.
    pub args: &'static [&'static str],
}

/// One comparison.
pub struct Row {
    pub measure: &'static str,
    /// Ours, where there are several ways to do the same: the record's `variant`.
    pub variant: Option<&'static str>,
    /// The `via` of the limit to compare with, else the best one of this measure.
    pub limit: Option<&'static str>,
    /// The start method of the Python measure, else the best one.
    pub python: Option<&'static str>,
    /// What we want to reach.
    pub goal: Goal,
}

/// What a measure should reach.
#[derive(Clone, Copy)]
pub enum Goal {
    /// Nothing in particular.
    None,
    /// At most so many times the limit.
    Limit(f64),
    /// At most this value.
    Value(f64),
    /// At least this rate.
    Rate(f64),
    /// At most so many times Python.
    Python(f64),
    /// At most so many times the limit, and so many times Python.
    LimitAndPython(f64, f64),
    /// At least this rate, and at most so many times the limit.
    RateAndLimit(f64, f64),
    /// What depends on where processes run.
    Placed {
        /// Wherever the kernel puts them.
        free: &'static Goal,
        /// On one CPU.
        same: &'static Goal,
        /// On two.
        split: &'static Goal,
    },
}

impl Goal {
    /// What it means with this placement.
    pub fn with(self, pin: Pin) -> Goal {
        match (self, pin) {
            (Goal::Placed { free, .. }, Pin::None) => *free,
            (Goal::Placed { same, .. }, Pin::Same) => *same,
            (Goal::Placed { split, .. }, Pin::Split) => *split,
            (goal, _) => goal,
        }
    }

    /// For what goes on at two places at a time: on one CPU there is no such thing as a spinning limit.
    const fn side_by_side(goal: &'static Goal) -> Goal {
        Goal::Placed { free: goal, same: &Goal::None, split: goal }
    }
}

impl Row {
    const fn new(measure: &'static str) -> Row {
        Row { measure, variant: None, limit: None, python: None, goal: Goal::None }
    }

    const fn started(measure: &'static str, method: &'static str, limit: &'static str, goal: Goal) -> Row {
        Row { measure, variant: Some(method), limit: Some(limit), python: Some(method), goal }
    }

    const fn limit(self, via: &'static str) -> Row {
        Row { limit: Some(via), ..self }
    }

    const fn goal(self, goal: Goal) -> Row {
        Row { goal, ..self }
    }

    /// Whether `record` is our value of this row.
    pub fn is_ours(&self, record: &Record) -> bool {
        record.measure == self.measure && self.variant.is_none_or(|v| record.variant.as_deref() == Some(v))
    }
}

/// Every area.
pub const AREAS: &[Area] = &[
    Area {
        name: "process",
        here: process::measure,
        limits: "process",
        peers: &[],
        python: &[
            Python::multiprocessing(&["--start-method", "fork", "--only", "process"]),
            Python::multiprocessing(&["--start-method", "forkserver", "--only", "process"]),
            Python::multiprocessing(&["--start-method", "spawn", "--only", "process"]),
        ],
        rows: &[
            Row::started("process.start_join.p50", "spawn", process::SPAWN, Goal::Limit(1.3)),
            Row::started("process.start_join.p50", "forkserver", process::FORK, Goal::Limit(2.5)),
            Row::started("process.start_join.p50", "fork", process::FORK, Goal::None),
            Row::started("process.start_join.p99", "spawn", process::SPAWN, Goal::None),
            Row::started("process.start_join.p99", "forkserver", process::FORK, Goal::None),
            Row::started("process.start_join.p99", "fork", process::FORK, Goal::None),
        ],
    },
    Area {
        name: "sync",
        here: sync::measure,
        limits: "sync",
        peers: &[],
        python: &[Python::multiprocessing(&["--start-method", "fork", "--only", "sync"])],
        rows: &[
            Row::new("sync.lock.uncontended").limit(MUTEX).goal(Goal::Limit(1.25)),
            Row::new("sync.rlock.uncontended"),
            Row::new("sync.lock.contended2").limit(MUTEX).goal(CONTENDED),
            Row::new("sync.lock.longest_wait2"),
            Row::new("sync.lock.contended4").limit(MUTEX).goal(CONTENDED),
            Row::new("sync.lock.longest_wait4"),
            Row::new("sync.semaphore.uncontended").limit(SEMAPHORE).goal(Goal::Limit(1.0)),
            Row::new("sync.semaphore.contended2").limit(SEMAPHORE).goal(Goal::Limit(1.0)),
            Row::new("sync.semaphore.contended4").limit(SEMAPHORE).goal(Goal::Limit(1.0)),
            Row::new("sync.event.set_to_wake.p50").limit(sync::FUTEX).goal(Goal::Limit(1.2)),
            Row::new("sync.event.set_to_wake.p99").limit(sync::FUTEX),
            Row::new("sync.condition.notify_to_wake.p50").limit(pthread::VIA).goal(Goal::Limit(1.1)),
            Row::new("sync.condition.notify_to_wake.p99").limit(pthread::VIA),
            Row::new("sync.barrier4").goal(Goal::Python(1.0 / 3.0)),
        ],
    },
    Area {
        name: "shm",
        here: shm::measure,
        limits: "shared",
        peers: &[],
        python: &[Python::multiprocessing(&["--start-method", "fork", "--only", "shared"])],
        rows: &[
            Row::new("shared.value_increment.p1").limit(MUTEX).goal(Goal::Limit(1.25)),
            Row::new("shared.value_increment.p2").limit(MUTEX).goal(Goal::Limit(1.25)),
            Row::new("shared.value_increment.p4").limit(MUTEX).goal(Goal::Limit(1.25)),
            Row::new("shared.array.read").limit(shm::SLICE).goal(Goal::Limit(1.1)),
            Row::new("shared.array.write").limit(shm::SLICE).goal(Goal::Limit(1.1)),
            Row::new("shared.array_locked.read"),
            Row::new("shared.array_locked.write"),
            Row::new("shared.array_raw.read"),
            Row::new("shared.array_raw.write"),
            Row::new("shared.create_lock").goal(Goal::Value(0.3)),
            Row::new("shared.create_value").goal(Goal::Value(0.3)),
        ],
    },
    Area {
        name: "queue",
        here: queue::measure,
        limits: "queue",
        peers: &["iceoryx2"],
        python: &[Python::multiprocessing(&["--only", "queue_throughput,queue_4to4,queue_pingpong"])],
        rows: &[
            Row::new("queue.1to1.16B").limit(ring::VIA).goal(SMALL),
            Row::new("queue.1to1.16B_vec"),
            Row::new("queue.1to1.64B"),
            Row::new("queue.1to1.1KiB").limit(RING),
            Row::new("queue.1to1.64KiB").limit(RING).goal(LARGE),
            Row::new("queue.1to1.1MiB").limit(RING).goal(LARGE),
            Row::new("queue.4to4.64B").goal(Goal::side_by_side(&Goal::Rate(4e6))),
            Row::new("queue.pingpong.64B.p50").limit(queue::SLOT).goal(ROUND_TRIP),
            Row::new("queue.pingpong.64B.p99").limit(queue::SLOT),
            Row::new("queue.pingpong_asleep.64B.p50").limit(queue::SLOT).goal(Goal::Limit(1.15)),
            Row::new("queue.pingpong_asleep.64B.p99").limit(queue::SLOT),
        ],
    },
    Area {
        name: "pipe",
        here: pipe::measure,
        // All limits of pipes are measured here, in turn.
        limits: "pipe",
        peers: &[],
        python: &[Python::multiprocessing(&["--only", "queue_pipe_throughput,queue_pingpong"])],
        rows: &[
            Row::new("pipe_bytes.1to1.16B").limit(pipe::STREAM),
            Row::new("pipe_bytes.1to1.1KiB").limit(pipe::STREAM),
            Row::new("pipe_bytes.1to1.64KiB").limit(pipe::STREAM),
            Row::new("pipe_bytes.1to1.1MiB").limit(pipe::STREAM),
            Row::new("pipe_bytes.pingpong.64B.p50").limit(pipe::STREAM),
            Row::new("pipe_bytes.pingpong.64B.p99").limit(pipe::STREAM),
        ],
    },
    Area {
        name: "pool",
        here: pool::measure,
        limits: "pool",
        peers: &[],
        python: &[
            Python::multiprocessing(&["--start-method", "fork", "--workers", "2", "--only", POOL_MEASURES]),
            Python::multiprocessing(&[
                "--start-method",
                "forkserver",
                "--workers",
                "2",
                "--only",
                "pool_create",
            ]),
            Python::multiprocessing(&["--start-method", "spawn", "--workers", "2", "--only", "pool_create"]),
            Python::pools("concurrent.futures"),
            Python::pools("loky"),
            Python::pools("joblib"),
            Python::pools("mpire"),
        ],
        rows: &[
            Row::new("pool.map_chunk1.w2").goal(Goal::Value(0.5)),
            Row::new("pool.map_default.w2"),
            Row::new("pool.apply_roundtrip.w2.p50"),
            Row::new("pool.apply_roundtrip.w2.p99"),
            Row::new("pool.create_map_close_join.w2").goal(Goal::Value(3.0)),
        ],
    },
    Area {
        name: "fsqueue",
        here: fsqueue::measure,
        limits: "file",
        peers: &[],
        python: &[Python::multiprocessing(&["--only", "filequeue"])],
        rows: &[
            Row::new("filequeue.put").goal(Goal::Rate(500_000.0)),
            Row::new("filequeue.put.p8").goal(Goal::Rate(500_000.0)),
            Row::new("filequeue.put_many"),
            Row::new("filequeue.get").goal(Goal::Rate(500_000.0)),
            Row::new("filequeue.receive_ack"),
            Row::new("filequeue.put_durable").goal(Goal::Limit(1.0 / 0.9)),
            Row::new("filequeue.put_durable.w8"),
            Row::new("filequeue.put_durable.p8"),
            Row::new("filequeue.get_million.first_tenth"),
            Row::new("filequeue.get_million.last_tenth"),
        ],
    },
];

/// The limit of locks.
const MUTEX: &str = mutex::VIA;

/// The limit of items that take long enough for a limit that is measured at another time.
const RING: &str = "shm ring 256 KiB, spin";

/// Items of 16 bytes: a rate, and 0.4 times the limit.
const SMALL: Goal = Goal::side_by_side(&Goal::RateAndLimit(6e6, 1.0 / 0.4));

/// Items that are copied for most of the time: 0.6 times the limit.
const LARGE: Goal = Goal::side_by_side(&Goal::Limit(1.0 / 0.6));

/// Unpinned it is one of two modes by luck.
const ROUND_TRIP: Goal =
    Goal::Placed { free: &Goal::None, same: &Goal::Limit(1.5), split: &Goal::Value(1.5) };

const SEMAPHORE: &str = "sem_t, shared";

/// What locks that several processes want should reach: rates of 0.8 times the limit, and 3 times Python.
const CONTENDED: Goal = Goal::LimitAndPython(1.0 / 0.8, 1.0 / 3.0);

/// What Python measures of pools beside what we do.
const POOL_MEASURES: &str = "pool_map,pool_apply,pool_create";

impl Python {
    const fn multiprocessing(args: &'static [&'static str]) -> Python {
        Python { script: "bench_python.py", module: "multiprocessing", args }
    }

    const fn pools(module: &'static str) -> Python {
        Python { script: "bench_pools.py", module, args: &["--workers", "2"] }
    }

    /// What the script calls the module.
    pub fn name(&self) -> &'static str {
        if self.module == "concurrent.futures" { "futures" } else { self.module }
    }
}
