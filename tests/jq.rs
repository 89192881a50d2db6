//! JQ: joinable queues: `join` waits until everything is done, and ends when one dies who owes it.

mod common;

use std::time::{Duration, Instant};

use mp_queue::Error;
use multiprocess::{Connection, Context, Event, JoinableQueue, Process, RawValue, pipe};
use rustix::process::{Pid, Signal, kill_process};

use common::{NOTICED, SOON, for_each_method, is_running, sleep_for_ever, state_of, wait_until};

#[test]
fn jq_01_join_waits_for_all_tasks() {
    for_each_method(|context| {
        let queue = JoinableQueue::<Option<u32>>::unbounded().expect("a queue");
        let worked = RawValue::new(0_u32).expect("a counter");
        let worker = |queue: JoinableQueue<Option<u32>>, worked: RawValue<u32>| {
            while queue.get().expect("an item").is_some() {
                std::thread::sleep(Duration::from_millis(100));
                worked.fetch_add(1);
                queue.task_done().expect("one item");
            }
            queue.task_done().expect("the stop mark");
        };
        let start = || context.process(worker, (queue.clone(), worked.clone())).start().expect("a child");
        let workers: Vec<Process<()>> = (0..4).map(|_| start()).collect();
        let began = Instant::now();
        queue.put_many((0..10).map(Some)).expect("put");
        queue.join().expect("all are done");
        assert_eq!((worked.get(), queue.unfinished()), (10, 0));
        // Four at a time.
        assert!(began.elapsed() >= Duration::from_millis(300) && queue.is_empty());
        queue.put_many([None; 4]).expect("put");
        workers.iter().for_each(|worker| worker.join().expect("an orderly end"));
        queue.join_timeout(SOON).expect("all are done");
        assert_eq!(worked.get(), 10);
    });
}

#[test]
fn jq_02_join_on_a_fresh_queue() {
    for_each_method(|_| {
        let queue = JoinableQueue::<u32>::bounded(2).expect("a queue");
        queue.join().expect("nothing to do");
        assert!(matches!(queue.task_done(), Err(Error::TooManyDone)));
        queue.put(1).expect("put");
        let began = Instant::now();
        let error = queue.join_timeout(Duration::from_millis(100)).expect_err("one is not done");
        assert!(matches!(error, Error::Timeout { unfinished: 1 }), "{error}");
        assert!(began.elapsed() >= Duration::from_millis(100));
        queue.get().expect("an item");
        assert!(queue.join_timeout(Duration::ZERO).is_err());
        queue.task_done().expect("one item");
        queue.join().expect("all is done");
        assert!(matches!(queue.task_done(), Err(Error::TooManyDone)));
        assert_eq!(queue.unfinished(), 0);
    });
}

/// Takes `items`, does `done` of them, and stays alive, owing the others.
fn debtor(context: Context, queue: &JoinableQueue<u32>, items: usize, done: usize) -> Process<()> {
    let (here, there) = pipe().expect("a pipe");
    let child = |queue: JoinableQueue<u32>, items: usize, done: usize, there: Connection| {
        let mut got = 0;
        while got < items {
            got += queue.get_many(items - got).expect("items").len();
        }
        (0..done).try_for_each(|_| queue.task_done()).expect("done");
        there.send(&()).expect("sent");
        sleep_for_ever();
    };
    let child = context.process(child, (queue.clone(), items, done, there)).start().expect("a child");
    here.recv::<()>().expect("a word of the child");
    child
}

fn kill(child: &Process<()>) {
    kill_process(Pid::from_raw(child.pid() as i32).expect("a pid"), Signal::KILL).expect("killed");
    wait_until("it is dead", || !is_running(child.pid()));
}

