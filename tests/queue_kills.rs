//! Queues while random ones of those who use them are killed at random moments, with an account of every item: what was
//! acknowledged comes out, once, whole and in order, and nobody hangs (NA-2, NA-13, QUE-13 of Python's behaviour).
//! `MP_TEST_KILLS` is the number of kills a test, `MP_TEST_SEED` chooses them.

mod common;
#[path = "sync_kills/referee.rs"]
mod referee;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::{SOON, block_on, is_running};
use mp_queue::Error;
use multiprocess::{Handle, JoinableQueue, Queue, RawArray};
use referee::Worker;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A queue, unless something else is asked for.
const KILLS: u64 = 1000;
/// Workers 0, 2 and 4 put, the others get.
const WORKERS: usize = 6;
/// Items that a putter puts at most, all its lives together.
const MOST: usize = 1 << 19;
/// At most so many wait in a queue without a bound.
const BACKLOG: usize = 100;
/// Items put or got at once, at most.
const BATCH: u64 = 5;

#[derive(Serialize, Deserialize)]
struct Item {
    putter: u64,
    number: u64,
    content: Vec<u8>,
    file: Option<Handle<File>>,
}

impl Item {
    /// From nothing to 1 MiB; mostly small.
    fn new(putter: u64, number: u64, with_file: bool) -> Item {
        let mixed = (putter << 32 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let length = match mixed % 50 {
            0 => mixed / 50 % (1 << 20),
            1..10 => mixed / 50 % 20_000,
            _ => mixed / 50 % 100,
        };
        let file = with_file.then(|| {
            let memory = rustix::fs::memfd_create("item", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
            let mut file = File::from(memory);
            file.write_all(&[putter.to_le_bytes(), number.to_le_bytes()].concat()).expect("written");
            Handle(file)
        });
        Item { putter, number, content: vec![(mixed >> 8) as u8; length as usize], file }
    }

    fn check(&self) {
        let Item { content, .. } = Item::new(self.putter, self.number, false);
        assert!(self.content == content, "item {} of {} is torn", self.number, self.putter);
        if let Some(file) = &self.file {
            let mut name = [0; 16];
            file.0.read_exact_at(&mut name, 0).expect("a name in the file");
            let expected = [self.putter.to_le_bytes(), self.number.to_le_bytes()].concat();
            assert_eq!(name[..], expected, "somebody else's file");
        }
    }
}

/// What is shared by all: the queue, and the account.
#[derive(Clone, Serialize, Deserialize)]
struct Shop<Q> {
    queue: Q,
    /// A putter's next number, whatever became of the one before.
    tried: RawArray<u64>,
    /// Whether `put` returned for an item.
    acknowledged: RawArray<u32>,
    /// How often `get` returned an item.
    received: RawArray<u32>,
    /// How many items a getter asks for at this moment.
    asking: RawArray<u64>,
    /// How many items may have gone down with killed getters; and how many getters found handles lost.
    lost: RawArray<u64>,
}

impl<Q> Shop<Q> {
    fn new(queue: Q) -> Shop<Q> {
        let zeros = |length| RawArray::zeroed(length).expect("memory");
        let marks = || RawArray::zeroed(WORKERS * MOST).expect("memory");
        Shop {
            queue,
            tried: zeros(WORKERS),
            acknowledged: marks(),
            received: marks(),
            asking: zeros(WORKERS),
            lost: zeros(2),
        }
    }

    fn index(putter: u64, number: u64) -> usize {
        putter as usize * MOST + number as usize
    }

    /// Numbers for `count` items, noted before they are put.
    fn numbers(&self, me: u64, count: u64) -> Option<std::ops::Range<u64>> {
        let first = self.tried.fetch_add(me as usize, count).expect("in range");
        (first + count <= MOST as u64).then_some(first..first + count)
    }

    fn acknowledge(&self, me: u64, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.acknowledged.set(Self::index(me, number), 1).expect("in range");
        }
    }

    /// A receipt, checked: `last` is what this getter had last from each putter.
    fn receive(&self, item: &Item, last: &mut [Option<u64>; WORKERS]) {
        item.check();
        let before = self.received.fetch_add(Self::index(item.putter, item.number), 1).expect("in range");
        assert_eq!(before, 0, "item {} of {} came twice", item.number, item.putter);
        let last = &mut last[item.putter as usize];
        assert!(last.is_none_or(|last| last < item.number), "{} after {last:?}", item.number);
        *last = Some(item.number);
    }

    /// A getter was killed in this place while it asked: for so many items there is no receipt.
    fn settle(&self, me: usize) {
        let asked = self.asking.swap(me, 0).expect("in range");
        self.lost.fetch_add(0, asked).expect("in range");
    }

    fn asks(&self, me: usize, items: u64) {
        self.asking.set(me, items).expect("in range");
    }

    /// Every acknowledged item was received, but for those that went down with a getter; others at most once.
    fn close_the_books(&self, name: &str) {
        let (mut put, mut missing, mut unsure) = (0_u64, 0_u64, 0_u64);
        for putter in 0..WORKERS as u64 {
            let tried = self.tried.get(putter as usize).expect("in range");
            for number in 0..tried.min(MOST as u64) {
                let index = Self::index(putter, number);
                let acknowledged = self.acknowledged.get(index).expect("in range") == 1;
                let received = self.received.get(index).expect("in range");
                put += u64::from(acknowledged);
                missing += u64::from(acknowledged && received == 0);
                unsure += u64::from(!acknowledged && received == 1);
            }
        }
        let (lost, reported) = (self.lost.get(0).expect("in range"), self.lost.get(1).expect("in range"));
        println!(
            "{name}: {put} acknowledged, {missing} of them gone with killed getters (who had asked for {lost}), \
             {reported} without their handles; {unsure} more of killed putters"
        );
        assert!(put > 0 && missing <= lost, "{name}: {missing} items are lost, {lost} may be");
        assert!(reported <= lost, "{name}: the handles of {reported} items are lost, those of {lost} may be");
    }
}

/// Where workers count their panics: one may be killed while it tells of it.
const PANICS: usize = 31;

fn note_panics<T>(worker: &Worker<T>) {
    let (board, tell) = (worker.board.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        board.words[PANICS].fetch_add(1, SeqCst);
        tell(info);
    }));
}

