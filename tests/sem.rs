//! SEM: semaphores and bounded semaphores between processes. Within one process they are tested in `mp-sync`, and over all
//! interleavings of their steps there, too.

mod common;

use std::time::{Duration, Instant};

use mp_sync::{BoundedSemaphore, Error, Semaphore};
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, Pool, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use common::{NOTICED, for_each_method, kill, sleep_for_ever, state_of, wait_until};

/// What both kinds can do.
trait Permits: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    fn acquire(&self) -> mp_sync::Result<mp_sync::Permit<'_>>;
    fn try_acquire(&self) -> mp_sync::Result<mp_sync::Permit<'_>>;
    fn acquire_timeout(&self, timeout: Duration) -> mp_sync::Result<mp_sync::Permit<'_>>;
    fn release(&self) -> mp_sync::Result<()>;
    fn value(&self) -> u32;
}

macro_rules! permits {
    ($kind:ident) => {
        impl Permits for $kind {
            fn acquire(&self) -> mp_sync::Result<mp_sync::Permit<'_>> {
                self.acquire()
            }
            fn try_acquire(&self) -> mp_sync::Result<mp_sync::Permit<'_>> {
                self.try_acquire()
            }
            fn acquire_timeout(&self, timeout: Duration) -> mp_sync::Result<mp_sync::Permit<'_>> {
                self.acquire_timeout(timeout)
            }
            fn release(&self) -> mp_sync::Result<()> {
                self.release()
            }
            fn value(&self) -> u32 {
                self.get_value()
            }
        }
    };
}
permits!(Semaphore);
permits!(BoundedSemaphore);

/// A child that holds `count` permits, has said so, and never gives them back.
fn keeper<P: Permits>(context: Context, semaphore: &P, count: usize) -> Process<()> {
    let (here, there) = pipe().expect("a pipe");
    let keep = |semaphore: P, count: usize, there: Connection| {
        let _permits: Vec<_> = (0..count).map(|_| semaphore.acquire().expect("a permit")).collect();
        there.send(&()).expect("sent");
        sleep_for_ever();
    };
    let child = context.process(keep, (semaphore.clone(), count, there)).start().expect("a child");
    here.recv::<()>().expect("a word of the child");
    child
}

/// SEM-01, SEM-03: one process counts down, the other sees it and counts up.
fn down_and_up<P: Permits>(context: Context, semaphore: P) {
    let down = |semaphore: P| {
        let mut values = vec![semaphore.value()];
        for _ in 0..2 {
            semaphore.acquire().expect("a permit").forget();
            values.push(semaphore.value());
        }
        assert!(matches!(semaphore.try_acquire(), Err(Error::WouldBlock { .. })));
        values
    };
    let child = context.process(down, (semaphore.clone(),)).start().expect("a child");
    assert_eq!(child.join().expect("values"), [2, 1, 0]);
    // It has ended, and still nobody gave them back.
    assert!(matches!(semaphore.try_acquire(), Err(Error::WouldBlock { .. })));
    let up = |semaphore: P| {
        let mut values = vec![semaphore.value()];
        for _ in 0..2 {
            semaphore.release().expect("released");
            values.push(semaphore.value());
        }
        values
    };
    let child = context.process(up, (semaphore.clone(),)).start().expect("a child");
    assert_eq!(child.join().expect("values"), [0, 1, 2]);
    assert_eq!(semaphore.value(), 2);
}

#[test]
fn sem_01_counting_down_and_up() {
    for_each_method(|context| down_and_up(context, Semaphore::new(2).expect("a semaphore")));
}

#[test]
fn sem_02_unbounded_growth() {
    for_each_method(|context| {
        let semaphore = Semaphore::new(2).expect("a semaphore");
        let child = |semaphore: Semaphore| {
            semaphore.release().expect("released");
            semaphore.get_value()
        };
        for value in [3, 4] {
            let child = context.process(child, (semaphore.clone(),)).start().expect("a child");
            assert_eq!(child.join().expect("a value"), value);
            assert_eq!(semaphore.get_value(), value);
        }
    });
}

#[test]
fn sem_03_bounded_sequence() {
    for_each_method(|context| {
        let semaphore = BoundedSemaphore::new(2).expect("a semaphore");
        down_and_up(context, semaphore.clone());
        let too_often = |semaphore: BoundedSemaphore| semaphore.release().expect_err("too often").to_string();
        let child = context.process(too_often, (semaphore.clone(),)).start().expect("a child");
        let text = format!(
            "bounded semaphore was released too often, by process {}: its value may not exceed 2",
            child.pid()
        );
        assert_eq!(child.join().expect("an error"), text);
        assert_eq!(format!("{semaphore:?}"), "<BoundedSemaphore(value=2, maxvalue=2)>");
    });
}

