//! What the tests share: a watchdog, waiting for a condition, scenarios run once a start method, and a look at what
//! is left behind.
//!
//! Everything that a test starts carries a mark in its environment ([`Mark`]), by which the whole family is found,
//! whoever their parents were. When a test process dies, its children end with it, as this library promises.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::{Context, StartMethod};

/// A generous limit for whatever is bound to happen.
pub const SOON: Duration = Duration::from_secs(30);

/// How long a test may take before the watchdog ends it.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits for the result of a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Ends the test process, naming the test, if it is not dropped in time. Holds a thread.
#[must_use = "a watchdog watches until it is dropped"]
#[derive(Debug)]
pub struct Watchdog {
    _off: mpsc::Sender<()>,
}

/// A [`Watchdog`] of 60 seconds.
#[track_caller]
pub fn watchdog() -> Watchdog {
    watchdog_of(LIMIT)
}

/// A [`Watchdog`] of `limit`.
#[track_caller]
pub fn watchdog_of(limit: Duration) -> Watchdog {
    do_not_ignore_interrupts();
    let place = Location::caller();
    let test = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let (off, bell) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if bell.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // Past the capture of the test harness, which would be lost.
            let _ =
                writeln!(std::io::stderr(), "watchdog: test {test} ({place}) has not ended within {limit:?}");
            std::process::abort();
        }
    });
    Watchdog { _off: off }
}

/// A shell that runs its commands in the background has them ignore interrupts, and children take that over.
fn do_not_ignore_interrupts() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: sets the default disposition; no handler is installed.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    });
}

/// Waits until `condition` holds; panics, naming `what`, if it does not within [`SOON`].
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(SOON, condition), "waited {SOON:?} in vain: {what}");
}

/// Whether `condition` comes to hold within `limit`.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return condition();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sleeps far longer than any test may take.
pub fn sleep_for_ever() {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Runs `scenario` once per start method, each time in a process of its own that has a single thread (fork would
/// refuse otherwise) and whose folder, environment, descriptors and default method are nobody else's. Afterwards the
/// scenario must have left no process, thread, descriptor or shared memory behind.
#[track_caller]
pub fn for_each_method<F: Fn(Context) + Copy + Send + 'static>(scenario: F) {
    for_methods(&StartMethod::ALL, scenario);
}

/// The same, for some of the methods.
#[track_caller]
pub fn for_methods<F: Fn(Context) + Copy + Send + 'static>(methods: &[StartMethod], scenario: F) {
    let _watchdog = watchdog();
    for &method in methods {
        let run = move |method: StartMethod| {
            let context = Context::new(method);
            // The fork server and what comes with it stay until the process ends, whichever scenario needs it.
            for warm_up in [Context::forkserver(), context] {
                warm_up.process(|| (), ()).start().expect("a first child").join().expect("nothing");
            }
            let before = Belongings::now();
            scenario(context);
            before.assert_same();
        };
        in_a_process(&format!("with {method}"), run, method);
    }
}

/// Runs `scenario` in a process of its own with a single thread.
#[track_caller]
pub fn alone<F: Fn() + Copy + Send + 'static>(scenario: F) {
    let _watchdog = watchdog();
    let run = move |()| {
        scenario();
        let left = mp::active_children();
        assert!(left.is_empty(), "children are left behind: {left:?}");
    };
    in_a_process("alone", run, ());
}

#[track_caller]
fn in_a_process<A, F>(how: &str, run: F, argument: A)
where
    A: serde::Serialize + serde::de::DeserializeOwned,
    F: Fn(A) + Copy,
{
    let mark = Mark::new();
    let shared = shared_memory();
    let process = Context::spawn().process(run, (argument,)).name(how).env(Mark::VARIABLE, mark.value());
    let outcome = process.start().map_err(|error| format!("{error:#}"));
    let outcome = outcome.and_then(|process| process.join().map_err(|error| format!("{error:#}")));
    if let Err(error) = outcome {
        panic!("{how}: {error}");
    }
    mark.assert_gone();
    let left = || shared_memory().into_iter().find(|name| !shared.contains(name));
    assert!(holds_within(SOON, || left().is_none()), "{how}: left behind in /dev/shm: {:?}", left());
}

/// What of this library has a name in shared memory; other programs of the machine may be using that folder too.
fn shared_memory() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ["mp-", "mp_", "multiprocess"].iter().any(|prefix| name.starts_with(prefix))
    };
    entries.map(|entry| entry.path()).filter(is_ours).collect()
}

/// A mark in the environment of a process, and so of everything that it starts.
#[derive(Debug)]
pub struct Mark(String);

impl Mark {
    /// The variable that carries it.
    pub const VARIABLE: &str = "MP_TEST_MARK";

