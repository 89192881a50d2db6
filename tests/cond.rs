//! COND: conditions between processes and threads, and what becomes of them when a waiter, a notifier or the holder of the
//! lock is killed (NA-3, NA-4).

mod common;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use mp_sync::{Condition, Error, Lock, RLock};
use multiprocess::core::arena::{InSharedMemory, Shared};
use multiprocess::{Context, Process};

use common::{SOON, alone, for_each_method, holds_within, state_of, wait_until};

/// Far longer than any wait that is to end.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

/// A number that processes share.
#[repr(C)]
struct Number(AtomicU32);

// SAFETY: an atomic number, nothing else.
unsafe impl InSharedMemory for Number {}

fn number() -> Shared<Number> {
    Shared::new().expect("memory")
}

fn wait(condition: Condition, timeout: Duration) -> bool {
    let mut guard = condition.lock().expect("the lock");
    let told = condition.wait_timeout(&mut guard, timeout).expect("an answer");
    assert!(condition.locked());
    told
}

fn waiter(context: Context, condition: &Condition, timeout: Duration) -> Process<bool> {
    context.process(wait, (condition.clone(), timeout)).start().expect("a child")
}

fn notify(condition: &Condition, n: usize) -> usize {
    let _guard = condition.lock().expect("the lock");
    condition.notify(n).expect("the lock is held")
}

fn wait_for_waiters(condition: &Condition, n: usize) {
    wait_until(&format!("{n} waiters"), || condition.waiters() == n);
}

fn assert_unused(condition: &Condition) {
    assert_eq!(format!("{condition:?}"), "<Condition(<RLock(None, 0)>, 0)>");
    assert_eq!(notify(condition, usize::MAX), 0, "somebody is recorded");
}

fn signal(child: &Process<bool>, signal: i32) {
    // SAFETY: the child is not joined yet, so the pid is its own.
    assert_eq!(unsafe { libc::kill(child.pid() as i32, signal) }, 0);
}

#[test]
fn cond_01_notify_one_at_a_time() {
    for_each_method(|context| {
        let condition = Condition::new().expect("a condition");
        let child = waiter(context, &condition, LONG);
        let thread = thread::spawn({
            let condition = condition.clone();
            move || wait(condition, LONG)
        });
        wait_for_waiters(&condition, 2);
        let woken = || usize::from(child.done()) + usize::from(thread.is_finished());
        assert_eq!(woken(), 0);
        for n in 1..=2 {
            assert_eq!(notify(&condition, 1), 1);
            wait_until("one is woken", || woken() == n);
            assert_eq!(condition.waiters(), 2 - n);
        }
        assert!(child.join().expect("told") && thread.join().expect("told"));
        assert_eq!(notify(&condition, 1), 0);
        // No token is left that would wake the next one.
        assert!(!wait(condition.clone(), SHORT));
        assert_unused(&condition);
    });
}

#[test]
fn cond_02_six_waiters_time_out() {
    for_each_method(|context| {
        let condition = Condition::new().expect("a condition");
        let children: Vec<_> = (0..3).map(|_| waiter(context, &condition, SHORT)).collect();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| wait(condition.clone(), SHORT))).collect();
            threads.into_iter().for_each(|thread| assert!(!thread.join().expect("an answer")));
        });
        children.iter().for_each(|child| assert!(!child.join().expect("an answer")));
        assert_unused(&condition);
    });
}

/// COND-03, COND-05.
#[test]
fn cond_03_05_results_of_timed_waits() {
    for_each_method(|context| {
        let condition = Condition::new().expect("a condition");
        let mut guard = condition.lock().expect("the lock");
        assert!(!condition.wait_timeout(&mut guard, Duration::ZERO).expect("an answer"));
        let began = Instant::now();
        assert!(!condition.wait_timeout(&mut guard, SHORT).expect("an answer"));
        assert!(began.elapsed() >= SHORT && condition.locked());
        let notify_once = |condition: Condition| {
            wait_for_waiters(&condition, 1);
            assert_eq!(notify(&condition, 1), 1);
        };
        let child = context.process(notify_once, (condition.clone(),)).start().expect("a child");
        assert!(condition.wait_timeout(&mut guard, LONG).expect("an answer"));
        drop(guard);
        child.join().expect("notified");
        assert_unused(&condition);
    });
}

#[test]
fn cond_04_wait_for_until_true() {
    for_each_method(|context| {
        let (condition, state) = (Condition::new().expect("a condition"), number());
        state.0.store(9, SeqCst);
        let child = |condition: Condition, state: Shared<Number>| {
            let mut guard = condition.lock().expect("the lock");
            state.0.store(0, SeqCst);
            condition.notify_one().expect("the lock is held");
            let is_four = || state.0.load(SeqCst) == 4;
            assert!(condition.wait_for_timeout(&mut guard, LONG, is_four).expect("an answer"));
        };
        let child = context.process(child, (condition.clone(), state.clone())).start().expect("a child");
        let mut guard = condition.lock().expect("the lock");
        condition.wait_for(&mut guard, || state.0.load(SeqCst) == 0).expect("an answer");
        drop(guard);
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(10));
            let _guard = condition.lock().expect("the lock");
            state.0.fetch_add(1, SeqCst);
            condition.notify_one().expect("the lock is held");
        }
        child.join().expect("four");
        assert_eq!(child.exit_code(), Some(0));
        assert_unused(&condition);
    });
}

