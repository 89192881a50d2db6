//! Items that misbehave while they are encoded or decoded, getters that wait for long, and the forms of the calls that the
//! kinds of queues share (QUE, JQ and SQ of Python's behaviour, NA-26).

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mp_queue::Error;
use multiprocess::{Context, JoinableQueue, Lock, Process, Queue, SimpleQueue, wait_ready};
use serde::{Deserialize, Serialize};

use common::{SOON, alone, block_on, for_each_method, state_of, wait_until, watchdog};

/// Panics where 1 is encoded and where 2 is decoded; 3 cannot be decoded. What is behind it goes with it.
#[derive(Debug, PartialEq)]
struct Touchy(u32);

impl Serialize for Touchy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.0 != 1, "one is not encoded");
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            2 => panic!("two is not decoded"),
            3 => Err(serde::de::Error::custom("three is not decoded")),
            number => Ok(Touchy(number)),
        }
    }
}

fn panics<R>(call: impl FnOnce() -> R) {
    let panicked = catch_unwind(AssertUnwindSafe(call)).err().expect("a panic");
    let text = panicked.downcast_ref::<&str>().expect("a text");
    assert!(text.contains("is not"), "{text}");
}

type Item = (Lock, Touchy, Lock);

fn item(lock: &Lock, number: u32) -> Item {
    (lock.clone(), Touchy(number), lock.clone())
}

