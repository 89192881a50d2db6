//! The async forms of locks and their kin between processes: who is killed is noticed (NA-3, NA-4), and futures and blocking
//! users share what there is. Scenarios within one process are in `mp-sync/src/tests_async`.

mod common;

use std::future::Future;
use std::pin::pin;
use std::task::{Context as Task, Waker};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::core::connection::{Connection, pipe};
use multiprocess::sync::{BrokenReason, DeadOwner, Error};
use multiprocess::{Array, Barrier, Condition, Context, Event, Lock, Process, RLock, Semaphore, Value};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use common::{NOTICED, block_on, for_each_method, is_running, kill, sleep_for_ever, wait_until};

/// Runs the scenario once per start method, in a child: the thread that serves async waits lives as long as its process. Children
/// have to be started before the first wait, as a process with two threads is not forked.
#[track_caller]
fn in_children<F: Fn(Context) + Copy + Send + 'static>(scenario: F) {
    for_each_method(move |context| {
        let run = move |method| scenario(Context::new(method));
        let child = context.process(run, (context.start_method(),)).start().expect("a child");
        child.join().unwrap_or_else(|error| panic!("{error:#}"));
    });
}

/// A child that does `hold`, says so, and stays until it is killed.
fn keeper<T>(context: Context, object: &T, hold: impl Fn(T, &dyn Fn()) + Copy + Send + 'static) -> Process<()>
where
    T: Clone + Serialize + DeserializeOwned + Send + 'static,
{
    let (here, there) = pipe().expect("a pipe");
    let keep = move |object: T, there: Connection| {
        hold(object, &|| {
            there.send(&()).expect("sent");
            sleep_for_ever();
        });
    };
    let child = context.process(keep, (object.clone(), there)).start().expect("a child");
    here.recv::<()>().expect("a word of the child");
    child
}

/// Kills the child while `future` waits; how long after that it returned.
fn killed_meanwhile<F: Future>(child: &Process<()>, future: F) -> (F::Output, Duration) {
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            // So that the future has begun to wait, as a rule.
            thread::sleep(Duration::from_millis(70));
            kill(child)
        });
        let output = block_on(future);
        let now = Instant::now();
        (output, now.duration_since(killer.join().expect("killed")))
    })
}

#[test]
fn futures_and_blocking_users_of_several_processes_take_turns() {
    const ROUNDS: u64 = 300;
    in_children(|context| {
        let (value, seats) = (Value::new(0_u64).expect("a value"), Semaphore::new(2).expect("a semaphore"));
        let count_async = |value: Value<u64>, seats: Semaphore| {
            block_on(async {
                for _ in 0..ROUNDS {
                    let _seat = seats.acquire_async().await.expect("a permit");
                    *value.lock_async().await.expect("the lock") += 1;
                }
            });
        };
        let count = |value: Value<u64>, seats: Semaphore| {
            for _ in 0..ROUNDS {
                let _seat = seats.acquire().expect("a permit");
                *value.lock().expect("the lock") += 1;
            }
        };
        let arguments = || (value.clone(), seats.clone());
        let children = [
            context.process(count, arguments()).start().expect("a child"),
            context.process(count_async, arguments()).start().expect("a child"),
            context.process(count_async, arguments()).start().expect("a child"),
        ];
        count_async(value.clone(), seats.clone());
        children.iter().for_each(|child| child.join().expect("an orderly end"));
        assert_eq!(value.get().expect("the value"), 4 * ROUNDS);
        assert_eq!(seats.get_value(), 2);
    });
}

#[test]
fn na_03_a_future_gets_what_a_dead_process_held_and_is_told() {
    in_children(|context| {
        let lock = Lock::new().expect("a lock");
        let keeps_lock = keeper(context, &lock, |lock, stay| {
            let _guard = lock.lock();
            stay();
        });
        let recursive = RLock::new().expect("a lock");
        let keeps_recursive = keeper(context, &recursive, |lock, stay| {
            let _levels = (lock.lock(), lock.lock());
            stay();
        });
        let semaphore = Semaphore::new(1).expect("a semaphore");
        let keeps_permit = keeper(context, &semaphore, |semaphore, stay| {
            let _permit = semaphore.acquire();
            stay();
        });
        let array = Array::from_slice(&[1, 2]).expect("an array");
        let keeps_array = keeper(context, &array, |array, stay| {
            let _guard = array.lock();
            stay();
        });
        let assert_told = |child: &Process<()>, dead: Option<DeadOwner>, time: Duration| {
            assert_eq!(dead.map(|dead| dead.pid()), Some(child.pid()));
            assert!(time < NOTICED, "{time:?}");
        };

        let (guard, time) = killed_meanwhile(&keeps_lock, lock.lock_async());
        assert_told(&keeps_lock, guard.expect("the lock").owner_died(), time);
        let (guard, time) = killed_meanwhile(&keeps_recursive, recursive.lock_async());
        assert_told(&keeps_recursive, guard.expect("the lock").owner_died(), time);
        assert!(!recursive.locked(), "one level was left");
        let (permit, time) = killed_meanwhile(&keeps_permit, semaphore.acquire_async());
        assert_told(&keeps_permit, permit.expect("a permit").owner_died(), time);
        let (guard, time) = killed_meanwhile(&keeps_array, array.lock_async());
        assert_told(&keeps_array, guard.expect("the lock").owner_died(), time);
    });
}

