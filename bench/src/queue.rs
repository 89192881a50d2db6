//! Queues: items a second between processes, and round trips; encoding and decoding included, what arrives is checked.

use std::cell::RefCell;
use std::thread;
use std::time::Instant;

use crate::crew;
use crate::options::Options;
use crate::record::{Label, Sink};
use crate::ring::{self, Ring};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Context as _, Result, ensure};
use bytemuck::{Pod, bytes_of, bytes_of_mut};
use ipc_channel::ipc::{IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender, bytes_channel, channel};
use multiprocess::Queue;
use multiprocess::core::arena::Shared;
use multiprocess::core::futex::{self, AtomicU32, AtomicU64, Ordering::*};
use serde::{Deserialize, Serialize};

/// The small item: sixteen bytes.
type Small = [u64; 2];
/// The item of many putters and getters, and of round trips: 64 bytes.
type Medium = [u64; 8];

const CROSSBEAM: &str = "crossbeam-channel (threads)";
const IPC_CHANNEL: &str = "ipc-channel";
/// The limit of round trips: a word and 64 bytes each way.
pub const SLOT: &str = "futex and 64 bytes, shared";

/// The most items of so many bytes that wait: about four megabytes, at least four items.
fn bound(size: usize) -> usize {
    ((4 << 20) / size).clamp(4, 1000)
}

/// The sizes of large items: name, bytes, how many in a run.
const LARGE: [(&str, usize, usize); 3] =
    [("1KiB", 1 << 10, 500_000), ("64KiB", 64 << 10, 20_000), ("1MiB", 1 << 20, 1_000)];

pub fn measure(options: &Options, sink: &mut Sink) -> Result<()> {
    let n = options.samples(1_000_000);
    small(options, sink, "queue.1to1.16B", n, |i| [i, !i] as Small)?;
    let bytes = queues(options, n, 1, 1, |i| vec![i as u8; 16]);
    turns::take(options, sink, "queue.1to1.16B_vec", "msg/s", Reduce::Median, vec![bytes])?;
    small(options, sink, "queue.1to1.64B", n, |i| [i; 8] as Medium)?;
    for (label, size, full) in LARGE {
        large(options, sink, label, size, options.samples(full))?;
    }
    let n = options.samples(200_000);
    // The receiving end of an ipc-channel has one owner.
    let contenders =
        vec![queues(options, n, 4, 4, |i| [i; 8] as Medium), threads(options, n, 4, 4, |i| [i; 8] as Medium)];
    turns::take(options, sink, "queue.4to4.64B", "msg/s", Reduce::Median, contenders)?;
    // What waking up costs, on a machine that is shared, is now one thing and now another, for seconds.
    for (measure, n, asleep, times) in
        [("queue.pingpong.64B", 20_000, false, 1), ("queue.pingpong_asleep.64B", 100, true, 10)]
    {
        let n = options.samples(n);
        let contenders = vec![
            Contender::new("ours", Label::None, move || round_trips(options, n, asleep)),
            Contender::new("limit", Label::Via(SLOT), move || raw_round_trips(options, n, asleep)),
            Contender::new(IPC_CHANNEL, Label::None, move || ipc_round_trips(options, n, asleep)),
            Contender::new(CROSSBEAM, Label::None, move || thread_round_trips(options, n, asleep)),
        ];
        turns::take_turns(options, times, sink, measure, "us", Reduce::Percentiles, contenders)?;
    }
    Ok(())
}

fn small<T: Item + Pod>(
    options: &Options,
    sink: &mut Sink,
    measure: &str,
    n: usize,
    make: impl Fn(u64) -> T + Copy + Send + Sync + 'static,
) -> Result<()> {
    let contenders = vec![
        queues(options, n, 1, 1, make),
        ring(options, n, make),
        threads(options, n, 1, 1, make),
        ipc_channels(options, n / 10, Label::None, make),
    ];
    turns::take(options, sink, measure, "msg/s", Reduce::Median, contenders)
}