/// NA-26: nothing is put, no place is taken, and nobody else notices.
#[test]
fn na_26_items_that_panic_while_they_are_encoded() {
    for_each_method(|context| {
        let queue = Queue::<Item>::bounded(2).expect("a queue");
        let child = |queue: Queue<Item>| {
            let lock = Lock::new().expect("a lock");
            queue.put(item(&lock, 10)).expect("put");
            panics(|| queue.put(item(&lock, 1)));
            panics(|| queue.try_put(item(&lock, 1)));
            panics(|| queue.put_many([item(&lock, 5), item(&lock, 1)]));
            panics(|| block_on(queue.put_async(item(&lock, 1))));
            assert_eq!(queue.len(), 1);
            queue.try_put(item(&lock, 11)).expect("put");
        };
        context.process(child, (queue.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert_eq!(queue.try_get().expect("an item").1, Touchy(10));
        assert_eq!(queue.try_get().expect("an item").1, Touchy(11));
    });
}

/// The item is gone, with its handles, and no lock stays with the one who panicked.
#[test]
fn items_that_panic_while_they_are_decoded() {
    for_each_method(|context| {
        let queue = Queue::<Item>::bounded(9).expect("a queue");
        let lock = Lock::new().expect("a lock");
        for number in [2, 2, 2, 10, 2, 11] {
            queue.put(item(&lock, number)).expect("put");
        }
        let child = |queue: Queue<Item>| {
            panics(|| queue.get());
            panics(|| queue.try_get());
            panics(|| block_on(queue.get_async()));
            assert_eq!(queue.len(), 3);
            assert_eq!(queue.get().expect("an item").1, Touchy(10));
            panics(|| queue.get_many(1));
            queue.len()
        };
        let child = context.process(child, (queue.clone(),)).start().expect("a child");
        assert_eq!(child.join().expect("a length"), 1);
        assert_eq!(queue.get_timeout(SOON).expect("an item").1, Touchy(11));
        queue.put_timeout(item(&lock, 12), SOON).expect("put");
        assert_eq!(queue.get_timeout(SOON).expect("an item").1, Touchy(12));

        // Such an item is owed, like any that was got.
        let joinable = JoinableQueue::<Touchy>::unbounded().expect("a queue");
        joinable.put_many([Touchy(2), Touchy(3), Touchy(4)]).expect("put");
        panics(|| joinable.get());
        assert!(matches!(joinable.get(), Err(Error::Decode(_))));
        assert_eq!(joinable.get().expect("an item"), Touchy(4));
        assert_eq!(joinable.unfinished(), 3);
        (0..3).for_each(|_| joinable.task_done().expect("one that was got"));
        joinable.join_timeout(SOON).expect("all are done");
    });
}

#[test]
fn one_of_several_that_cannot_be_decoded_costs_no_other() {
    for_each_method(|context| {
        let queue = Queue::<Touchy>::unbounded().expect("a queue");
        let child = |queue: Queue<Touchy>| queue.put_many([4, 3, 5, 3].map(Touchy)).expect("put");
        context.process(child, (queue.clone(),)).start().expect("a child").join().expect("an orderly end");
        let items = queue.get_each(9).expect("items");
        assert!(matches!(&items[..], [Ok(Touchy(4)), Err(Error::Decode(_)), Ok(Touchy(5)), Err(_)]));
        assert!(matches!(queue.get_each_timeout(9, Duration::from_millis(50)), Err(Error::Empty)));
        queue.put(Touchy(6)).and_then(|()| queue.close()).expect("put");
        assert_eq!(queue.get_each_timeout(9, SOON).expect("items").len(), 1);
        assert!(matches!(queue.get_each(9), Err(Error::Closed)));
    });
}

/// Items of one putter that are got at once are neighbours, however many get.
#[test]
fn que_get_many_is_one_step() {
    for_each_method(|context| {
        let queue = Queue::<u32>::unbounded().expect("a queue");
        let get = |queue: Queue<u32>| {
            let mut got = 0;
            while let Ok(items) = queue.get_many(7) {
                assert!(items.windows(2).all(|two| two[0] + 1 == two[1]), "{items:?}");
                got += items.len();
            }
            got
        };
        let getters: Vec<_> =
            (0..3).map(|_| context.process(get, (queue.clone(),)).start().expect("a child")).collect();
        (0..30_000).for_each(|item| queue.put(item).expect("put"));
        queue.close().expect("closed");
        let all: usize = getters.iter().map(|getter| getter.join().expect("an orderly end")).sum();
        assert_eq!(all, 30_000);
    });
}

/// JoinableQueue and SimpleQueue have the forms that Queue has.
#[test]
fn jq_sq_every_form_of_the_calls() {
    let _watchdog = watchdog();
    let moment = Duration::from_millis(50);
    let queue = JoinableQueue::<u32>::bounded(4).expect("a queue");
    let ready = queue.ready_fd().expect("a descriptor");
    assert!(wait_ready(&[&ready], Some(Duration::ZERO)).expect("a look").is_empty());
    queue.put_ref(&1).expect("put");
    assert_eq!(wait_ready(&[&ready], Some(SOON)).expect("a wait"), [0]);
    block_on(queue.put_async(2)).expect("put");
    assert_eq!(queue.try_put_many([3, 4, 5]).expect("put"), 2);
    assert!(matches!(queue.put_many_timeout([5], moment), Err(Error::Full)));
    assert_eq!((queue.len(), queue.capacity(), queue.is_full()), (4, Some(4), true));
    assert_eq!(block_on(queue.get_async()).expect("an item"), 1);
    assert_eq!(queue.try_get_many(1).expect("an item"), [2]);
    assert_eq!(queue.get_many_timeout(1, moment).expect("an item"), [3]);
    assert_eq!(queue.put_many_timeout([5, 6, 7, 8], moment).expect("put"), 3);
    block_on(async {
        assert_eq!(queue.get_many_async(2).await.expect("items"), [4, 5]);
        queue.put_many_async([8, 9]).await.expect("put");
    });
    assert_eq!(queue.get_each(1).expect("an item").len(), 1);
    assert_eq!(queue.get_each_timeout(1, moment).expect("an item").len(), 1);
    queue.close().expect("closed");
    assert_eq!(queue.iter().collect::<Result<Vec<_>, _>>().expect("items"), [8, 9]);
    assert!(matches!(queue.join_timeout(moment), Err(Error::Timeout { unfinished: 9 })));
    (0..9).for_each(|_| queue.task_done().expect("one that was got"));
    block_on(queue.join_async()).expect("all are done");

    let queue = SimpleQueue::<u32>::new().expect("a queue");
    let ready = queue.ready_fd().expect("a descriptor");
    assert!(matches!(queue.try_get(), Err(Error::Empty)));
    assert!(matches!(queue.get_timeout(moment), Err(Error::Empty)));
    block_on(queue.put_async(1)).expect("put");
    assert_eq!(wait_ready(&[&ready], Some(SOON)).expect("a wait"), [0]);
    assert_eq!(block_on(queue.get_async()).expect("an item"), 1);
}

/// A consumer that dies owing `task_done` ends an async `join` as any other.
#[test]
fn jq_join_async_ends_when_a_consumer_died() {
    alone(|| {
        let queue = JoinableQueue::<u32>::unbounded().expect("a queue");
        queue.put_many([1, 2, 3]).expect("put");
        let child = |queue: JoinableQueue<u32>| {
            queue.get_many(2).expect("items");
            common::sleep_for_ever();
        };
        let child = Context::spawn().process(child, (queue.clone(),)).start().expect("a child");
        wait_until("it has got them", || queue.len() == 1);
        let joining = std::thread::spawn({
            let queue = queue.clone();
            move || block_on(queue.join_async())
        });
        child.kill().expect("killed");
        child.join().expect_err("it was killed");
        match joining.join().expect("no panic") {
            Err(Error::ConsumerDied { pid, owed: 2 }) => assert_eq!(pid, child.pid()),
            other => panic!("{other:?}"),
        }
        queue.get().map(drop).and_then(|()| queue.task_done()).expect("the last");
        block_on(queue.join_async()).expect("all are done");
    });
}

/// CPU time in nanoseconds, and how often it went to sleep, of all threads of a process.
fn used(pid: u32) -> (u64, u64) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten();
    tasks.fold((0, 0), |(time, sleeps), task| {
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).expect("a number");
        let times = std::fs::read_to_string(task.path().join("schedstat")).expect("times");
        let status = std::fs::read_to_string(task.path().join("status")).expect("a status");
        let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        (time + number(times.split(' ').next()), sleeps + number(switches.map(str::trim)))
    })
}