/// As the referee's, and nobody panicked.
#[track_caller]
fn kills<T, F>(name: &str, thing: &T, life: F, wake: impl Fn(&T))
where
    T: Clone + Serialize + DeserializeOwned,
    F: Fn(Worker<T>) + Copy,
{
    let life = move |worker: Worker<T>| {
        note_panics(&worker);
        life(worker);
    };
    let board = referee::kills(name, thing, WORKERS, life, wake);
    assert_eq!(board.words[PANICS].load(SeqCst), 0, "{name}: workers panicked");
}

fn put_for_life(worker: &mut Worker<Shop<Queue<Item>>>, files: u64, forms: u64) {
    let shop = worker.thing.clone();
    let me = worker.number as u64;
    while worker.goes_on() {
        if shop.queue.capacity().is_none() && shop.queue.len() > BACKLOG {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        let count = if worker.random.below(4) == 0 { worker.random.below(BATCH) + 1 } else { 1 };
        let Some(numbers) = shop.numbers(me, count) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let files: Vec<bool> = numbers.clone().map(|_| worker.random.below(100) < files).collect();
        let mut items = numbers.clone().zip(files).map(|(number, file)| Item::new(me, number, file));
        let form = worker.random.below(forms);
        let result = worker.wait(|shop| put(&shop.queue, form, count, &mut items));
        match result {
            Ok(put) => shop.acknowledge(me, numbers.start..numbers.start + put),
            // Within no time.
            Err(Error::Full) => assert!(form > 0, "a put without a limit ended"),
            Err(Error::Closed) => assert!(!worker.goes_on(), "it was closed by nobody"),
            Err(error) => panic!("{error:#}"),
        }
    }
}

const MOMENT: Duration = Duration::from_millis(2);

/// Puts `count` items by a form of the calls; how many are in it.
fn put(
    queue: &Queue<Item>,
    form: u64,
    count: u64,
    mut items: impl Iterator<Item = Item>,
) -> mp_queue::Result<u64> {
    if count > 1 {
        return match form {
            0 => queue.put_many(items).map(|()| count),
            1 => queue.try_put_many(items).map(|put| put as u64),
            2 => queue.put_many_timeout(items, MOMENT).map(|put| put as u64),
            _ => block_on(queue.put_many_async(items)).map(|()| count),
        };
    }
    let Some(item) = items.next() else { return Ok(0) };
    let result = match form {
        0 => queue.put(item),
        1 => queue.try_put(item),
        2 => queue.put_timeout(item, MOMENT),
        _ => block_on(queue.put_async(item)),
    };
    result.map(|()| 1)
}

/// Gets up to `most` items by a form of the calls.
fn get(queue: &Queue<Item>, form: u64, most: usize) -> mp_queue::Result<Vec<Item>> {
    match (form, most) {
        (0, 1) => queue.get().map(|item| vec![item]),
        (1, 1) => queue.try_get().map(|item| vec![item]),
        (2, 1) => queue.get_timeout(MOMENT).map(|item| vec![item]),
        (3, 1) => block_on(queue.get_async()).map(|item| vec![item]),
        (0, _) => queue.get_many(most),
        (1, _) => queue.try_get_many(most),
        (2, _) => queue.get_each_timeout(most, MOMENT)?.into_iter().collect(),
        _ => block_on(queue.get_many_async(most)),
    }
}

fn get_for_life(worker: &mut Worker<Shop<Queue<Item>>>, forms: u64) {
    let shop = worker.thing.clone();
    shop.settle(worker.number);
    let mut last = [None; WORKERS];
    loop {
        let most = if worker.random.below(4) == 0 { worker.random.below(BATCH) + 1 } else { 1 };
        shop.asks(worker.number, most);
        let form = worker.random.below(forms);
        let items = worker.wait(|shop| get(&shop.queue, form, most as usize));
        match items {
            Ok(items) => items.iter().for_each(|item| shop.receive(item, &mut last)),
            // Such an item comes alone, and costs no other.
            Err(Error::HandlesLost) => drop(shop.lost.fetch_add(1, 1).expect("in range")),
            Err(Error::Empty) => assert!(form > 0, "a get without a limit ended"),
            Err(Error::Closed) => {
                assert!(!worker.goes_on(), "it was closed by nobody");
                return shop.asks(worker.number, 0);
            }
            Err(error) => panic!("{error:#}"),
        }
        shop.asks(worker.number, 0);
    }
}

/// Of each hundred items, `files` have a file; `forms` of the calls are in use, 1 for those without a limit.
fn trade(mut worker: Worker<Shop<Queue<Item>>>, files: u64, forms: u64) {
    match worker.number % 2 {
        0 => put_for_life(&mut worker, files, forms),
        _ => get_for_life(&mut worker, forms),
    }
}

fn close(shop: &Shop<Queue<Item>>) {
    shop.queue.close().expect("closed");
}

#[test]
fn na_02_na_13_a_bounded_queue() {
    let shop = Shop::new(Queue::bounded(8).expect("a queue"));
    kills("bounded queue", &shop, |worker| trade(worker, 0, 1), close);
    shop.close_the_books("bounded queue");
}

#[test]
fn na_02_na_13_a_bounded_queue_of_items_with_files() {
    let shop = Shop::new(Queue::bounded(8).expect("a queue"));
    kills("bounded queue with files", &shop, |worker| trade(worker, 60, 1), close);
    shop.close_the_books("bounded queue with files");
}

#[test]
fn na_02_na_13_an_unbounded_queue() {
    let shop = Shop::new(Queue::unbounded().expect("a queue"));
    kills("unbounded queue", &shop, |worker| trade(worker, 10, 1), close);
    shop.close_the_books("unbounded queue");
}

/// By calls without waiting, with a time limit, and by futures.
#[test]
fn na_02_na_13_every_form_of_the_calls() {
    let shop = Shop::new(Queue::bounded(8).expect("a queue"));
    kills("bounded queue, every form", &shop, |worker| trade(worker, 20, 4), close);
    shop.close_the_books("bounded queue, every form");
}

/// Who dies owing `task_done` is told of, and no debt is forgotten or counted twice.
#[test]
fn a_joinable_queue() {
    let queue = JoinableQueue::<u64>::bounded(20).expect("a queue");
    let life = |mut worker: Worker<JoinableQueue<u64>>| {
        let queue = worker.thing.clone();
        let told = |error: Error| match error {
            Error::ConsumerDied { pid, owed } => assert!(!is_running(pid) && owed > 0),
            Error::Timeout { unfinished } => assert!(unfinished > 0),
            error => panic!("{error:#}"),
        };
        while worker.goes_on() {
            match worker.number {
                0 | 1 => match worker.wait(|queue| queue.put_many(0..5)) {
                    Ok(()) | Err(Error::Closed) => {}
                    Err(error) => panic!("{error:#}"),
                },
                2 => worker.wait(|queue| queue.join_timeout(Duration::from_millis(5))).unwrap_or_else(told),
                _ => break,
            }
        }
        while worker.number > 2 {
            let most = worker.random.below(BATCH) as usize + 1;
            let Ok(items) = worker.wait(|queue| queue.get_many(most)) else {
                assert!(!worker.goes_on(), "it was closed by nobody");
                return;
            };
            for _ in items {
                worker.dawdle();
                queue.task_done().expect("one that this process got");
            }
        }
    };
    let close = |queue: &JoinableQueue<u64>| queue.close().expect("closed");
    kills("joinable queue", &queue, life, close);
    assert!(queue.is_empty());
    loop {
        match queue.join_timeout(SOON) {
            Ok(()) => break,
            Err(Error::ConsumerDied { .. }) => {}
            Err(error) => panic!("{error:#}"),
        }
    }
    assert!(queue.unfinished() == 0 && matches!(queue.task_done(), Err(Error::TooManyDone)));
}
