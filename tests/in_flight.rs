//! Shared blocks in messages: whatever becomes of a message, a block is given back when the last handle to it is gone, and
//! not before (NA-17: what there was at the start is what there is at the end; NA-26).

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use mp::core::arena::{Arena, Block};
use mp::core::connection::pipe;
use mp::core::message::Message;
use mp::{Context, JoinableQueue, Pool, Queue, SimpleQueue, StartMethod, Value};
use mp_queue::Error;
use multiprocess as mp;
use rustix::process::{Signal, getpid, kill_process};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use common::{SOON, alone, for_each_method, for_methods};

/// Panics where it is decoded.
#[derive(Debug, Serialize)]
struct Bomb;

impl<'de> Deserialize<'de> for Bomb {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Bomb, D::Error> {
        panic!("a bomb")
    }
}

/// Blocks to send about, of an arena of their own.
struct Lent {
    arena: Arena,
    blocks: Vec<Block>,
    /// Stays here, and keeps their chunk in the arena if all others are given back too often.
    kept: Block,
}

impl Lent {
    fn new() -> Lent {
        let arena = Arena::new();
        let blocks = (0..20).map(|_| arena.alloc(100, 8).expect("a block")).collect();
        let kept = arena.alloc(100, 8).expect("a block");
        Lent { arena, blocks, kept }
    }

    /// No count is missing and none is left over.
    fn assert_all_back(self) {
        self.arena.sweep();
        // Where a count is missing, a block is free although there is a handle.
        let others: Vec<Block> = (0..600).map(|_| self.arena.alloc(100, 8).expect("a block")).collect();
        let twice = self.blocks.iter().filter(|block| others.contains(block)).count();
        assert_eq!(twice, 0, "blocks that were given back too often");
        drop((others, self.blocks, self.kept));
        self.arena.sweep();
        assert_eq!(self.arena.chunks(), 0, "chunks with a block that was not given back");
    }
}

/// The queue, as somebody has it who believes that other items are in it.
fn mistaken<Q: Serialize, P: DeserializeOwned>(queue: &Q) -> P {
    Message::encode(queue).and_then(Message::decode).expect("the same queue")
}

type Item = (Block, u32, Block);

#[test]
fn na_26_items_that_a_getter_cannot_decode() {
    for_each_method(|context| {
        let lent = Lent::new();
        let queue = Queue::<Item>::unbounded().expect("a queue");
        let joinable = JoinableQueue::<Item>::unbounded().expect("a queue");
        let simple = SimpleQueue::<Item>::new().expect("a queue");
        for block in &lent.blocks {
            let item = || (block.clone(), 7, block.clone());
            (0..3).for_each(|_| queue.put(item()).expect("put"));
            joinable.put(item()).expect("put");
            simple.put(item()).expect("put");
        }
        let child = |queue: Queue<Item>, joinable: JoinableQueue<Item>, simple: SimpleQueue<Item>| {
            let text: Queue<(Block, String, Block)> = mistaken(&queue);
            assert!(matches!(text.get(), Err(Error::Decode(_))));
            assert!(matches!(text.get_many(5), Err(Error::Decode(_))));
            assert!(text.get_each(5).expect("items").iter().all(Result::is_err));
            let bomb: Queue<(Block, Bomb)> = mistaken(&queue);
            assert!(catch_unwind(AssertUnwindSafe(|| bomb.get())).is_err());
            assert!(catch_unwind(AssertUnwindSafe(|| bomb.get_many(5))).is_err());
            let ignored: Queue<(IgnoredAny, u32, Block)> = mistaken(&queue);
            assert_eq!(ignored.get_many(5).expect("items").len(), 5);
            let number: JoinableQueue<u32> = mistaken(&joinable);
            let number_too: SimpleQueue<u32> = mistaken(&simple);
            for _ in 0..20 {
                assert!(matches!(number.get(), Err(Error::Decode(_))));
                assert!(matches!(number_too.get(), Err(Error::Decode(_))));
            }
        };
        let arguments = (queue.clone(), joinable, simple);
        context.process(child, arguments).start().expect("a child").join().expect("an orderly end");
        let rest: Vec<Item> = queue.get_many(100).expect("items");
        assert_eq!(rest.len(), 60 - 22);
        drop(rest);
        lent.assert_all_back();
    });
}

#[test]
fn messages_that_a_receiver_cannot_decode_or_does_not_want() {
    for_each_method(|context| {
        let lent = Lent::new();
        let (here, there) = pipe().expect("a pipe");
        let child = |there: mp::core::connection::Connection| {
            let mut buffer = [0; 1000];
            while there.poll(std::time::Duration::ZERO).expect("it is open") {
                there.recv::<(Block, String, Block)>().expect_err("another type");
                there.recv::<u32>().expect_err("another type");
                there.recv_message().expect("a message").discard();
                there.recv_bytes().expect("bytes");
                there.recv_bytes_into(&mut buffer).expect("bytes");
            }
        };
        for block in &lent.blocks {
            here.send(&(block, 7, block)).expect("sent");
        }
        context.process(child, (there,)).start().expect("a child").join().expect("an orderly end");
        lent.assert_all_back();
    });
}

