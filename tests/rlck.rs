//! RLCK: recursive locks between processes.

mod common;

use std::time::Duration;

use mp_sync::{Error, RLock};
use multiprocess::Context;
use multiprocess::core::connection::{Connection, pipe};

use common::{NOTICED, for_each_method, kill, sleep_for_ever, state_of, wait_until};

#[test]
fn rlck_01_three_levels() {
    for_each_method(|context| {
        let lock = RLock::new().expect("a lock");
        let levels = |lock: RLock| {
            for level in 1..=3 {
                lock.acquire().expect("the lock");
                assert_eq!(format!("{lock:?}"), format!("<RLock(P1, {level})>"));
            }
            for _ in 0..3 {
                assert!(lock.locked());
                lock.release().expect("released");
            }
            assert!(!lock.locked());
            lock.release().expect_err("it is free").to_string()
        };
        let child = context.process(levels, (lock.clone(),)).name("P1").start().expect("a child");
        let error = child.join().expect("an error");
        assert!(error.contains("recursive lock is not held by the caller"), "{error}");
        assert!(error.contains("its owner is None"), "{error}");
        assert_eq!(format!("{lock:?}"), "<RLock(None, 0)>");
    });
}

#[test]
fn rlck_02_visible_across_processes() {
    for_each_method(|context| {
        let lock = RLock::new().expect("a lock");
        let (here, there) = pipe().expect("a pipe");
        let child = |lock: RLock, there: Connection| {
            let _guard = lock.lock().expect("the lock");
            there.send(&lock.locked()).expect("sent");
            there.recv::<()>().expect("leave to go");
        };
        let child = context.process(child, (lock.clone(), there)).start().expect("a child");
        assert!(here.recv::<bool>().expect("a word of the child"));
        assert!(lock.locked() && !lock.is_mine());
        assert_eq!(format!("{lock:?}"), "<RLock(SomeOtherProcess, nonzero)>");
        // SYN-6: only its owner releases it.
        let error = lock.release().expect_err("it is another's");
        assert!(matches!(error, Error::NotHeld { .. }), "{error}");
        assert!(error.to_string().contains("its owner is SomeOtherProcess"), "{error}");
        here.send(&()).expect("sent");
        child.join().expect("an orderly end");
        assert!(!lock.locked());
    });
}

#[test]
fn rlck_03_others_stay_out_until_depth_is_zero() {
    for_each_method(|context| {
        let lock = RLock::new().expect("a lock");
        let (here, there) = pipe().expect("a pipe");
        let attempts = |lock: RLock, there: Connection| {
            while there.recv::<bool>().expect("whether to go on") {
                let acquired = lock.acquire_timeout(Duration::from_millis(200)).is_ok();
                there.send(&acquired).expect("sent");
            }
        };
        let child = context.process(attempts, (lock.clone(), there)).start().expect("a child");
        let gets_it = || {
            here.send(&true).expect("sent");
            here.recv::<bool>().expect("an answer")
        };
        lock.acquire().expect("the lock");
        lock.acquire().expect("the lock");
        assert!(!gets_it());
        lock.release().expect("released");
        assert!(!gets_it());
        lock.release().expect("released");
        assert!(gets_it());
        here.send(&false).expect("sent");
        child.join().expect("an orderly end");
    });
}