/// What travels: made by its putter from a number, so that the getter can check it.
trait Item: Serialize + for<'de> Deserialize<'de> + PartialEq + Send + 'static {}
impl<T: Serialize + for<'de> Deserialize<'de> + PartialEq + Send + 'static> Item for T {}

/// Each of `putters` puts `n` items, each of `getters` gets its share of them.
fn queues<T: Item, M>(options: &Options, n: usize, putters: usize, getters: usize, make: M) -> Contender<'_>
where
    M: Fn(u64) -> T + Copy + Send + 'static,
{
    let one_to_one = putters == 1 && getters == 1;
    Contender::new("ours", Label::None, move || {
        let queue = Queue::<T>::bounded(bound(size_of::<T>()))?;
        let job = move |(queue, puts, n, one_to_one): (Queue<T>, bool, u64, bool)| match puts {
            true => (0..n).for_each(|i| queue.put(make(i)).expect("room")),
            false => (0..n).for_each(|i| {
                let item = queue.get().expect("an item");
                assert!(!one_to_one || item == make(i), "item {i} is another one");
            }),
        };
        let share = (putters * n / getters) as u64;
        let mut crew = vec![];
        crew.resize_with(getters, || (queue.clone(), false, share, one_to_one));
        crew.resize_with(getters + putters, || (queue.clone(), true, n as u64, one_to_one));
        let rate = crew::rate_of(options, (putters * n) as u64, crew, job)?;
        ensure!(queue.is_empty(), "items are left");
        Ok(vec![rate])
    })
}

/// Bytes of the items, as they lie in memory.
fn ring<T: Item + Pod, M>(options: &Options, n: usize, make: M) -> Contender<'_>
where
    M: Fn(u64) -> T + Copy + Send + 'static,
{
    Contender::new("limit", Label::Via(ring::VIA), move || {
        let job = move |(ring, writes, n, size): (Ring, bool, u64, usize)| match writes {
            true => {
                let mut put = ring.writer();
                (0..n).for_each(|i| put(&bytes_of(&make(i))[..size]));
            }
            false => {
                let mut get = ring.reader();
                (0..n).for_each(|i| {
                    let mut item = T::zeroed();
                    get(&mut bytes_of_mut(&mut item)[..size]);
                    assert!(item == make(i), "item {i} is another one");
                });
            }
        };
        // How long an item is, is known to those who write and read only when they run: a ring is for bytes.
        let (ring, size) = (Ring::new()?, size_of::<T>());
        let crew = vec![(ring.clone(), false, n as u64, size), (ring, true, n as u64, size)];
        Ok(vec![crew::rate_of(options, n as u64, crew, job)?])
    })
}

fn threads<T: Item, M>(options: &Options, n: usize, putters: usize, getters: usize, make: M) -> Contender<'_>
where
    M: Fn(u64) -> T + Copy + Send + Sync + 'static,
{
    let one_to_one = putters == 1 && getters == 1;
    Contender::new(CROSSBEAM, Label::None, move || {
        let (put, get) = crossbeam_channel::bounded::<T>(bound(size_of::<T>()));
        let start = Instant::now();
        thread::scope(|scope| {
            for index in 0..getters {
                let get = &get;
                scope.spawn(move || {
                    crew::take_place(options, index);
                    (0..(putters * n / getters) as u64).for_each(|i| {
                        let item = get.recv().expect("an item");
                        assert!(!one_to_one || item == make(i), "item {i} is another one");
                    });
                });
            }
            for index in getters..getters + putters {
                let put = &put;
                scope.spawn(move || {
                    crew::take_place(options, index);
                    (0..n as u64).for_each(|i| put.send(make(i)).expect("room"));
                });
            }
        });
        Ok(vec![(putters * n) as f64 / start.elapsed().as_secs_f64()])
    })
}