#[test]
fn cond_06_use_without_holding_the_lock() {
    for_each_method(|context| {
        let misuse = |condition: Condition| {
            for error in [
                condition.notify_one().expect_err("not held"),
                condition.notify_all().expect_err("not held"),
                condition.wait_unguarded(None).expect_err("not held"),
            ] {
                assert!(matches!(error, Error::NotHeld { .. }), "{error}");
            }
            assert_eq!(condition.waiters(), 0);
        };
        let plain = Lock::new().expect("a lock");
        for condition in [Condition::new(), Condition::with_lock(&plain)] {
            let condition = condition.expect("a condition");
            misuse(condition.clone());
            // Somebody else holds it.
            let guard = condition.lock().expect("the lock");
            context.process(misuse, (condition.clone(),)).start().expect("a child").join().expect("errors");
            thread::scope(|scope| scope.spawn(|| misuse(condition.clone())).join().expect("errors"));
            drop(guard);
            // One that has it without a guard may wait.
            condition.acquire().expect("the lock");
            assert!(!condition.wait_unguarded(Some(Duration::ZERO)).expect("an answer").0);
            condition.release().expect("it is held again");
            assert!(!condition.locked() && condition.release().is_err());
        }
        let (one, other) = (Condition::new().expect("a condition"), Condition::new().expect("a condition"));
        let mut guard = one.lock().expect("the lock");
        let error = other.wait(&mut guard).expect_err("another lock");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        drop(guard);
        // Two conditions with one lock share guards.
        let lock = RLock::new().expect("a lock");
        let one = Condition::with_rlock(&lock).expect("a condition");
        let other = Condition::with_rlock(&lock).expect("a condition");
        let mut guard = one.lock().expect("the lock");
        assert!(!other.wait_timeout(&mut guard, Duration::ZERO).expect("an answer"));
        assert!(lock.is_mine() && one.try_lock().is_ok());
    });
}

#[test]
fn cond_07_wait_releases_all_levels_of_a_recursive_lock() {
    for_each_method(|context| {
        let condition = Condition::new().expect("a condition");
        let notify_once = |condition: Condition| {
            wait_for_waiters(&condition, 1);
            assert_eq!(notify(&condition, 1), 1);
        };
        let (_one, _two) = (condition.lock().expect("the lock"), condition.lock().expect("the lock"));
        let mut three = condition.lock().expect("the lock");
        let child = context.process(notify_once, (condition.clone(),)).start().expect("a child");
        condition.wait(&mut three).expect("told");
        assert!(format!("{condition:?}").contains(", 3)>, 0)>"), "{condition:?}");
        child.join().expect("notified");
    });
}

#[test]
fn cond_08_predicate_already_true() {
    alone(|| {
        let condition = Condition::new().expect("a condition");
        let mut guard = condition.lock().expect("the lock");
        let mut asked = 0;
        let predicate = || {
            asked += 1;
            true
        };
        assert!(condition.wait_for_timeout(&mut guard, Duration::ZERO, predicate).expect("an answer"));
        assert_eq!(asked, 1);
        assert!(!condition.wait_for_timeout(&mut guard, SHORT, || false).expect("an answer"));
    });
}

/// NA-4
#[test]
fn cond_09_a_killed_waiter_is_passed_over() {
    for_each_method(|context| {
        let condition = Condition::new().expect("a condition");
        let children: Vec<_> = (0..3).map(|_| waiter(context, &condition, LONG)).collect();
        wait_for_waiters(&condition, 3);
        children[1].kill().expect("killed");
        children[1].join().expect_err("killed");
        assert_eq!(condition.waiters(), 2);
        let began = Instant::now();
        assert_eq!(notify(&condition, usize::MAX), 2);
        notify(&condition, usize::MAX);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(children[0].join().expect("told") && children[2].join().expect("told"));
        assert_unused(&condition);
    });
}

/// NA-4
#[test]
fn cond_09_what_a_killed_waiter_was_told_goes_to_another_one() {
    for_each_method(|context| {
        let condition = Condition::new().expect("a condition");
        let first = waiter(context, &condition, LONG);
        wait_for_waiters(&condition, 1);
        let second = waiter(context, &condition, LONG);
        wait_for_waiters(&condition, 2);
        // The first is told, but does not come to do anything with it.
        signal(&first, libc::SIGSTOP);
        wait_until("it has stopped", || state_of(first.pid()) == Some('T'));
        assert_eq!(notify(&condition, 1), 1);
        // One that comes later is none of those who were to be told.
        let late = waiter(context, &condition, Duration::from_millis(500));
        wait_for_waiters(&condition, 2);
        first.kill().expect("killed");
        first.join().expect_err("killed");
        assert!(second.join().expect("told"));
        assert!(!late.join().expect("an answer"));
        assert_unused(&condition);
    });
}

