//! SQ: simple queues between processes.

mod common;

use std::time::Duration;

use mp_queue::Error;
use multiprocess::{Connection, SimpleQueue, pipe};

use common::{SOON, for_each_method, holds_within};

#[test]
fn sq_01_empty_as_seen_by_the_other_process() {
    for_each_method(|context| {
        let queue = SimpleQueue::<bool>::new().expect("a queue");
        let (here, there) = pipe().expect("a pipe");
        let child = |queue: SimpleQueue<bool>, there: Connection| {
            there.recv::<()>().expect("a word");
            queue.put(queue.is_empty()).expect("put");
            queue.put(queue.is_empty()).expect("put");
            there.send(&()).expect("sent");
        };
        let child = context.process(child, (queue.clone(), there)).start().expect("a child");
        assert!(queue.is_empty());
        here.send(&()).expect("sent");
        here.recv::<()>().expect("a word");
        assert!(!queue.is_empty());
        assert!(queue.get().expect("an item"));
        assert!(!queue.get().expect("an item"));
        assert!(queue.is_empty());
        child.join().expect("an orderly end");
    });
}

#[test]
fn sq_02_close_is_idempotent() {
    for_each_method(|context| {
        let queue = SimpleQueue::<u32>::new().expect("a queue");
        let child = |queue: SimpleQueue<u32>| queue.close().and_then(|()| queue.close()).expect("closed");
        context.process(child, (queue.clone(),)).start().expect("a child").join().expect("an orderly end");
        queue.close().expect("closed");
        assert!(matches!(queue.put(1), Err(Error::Closed)));
        assert!(matches!(queue.get(), Err(Error::Closed)));
    });
}

#[test]
fn sq_03_put_never_waits_for_a_reader() {
    for_each_method(|context| {
        const ITEMS: u32 = 200;
        let queue = SimpleQueue::<Vec<u8>>::new().expect("a queue");
        let threads = || std::fs::read_dir("/proc/self/task").expect("/proc is mounted").count();
        let before = threads();
        // Far more than a pipe holds.
        (0..ITEMS).for_each(|item| queue.put(vec![item as u8; 64 << 10]).expect("put"));
        assert_eq!(threads(), before, "a hidden thread");
        let child = |queue: SimpleQueue<Vec<u8>>, other: SimpleQueue<Vec<u8>>| {
            for item in 0..ITEMS {
                let got = queue.get().expect("an item");
                assert_eq!(got, vec![item as u8; 64 << 10]);
                // Two that put to each other do not block each other.
                other.put(got).expect("put");
            }
        };
        let other = SimpleQueue::new().expect("a queue");
        let child = context.process(child, (queue, other.clone())).start().expect("a child");
        assert!(holds_within(SOON, || child.join_timeout(Duration::from_millis(10)).is_ok()));
        (0..ITEMS).for_each(|item| assert_eq!(other.get().expect("an item").first(), Some(&(item as u8))));
    });
}
