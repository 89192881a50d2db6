//! QUE: queues between processes: what goes in comes out, in order, by every form of the calls. What happens at their limits is
//! in `queue_limits.rs`, when processes are killed in `queue_kills.rs`, other ways to wait in `queue_waits.rs`.

mod common;

use std::time::{Duration, Instant};

use mp_queue::Error;
use multiprocess::core::codec::encode_value;
use multiprocess::core::message::Message;
use multiprocess::{Connection, Context, JoinableQueue, Process, Queue, pipe};
use serde::{Deserialize, Serialize};

use common::{SOON, block_on, for_each_method, idle_for, state_of, wait_until, watchdog};

const TENTH: Duration = Duration::from_millis(100);

/// What a busy machine may add to a time limit, or to none.
const SLACK: Duration = Duration::from_secs(1);

#[track_caller]
fn is_full(result: mp_queue::Result<()>, began: Instant, limit: Duration) {
    let took = began.elapsed();
    assert!(matches!(result, Err(Error::Full)), "{result:?}");
    assert!(took >= limit && took < limit + SLACK, "{took:?}");
}

#[track_caller]
fn is_empty<T: std::fmt::Debug>(result: mp_queue::Result<T>, began: Instant, limit: Duration) {
    let took = began.elapsed();
    assert!(matches!(result, Err(Error::Empty)), "{result:?}");
    assert!(took >= limit && took < limit + SLACK, "{took:?}");
}

#[test]
fn que_01_filling_a_bounded_queue() {
    // QUE-02, QUE-03
    for_each_method(|context| {
        let queue = Queue::<u32>::bounded(6).expect("a queue");
        let (here, there) = pipe().expect("a pipe");
        let child = |queue: Queue<u32>, there: Connection| {
            there.recv::<()>().expect("a word");
            let items: Vec<u32> = (0..6).map(|_| queue.get().expect("an item")).collect();
            there.send(&items).expect("sent");
        };
        let child = context.process(child, (queue.clone(), there)).start().expect("a child");
        assert!(queue.is_empty() && !queue.is_full());
        queue.put(1).expect("put");
        queue.put_ref(&2).expect("put");
        queue.put_timeout(3, SOON).expect("put");
        queue.try_put(4).expect("put");
        queue.put_timeout(5, Duration::ZERO).expect("put");
        block_on(queue.put_async(6)).expect("put");
        assert!(!queue.is_empty() && queue.is_full());
        assert_eq!((queue.len(), queue.capacity()), (6, Some(6)));

        let now = Instant::now();
        is_full(queue.try_put(7), now, Duration::ZERO);
        is_full(queue.put_timeout(7, Duration::ZERO), now, Duration::ZERO);
        is_full(queue.try_put_many([7, 8]).map(|_| ()), now, Duration::ZERO);
        is_full(queue.put_timeout(7, TENTH), now, TENTH);
        is_full(queue.put_many_timeout([7, 8], TENTH).map(|_| ()), now, 2 * TENTH);
        assert_eq!(queue.len(), 6);

        here.send(&()).expect("sent");
        assert_eq!(here.recv::<Vec<u32>>().expect("items"), [1, 2, 3, 4, 5, 6]);
        assert!(queue.is_empty() && !queue.is_full());
        child.join().expect("an orderly end");
        assert_eq!(child.exit_code(), Some(0));
    });
}

