//! LOCK: locks between processes, and what all that can be held has in common: it survives whoever is killed.

mod common;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mp_sync::{BoundedSemaphore, Error, Lock, LockGuard, RLock, Semaphore};
use multiprocess::core::arena::{InSharedMemory, Shared};
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, Pool, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use common::{NOTICED, for_each_method, is_running, kill, sleep_for_ever, state_of, wait_until};

/// A child that holds the lock by a guard, has said so, and never releases it.
fn keeper(context: Context, lock: &Lock) -> Process<()> {
    let (here, there) = pipe().expect("a pipe");
    let keep = |lock: Lock, there: Connection| {
        let _guard = lock.lock().expect("the lock");
        there.send(&()).expect("sent");
        sleep_for_ever();
    };
    let child = context.process(keep, (lock.clone(), there)).start().expect("a child");
    here.recv::<()>().expect("a word of the child");
    child
}

#[test]
fn lock_01_basic_sequence() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        let sequence = |lock: Lock| {
            lock.acquire().expect("the lock");
            assert!(lock.locked());
            assert!(matches!(lock.try_acquire(), Err(Error::WouldBlock { .. })));
            lock.release().expect("released");
            assert!(!lock.locked());
            lock.release().expect_err("it is free").to_string()
        };
        let child = context.process(sequence, (lock.clone(),)).start().expect("a child");
        let text = format!("lock is not held by the caller in process {}: it is free", child.pid());
        assert_eq!(child.join().expect("an error"), text);
        assert!(!lock.locked());
    });
}

#[test]
fn lock_02_locked_is_visible_across_processes() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        let (here, there) = pipe().expect("a pipe");
        let child = |lock: Lock, there: Connection| {
            lock.acquire().expect("the lock");
            there.send(&lock.locked()).expect("sent");
            there.recv::<()>().expect("leave to go");
        };
        let child = context.process(child, (lock.clone(), there)).start().expect("a child");
        assert!(here.recv::<bool>().expect("a word of the child"));
        assert!(lock.locked() && lock.try_lock().is_err());
        // SYN-1: any process may release what no guard holds.
        lock.release().expect("released");
        assert!(!lock.locked());
        here.send(&()).expect("sent");
        child.join().expect("an orderly end");
    });
}

#[test]
fn lock_03_scope_use() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        let scope = |lock: Lock, fails: bool| {
            let _guard = lock.lock().expect("the lock");
            assert!(lock.locked());
            assert!(!fails, "on purpose");
        };
        let silent = || std::fs::File::create("/dev/null").expect("a device");
        for fails in [false, true] {
            let child = context.process(scope, (lock.clone(), fails)).stderr(silent()).start();
            assert_eq!(child.expect("a child").join().is_err(), fails);
            assert!(!lock.locked());
            // It unwound, so nobody died with the lock.
            assert!(lock.lock().expect("the lock").owner_died().is_none());
        }
    });
}

/// LOCK-04; what another thread of this process sees is in `a_thread_sees_another_thread`.
#[test]
fn lock_04_printable_owner() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        assert_eq!(format!("{lock:?}"), "<Lock(owner=None)>");
        let (here, there) = pipe().expect("a pipe");
        let child = |lock: Lock, there: Connection| {
            let guard = lock.lock().expect("the lock");
            there.send(&format!("{lock:?}")).expect("sent");
            there.recv::<()>().expect("leave to go");
            drop(guard);
            // A thread, and what its process sees of it.
            let (locked, is_locked) = std::sync::mpsc::channel();
            let (go, may_go) = std::sync::mpsc::channel::<()>();
            let here = lock.clone();
            let thread = std::thread::Builder::new().name("T1".into()).spawn(move || {
                let _guard = lock.lock().expect("the lock");
                locked.send(format!("{lock:?}")).expect("sent");
                let _ = may_go.recv();
            });
            there.send(&is_locked.recv().expect("a text")).expect("sent");
            there.send(&format!("{here:?}")).expect("sent");
            drop(go);
            thread.expect("a thread").join().expect("an orderly end");
            let _guard = here.lock().expect("the lock");
            there.send(&format!("{here:?}")).expect("sent");
        };
        let child = context.process(child, (lock.clone(), there)).name("P1").start().expect("a child");
        let text = || here.recv::<String>().expect("a text");
        assert_eq!(text(), "<Lock(owner=P1)>");
        assert_eq!(format!("{lock:?}"), "<Lock(owner=SomeOtherProcess)>");
        here.send(&()).expect("sent");
        assert_eq!(text(), "<Lock(owner=P1|T1)>");
        assert_eq!(text(), "<Lock(owner=SomeOtherThread)>");
        assert_eq!(text(), "<Lock(owner=P1)>");
        child.join().expect("an orderly end");
        assert_eq!(format!("{lock:?}"), "<Lock(owner=None)>");
    });
}

