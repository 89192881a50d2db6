//! QUE: waiting for queues among other things: by a descriptor, by futures; and those who wait while one who has a lock of the
//! queue dies (NA-2).

mod common;

use std::task::{Context as TaskContext, Waker};
use std::time::{Duration, Instant};

use mp_queue::Error;
use multiprocess::{Connection, Context, Queue, pipe, wait_ready};
use rustix::process::{Pid, Signal, kill_process};

use common::{NOTICED, SOON, alone, block_on, for_each_method, state_of, wait_until};

#[test]
fn que_a_descriptor_to_wait_for() {
    for_each_method(|context| {
        let queues = [(); 2].map(|()| Queue::<u32>::bounded(2).expect("a queue"));
        let child = |queues: [Queue<u32>; 2], there: Connection| {
            // A forked child has one of its own, too.
            let ready =
                [queues[0].ready_fd().expect("a descriptor"), queues[1].ready_fd().expect("a descriptor")];
            let mut seen = Vec::new();
            loop {
                for position in wait_ready(&ready, Some(SOON)).expect("a wait") {
                    match queues[position].try_get() {
                        Ok(item) => {
                            seen.push((position, item));
                            there.send(&item).expect("sent");
                        }
                        Err(Error::Closed) => return seen,
                        // Not yet cleared after the last item.
                        Err(Error::Empty) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (queues.clone(), there)).start().expect("a child");
        let mut expected = Vec::new();
        for item in 0..20 {
            let position = (item % 3 % 2) as usize;
            queues[position].put(item).expect("put");
            assert_eq!(here.recv::<u32>().expect("a word"), item);
            expected.push((position, item));
        }
        let ready = queues[1].ready_fd().expect("a descriptor");
        assert!(wait_ready(&[&ready], Some(Duration::ZERO)).expect("a look").is_empty());
        queues[1].close().expect("closed");
        assert_eq!(wait_ready(&[&ready], Some(SOON)).expect("a wait"), [0]);
        assert_eq!(child.join().expect("items"), expected);
    });
}

#[test]
fn que_watchers_do_not_hold_up_getters() {
    alone(|| {
        let (there, back) =
            (Queue::<u32>::unbounded().expect("a queue"), Queue::unbounded().expect("a queue"));
        let echo = |there: Queue<u32>, back: Queue<u32>| {
            let _watched = there.ready_fd().expect("a descriptor");
            there.iter().try_for_each(|item| back.put(item.expect("an item"))).expect("put");
        };
        let child = Context::spawn().process(echo, (there.clone(), back.clone())).start().expect("a child");
        let _watched = (there.ready_fd().expect("a descriptor"), back.ready_fd().expect("a descriptor"));
        let mut times: Vec<Duration> = (0..200)
            .map(|item| {
                // Long enough for all to fall asleep.
                std::thread::sleep(Duration::from_millis(1));
                let began = Instant::now();
                there.put(item).expect("put");
                assert_eq!(back.get().expect("an item"), item);
                began.elapsed()
            })
            .collect();
        times.sort();
        // One whose wake-up went to a watcher would sleep for most of 60 ms.
        assert!(times[150] < Duration::from_millis(20), "{times:?}");
        there.close().expect("closed");
        child.join().expect("an orderly end");
    });
}

#[test]
fn que_async_over_processes() {
    // Not forked, as the thread behind the waits stays.
    alone(|| [Context::spawn(), Context::forkserver()].into_iter().for_each(async_with));
}

fn async_with(context: Context) {
    let (there, back) = (Queue::<u32>::bounded(1).expect("a queue"), Queue::bounded(1).expect("a queue"));
    let child = |there: Queue<u32>, back: Queue<u32>| {
        block_on(async {
            while let Ok(item) = there.get_async().await {
                back.put_async(item + 1).await.expect("put");
            }
        });
    };
    let child = context.process(child, (there.clone(), back.clone())).start().expect("a child");
    let getter = std::thread::spawn({
        let back = back.clone();
        move || block_on(back.get_async()).expect("an item")
    });
    block_on(there.put_async(1)).expect("put");
    assert_eq!(getter.join().expect("an item"), 2);
    for item in 0..300 {
        block_on(there.put_async(item)).expect("put");
        assert_eq!(block_on(back.get_async()).expect("an item"), item + 1);
    }
    // A future that is dropped has taken nothing.
    let waker = Waker::noop();
    let mut waiting = Box::pin(back.get_async());
    assert!(waiting.as_mut().poll(&mut TaskContext::from_waker(waker)).is_pending());
    drop(waiting);
    there.put(5).expect("put");
    assert_eq!(back.get().expect("an item"), 6);
    there.close().expect("closed");
    child.join().expect("an orderly end");
}

/// NA-2: one that puts, or gets, large items is killed in the middle, with the lock of its side. Those who wait for their turn
/// have it within 100 ms, and no item is torn.
#[test]
fn na_02_those_who_wait_go_on_when_the_holder_of_a_lock_dies() {
    const LENGTH: usize = 16 << 20;
    const EACH: u32 = 3;
    alone(|| {
        // With the lock of the putters, and of the getters.
        let (mut killed, mut attempts, start) = ([0; 2], 0, Instant::now());
        while killed.iter().any(|count| *count < EACH) {
            assert!(start.elapsed() < SOON, "{killed:?} were killed with a lock, in {attempts} attempts");
            attempts += 1;
            let queue = Queue::<Vec<u8>>::unbounded().expect("a queue");
            let puts = killed[0] < EACH;
            (0..5).for_each(|_| queue.put(vec![7; LENGTH]).expect("put"));
            // Most of the time it has the lock of its side; who gets is sooner or later at the end of what there is.
            let child = |queue: Queue<Vec<u8>>, puts: bool, there: Connection| {
                let large = vec![7; LENGTH];
                there.send(&()).expect("sent");
                while !queue.is_closed() {
                    if puts {
                        queue.put_ref(&large).expect("put");
                    }
                    queue.get().expect("an item");
                }
            };
            let (here, there) = pipe().expect("a pipe");
            let child =
                Context::spawn().process(child, (queue.clone(), puts, there)).start().expect("a child");
            here.recv::<()>().expect("a word of the child");
            std::thread::sleep(Duration::from_micros(500 + attempts % 16 * 777));
            let signal = |signal| {
                let pid = Pid::from_raw(child.pid() as i32).expect("a pid");
                kill_process(pid, signal).expect("a signal sent");
            };
            signal(Signal::STOP);
            wait_until("it is stopped", || state_of(child.pid()) == Some('T'));
            let small = || vec![7; 3];
            let held = if matches!(queue.try_put(small()), Err(Error::Full)) {
                Some(0)
            } else {
                matches!(queue.try_get(), Err(Error::Empty)).then_some(1)
            };
            let Some(side) = held else {
                signal(Signal::KILL);
                child.join().expect_err("it was killed");
                continue;
            };
            std::thread::scope(|scope| {
                let waiting = match side {
                    0 => {
                        [scope.spawn(|| queue.put(small())), scope.spawn(|| queue.put_timeout(small(), SOON))]
                    }
                    _ => [
                        scope.spawn(|| queue.get().map(drop)),
                        scope.spawn(|| queue.get_timeout(SOON).map(drop)),
                    ],
                };
                std::thread::sleep(Duration::from_millis(20));
                assert!(waiting.iter().all(|thread| !thread.is_finished()));
                signal(Signal::KILL);
                let died = Instant::now();
                waiting.into_iter().for_each(|thread| thread.join().expect("no panic").expect("its turn"));
                let took = died.elapsed();
                assert!(took < NOTICED, "they went on after {took:?}");
            });
            killed[side] += 1;
            child.join().expect_err("it was killed");
            while let Ok(item) = queue.try_get() {
                assert!([3, LENGTH].contains(&item.len()) && item == vec![7; item.len()], "a torn item");
            }
        }
    });
}
