//! Kills workers at random moments, starts new ones in their place, and watches that the others get on.
//!
//! A scenario is something shared, a [`Board`] for what its workers say of themselves, and the life of a worker, which panics
//! when it sees something that must not be.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::core::arena::{InSharedMemory, Shared};
use multiprocess::core::deadline::Deadline;
use multiprocess::{Process, ProcessError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::common::{SOON, watchdog_of};

/// Nobody may wait longer than this: a generous multiple of the 100 ms in which a death is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Half of the waits that a kill lengthened must be shorter than this, the time in which a death is noticed, even on a busy
/// machine.
const USUAL_WAIT: Duration = Duration::from_millis(100);
/// Workers at a time, at most.
pub const MOST_WORKERS: usize = 8;

/// What workers say of themselves, and what a scenario counts. All zero at first.
#[repr(C)]
pub struct Board {
    stop: AtomicU64,
    /// When the worker began to wait, in nanoseconds; 0 when it does not.
    began: [AtomicU64; MOST_WORKERS],
    /// Waits that ended.
    waits: AtomicU64,
    /// For the scenario.
    pub words: [AtomicU64; 32],
}

// SAFETY: atomics only.
unsafe impl InSharedMemory for Board {}

impl Board {
    /// Whether the workers are to end.
    pub fn has_stopped(&self) -> bool {
        self.stop.load(SeqCst) != 0
    }
}

/// One worker, as it sees itself.
pub struct Worker<T> {
    pub thing: T,
    pub board: Shared<Board>,
    pub number: usize,
    pub random: Random,
}

impl<T> Worker<T> {
    /// Whether to go on.
    pub fn goes_on(&self) -> bool {
        !self.board.has_stopped()
    }

    /// Runs what may wait, under the eyes of the referee.
    pub fn wait<R>(&self, wait: impl FnOnce(&T) -> R) -> R {
        let began = &self.board.began[self.number];
        began.store(Deadline::now().as_nanos(), SeqCst);
        let result = wait(&self.thing);
        began.store(0, SeqCst);
        self.board.waits.fetch_add(1, SeqCst);
        result
    }

    /// Does nothing for a random time, sometimes long enough to lose the CPU.
    pub fn dawdle(&mut self) {
        match self.random.below(20) {
            0 => std::thread::yield_now(),
            1 => std::thread::sleep(Duration::from_micros(self.random.below(200))),
            _ => (0..self.random.below(300)).for_each(|_| std::hint::spin_loop()),
        }
    }
}

/// Numbers without pattern, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }
}

fn from_environment(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs `life` in `workers` processes and kills one of them `MP_TEST_KILLS` times (`KILLS` of the file without that variable). `wake`
/// lets those go who would wait for ever at the end.
#[track_caller]
pub fn kills<T, F>(name: &str, thing: &T, workers: usize, life: F, wake: impl Fn(&T)) -> Shared<Board>
where
    T: Clone + Serialize + DeserializeOwned,
    F: Fn(Worker<T>) + Copy,
{
    let kills = from_environment("MP_TEST_KILLS").unwrap_or(crate::KILLS);
    let clock = Deadline::now().as_nanos();
    let seed = from_environment("MP_TEST_SEED").unwrap_or(clock);
    println!("{name}: MP_TEST_SEED={seed} MP_TEST_KILLS={kills}");
    let _watchdog = watchdog_of(Duration::from_secs(120 + kills));

    let board = Shared::<Board>::new().expect("memory");
    let mut random = Random(seed);
    let start = |number: usize, seed: u64| {
        // The closure has no bytes, so neither has the one around it.
        let live = move |thing: T, board: Shared<Board>, number: usize, seed: u64| {
            life(Worker { thing, board, number, random: Random(seed) });
        };
        let process = mp::process(live, (thing.clone(), board.clone(), number, seed));
        process.name(format!("{name} {number}")).daemon(true).start().expect("a worker")
    };
    let mut crew: Vec<Process<()>> =
        (0..workers).map(|number| start(number, random.below(u64::MAX))).collect();
    let began = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_micros(random.below(4000)));
        let number = random.below(workers as u64) as usize;
        // Stopped ones hold up nobody for ever, and can be killed.
        if random.below(8) == 0 {
            signal(&crew[number], libc::SIGSTOP);
            std::thread::sleep(Duration::from_micros(random.below(3000)));
        }
        crew[number].kill().expect("a signal sent");
        let end = crew[number].join();
        assert!(
            matches!(end, Err(ProcessError::Killed { signal: libc::SIGKILL, .. })),
            "{name}: {}",
            end.map_or_else(|error| format!("{error:#}"), |()| "a worker ended by itself".into())
        );
        let waits = board.waits.load(SeqCst);
        let died = Instant::now();
        board.began[number].store(0, SeqCst);
        crew[number] = start(number, random.below(u64::MAX));
        while board.waits.load(SeqCst) == waits {
            check(name, &board, &crew);
            std::thread::sleep(Duration::from_micros(200));
        }
        pauses.push(died.elapsed());
        check(name, &board, &crew);
    }
    pauses.sort();
    if let [.., longest] = pauses[..] {
        let middle = pauses[pauses.len() / 2];
        println!(
            "{name}: {} waits in {:?}; after a kill somebody got on within {middle:?}, {longest:?} at most",
            board.waits.load(SeqCst),
            began.elapsed()
        );
        assert!(
            middle < USUAL_WAIT,
            "{name}: after half of the kills all were held up for {middle:?} and more"
        );
    }
    board.stop.store(1, SeqCst);
    let end = Instant::now() + SOON;
    for worker in crew {
        while !worker.done() {
            assert!(Instant::now() < end, "{name}: {worker:?} does not end");
            wake(thing);
            std::thread::sleep(Duration::from_millis(1));
        }
        worker.join().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
    board
}

/// Nobody has failed, and nobody waits for too long.
#[track_caller]
fn check(name: &str, board: &Board, crew: &[Process<()>]) {
    for (worker, began) in crew.iter().zip(&board.began) {
        if worker.done() {
            let end = worker.join().map_err(|error| format!("{error:#}"));
            panic!("{name}: {worker:?} ended by itself: {end:?}");
        }
        let began = began.load(SeqCst);
        let waited = Duration::from_nanos(Deadline::now().as_nanos().saturating_sub(began));
        assert!(began == 0 || waited < LONGEST_WAIT, "{name}: {worker:?} waits for {waited:?}");
    }
}

fn signal(worker: &Process<()>, signal: i32) {
    // SAFETY: no memory is involved; the process is our child and has not been waited for.
    unsafe { libc::kill(worker.pid() as i32, signal) };
}