#[test]
fn lock_04_printable_owner_in_the_main_process() {
    let lock = Lock::new().expect("a lock");
    let thread = |name: &str, lock: Lock| {
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || format!("{:?} {lock:?}", lock.lock().expect("the lock"))).expect("a thread")
    };
    let text = thread("main", lock.clone()).join().expect("a text");
    assert!(text.ends_with("<Lock(owner=MainProcess)>"), "{text}");
    let text = thread("T1", lock.clone()).join().expect("a text");
    assert!(text.ends_with("<Lock(owner=MainProcess|T1)>"), "{text}");
}

/// LOCK-05: an integer that is read and written in two steps.
#[test]
fn lock_05_mutual_exclusion() {
    for_each_method(|context| {
        let (lock, board) = (Lock::new().expect("a lock"), Board::new());
        let add = |lock: Lock, board: Shared<Board>| {
            for _ in 0..1000 {
                let _guard = lock.lock().expect("the lock");
                let before = board.rounds[0].load(Relaxed);
                std::hint::spin_loop();
                board.rounds[0].store(before + 1, Relaxed);
            }
        };
        let start = |_| context.process(add, (lock.clone(), board.clone())).start().expect("a child");
        let children: Vec<_> = (0..4).map(start).collect();
        children.iter().for_each(|child| child.join().expect("an orderly end"));
        assert_eq!(board.rounds[0].load(Relaxed), 4000);
    });
}

#[test]
fn lock_06_timed_acquire() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        let holder = keeper(context, &lock);
        let start = Instant::now();
        assert!(matches!(lock.lock_timeout(Duration::ZERO), Err(Error::Timeout { .. })));
        assert!(matches!(lock.acquire_timeout(Duration::ZERO), Err(Error::Timeout { .. })));
        assert!(matches!(lock.try_lock(), Err(Error::WouldBlock { .. })));
        assert!(start.elapsed() < Duration::from_millis(200));
        for limit in [100, 300].map(Duration::from_millis) {
            let start = Instant::now();
            assert!(matches!(lock.lock_timeout(limit), Err(Error::Timeout { .. })));
            let waited = start.elapsed();
            assert!(
                waited >= limit && waited < limit + Duration::from_millis(400),
                "{waited:?} of {limit:?}"
            );
        }
        kill(&holder);
    });
}

/// NA-3
#[test]
fn the_next_after_a_killed_holder_is_told() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        // One who sleeps already, then one who comes later.
        for asleep in [true, false] {
            let holder = keeper(context, &lock);
            let (here, there) = pipe().expect("a pipe");
            let wait = |lock: Lock, there: Connection| {
                there.recv::<()>().expect("leave to begin");
                let guard = lock.lock().expect("the lock");
                there.send(&guard.owner_died().map(|died| died.pid())).expect("sent");
            };
            let waiter = context.process(wait, (lock.clone(), there)).start().expect("a child");
            let killed = if asleep {
                here.send(&()).expect("sent");
                wait_until("the lock is waited for", || state_of(waiter.pid()) == Some('S'));
                kill(&holder)
            } else {
                kill(&holder);
                here.send(&()).expect("sent");
                Instant::now()
            };
            assert_eq!(here.recv::<Option<u32>>().expect("who died"), Some(holder.pid()));
            assert!(killed.elapsed() < NOTICED, "{:?}", killed.elapsed());
            waiter.join().expect("an orderly end");
            assert!(lock.lock().expect("the lock").owner_died().is_none(), "told once");
        }
        // An attempt that does not wait gets it as well.
        let holder = keeper(context, &lock);
        kill(&holder);
        wait_until("an attempt succeeds", || {
            lock.try_lock()
                .is_ok_and(|guard| guard.owner_died().is_some_and(|died| died.pid() == holder.pid()))
        });
    });
}

#[test]
fn a_holder_that_exits_without_releasing_counts_as_dead() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        let leave = |lock: Lock| std::mem::forget(lock.lock().expect("the lock"));
        let child = context.process(leave, (lock.clone(),)).start().expect("a child");
        child.join().expect("an orderly end");
        let guard = lock.lock_timeout(NOTICED).expect("the lock");
        assert_eq!(guard.owner_died().expect("it ended").pid(), child.pid());
    });
}