fn wait(condition: &Condition) {
    block_on(async {
        let mut guard = condition.lock_async().await.expect("the lock");
        condition.wait_async(&mut guard).await.expect("told");
    });
}

fn notify(condition: &Condition, n: usize) -> usize {
    let _guard = condition.lock().expect("the lock");
    condition.notify(n).expect("the lock is held")
}

#[test]
fn processes_tell_each_others_futures() {
    in_children(|context| {
        let condition = Condition::new().expect("a condition");
        let child = context.process(|condition: Condition| wait(&condition), (condition.clone(),));
        let child = child.start().expect("a child");
        wait_until("the child waits", || condition.waiters() == 1);
        assert_eq!(notify(&condition, 1), 1);
        child.join().expect("told");
        let tell = |condition: Condition| {
            wait_until("the parent waits", || condition.waiters() == 1);
            assert_eq!(notify(&condition, 1), 1);
        };
        let child = context.process(tell, (condition.clone(),)).start().expect("a child");
        wait(&condition);
        child.join().expect("told");
        assert_eq!((condition.waiters(), condition.locked()), (0, false));
    });
}

#[test]
fn na_04_what_a_dead_process_was_told_a_future_is_told() {
    in_children(|context| {
        let condition = Condition::new().expect("a condition");
        let child = context.process(|condition: Condition| wait(&condition), (condition.clone(),));
        let child = child.start().expect("a child");
        wait_until("the child waits", || condition.waiters() == 1);
        let heir = condition.clone();
        let heir = thread::spawn(move || wait(&heir));
        wait_until("both wait", || condition.waiters() == 2);
        // It is told and cannot return before it is killed.
        let guard = condition.lock().expect("the lock");
        assert_eq!(condition.notify(1).expect("the lock is held"), 1);
        child.kill().expect("killed");
        wait_until("the child is dead", || !is_running(child.pid()));
        drop(guard);
        let freed = Instant::now();
        heir.join().expect("told");
        assert!(freed.elapsed() < NOTICED, "{:?}", freed.elapsed());
        assert_eq!(condition.waiters(), 0);
    });
}

#[test]
fn a_future_sees_an_event_that_another_process_sets_and_clears() {
    in_children(|context| {
        let (event, (here, there)) = (Event::new().expect("an event"), pipe().expect("a pipe"));
        let pulse = |event: Event, there: Connection| {
            there.recv::<()>().expect("leave to go");
            event.set();
            event.clear();
        };
        let child = context.process(pulse, (event.clone(), there)).start().expect("a child");
        let mut future = pin!(event.wait_async());
        assert!(future.as_mut().poll(&mut Task::from_waker(Waker::noop())).is_pending());
        here.send(&()).expect("sent");
        block_on(future).expect("set");
        child.join().expect("an orderly end");
        assert!(!event.is_set());
    });
}

#[test]
fn futures_of_several_processes_are_parties_and_the_dead_break_the_round() {
    in_children(|context| {
        let barrier = Barrier::new(3).expect("a barrier");
        let rounds = |barrier: Barrier| {
            block_on(async {
                let mut indices = 0;
                for _ in 0..100 {
                    indices += barrier.wait_async().await.expect("passed");
                }
                indices
            })
        };
        let fatal = Barrier::new(3).expect("a barrier");
        let party =
            |barrier: Barrier| block_on(barrier.wait_async()).map(drop).map_err(|error| error.to_string());
        let child = context.process(party, (fatal.clone(),)).start().expect("a child");
        let children =
            [(); 2].map(|()| context.process(rounds, (barrier.clone(),)).start().expect("a child"));
        let mine = rounds(barrier.clone());
        let all: u32 = children.iter().map(|child| child.join().expect("all rounds")).sum::<u32>() + mine;
        assert_eq!(all, 100 * (1 + 2));

        wait_until("the child waits", || fatal.n_waiting() == 1);
        let killer = thread::spawn({
            let (barrier, pid) = (fatal.clone(), child.pid());
            move || {
                wait_until("both wait", || barrier.n_waiting() == 2);
                kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::KILL).expect("killed");
                Instant::now()
            }
        });
        let broken = block_on(fatal.wait_async());
        let time = killer.join().expect("killed").elapsed();
        let pid = child.pid();
        assert!(
            matches!(broken, Err(Error::BrokenBarrier { reason: BrokenReason::PartyDied { pid: dead }, .. }) if dead == pid),
            "{broken:?}"
        );
        assert!(time < NOTICED, "{time:?}");
        let _ = child.join();
    });
}