#[test]
fn que_04_getting_in_order_by_every_form() {
    // QUE-05, QUE-06, QUE-07
    for_each_method(|context| {
        let queue = Queue::<u32>::unbounded().expect("a queue");
        let now = Instant::now();
        is_empty(queue.try_get(), now, Duration::ZERO);
        is_empty(queue.get_timeout(Duration::ZERO), now, Duration::ZERO);
        is_empty(queue.try_get_many(5), now, Duration::ZERO);
        is_empty(queue.get_timeout(2 * TENTH), now, 2 * TENTH);
        is_empty(queue.get_many_timeout(5, TENTH), now, 3 * TENTH);
        assert_eq!(queue.len(), 0);

        let child = |queue: Queue<u32>| {
            (1..=5).for_each(|item| queue.put(item).expect("put"));
            queue.put_many(6..=9).expect("put");
        };
        let child = context.process(child, (queue.clone(),)).start().expect("a child");
        wait_until("an item", || !queue.is_empty());
        assert_eq!(queue.try_get().expect("an item"), 1);
        assert_eq!(queue.get().expect("an item"), 2);
        assert_eq!(queue.get_timeout(SOON).expect("an item"), 3);
        assert_eq!(block_on(queue.get_async()).expect("an item"), 4);
        assert_eq!(queue.get_many(1).expect("an item"), [5]);
        child.join().expect("an orderly end");
        assert_eq!(queue.len(), 4);
        assert_eq!(queue.get_many(3).expect("items"), [6, 7, 8]);
        assert_eq!(queue.try_get_many(100).expect("items"), [9]);
        assert!(queue.get_many(0).expect("no item").is_empty());

        let sizes = [0, 1, 2, 1, 0].map(|size| {
            match size > queue.len() {
                true => queue.put(0).expect("put"),
                false if size < queue.len() => drop(queue.get().expect("an item")),
                false => {}
            }
            queue.len()
        });
        assert_eq!(sizes, [0, 1, 2, 1, 0]);
    });
}

/// An item that some processes cannot encode, and some cannot decode.
#[derive(Debug, PartialEq)]
struct Moody(bool);

impl Serialize for Moody {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.0 {
            return Err(serde::ser::Error::custom("I stay here"));
        }
        serializer.serialize_bool(true)
    }
}

impl<'de> Deserialize<'de> for Moody {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer).map(Moody)
    }
}

#[test]
fn que_08_an_item_that_cannot_be_encoded() {
    // QUE-09, NA-26
    for_each_method(|context| {
        let queue = Queue::<(u32, Moody)>::bounded(2).expect("a queue");
        let child = |queue: Queue<(u32, Moody)>| {
            queue.put((1, Moody(true))).expect("put");
            for result in
                [queue.put((2, Moody(false))), queue.put_many([(3, Moody(true)), (4, Moody(false))])]
            {
                let text = result.expect_err("not put").to_string();
                assert!(text.contains("I stay here"), "{text}");
            }
            assert_eq!(queue.len(), 1);
            queue.put((5, Moody(true))).expect("put");
        };
        let child = context.process(child, (queue.clone(),)).start().expect("a child");
        child.join().expect("an orderly end");
        assert_eq!(queue.get_timeout(SOON).expect("an item"), (1, Moody(true)));
        assert_eq!(queue.get_timeout(SOON).expect("an item"), (5, Moody(true)));
        assert!(queue.is_empty());
    });
}

#[derive(Debug, PartialEq, Serialize)]
struct Homesick(u32);

impl<'de> Deserialize<'de> for Homesick {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            2 => Err(serde::de::Error::custom("I want to go back")),
            number => Ok(Homesick(number)),
        }
    }
}