fn waiting<F: Fn(Queue<u32>) + Copy>(wait: F, queue: &Queue<u32>) -> Process<()> {
    Context::spawn().process(wait, (queue.clone(),)).start().expect("a child")
}

/// Whoever waits for items, by whatever means, uses no CPU: it looks around some 20 times a second, for some microseconds; a
/// future does so by two threads.
#[test]
fn an_idle_getter_uses_no_cpu() {
    const TIME: Duration = Duration::from_secs(3);
    const ASYNC: [usize; 2] = [3, 6];
    alone(|| {
        let (queue, full) =
            (Queue::<u32>::unbounded().expect("a queue"), Queue::<u32>::bounded(1).expect("a queue"));
        full.put(0).expect("put");
        let children = [
            waiting(|queue| drop(queue.get()), &queue),
            waiting(|queue| drop(queue.get_many(5)), &queue),
            waiting(|queue| drop(queue.get_timeout(Duration::from_secs(3600))), &queue),
            waiting(|queue| drop(block_on(queue.get_async())), &queue),
            waiting(
                |queue| {
                    let ready = queue.ready_fd().expect("a descriptor");
                    drop(wait_ready(&[&ready], None));
                },
                &queue,
            ),
            waiting(|queue| drop(queue.put(1)), &full),
            waiting(|queue| drop(block_on(queue.put_async(1))), &full),
        ];
        for child in &children {
            wait_until("it sleeps", || state_of(child.pid()) == Some('S'));
        }
        // Whatever they do before they go to sleep for long is over.
        std::thread::sleep(Duration::from_millis(300));
        let before: Vec<_> = children.iter().map(|child| used(child.pid())).collect();
        std::thread::sleep(TIME);
        for (number, (child, before)) in children.iter().zip(before).enumerate() {
            let after = used(child.pid());
            let (time, sleeps) = (Duration::from_nanos(after.0 - before.0), after.1 - before.1);
            println!("{number}: {time:?} of CPU and {sleeps} sleeps in {TIME:?}");
            // In fact about a tenth of that, without optimisation.
            let (most, rate) = if ASYNC.contains(&number) { (TIME / 30, 75) } else { (TIME / 100, 25) };
            assert!(time < most, "{number}: {time:?} of CPU");
            assert!(sleeps < rate * TIME.as_secs(), "{number}: {sleeps} sleeps");
        }
        queue.close().and_then(|()| full.close()).expect("closed");
        children.iter().for_each(|child| child.join().expect("an orderly end"));
    });
}