#[test]
fn what_a_guard_holds_only_the_guard_releases() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        let guard = lock.lock().expect("the lock");
        let refused = |lock: Lock| lock.release().expect_err("a guard holds it").to_string();
        let child = context.process(refused, (lock.clone(),)).start().expect("a child");
        let text = format!(
            "lock is held by a guard in process {}; process {} cannot release it",
            std::process::id(),
            child.pid()
        );
        assert_eq!(child.join().expect("an error"), text);
        assert!(lock.locked());
        // Handed over, anybody may.
        guard.forget();
        let release = |lock: Lock| lock.release().expect("released");
        context.process(release, (lock.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert!(!lock.locked());
        // And no death ends what was handed over.
        let give = |lock: Lock| lock.lock().expect("the lock").forget();
        context.process(give, (lock.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert!(lock.lock_timeout(Duration::from_millis(150)).is_err());
        lock.release().expect("released");
    });
}

/// A child that holds the lock by a guard of its own, and ends what came along of its parent's.
#[test]
fn the_copy_of_a_guard_does_not_release_what_the_child_holds() {
    common::alone(|| {
        let lock = Lock::new().expect("a lock");
        let (here, there) = pipe().expect("a pipe");
        for end in [|guard| drop(guard), LockGuard::forget, LockGuard::pass_on] {
            let mut guard = Some(lock.lock().expect("the lock"));
            let child = Context::fork().fork_with(|| {
                let own = lock.lock().expect("the lock");
                guard.take().map(end);
                // Still a guard's, hence released by nobody else.
                there.send(&matches!(lock.release(), Err(Error::Guarded { .. }))).expect("sent");
                there.recv::<()>().expect("leave to go");
                drop(own);
            });
            let child = child.expect("a child");
            drop(guard);
            assert!(here.recv::<bool>().expect("a word of the child"));
            assert!(lock.locked() && lock.try_lock().is_err());
            here.send(&()).expect("sent");
            child.join().expect("an orderly end");
            assert!(!lock.locked());
        }
    });
}

#[test]
fn a_forked_child_cannot_release_what_its_parent_holds() {
    common::alone(|| {
        let lock = Lock::new().expect("a lock");
        let mut guard = Some(lock.lock().expect("the lock"));
        let child = Context::fork().fork_with(|| {
            drop(guard.take());
            assert_eq!(format!("{lock:?}"), "<Lock(owner=SomeOtherProcess)>");
            lock.locked()
        });
        assert!(child.expect("a child").join().expect("an answer"));
        assert!(lock.locked());
        drop(guard);
        assert!(!lock.locked());
    });
}

#[test]
fn locks_travel_in_arguments_messages_results_and_tasks() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        let guard = lock.lock().expect("the lock");
        let same = |lock: &Lock| lock.locked() && matches!(lock.release(), Err(Error::Guarded { .. }));
        let (here, there) = pipe().expect("a pipe");
        let child = |there: Connection, first: (Lock, Semaphore)| {
            let (second, recursive): (Option<Lock>, Vec<RLock>) = there.recv().expect("a message");
            assert_eq!(Some(&first.0), second.as_ref());
            recursive[0].acquire().expect("the recursive lock");
            first.1.release().expect("released");
            (first.0, recursive)
        };
        let (recursive, semaphore) = (RLock::new().expect("a lock"), Semaphore::new(0).expect("a semaphore"));
        let arguments = (there, (lock.clone(), semaphore.clone()));
        let child = context.process(child, arguments).start().expect("a child");
        here.send(&(Some(lock.clone()), vec![recursive.clone()])).expect("sent");
        let (lock_back, recursive_back) = child.join().expect("locks");
        assert!(lock_back == lock && same(&lock_back));
        assert!(recursive_back[0] == recursive);
        assert_eq!(semaphore.get_value(), 1);
        // The child ended while it held this one.
        assert!(recursive.lock().expect("the recursive lock").owner_died().is_some());

        let pool = Pool::builder().processes(2).context(context).build().expect("a pool");
        let seen = pool.map(|lock: Lock| lock.locked(), vec![lock.clone(), lock.clone()]).expect("answers");
        assert_eq!(seen, [true, true]);
        drop(guard);
        let one_by_one = |(lock, semaphore): (Lock, Semaphore)| {
            let _guard = lock.lock().expect("the lock");
            semaphore.release().expect("released");
        };
        pool.map(one_by_one, vec![(lock.clone(), semaphore.clone()); 20]).expect("done");
        assert_eq!(semaphore.get_value(), 21);
        assert!(!lock.locked());
    });
}

/// What the processes of a test write down.
#[derive(Default)]
#[repr(C)]
struct Board {
    /// Pid of who is inside, as far as they came.
    inside: AtomicU32,
    stop: AtomicU32,
    rounds: [AtomicU64; 2],
}

// SAFETY: atomics only.
unsafe impl InSharedMemory for Board {}

impl Board {
    fn new() -> Shared<Board> {
        Shared::new().expect("a block")
    }