#[test]
fn que_08_an_item_that_cannot_be_decoded_is_gone() {
    for_each_method(|context| {
        let queue = Queue::<Homesick>::unbounded().expect("a queue");
        let child =
            |queue: Queue<Homesick>| (1..=3).try_for_each(|item| queue.put(Homesick(item))).expect("put");
        context.process(child, (queue.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert_eq!(queue.get().expect("an item"), Homesick(1));
        let error = queue.get().expect_err("no item");
        assert!(matches!(error, Error::Decode(_)) && error.to_string().contains("go back"), "{error}");
        assert_eq!(queue.try_get().expect("an item"), Homesick(3));
        assert!(queue.is_empty());
    });
}

#[test]
fn que_10_put_and_get_after_close() {
    for_each_method(|context| {
        let (plain, joinable) =
            (Queue::<u32>::bounded(3).expect("a queue"), JoinableQueue::<u32>::bounded(3).expect("a queue"));
        plain.put_many([1, 2]).expect("put");
        joinable.put(1).expect("put");
        // Whoever closes it, it is closed for all; what is in it stays.
        let close = |plain: Queue<u32>, joinable: JoinableQueue<u32>| {
            plain.close().and_then(|()| plain.close()).expect("closed");
            joinable.close().expect("closed");
        };
        let closing = context.process(close, (plain.clone(), joinable.clone())).start().expect("a child");
        closing.join().expect("an orderly end");
        assert!(plain.is_closed() && joinable.is_closed());
        for result in [
            plain.put(3),
            plain.try_put(3),
            plain.put_timeout(3, TENTH),
            plain.put_many([3]),
            block_on(plain.put_async(3)),
            joinable.put(3),
            joinable.try_put(3),
        ] {
            assert!(matches!(result, Err(Error::Closed)), "{result:?}");
        }
        assert_eq!(plain.len(), 2);
        assert_eq!((plain.get().expect("an item"), plain.try_get().expect("an item")), (1, 2));
        assert_eq!(joinable.get().expect("an item"), 1);
        for result in [
            plain.get(),
            plain.try_get(),
            plain.get_timeout(TENTH),
            block_on(plain.get_async()),
            joinable.get(),
            joinable.try_get(),
            joinable.get_timeout(TENTH),
        ] {
            assert!(matches!(result, Err(Error::Closed)), "{result:?}");
        }
        assert!(matches!(plain.get_many(3), Err(Error::Closed)));
        joinable.task_done().expect("one item");
        joinable.join().expect("all are done");
    });
}

/// A child that is inside a call that waits.
fn waiting<F>(context: Context, child: F, queue: &Queue<u32>) -> Process<bool>
where
    F: Fn(Queue<u32>) -> bool + Copy,
{
    let child = context.process(child, (queue.clone(),)).start().expect("a child");
    wait_until("it sleeps", || state_of(child.pid()) == Some('S'));
    std::thread::sleep(TENTH);
    assert!(!child.done());
    child
}

#[test]
fn que_10_close_ends_all_waits() {
    for_each_method(|context| {
        let (full, empty) = (Queue::bounded(1).expect("a queue"), Queue::bounded(1).expect("a queue"));
        full.put(0).expect("put");
        let children = [
            waiting(context, |queue: Queue<u32>| matches!(queue.put(1), Err(Error::Closed)), &full),
            waiting(context, |queue: Queue<u32>| matches!(queue.put_many([1, 2]), Err(Error::Closed)), &full),
            waiting(
                context,
                |queue: Queue<u32>| matches!(block_on(queue.put_async(1)), Err(Error::Closed)),
                &full,
            ),
            waiting(context, |queue: Queue<u32>| matches!(queue.get(), Err(Error::Closed)), &empty),
            waiting(context, |queue: Queue<u32>| matches!(queue.get_many(3), Err(Error::Closed)), &empty),
            waiting(
                context,
                |queue: Queue<u32>| matches!(block_on(queue.get_async()), Err(Error::Closed)),
                &empty,
            ),
            waiting(context, |queue: Queue<u32>| queue.iter().next().is_none(), &empty),
        ];
        let pids: Vec<u32> = children.iter().map(Process::pid).collect();
        idle_for(Duration::from_millis(300), &pids);
        full.close().expect("closed");
        empty.close().expect("closed");
        let closed = Instant::now();
        children.iter().for_each(|child| assert!(child.join().expect("an orderly end")));
        assert!(closed.elapsed() < Duration::from_secs(5));
        assert_eq!(full.get().expect("an item"), 0);
    });
}

#[test]
fn que_11_a_putter_ends_although_nobody_reads() {
    // NA-9: nothing waits for a reader, and all is there afterwards.
    for_each_method(|context| {
        let queue = Queue::<Vec<u8>>::unbounded().expect("a queue");
        let child = |queue: Queue<Vec<u8>>| {
            (0..1000_u32).for_each(|item| queue.put(vec![item as u8; 10 << 10]).expect("put"));
        };
        context.process(child, (queue.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert_eq!(queue.len(), 1000);
        for item in 0..1000_u32 {
            assert_eq!(queue.try_get().expect("an item"), vec![item as u8; 10 << 10]);
        }
        assert!(queue.is_empty());
    });
}

#[test]
fn que_12_no_bound() {
    let _watchdog = watchdog();
    let error = Queue::<u32>::bounded(0).expect_err("no room for anything");
    assert!(error.to_string().contains("no room"), "{error}");
    let queue = Queue::unbounded().expect("a queue");
    for item in 0..1000 {
        queue.try_put(item).expect("put");
        assert!(!queue.is_full());
    }
    assert_eq!((queue.len(), queue.capacity()), (1000, None));
}

#[test]
fn que_13_iteration_ends_with_close() {
    for_each_method(|context| {
        let queue = Queue::<u32>::unbounded().expect("a queue");
        queue.put_many(0..30).expect("put");
        queue.close().expect("closed");
        assert!(matches!(queue.put(30), Err(Error::Closed)));
        let mut iter = queue.iter();
        for item in 0..30 {
            assert_eq!(iter.next().expect("not over").expect("an item"), item);
        }
        assert!(iter.next().is_none() && iter.next().is_none());
        assert!(matches!(queue.get(), Err(Error::Closed)));
        // In another process as well; its error comes out where the process is joined.
        let get = |queue: Queue<u32>| queue.get().map_err(|error| panic!("{error}")).unwrap_or(0);
        let put = |queue: Queue<u32>| queue.put(30).map_or_else(|error| panic!("{error}"), |()| 0);
        for child in [
            context.process(get, (queue.clone(),)).start().expect("a child"),
            context.process(put, (queue.clone(),)).start().expect("a child"),
        ] {
            let error = child.join().expect_err("it panicked").to_string();
            assert!(error.contains("the queue is closed"), "{error}");
        }
        assert!(queue.is_empty());
    });
}

#[test]
fn que_14_workers_that_start_anew() {
    for_each_method(|context| {
        let worker = |factor: u32, input: Queue<u32>, output: Queue<u32>| {
            let mut sum = 0;
            for item in &input {
                let item = item.expect("an item");
                output.put(item * factor).expect("put");
                sum += item;
            }
            output.close().expect("closed");
            sum
        };
        for (factor, items) in [(2, vec![1, 2, 3, 4]), (3, vec![9, 12, 13, 8])] {
            let (input, output) =
                (Queue::unbounded().expect("a queue"), Queue::unbounded().expect("a queue"));
            let child =
                context.process(worker, (factor, input.clone(), output.clone())).start().expect("a child");
            input.put_many(items.clone()).expect("put");
            input.close().expect("closed");
            let doubled: Vec<u32> = output.iter().collect::<Result<_, _>>().expect("items");
            assert_eq!(doubled, items.iter().map(|item| item * factor).collect::<Vec<_>>());
            assert_eq!(child.join().expect("a sum"), items.iter().sum::<u32>());
        }
    });
}

#[test]
fn que_15_a_queue_in_any_message() {
    let _watchdog = watchdog();
    let queue = Queue::<u32>::unbounded().expect("a queue");
    let other: Queue<u32> =
        Message::encode(&queue).and_then(Message::decode).expect("the same queue by another handle");
    queue.put(1).expect("put");
    assert_eq!(other.try_get().expect("an item"), 1);
    // Outside of messages it is an error.
    let error = encode_value(&queue, &mut Vec::new()).expect_err("no message");
    assert!(error.to_string().contains("only inside a message"), "{error}");
    // A queue through itself.
    let queues = Queue::<Queue<u32>>::unbounded().expect("a queue");
    queues.put(queue.clone()).expect("put");
    queues.get().expect("a queue").put(2).expect("put");
    assert_eq!(queue.try_get().expect("an item"), 2);
}

#[test]
fn na_08_what_was_put_is_there_for_everybody() {
    for_each_method(|context| {
        let queue = Queue::<u32>::unbounded().expect("a queue");
        let (here, there) = pipe().expect("a pipe");
        // Each puts when it knows that the other has.
        let child = |queue: Queue<u32>, there: Connection| {
            while let Some(number) = there.recv::<Option<u32>>().expect("a word") {
                assert!(!queue.is_empty());
                assert_eq!(queue.len(), 1);
                queue.put(number + 1).expect("put");
                there.send(&()).expect("sent");
                there.recv::<()>().expect("a word");
                there.send(&queue.try_get().ok()).expect("sent");
            }
        };
        let child = context.process(child, (queue.clone(), there)).start().expect("a child");
        for number in (0..600).step_by(2) {
            queue.put(number).expect("put");
            here.send(&Some(number)).expect("sent");
            here.recv::<()>().expect("a word");
            assert_eq!(queue.len(), 2);
            assert_eq!(queue.try_get().expect("an item"), number);
            here.send(&()).expect("sent");
            assert_eq!(here.recv::<Option<u32>>().expect("a word"), Some(number + 1));
            assert!(queue.is_empty());
        }
        here.send(&None::<u32>).expect("sent");
        child.join().expect("an orderly end");
    });
}

#[test]
fn na_08_attempts_succeed_while_others_are_busy() {
    for_each_method(|context| {
        let queue = Queue::<u64>::unbounded().expect("a queue");
        queue.put_many(0..200_000).expect("put");
        // As long as items are in it, an attempt gets one, and as it has no bound, one can be put.
        let busy = |queue: Queue<u64>| {
            for _ in 0..20_000 {
                queue.try_get().expect("an item");
                queue.try_put(0).expect("put");
            }
        };
        let children: Vec<_> =
            (0..4).map(|_| context.process(busy, (queue.clone(),)).start().expect("a child")).collect();
        children.iter().for_each(|child| child.join().expect("an orderly end"));
        assert_eq!(queue.len(), 200_000);
    });
}

#[test]
fn que_many_putters_and_getters() {
    const EACH: u64 = 3000;
    for_each_method(|context| {
        for bound in [Some(5), None] {
            let queue =
                bound.map_or_else(Queue::unbounded, Queue::<(u64, u64, Vec<u8>)>::bounded).expect("a queue");
            let put = |queue: Queue<(u64, u64, Vec<u8>)>, me: u64| {
                let item = |number: u64| (me, number, vec![number as u8; (number * 37 % 3000) as usize]);
                for number in (0..EACH).step_by(3) {
                    queue.put(item(number)).expect("put");
                    queue.put_many([item(number + 1), item(number + 2)]).expect("put");
                }
            };
            let get = |queue: Queue<(u64, u64, Vec<u8>)>| {
                let mut got = Vec::new();
                loop {
                    let items = match got.len() % 2 {
                        0 => queue.get().map(|item| vec![item]),
                        _ => queue.get_many(3),
                    };
                    let Ok(items) = items else { return got };
                    for (putter, number, content) in items {
                        assert_eq!(content, vec![number as u8; (number * 37 % 3000) as usize]);
                        got.push((putter, number));
                    }
                }
            };
            let getters: Vec<_> =
                (0..3).map(|_| context.process(get, (queue.clone(),)).start().expect("a child")).collect();
            let putters: Vec<_> = (0..3_u64)
                .map(|me| context.process(put, (queue.clone(), me)).start().expect("a child"))
                .collect();
            putters.iter().for_each(|child| child.join().expect("an orderly end"));
            queue.close().expect("closed");
            let mut all = Vec::new();
            for getter in getters {
                let got = getter.join().expect("items");
                for me in 0..3 {
                    let of_one: Vec<u64> =
                        got.iter().filter(|item| item.0 == me).map(|item| item.1).collect();
                    assert!(of_one.is_sorted(), "out of order");
                }
                all.extend(got);
            }
            all.sort();
            let expected: Vec<_> = (0..3).flat_map(|me| (0..EACH).map(move |number| (me, number))).collect();
            assert!(all == expected, "{} of {} items", all.len(), expected.len());
        }
    });
}

#[test]
fn que_put_many_is_one_step() {
    for_each_method(|context| {
        let queue = Queue::<u32>::unbounded().expect("a queue");
        let child =
            |queue: Queue<u32>, me: u32| (0..300).try_for_each(|_| queue.put_many([me; 7])).expect("put");
        let children: Vec<_> =
            (0..3).map(|me| context.process(child, (queue.clone(), me)).start().expect("a child")).collect();
        children.iter().for_each(|child| child.join().expect("an orderly end"));
        while let Ok(seven) = queue.try_get_many(7) {
            assert!(seven.len() == 7 && seven.iter().all(|me| *me == seven[0]), "{seven:?}");
        }
    });
}