#[test]
fn arguments_that_a_child_cannot_decode() {
    for_methods(&[StartMethod::Spawn, StartMethod::ForkServer], |context| {
        /// Is encoded as one thing and decoded as another.
        #[derive(Debug)]
        struct Changeling;
        impl Serialize for Changeling {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str("changeling")
            }
        }
        impl<'de> Deserialize<'de> for Changeling {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                u32::deserialize(deserializer).map(|_| Changeling)
            }
        }
        let lent = Lent::new();
        let two = || (lent.blocks[..10].to_vec(), lent.blocks[10..].to_vec());
        let work = |_: Vec<Block>, _: Changeling, _: Vec<Block>| ();
        let (before, after) = two();
        context.process(work, (before, Changeling, after)).start().expect_err("no arguments");
        let work = |_: (Changeling, Vec<Block>), _: Vec<Block>| ();
        let (before, after) = two();
        context.process(work, ((Changeling, before), after)).start().expect_err("no arguments");
        lent.assert_all_back();
    });
}

#[test]
fn arguments_of_a_child_that_cannot_begin() {
    for_each_method(|context| {
        let lent = Lent::new();
        let child = context.process(|_: Vec<Block>| (), (lent.blocks.clone(),));
        child.current_dir("/there/is/no/such/folder").start().expect_err("no folder");
        lent.assert_all_back();
    });
}

/// A result may be asked for any number of times, or never.
#[test]
fn results_of_processes() {
    for_each_method(|context| {
        let lent = Lent::new();
        let child =
            context.process(|blocks: Vec<Block>| blocks, (lent.blocks.clone(),)).start().expect("a start");
        for _ in 0..3 {
            assert!(child.join_timeout(SOON).expect("blocks") == lent.blocks);
        }
        let kept = child.join().expect("blocks");
        drop(child);
        assert!(kept == lent.blocks);
        drop(kept);

        let work = |blocks: Vec<Block>| (blocks, Bomb);
        let child = context.process(work, (lent.blocks.clone(),)).start().expect("a start");
        (0..2).for_each(|_| assert!(catch_unwind(AssertUnwindSafe(|| child.join())).is_err()));
        drop(child);
        let child =
            context.process(|blocks: Vec<Block>| blocks, (lent.blocks.clone(),)).start().expect("a start");
        assert!(child.exception().is_none());
        drop(child);
        lent.assert_all_back();
    });
}

fn pool_of(context: Context) -> Pool {
    Pool::builder().processes(3).context(context).build().expect("a pool")
}

/// Captured values go to every worker.
#[test]
fn captured_values_and_items_of_pools() {
    for_each_method(|context| {
        let lent = Lent::new();
        let pool = pool_of(context);
        let (captured, items) = lent.blocks.split_at(10);
        for chunk in [1, 4].repeat(5) {
            let work = |captured: &Vec<Block>, item: Block| {
                std::thread::sleep(std::time::Duration::from_millis(2));
                (captured[3].clone(), item)
            };
            let call = pool.chunksize(chunk).with(captured.to_vec());
            let results = call.map(work, items.to_vec()).expect("results");
            assert!(
                results.iter().zip(items).all(|(result, item)| result.0 == captured[3] && result.1 == *item)
            );
        }
        // The workers end in good order, and drop what they have.
        pool.close().and_then(|()| pool.join()).expect("an end");
        lent.assert_all_back();
    });
}

/// A task that its worker dies of is given to another, with all that it carries.
#[test]
fn na_01_items_of_workers_that_die() {
    for_methods(&[StartMethod::Spawn, StartMethod::ForkServer], |context| {
        let lent = Lent::new();
        let deaths = Value::new(0_u32).expect("a value");
        let pool = pool_of(context);
        let work = |deaths: &Value<u32>, (number, item): (usize, Block)| {
            if number == 5 && deaths.get().expect("a number") == 0 {
                deaths.set(1).expect("it is there");
                kill_process(getpid(), Signal::KILL).expect("a signal");
            }
            item
        };
        let call = pool.retries(1).with(deaths.clone());
        let results =
            call.map(work, lent.blocks.iter().cloned().enumerate().collect::<Vec<_>>()).expect("results");
        assert!(results == lent.blocks);
        assert_eq!(deaths.get().expect("a number"), 1);
        drop(results);
        pool.close().and_then(|()| pool.join()).expect("an end");
        lent.assert_all_back();
    });
}