/// SYN-6: the owner is a thread, so another one of the same process has neither the lock nor the right to release it.
#[test]
fn rlck_03_another_thread_stays_out() {
    for_each_method(|context| {
        let check = |lock: RLock| {
            let guard = lock.lock().expect("the lock");
            let other = std::thread::spawn({
                let lock = lock.clone();
                move || {
                    assert!(lock.locked() && !lock.is_mine());
                    assert!(matches!(lock.try_lock(), Err(Error::WouldBlock { .. })));
                    assert!(matches!(
                        lock.lock_timeout(Duration::from_millis(50)),
                        Err(Error::Timeout { .. })
                    ));
                    assert!(matches!(lock.release(), Err(Error::NotHeld { .. })));
                    assert_eq!(format!("{lock:?}"), "<RLock(SomeOtherThread, nonzero)>");
                }
            });
            other.join().expect("no panic");
            assert!(lock.is_mine());
            drop(guard);
            std::thread::spawn(move || drop(lock.try_lock().expect("free"))).join().expect("no panic");
        };
        let lock = RLock::new().expect("a lock");
        context.process(check, (lock.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert!(!lock.locked());
    });
}

#[test]
fn rlck_04_scope_use() {
    for_each_method(|context| {
        let lock = RLock::new().expect("a lock");
        let scope = |lock: RLock| {
            {
                let _outer = lock.lock().expect("the lock");
                let _inner = lock.lock().expect("the lock");
                assert!(lock.locked());
            }
            lock.locked()
        };
        let child = context.process(scope, (lock.clone(),)).start().expect("a child");
        assert!(!child.join().expect("an answer"));
        assert!(!lock.locked());
    });
}

/// NA-3: all levels of a dead process end at once.
#[test]
fn the_next_after_a_killed_holder_is_told() {
    for_each_method(|context| {
        let lock = RLock::new().expect("a lock");
        let keep = |lock: RLock, there: Connection| {
            let _levels = [(); 3].map(|()| lock.lock().expect("the lock"));
            there.send(&()).expect("sent");
            sleep_for_ever();
        };
        let (here, there) = pipe().expect("a pipe");
        let holder = context.process(keep, (lock.clone(), there)).start().expect("a child");
        here.recv::<()>().expect("a word of the child");
        let wait = |lock: RLock, there: Connection| {
            there.send(&()).expect("sent");
            let guard = lock.lock().expect("the lock");
            there.send(&guard.owner_died().map(|died| died.pid())).expect("sent");
            let _deeper = lock.lock().expect("the lock");
            assert_eq!(format!("{lock:?}"), "<RLock(P2, 2)>");
        };
        let (here, there) = pipe().expect("a pipe");
        let waiter = context.process(wait, (lock.clone(), there)).name("P2").start().expect("a child");
        here.recv::<()>().expect("a word of the child");
        wait_until("the waiter sleeps", || state_of(waiter.pid()) == Some('S'));
        let killed = kill(&holder);
        assert_eq!(here.recv::<Option<u32>>().expect("who died"), Some(holder.pid()));
        assert!(killed.elapsed() < NOTICED, "{:?}", killed.elapsed());
        waiter.join().expect("an orderly end");
        assert!(lock.lock().expect("the lock").owner_died().is_none(), "told once");
        assert!(!lock.locked());
    });
}

/// SYN-6
#[test]
fn a_forked_child_holds_nothing() {
    common::alone(|| {
        let lock = RLock::new().expect("a lock");
        let mut guard = Some(lock.lock().expect("the lock"));
        let child = Context::fork().fork_with(|| {
            assert!(!lock.is_mine());
            assert!(matches!(lock.release(), Err(Error::NotHeld { .. })));
            drop(guard.take());
            lock.locked()
        });
        assert!(child.expect("a child").join().expect("an answer"));
        assert!(lock.is_mine());
        drop(guard);
        assert!(!lock.locked());
    });
}

/// The thread that forked has the number that it had in the parent, so its levels must not be taken for the parent's.
#[test]
fn the_copy_of_a_guard_does_not_end_a_level_of_the_child() {
    common::alone(|| {
        let lock = RLock::new().expect("a lock");
        let mut guard = Some(lock.lock().expect("the lock"));
        let (here, there) = pipe().expect("a pipe");
        let child = Context::fork().fork_with(|| {
            there.recv::<()>().expect("leave to lock");
            // Free, but the last thread that had it is one of this name.
            assert!(!lock.is_mine());
            let own = lock.lock().expect("the lock");
            drop(guard.take());
            let held = lock.is_mine();
            drop(own);
            held && !lock.locked()
        });
        let child = child.expect("a child");
        drop(guard);
        here.send(&()).expect("sent");
        assert!(child.join().expect("an answer"));
        assert!(!lock.locked());
    });
}