/// This process puts and another gets: its ends cannot travel to a process that this library starts, but by its own server.
fn ipc_channels<T: Item, M>(options: &Options, n: usize, label: Label, make: M) -> Contender<'_>
where
    M: Fn(u64) -> T + Copy + Send + 'static,
{
    Contender::new(IPC_CHANNEL, label, move || {
        let (server, name) = IpcOneShotServer::<IpcSender<T>>::new()?;
        let job = move |(name, n): (String, u64)| {
            let (put, get) = channel::<T>().expect("a channel");
            IpcSender::connect(name).expect("the putter").send(put).expect("the putter");
            let first = get.recv().expect("an item");
            assert!(first == make(0), "another item");
            let begin = crew::now();
            (1..n).for_each(|i| assert!(get.recv().expect("an item") == make(i), "another item"));
            crew::now() - begin
        };
        let child = crew::beside(options, (name, n as u64), job)?;
        let (_, put) = server.accept()?;
        for i in 0..n as u64 {
            put.send(make(i))?;
        }
        let nanoseconds = child.join()?;
        Ok(vec![(n - 1) as f64 * 1e9 / nanoseconds as f64])
    })
}

/// As [`ipc_channels`], without an encoding of its own: its channel for bytes.
pub fn ipc_bytes(options: &Options, n: usize, size: usize) -> Contender<'_> {
    Contender::new(IPC_CHANNEL, Label::Via("bytes"), move || {
        let (server, name) = IpcOneShotServer::<IpcBytesSender>::new()?;
        let job = move |(name, n, size): (String, u64, usize)| {
            let (put, get) = bytes_channel().expect("a channel");
            IpcSender::connect(name).expect("the putter").send(put).expect("the putter");
            let mut begin = 0;
            for i in 0..n {
                let item = get.recv().expect("an item");
                assert!(item.len() == size && item[size - 1] == i as u8, "item {i} is another one");
                if i == 0 {
                    begin = crew::now();
                }
            }
            crew::now() - begin
        };
        let child = crew::beside(options, (name, n as u64, size), job)?;
        let (_, put) = server.accept()?;
        let mut item = vec![0; size];
        for i in 0..n as u64 {
            item[size - 1] = i as u8;
            put.send(&item)?;
        }
        Ok(vec![(n - 1) as f64 * 1e9 / child.join()? as f64])
    })
}

fn large(options: &Options, sink: &mut Sink, label: &str, size: usize, n: usize) -> Result<()> {
    let ours = Contender::new("ours", Label::None, move || {
        let queue = Queue::<Vec<u8>>::bounded(bound(size))?;
        let job = move |(queue, puts, n, size): (Queue<Vec<u8>>, bool, u64, usize)| {
            let mut item = vec![0; size];
            for i in 0..n {
                if puts {
                    item[size - 1] = i as u8;
                    queue.put_ref(&item).expect("room");
                } else {
                    let item = queue.get().expect("an item");
                    assert!(item.len() == size && item[size - 1] == i as u8, "item {i} is another one");
                }
            }
        };
        let crew = vec![(queue.clone(), false, n as u64, size), (queue.clone(), true, n as u64, size)];
        Ok(vec![crew::rate_of(options, n as u64, crew, job)?])
    });
    // Each item is a copy, as it is for the others; what is received stays where it was.
    let threads = Contender::new(CROSSBEAM, Label::None, move || {
        let (put, get) = crossbeam_channel::bounded::<Vec<u8>>(bound(size));
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                crew::take_place(options, 0);
                for i in 0..n {
                    let item = get.recv().expect("an item");
                    assert!(item.len() == size && item[size - 1] == i as u8, "item {i} is another one");
                }
            });
            scope.spawn(|| {
                crew::take_place(options, 1);
                let mut item = vec![0; size];
                for i in 0..n {
                    item[size - 1] = i as u8;
                    put.send(item.clone()).expect("room");
                }
            });
        });
        Ok(vec![n as f64 / start.elapsed().as_secs_f64()])
    });
    let few = (n / 10).max(4);
    let contenders = vec![ours, threads, ipc_bytes(options, few, size)];
    turns::take(options, sink, &format!("queue.1to1.{label}"), "msg/s", Reduce::Median, contenders)
}