/// NA-3
#[test]
fn cond_09_the_guard_knows_who_died_with_the_lock() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        for condition in [Condition::new(), Condition::with_lock(&lock)] {
            let condition = condition.expect("a condition");
            let die = |condition: Condition| {
                let _guard = condition.lock().expect("the lock");
                condition.notify_all().expect("the lock is held");
                // SAFETY: it ends this process.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            };
            let mut guard = condition.lock().expect("the lock");
            let child = context.process(die, (condition.clone(),)).start().expect("a child");
            assert_eq!(guard.owner_died(), None);
            condition.wait(&mut guard).expect("told");
            assert_eq!(guard.owner_died().map(|owner| owner.pid()), Some(child.pid()));
            child.join().expect_err("killed");
        }
    });
}

/// Takes one thing after another.
fn work(condition: Condition, stock: Shared<Number>) {
    loop {
        let mut guard = condition.lock().expect("the lock");
        condition.wait_for(&mut guard, || stock.0.load(SeqCst) > 0).expect("told");
        stock.0.fetch_sub(1, SeqCst);
    }
}

/// NA-4
#[test]
fn cond_09_nothing_waits_for_ever_while_workers_are_killed() {
    for_each_method(|context| {
        let (condition, stock) = (Condition::new().expect("a condition"), number());
        let hire = || context.process(work, (condition.clone(), stock.clone())).start().expect("a child");
        let mut workers: Vec<_> = (0..3).map(|_| hire()).collect();
        for round in 0..60usize {
            let guard = condition.lock().expect("the lock");
            stock.0.fetch_add(2, SeqCst);
            condition.notify(2).expect("the lock is held");
            drop(guard);
            // At another moment each time.
            (0..round * 50).for_each(|_| std::hint::spin_loop());
            let victim = workers.remove(round % 3);
            victim.kill().expect("killed");
            victim.join().expect_err("killed");
            assert!(
                holds_within(SOON, || stock.0.load(SeqCst) == 0),
                "round {round}: {} left, {condition:?}",
                stock.0.load(SeqCst)
            );
            workers.push(hire());
        }
        for worker in workers {
            worker.kill().expect("killed");
            worker.join().expect_err("killed");
        }
        assert_eq!(condition.waiters(), 0);
    });
}

#[test]
fn cond_01_more_waiters_than_slots() {
    alone(|| {
        let condition = Condition::new().expect("a condition");
        let stock = number();
        const MANY: usize = 300;
        thread::scope(|scope| {
            for _ in 0..MANY {
                scope.spawn(|| {
                    let mut guard = condition.lock().expect("the lock");
                    condition.wait_for(&mut guard, || stock.0.load(SeqCst) > 0).expect("told");
                    stock.0.fetch_sub(1, SeqCst);
                });
            }
            wait_for_waiters(&condition, MANY);
            for _ in 0..MANY {
                let _guard = condition.lock().expect("the lock");
                stock.0.fetch_add(1, SeqCst);
                // It may find nobody: those who were called all at once are about to look.
                condition.notify_one().expect("the lock is held");
            }
        });
        assert_eq!(stock.0.load(SeqCst), 0);
        assert_unused(&condition);
    });
}

#[test]
fn cond_01_those_who_have_waited_longest_are_told_first() {
    alone(|| {
        let condition = Condition::new().expect("a condition");
        let next = number();
        thread::scope(|scope| {
            for place in 0..10 {
                let (condition, next) = (&condition, &next);
                scope.spawn(move || {
                    let mut guard = condition.lock().expect("the lock");
                    condition.wait(&mut guard).expect("told");
                    assert_eq!(next.0.fetch_add(1, SeqCst), place);
                });
                wait_for_waiters(condition, place as usize + 1);
            }
            for place in 0..10 {
                assert_eq!(notify(&condition, 1), 1);
                wait_until("one has left", || next.0.load(SeqCst) == place + 1);
            }
        });
    });
}

#[test]
fn the_copy_of_a_guard_has_no_effect_in_a_child_that_holds_the_lock() {
    alone(|| {
        for condition in [Condition::new(), Condition::with_lock(&Lock::new().expect("a lock"))] {
            let condition = condition.expect("a condition");
            let mut guard = Some(condition.lock().expect("the lock"));
            let (here, there) = multiprocess::core::connection::pipe().expect("a pipe");
            let child = Context::fork().fork_with(|| {
                there.recv::<()>().expect("leave to lock");
                assert!(matches!(condition.notify_all(), Err(Error::NotHeld { .. })));
                let own = condition.lock().expect("the lock");
                let mut copy = guard.take().expect("a copy");
                let refused = condition.wait_timeout(&mut copy, Duration::ZERO);
                assert!(matches!(refused, Err(Error::NotHeld { .. })), "{refused:?}");
                drop(copy);
                let held = condition.locked() && condition.notify_all().is_ok();
                drop(own);
                held && !condition.locked()
            });
            let child = child.expect("a child");
            drop(guard);
            here.send(&()).expect("sent");
            assert!(child.join().expect("an answer"));
            assert!(!condition.locked());
        }
    });
}
