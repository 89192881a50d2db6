//! Queues: items a second between processes, and round trips; encoding and decoding included, what arrives is checked.

use std::thread;
use std::time::Instant;

use crate::crew;
use crate::options::{Options, Pin};
use crate::record::{Label, Sink};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Result, ensure};
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
    let mut contenders = vec![queues(options, n, 1, 1, |i| [i, !i] as Small)];
    if options.pin == Pin::None {
        contenders.push(threads(n, 1, 1, |i| [i, !i] as Small));
    }
    contenders.push(ipc_channels(options, n / 10, |i| [i, !i] as Small));
    turns::take(options, sink, "queue.1to1.16B", "msg/s", Reduce::Median, contenders)?;
    let bytes = queues(options, n, 1, 1, |i| vec![i as u8; 16]);
    turns::take(options, sink, "queue.1to1.16B_vec", "msg/s", Reduce::Median, vec![bytes])?;
    for (label, size, full) in LARGE {
        large(options, sink, label, size, options.samples(full))?;
    }
    let n = options.samples(200_000);
    let mut contenders = vec![queues(options, n, 4, 4, |i| [i; 8] as Medium)];
    if options.pin == Pin::None {
        contenders.push(threads(n, 4, 4, |i| [i; 8] as Medium));
    }
    turns::take(options, sink, "queue.4to4.64B", "msg/s", Reduce::Median, contenders)?;
    for (measure, n, asleep) in
        [("queue.pingpong.64B", 20_000, false), ("queue.pingpong_asleep.64B", 300, true)]
    {
        let n = options.samples(n);
        let ours = Contender::new("ours", Label::None, move || round_trips(options, n, asleep));
        let limit = Contender::new("limit", Label::Via(SLOT), move || raw_round_trips(options, n, asleep));
        turns::take(options, sink, measure, "us", Reduce::Percentiles, vec![ours, limit])?;
    }
    sink.leave_out("iceoryx2: it is no dependency of this program".to_owned());
    Ok(())
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

fn threads<T: Item>(n: usize, putters: usize, getters: usize, make: fn(u64) -> T) -> Contender<'static> {
    Contender::new(CROSSBEAM, Label::None, move || {
        let (put, get) = crossbeam_channel::bounded::<T>(bound(size_of::<T>()));
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..getters {
                scope.spawn(|| (0..putters * n / getters).for_each(|_| drop(get.recv().expect("an item"))));
            }
            for _ in 0..putters {
                scope.spawn(|| (0..n as u64).for_each(|i| put.send(make(i)).expect("room")));
            }
        });
        Ok(vec![(putters * n) as f64 / start.elapsed().as_secs_f64()])
    })
}

/// This process puts and another gets: its ends cannot travel to a process that this library starts, but by its own server.
fn ipc_channels<T: Item, M>(options: &Options, n: usize, make: M) -> Contender<'_>
where
    M: Fn(u64) -> T + Copy + Send + 'static,
{
    use ipc_channel::ipc::{IpcOneShotServer, IpcSender, channel};
    Contender::new(IPC_CHANNEL, Label::None, move || {
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
    turns::take(options, sink, &format!("queue.1to1.{label}"), "msg/s", Reduce::Median, vec![ours])
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