fn ipc_round_trips(options: &Options, n: usize, asleep: bool) -> Result<Vec<f64>> {
    type Ends = (IpcSender<Medium>, IpcReceiver<Medium>);
    let (server, name) = IpcOneShotServer::<Ends>::new()?;
    // What the child makes of the name, once.
    thread_local! {
        static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
    }
    let echo = |name: &String| {
        ENDS.with_borrow_mut(|ends| {
            let (answer, ask) = ends.get_or_insert_with(|| {
                let ((asks, ask), (answer, answers)) =
                    (channel().expect("a channel"), channel().expect("a channel"));
                let other = IpcSender::connect(name.clone()).expect("the other");
                other.send((asks, answers)).expect("the other");
                (answer, ask)
            });
            answer.send(ask.recv().expect("a question")).expect("the other");
        });
    };
    let mut server = Some(server);
    let mut ends: Option<Ends> = None;
    crew::round_trips(options, n, asleep, name, echo, |i| {
        if let Some(server) = server.take() {
            ends = Some(server.accept()?.1);
        }
        let (ask, answer) = ends.as_ref().context("no ends")?;
        ask.send([i; 8])?;
        ensure!(answer.recv()? == [i; 8], "another answer");
        Ok(())
    })
}

fn thread_round_trips(options: &Options, n: usize, asleep: bool) -> Result<Vec<f64>> {
    let (ask, asked) = crossbeam_channel::bounded::<Medium>(64);
    let (answer, answered) = crossbeam_channel::bounded::<Medium>(64);
    thread::scope(|scope| {
        scope.spawn(move || {
            crew::take_place(options, 0);
            while let Ok(item) = asked.recv() {
                answer.send(item).expect("room");
            }
        });
        let times = crew::trips(n, asleep, |i| {
            ask.send([i; 8])?;
            ensure!(answered.recv()? == [i; 8], "another answer");
            Ok(())
        });
        drop(ask);
        times
    })
}

fn round_trips(options: &Options, n: usize, asleep: bool) -> Result<Vec<f64>> {
    let (ask, answer) = (Queue::<Medium>::bounded(64)?, Queue::<Medium>::bounded(64)?);
    let echo = |(ask, answer): &(Queue<Medium>, Queue<Medium>)| {
        answer.put(ask.get().expect("a question")).expect("room");
    };
    crew::round_trips(options, n, asleep, (ask.clone(), answer.clone()), echo, |i| {
        ask.put([i; 8])?;
        ensure!(answer.get()? == [i; 8], "another answer");
        Ok(())
    })
}

/// One way: whether something is there, and what.
type Slot = (Shared<[AtomicU32; 1]>, Shared<[AtomicU64; 8]>);

fn send((full, data): &Slot, item: Medium) {
    data.iter().zip(item).for_each(|(to, from)| to.store(from, Relaxed));
    full[0].store(1, Release);
    futex::wake(&full[0], 1);
}

fn receive((full, data): &Slot) -> Medium {
    while full[0].load(Acquire) == 0 {
        futex::wait(&full[0], 0, None);
    }
    let item = std::array::from_fn(|i| data[i].load(Relaxed));
    // The other side answers before it sends again: nobody waits for this.
    full[0].store(0, Release);
    item
}

fn raw_round_trips(options: &Options, n: usize, asleep: bool) -> Result<Vec<f64>> {
    let slot = || -> Result<Slot> { Ok((Shared::new()?, Shared::new()?)) };
    let (ask, answer) = (slot()?, slot()?);
    let echo = |(ask, answer): &(Slot, Slot)| send(answer, receive(ask));
    crew::round_trips(options, n, asleep, (ask.clone(), answer.clone()), echo, |i| {
        send(&ask, [i; 8]);
        ensure!(receive(&answer) == [i; 8], "another answer");
        Ok(())
    })
}