/// What is not decoded of a chunk, of a result and of a call.
#[test]
fn na_26_items_and_results_of_pools_that_cannot_be_decoded() {
    static IS_WORKER: AtomicBool = AtomicBool::new(false);
    /// Cannot be decoded where it is to be, if it is odd; panics where it is encoded, if it is 4.
    #[derive(Debug)]
    struct Picky(u32);
    impl Serialize for Picky {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            assert!(self.0 != 4 || !IS_WORKER.load(Relaxed), "four is not sent back");
            serializer.serialize_u32(self.0)
        }
    }
    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Picky, D::Error> {
            let number = u32::deserialize(deserializer)?;
            match number % 2 {
                0 => Ok(Picky(number)),
                _ => Err(serde::de::Error::custom("it is odd")),
            }
        }
    }
    for_each_method(|context| {
        let lent = Lent::new();
        let pool = pool_of(context);
        for chunk in [1, 3, 100] {
            let items = |lent: &Lent| lent.blocks.iter().cloned().zip(0_u32..).collect::<Vec<_>>();
            // Results that the caller cannot decode.
            let work = |(block, number): (Block, u32)| (block.clone(), Picky(number | 1), block);
            let results = pool.chunksize(chunk).try_map(work, items(&lent)).expect("results");
            assert!(results.iter().all(Result::is_err));
            // Items that the worker cannot decode, and results that it cannot encode.
            let work = |(block, picky): (Block, Picky)| {
                IS_WORKER.store(true, Relaxed);
                (block.clone(), picky, block)
            };
            let picky = items(&lent).into_iter().map(|(block, number)| (block, Picky(number)));
            let results = pool.chunksize(chunk).try_map(work, picky.collect::<Vec<_>>()).expect("results");
            assert!(results.iter().any(Result::is_err));
            drop(results);
            // A result that makes the caller panic, before others.
            let work = |(block, _): (Block, u32)| (block.clone(), Bomb, block);
            let call = || pool.chunksize(chunk).try_map(work, items(&lent));
            assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        }
        drop(pool);
        lent.assert_all_back();
    });
}

/// What a call carries goes back with the pool.
#[test]
fn calls_that_are_never_done() {
    alone(|| {
        let lent = Lent::new();
        let pool = std::sync::Arc::new(Pool::new(2).expect("a pool"));
        let (here, there) = pipe().expect("a pipe");
        let call = {
            let (pool, blocks) = (pool.clone(), lent.blocks.clone());
            std::thread::spawn(move || {
                let work = |there: &mp::core::connection::Connection, block: Block| {
                    there.send(&1).expect("sent");
                    common::sleep_for_ever();
                    block
                };
                let call = pool.with(there);
                call.map(work, blocks).expect_err("a pool that ended")
            })
        };
        here.recv_timeout::<u32>(SOON).expect("a task is begun");
        pool.terminate().expect("it is ours");
        call.join().expect("an error");
        drop(pool);
        lent.assert_all_back();
    });
}

/// A worker that does not end at once goes on with what it has: nobody else may have got that meanwhile.
#[test]
fn items_of_a_worker_that_outlives_its_call() {
    alone(|| {
        let pool = std::sync::Arc::new(Pool::new(1).expect("a pool"));
        let (here, there) = pipe().expect("a pipe");
        let call = {
            let pool = pool.clone();
            std::thread::spawn(move || {
                let work = |there: &mp::core::connection::Connection, (number, value): (u32, Value<u32>)| {
                    if number == 0 {
                        // SAFETY: ignoring a signal installs no handler.
                        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
                        there.send(&1).expect("sent");
                        there.recv::<u32>().expect("go on");
                    }
                    value.set(99).expect("it is there");
                    there.send(&2).expect("sent");
                };
                let items = (0..2).map(|number| (number, Value::new(0_u32).expect("a value")));
                pool.chunksize(2).with(there).map(work, items).expect_err("a pool that ended")
            })
        };
        here.recv_timeout::<u32>(SOON).expect("a task is begun");
        let end = std::thread::spawn(move || pool.terminate().expect("it is ours"));
        call.join().expect("an error");
        let others: Vec<Value<u32>> = (0..100).map(|_| Value::new(0).expect("a value")).collect();
        here.send(&1).expect("sent");
        here.recv_timeout::<u32>(SOON).expect("the first item");
        here.recv_timeout::<u32>(SOON).expect("the second item, which is still there");
        end.join().expect("an end");
        assert!(others.iter().all(|value| value.get().expect("a number") == 0), "a value of somebody else");
    });
}

/// A message that was not sent is its maker's: what a child makes of its copy gives nothing back.
#[test]
fn messages_that_came_with_a_fork() {
    fn decode_in_children<T: DeserializeOwned>(is_right: fn(mp::core::Result<T>, &Block) -> bool) {
        let lent = Lent::new();
        for block in &lent.blocks {
            let message = Message::encode(&(block, block)).expect("a message");
            let child = Context::fork().fork_with(|| is_right(message.decode(), block));
            assert!(child.expect("started").join().expect("its result"));
        }
        lent.assert_all_back();
    }
    alone(|| {
        decode_in_children::<[Block; 2]>(|two, block| {
            two.is_ok_and(|two| two == [block.clone(), block.clone()])
        });
        decode_in_children::<(Block, String)>(|two, _| two.is_err());
    });
}