    fn enter(&self) {
        let before = self.inside.swap(std::process::id(), Relaxed);
        assert!(before == 0 || !is_running(before), "process {before} is inside, too");
    }

    fn leave(&self) {
        self.inside.store(0, Relaxed);
    }
}

/// What can be held by a process.
trait Hold: Clone + Serialize + DeserializeOwned + Send + 'static {
    /// Runs `work` while it is held.
    fn hold(&self, work: impl FnOnce());
}

macro_rules! hold {
    ($($kind:ident $acquire:ident)*) => {$(
        impl Hold for $kind {
            fn hold(&self, work: impl FnOnce()) {
                let _guard = self.$acquire().expect("held");
                work();
            }
        }
    )*};
}
hold!(Lock lock RLock lock Semaphore acquire BoundedSemaphore acquire);

fn round<H: Hold>(held: &H, board: &Board, one_at_a_time: bool) {
    held.hold(|| {
        if one_at_a_time {
            board.enter();
            board.leave();
        }
    });
}

fn victim<H: Hold>(held: H, board: Shared<Board>, one_at_a_time: bool) {
    loop {
        round(&held, &board, one_at_a_time);
    }
}

fn survivor<H: Hold>(held: H, board: Shared<Board>, one_at_a_time: bool, number: usize) {
    while board.stop.load(Relaxed) == 0 {
        round(&held, &board, one_at_a_time);
        board.rounds[number].fetch_add(1, Relaxed);
    }
}

/// NA-3: kills one of three who come and go, again and again, while two others go on.
fn kill_at_random<H: Hold>(context: Context, held: H, one_at_a_time: bool) {
    let board = Board::new();
    let start = |number: usize| {
        let arguments = (held.clone(), board.clone(), one_at_a_time, number);
        context.process(survivor::<H>, arguments).start().expect("a survivor")
    };
    let survivors = [0, 1].map(start);
    let start = || {
        let arguments = (held.clone(), board.clone(), one_at_a_time);
        context.process(victim::<H>, arguments).start().expect("a victim")
    };
    let mut victims = [(); 3].map(|()| start());
    let mut random = u64::from(std::process::id()) | 1;
    for _ in 0..12 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Anywhere in what it does.
        std::thread::sleep(Duration::from_micros((random >> 33) % 3000));
        let victim = &mut victims[(random >> 60) as usize % 3];
        kill(victim);
        let before = [0, 1].map(|number| board.rounds[number].load(Relaxed));
        wait_until("both survivors go on", || {
            (0..2).all(|number| board.rounds[number].load(Relaxed) >= before[number] + 10)
        });
        *victim = start();
    }
    for victim in &victims {
        kill(victim);
    }
    board.stop.store(1, Relaxed);
    survivors.iter().for_each(|survivor| survivor.join().expect("nothing was wrong"));
}

#[test]
fn survivors_of_a_lock_go_on() {
    for_each_method(|context| kill_at_random(context, Lock::new().expect("a lock"), true));
}

#[test]
fn survivors_of_a_recursive_lock_go_on() {
    for_each_method(|context| kill_at_random(context, RLock::new().expect("a lock"), true));
}

#[test]
fn survivors_of_semaphores_go_on() {
    for_each_method(|context| {
        let one = BoundedSemaphore::new(1).expect("a semaphore");
        kill_at_random(context, one.clone(), true);
        assert_eq!(one.get_value(), 1);
        let two = Semaphore::new(2).expect("a semaphore");
        kill_at_random(context, two.clone(), false);
        assert_eq!(two.get_value(), 2);
        assert!(matches!(one.release(), Err(Error::OverRelease { .. })));
    });
}

/// LOCK-07: nothing has a name that another program could take, find, or have to remove.
#[test]
fn lock_07_nothing_has_a_name() {
    fn names() -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir("/dev/shm").expect("the folder of named memory");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names.retain(|name| name.to_string_lossy().contains(&std::process::id().to_string()));
        names
    }
    common::alone(|| {
        let locks: Vec<_> = (0..5000).map(|_| Lock::new().expect("a lock")).collect();
        let semaphores: Vec<_> = (0..5000).map(|_| Semaphore::new(1).expect("a semaphore")).collect();
        assert!(names().is_empty(), "{:?}", names());
        let mapped = std::fs::read_to_string("/proc/self/maps").expect("the mappings");
        let shared = mapped.lines().filter(|line| line.contains("-s ") || line.contains("rw-s"));
        let mut count = 0;
        for line in shared {
            assert!(line.ends_with("(deleted)") && line.contains("/memfd:"), "it has a name: {line}");
            count += 1;
        }
        assert!(count > 0, "no shared memory at all");
        drop((locks, semaphores));
    });
}