/// The pid of the dead consumer that `join` tells of, and what it owed.
#[track_caller]
fn death(queue: &JoinableQueue<u32>) -> (u32, u64) {
    let began = Instant::now();
    match queue.join() {
        Err(Error::ConsumerDied { pid, owed }) => {
            assert!(began.elapsed() < NOTICED);
            (pid, owed)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn join_ends_when_a_consumer_died() {
    for_each_method(|context| {
        let queue = JoinableQueue::<u32>::unbounded().expect("a queue");
        queue.put_many(0..10).expect("put");
        let (first, second) = (debtor(context, &queue, 3, 1), debtor(context, &queue, 4, 0));
        assert!(matches!(
            queue.join_timeout(Duration::from_millis(150)),
            Err(Error::Timeout { unfinished: 9 })
        ));
        kill(&first);
        // Although three wait in the queue, and another consumer lives.
        let text = queue.join().expect_err("one died").to_string();
        assert!(
            text.contains(&format!("process {} ended owing task_done for 2 items", first.pid())),
            "{text}"
        );
        assert!(matches!(
            queue.join_timeout(Duration::from_millis(150)),
            Err(Error::Timeout { unfinished: 7 })
        ));
        kill(&second);
        assert_eq!(death(&queue), (second.pid(), 4));
        queue.get_many(3).expect("items");
        (0..3).for_each(|_| queue.task_done().expect("one of three"));
        assert!(matches!(queue.task_done(), Err(Error::TooManyDone)));
        queue.join().expect("all are done");
        assert!(first.join().is_err() && second.join().is_err());
    });
}

/// Who ends in good order owes no less than who is killed.
#[test]
fn join_ends_when_a_consumer_ended_by_itself() {
    for_each_method(|context| {
        let queue = JoinableQueue::<u32>::unbounded().expect("a queue");
        queue.put_many(0..4).expect("put");
        let child = |queue: JoinableQueue<u32>| {
            assert_eq!(queue.get_each(4).expect("items").len(), 4);
            queue.task_done().expect("one of four");
        };
        let child = context.process(child, (queue.clone(),)).start().expect("a child");
        child.join().expect("an orderly end");
        assert_eq!(death(&queue), (child.pid(), 3));
        queue.join().expect("nothing is left");
        assert!(matches!(queue.task_done(), Err(Error::TooManyDone)));
    });
}

#[test]
fn one_who_did_all_may_die() {
    for_each_method(|context| {
        let queue = JoinableQueue::<u32>::unbounded().expect("a queue");
        for _ in 0..3 {
            queue.put_many(0..5).expect("put");
            let child = debtor(context, &queue, 5, 5);
            kill(&child);
            queue.join().expect("all are done");
            assert!(child.join().is_err());
        }
    });
}

#[test]
fn all_who_join_are_told_or_go_on() {
    for_each_method(|context| {
        let queue = JoinableQueue::<u32>::unbounded().expect("a queue");
        let told = Event::new().expect("an event");
        queue.put_many(0..3).expect("put");
        let joiner = |queue: JoinableQueue<u32>, told: Event| match queue.join() {
            Err(Error::ConsumerDied { owed, .. }) => {
                told.set();
                owed
            }
            result => result.map(|()| 0).expect("all are done"),
        };
        let joiners: Vec<Process<u64>> = (0..2)
            .map(|_| context.process(joiner, (queue.clone(), told.clone())).start().expect("a child"))
            .collect();
        let child = debtor(context, &queue, 3, 0);
        for joiner in &joiners {
            wait_until("it sleeps", || state_of(joiner.pid()) == Some('S'));
        }
        kill(&child);
        let killed = Instant::now();
        // One is told, the others see that nothing is left.
        wait_until("one is told", || told.is_set());
        assert!(killed.elapsed() < NOTICED, "told after {:?}", killed.elapsed());
        let mut owed: Vec<u64> = joiners.iter().map(|joiner| joiner.join().expect("a number")).collect();
        owed.sort();
        assert_eq!(owed, [0, 3]);
        assert!(told.is_set() && queue.unfinished() == 0);
        assert!(child.join().is_err());
    });
}

#[test]
fn task_done_for_what_another_process_got() {
    for_each_method(|context| {
        let queue = JoinableQueue::<u32>::unbounded().expect("a queue");
        queue.put_many(0..4).expect("put");
        let child = debtor(context, &queue, 4, 1);
        // It handed three on, and we have done one of them.
        queue.task_done().expect("one of them");
        kill(&child);
        assert_eq!(death(&queue), (child.pid(), 2));
        queue.join().expect("nothing is left");
        assert!(child.join().is_err());
    });
}

#[test]
fn more_consumers_than_places_come_and_go() {
    for_each_method(|context| {
        let queue = JoinableQueue::<u32>::unbounded().expect("a queue");
        let consume = |queue: JoinableQueue<u32>| {
            queue.get().expect("an item");
            queue.task_done().expect("one item");
        };
        // More than the ledger has places, one after the other.
        for item in 0..300 {
            queue.put(item).expect("put");
            context
                .process(consume, (queue.clone(),))
                .start()
                .expect("a child")
                .join()
                .expect("an orderly end");
        }
        queue.join().expect("all are done");
        queue.put(0).expect("put");
        let child = debtor(context, &queue, 1, 0);
        kill(&child);
        assert_eq!(death(&queue), (child.pid(), 1));
        assert!(child.join().is_err());
    });
}

/// Nobody joins while they die; none of them is forgotten.
#[test]
fn more_consumers_die_than_there_are_places() {
    const DEAD: u64 = 300;
    for_each_method(|context| {
        let queue = JoinableQueue::<u64>::unbounded().expect("a queue");
        queue.put_many(0..2 * DEAD).expect("put");
        let take_two = |queue: JoinableQueue<u64>| drop(queue.get_many(2).expect("items"));
        for _ in 0..DEAD {
            let child = context.process(take_two, (queue.clone(),)).start().expect("a child");
            child.join().expect("an orderly end");
        }
        let mut told = 0;
        while queue.unfinished() > 0 || told < 2 * DEAD {
            match queue.join_timeout(SOON) {
                Err(Error::ConsumerDied { owed, .. }) => told += owed,
                other => panic!("{other:?} when {told} were told of"),
            }
        }
        assert_eq!(told, 2 * DEAD);
        queue.join().expect("nothing is left");
    });
}

#[test]
fn jq_03_a_bounded_one() {
    for_each_method(|context| {
        let queue = JoinableQueue::<u32>::bounded(2).expect("a queue");
        queue.put(5).and_then(|()| queue.try_put(6)).expect("put");
        assert!(matches!(queue.try_put(7), Err(Error::Full)));
        let child = |queue: JoinableQueue<u32>| {
            assert!(queue.len() == 2 && queue.is_full());
            assert_eq!((queue.get().expect("an item"), queue.get_timeout(SOON).expect("an item")), (5, 6));
            assert!(queue.is_empty());
            (0..2).for_each(|_| queue.task_done().expect("one item"));
        };
        let child = context.process(child, (queue.clone(),)).start().expect("a child");
        child.join().expect("an orderly end");
        assert_eq!(child.exit_code(), Some(0));
        assert!(queue.is_empty() && !queue.is_full());
        queue.join().expect("all are done");
    });
}