#[test]
fn sem_04_time_limits() {
    for_each_method(|context| {
        let semaphore = Semaphore::new(1).expect("a semaphore");
        let holder = keeper(context, &semaphore, 1);
        let start = Instant::now();
        assert!(matches!(semaphore.try_acquire(), Err(Error::WouldBlock { .. })));
        assert!(matches!(semaphore.acquire_timeout(Duration::ZERO), Err(Error::Timeout { .. })));
        assert!(start.elapsed() < Duration::from_millis(200));
        for limit in [100, 300].map(Duration::from_millis) {
            let start = Instant::now();
            assert!(matches!(semaphore.acquire_timeout(limit), Err(Error::Timeout { .. })));
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
fn come_back<P: Permits>(context: Context, semaphore: P) {
    let holder = keeper(context, &semaphore, 2);
    assert_eq!(semaphore.value(), 1);
    let own = semaphore.acquire().expect("the last one");
    assert!(own.owner_died().is_none());
    let (here, there) = pipe().expect("a pipe");
    // One waits asleep already when the holder dies, the other comes later.
    let wait = |semaphore: P, there: Connection| {
        there.send(&()).expect("sent");
        let permit = semaphore.acquire().expect("a permit");
        there.send(&permit.owner_died().map(|died| died.pid())).expect("sent");
        there.recv::<()>().expect("leave to go");
    };
    let waiter = context.process(wait, (semaphore.clone(), there)).start().expect("a child");
    here.recv::<()>().expect("a word of the child");
    wait_until("the waiter sleeps", || state_of(waiter.pid()) == Some('S'));
    let killed = kill(&holder);
    assert_eq!(here.recv::<Option<u32>>().expect("who died"), Some(holder.pid()));
    assert!(killed.elapsed() < NOTICED, "{:?}", killed.elapsed());
    let permit = semaphore.acquire_timeout(NOTICED).expect("the other permit of the dead");
    assert_eq!(permit.owner_died().expect("it died").pid(), holder.pid());
    drop(permit);
    let permit = semaphore.acquire().expect("a permit");
    assert!(permit.owner_died().is_none(), "told once");
    drop((permit, own));
    here.send(&()).expect("sent");
    waiter.join().expect("an orderly end");
    assert_eq!(semaphore.value(), 3);
}

#[test]
fn permits_of_the_dead_come_back() {
    for_each_method(|context| {
        come_back(context, Semaphore::new(3).expect("a semaphore"));
        come_back(context, BoundedSemaphore::new(3).expect("a semaphore"));
    });
}

#[test]
fn the_value_counts_what_the_dead_held() {
    for_each_method(|context| {
        let semaphore = Semaphore::new(2).expect("a semaphore");
        let holder = keeper(context, &semaphore, 2);
        assert!(semaphore.locked());
        kill(&holder);
        assert_eq!((semaphore.get_value(), semaphore.locked()), (2, false));
        assert_eq!(format!("{semaphore:?}"), "<Semaphore(value=2)>");
        let told = |semaphore: &Semaphore| semaphore.acquire().expect("a permit").owner_died().is_some();
        assert!(told(&semaphore));
    });
}

#[test]
fn what_was_forgotten_is_handed_over() {
    for_each_method(|context| {
        let semaphore = BoundedSemaphore::new(1).expect("a semaphore");
        let give = |semaphore: BoundedSemaphore| semaphore.acquire().expect("a permit").forget();
        let giver = context.process(give, (semaphore.clone(),)).start().expect("a child");
        giver.join().expect("an orderly end");
        assert!(semaphore.acquire_timeout(Duration::from_millis(150)).is_err(), "no death ends it");
        let take = |semaphore: BoundedSemaphore| semaphore.release().expect("released");
        context.process(take, (semaphore.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert!(semaphore.try_acquire().expect("a permit").owner_died().is_none());
    });
}

#[test]
fn a_forked_child_cannot_give_back_what_its_parent_holds() {
    common::alone(|| {
        let semaphore = BoundedSemaphore::new(2).expect("a semaphore");
        let mut permit = Some(semaphore.acquire().expect("a permit"));
        let child = Context::fork().fork_with(|| {
            let own = semaphore.acquire().expect("a permit");
            drop(permit.take());
            let value = semaphore.get_value();
            drop(own);
            (value, semaphore.get_value())
        });
        assert_eq!(child.expect("a child").join().expect("values"), (0, 1));
        assert_eq!(semaphore.get_value(), 1);
        drop(permit);
        assert_eq!(semaphore.get_value(), 2);
    });
}

#[test]
fn a_pool_is_throttled() {
    for_each_method(|context| {
        let semaphore = Semaphore::new(1).expect("a semaphore");
        let pool = Pool::builder().processes(2).context(context).build().expect("a pool");
        let task = |semaphore: Semaphore| {
            let _permit = semaphore.acquire().expect("a permit");
            semaphore.get_value()
        };
        let values = pool.map(task, vec![semaphore.clone(); 50]).expect("values");
        assert_eq!(values, [0; 50]);
        assert_eq!(semaphore.get_value(), 1);
    });
}

/// SEM-05: taken in a child, given back in the parent; the manager's are a matter of its own.
#[test]
fn sem_05_taken_in_a_child_and_given_back_here() {
    fn hand_over<S: Permits>(context: Context, semaphore: S) {
        let take = |semaphore: S| semaphore.acquire().expect("a permit").forget();
        let child = context.process(take, (semaphore.clone(),)).start().expect("a child");
        child.join().expect("an orderly end");
        assert_eq!(child.exit_code(), Some(0));
        // The end of the child did not give it back: it had handed it over.
        assert_eq!(semaphore.value(), 0);
        assert!(matches!(semaphore.try_acquire(), Err(Error::WouldBlock { .. })));
        semaphore.release().expect("given back");
        assert_eq!(semaphore.value(), 1);
        drop(semaphore.try_acquire().expect("a permit"));
    }
    for_each_method(|context| {
        hand_over(context, Semaphore::new(1).expect("a semaphore"));
        hand_over(context, BoundedSemaphore::new(1).expect("a semaphore"));
    });
}