    /// A mark like no other.
    pub fn new() -> Mark {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let moment = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        Mark(format!("{}-{}-{moment}", std::process::id(), COUNT.fetch_add(1, Relaxed)))
    }

    /// What the variable is set to.
    pub fn value(&self) -> &str {
        &self.0
    }

    /// Pids and names of all processes that run and bear the mark. (Zombies have no environment any more.)
    pub fn bearers(&self) -> BTreeMap<u32, String> {
        let line = format!("{}={}", Self::VARIABLE, self.0);
        let is_marked = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == line.as_bytes())
        };
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked);
        pids.map(|pid| (pid, comm(pid))).collect()
    }

    /// Panics if a process with the mark goes on living.
    #[track_caller]
    pub fn assert_gone(&self) {
        let gone = holds_within(SOON, || self.bearers().is_empty());
        assert!(gone, "processes are left behind: {:?}", self.bearers());
    }
}

fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The letter for the state of a process (`R`, `S`, `T`, `Z`, ..), or `None` if there is no such process.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether the process runs, in whatever state; zombies do not, nor what is just being reaped.
pub fn is_running(pid: u32) -> bool {
    state_of(pid).is_some_and(|state| !matches!(state, 'Z' | 'X' | 'x'))
}

/// In which a death is noticed, and what a busy machine may add to it.
pub const NOTICED: Duration = Duration::from_millis(100 + 400);

/// Kills the child, and waits until it is dead; when it was killed.
#[track_caller]
pub fn kill<R>(child: &mp::Process<R>) -> Instant {
    let pid = rustix::process::Pid::from_raw(child.pid() as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let killed = Instant::now();
    wait_until("the child is dead", || !is_running(child.pid()));
    killed
}

/// CPU time that a process has used, all its threads together, in clock ticks (100 a second).
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Panics if one of the processes uses more than a tenth of a CPU during `time`.
#[track_caller]
pub fn idle_for(time: Duration, pids: &[u32]) {
    let before: Vec<u64> = pids.iter().map(|pid| cpu_ticks(*pid)).collect();
    std::thread::sleep(time);
    for (pid, before) in pids.iter().zip(before) {
        let used = cpu_ticks(*pid) - before;
        assert!(
            u128::from(used) <= time.as_millis() / 100 + 1,
            "process {pid} used {used} ticks in {time:?}"
        );
    }
}

/// What this process has open and running.
#[derive(PartialEq, Eq)]
pub struct Belongings {
    fds: BTreeMap<i32, String>,
    threads: usize,
    children: Vec<u32>,
}

impl Belongings {
    pub fn now() -> Belongings {
        let entries = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
        let mut fds = BTreeMap::new();
        for entry in entries.flatten() {
            let number = entry.file_name().to_string_lossy().parse().expect("a number");
            // The one for this very folder is closed again by the time it is looked at.
            let Ok(target) = entry.path().read_link() else { continue };
            let target = target.to_string_lossy().into_owned();
            // One chunk of each size of shared blocks is kept for the next use.
            if !target.contains("/fd") && !target.contains("memfd:multiprocess-arena") {
                fds.insert(number, target);
            }
        }
        let tasks: Vec<_> =
            std::fs::read_dir("/proc/self/task").expect("/proc is mounted").flatten().collect();
        let children_of = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("children")).unwrap_or_default()
        };
        let lists: Vec<String> = tasks.iter().map(children_of).collect();
        let children =
            lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok());
        Belongings { fds, threads: tasks.len(), children: children.collect() }
    }

    /// Panics if this process does not come to have as many descriptors, threads and children, zombies included, as
    /// it had.
    #[track_caller]
    pub fn assert_same(&self) {
        let count = |other: &Belongings| (other.fds.len(), other.threads, other.children.len());
        let same = || {
            mp::active_children();
            count(&Belongings::now()) == count(self)
        };
        assert!(
            holds_within(Duration::from_secs(10), same),
            "before: {self:?}\nnow: {:?}",
            Belongings::now()
        );
    }

    /// Numbers of the open descriptors, and what they are.
    pub fn fds(&self) -> &BTreeMap<i32, String> {
        &self.fds
    }
}

impl fmt::Debug for Belongings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let children: Vec<String> =
            self.children.iter().map(|pid| format!("{pid} {} {:?}", comm(*pid), state_of(*pid))).collect();
        write!(f, "{} threads, children {children:?}, descriptors {:?}", self.threads, self.fds)
    }
}

/// A folder that is removed with everything in it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        let path = std::env::temp_dir().join(format!("mp-test-{}", Mark::new().value()));
        std::fs::create_dir(&path).expect("a new folder");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until there is a whole line in `path`, and returns it without its end.
#[track_caller]
pub fn line_in(path: &Path) -> String {
    let read = || std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    wait_until(&format!("a line in {}", path.display()), || read().is_some());
    read().unwrap_or_default().trim_end().to_owned()
}
