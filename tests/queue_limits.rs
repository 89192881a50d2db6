//! Queues at their limits: items full of handles, memory that grows and shrinks and is refused, peers that are stopped, and
//! nothing left behind (QUE of Python's behaviour, NA-13, NA-14, NA-17, NA-30).

mod common;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mp_queue::Error;
use multiprocess::{
    Connection, Context, Handle, JoinableQueue, Listener, Lock, Queue, SimpleQueue, Value, pipe,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Resource, Rlimit, Signal, Uid, getrlimit, kill_process, setrlimit};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use common::{Belongings, SOON, alone, for_each_method, is_running, state_of, wait_until};

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).expect("a pid"), signal).expect("a signal sent");
}

fn file(name: u64) -> Handle<File> {
    let mut file = File::from(memfd_create("item", MemfdFlags::CLOEXEC).expect("a file"));
    file.write_all(&name.to_le_bytes()).expect("written");
    Handle(file)
}

fn name(file: &mut Handle<File>) -> u64 {
    let mut bytes = [0; 8];
    file.0.rewind().and_then(|()| file.0.read_exact(&mut bytes)).expect("read");
    u64::from_le_bytes(bytes)
}

#[derive(Serialize, Deserialize)]
struct Job {
    number: u32,
    lock: Lock,
    counter: Value<u64>,
    answers: Queue<(u32, Queue<u32>)>,
    reply: Connection,
    file: Handle<File>,
}

#[test]
fn items_with_handles_of_every_kind() {
    for_each_method(|context| {
        let jobs = Queue::<Job>::bounded(3).expect("a queue");
        let work = |jobs: Queue<Job>| {
            for job in &jobs {
                let mut job = job.expect("a job");
                let _held = job.lock.lock().expect("the lock");
                job.counter.update(|count| *count += 1).expect("a count");
                assert_eq!(name(&mut job.file), u64::from(job.number));
                let inner = Queue::unbounded().expect("a queue");
                inner.put(job.number * 2).expect("put");
                job.answers.put((job.number, inner)).expect("put");
                job.reply.send(&(job.number + 1)).expect("sent");
            }
        };
        let workers: Vec<_> =
            (0..2).map(|_| context.process(work, (jobs.clone(),)).start().expect("a child")).collect();
        let (lock, counter) = (Lock::new().expect("a lock"), Value::new(0_u64).expect("a value"));
        let answers = Queue::unbounded().expect("a queue");
        let mut replies = Vec::new();
        for number in 0..50 {
            let (here, reply) = pipe().expect("a pipe");
            replies.push(here);
            let (lock, counter, answers) = (lock.clone(), counter.clone(), answers.clone());
            let file = file(number.into());
            jobs.put(Job { number, lock, counter, answers, reply, file }).expect("put");
        }
        jobs.close().expect("closed");
        for (number, reply) in replies.iter().enumerate() {
            assert_eq!(reply.recv::<u32>().expect("a reply"), number as u32 + 1);
        }
        workers.iter().for_each(|child| child.join().expect("an orderly end"));
        let mut numbers: Vec<u32> = std::iter::from_fn(|| answers.try_get().ok())
            .map(|(number, inner)| {
                assert_eq!(inner.try_get().expect("an item"), number * 2);
                number
            })
            .collect();
        numbers.sort();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        assert_eq!(counter.get().expect("a count"), 50);
        assert!(!lock.locked());
    });
}

#[test]
fn three_hundred_descriptors_in_one_item() {
    for_each_method(|context| {
        let queue = Queue::<Vec<Handle<File>>>::unbounded().expect("a queue");
        let put = |queue: Queue<Vec<Handle<File>>>| {
            queue.put((0..300).map(file).collect()).expect("put");
            queue.put(vec![file(1000)]).expect("put");
            queue
                .put_many([vec![], (0..254).map(file).collect(), (0..253).map(file).collect()])
                .expect("put");
        };
        context.process(put, (queue.clone(),)).start().expect("a child").join().expect("an orderly end");
        for expected in [(0..300).collect::<Vec<u64>>(), vec![1000], vec![]] {
            let mut files = queue.get().expect("an item");
            assert_eq!(files.iter_mut().map(name).collect::<Vec<_>>(), expected);
        }
        let many = queue.get_many(5).expect("items");
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [254, 253]);
    });
}

#[test]
fn thousands_of_items_with_handles() {
    for_each_method(|context| {
        const ITEMS: u64 = 3000;
        let queue = Queue::<(u64, Handle<File>)>::bounded(100).expect("a queue");
        let get = |queue: Queue<(u64, Handle<File>)>| {
            let mut expected = 0;
            for item in &queue {
                let (number, mut file) = item.expect("an item");
                assert_eq!((number, name(&mut file)), (expected, expected));
                expected += 1;
            }
            expected
        };
        let getter = context.process(get, (queue.clone(),)).start().expect("a child");
        for number in 0..ITEMS - 100 {
            queue.put((number, file(number))).expect("put");
        }
        queue.put_many((ITEMS - 100..ITEMS).map(|number| (number, file(number)))).expect("put");
        queue.close().expect("closed");
        assert_eq!(getter.join().expect("a count"), ITEMS);
    });
}

/// Whether descriptors on their way are limited by memory alone.
fn is_privileged() -> bool {
    let capabilities = rustix::thread::capabilities(None).expect("capabilities").effective;
    capabilities.contains(CapabilitySet::NET_ADMIN)
        && capabilities.intersects(CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN)
}

/// One thread puts first and gets later. Without rights less may wait: the test below.
#[test]
fn a_thousand_locks_wait_in_a_queue() {
    if !is_privileged() {
        println!("left out: without rights a thousand descriptors cannot be on their way");
        return;
    }
    for_each_method(|context| {
        const ITEMS: u32 = 1000;
        let queue = Queue::<(u32, Lock)>::unbounded().expect("a queue");
        let lock = Lock::new().expect("a lock");
        let put = |queue: Queue<(u32, Lock)>, lock: Lock| {
            (0..ITEMS).for_each(|number| queue.put((number, lock.clone())).expect("put"));
            queue.put_many((ITEMS..2 * ITEMS).map(|number| (number, lock.clone()))).expect("put");
        };
        put(queue.clone(), lock.clone());
        let child = context.process(put, (queue.clone(), lock.clone())).start().expect("a child");
        child.join().expect("an orderly end");
        assert!(queue.len() == 4 * ITEMS as usize && !queue.is_full());
        let _held = lock.lock().expect("the lock");
        for expected in (0..2 * ITEMS).chain(0..2 * ITEMS) {
            let (number, lock) = queue.try_get().expect("an item");
            assert!(number == expected && lock.locked());
        }
    });
}

/// Without rights, what may wait has a limit: then it is as if the queue were full. (Only root can become a user with whose
/// descriptors nobody else's count.)
#[test]
fn descriptors_on_their_way_have_a_limit() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for_each_method(|context| {
        let child = |files: u64| {
            let user = Uid::from_raw(23456);
            rustix::thread::set_thread_res_uid(user, user, user).expect("another user");
            let limit = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..limit }).expect("a limit");
            let queue = Queue::<(u64, Handle<File>)>::unbounded().expect("a queue");
            let mut put = 0;
            let full = loop {
                match queue.try_put((put, file(put))) {
                    Ok(()) => put += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(full, Error::Full), "{full}");
            let (began, limit) = (Instant::now(), Duration::from_millis(50));
            assert!(matches!(queue.put_timeout((put, file(put)), limit), Err(Error::Full)));
            assert!(began.elapsed() >= limit);
            // There is room again for as much as the first took up.
            let (number, mut first) = queue.get().expect("an item");
            assert_eq!((number, name(&mut first)), (0, 0));
            queue.try_put((put, file(put))).expect("put");
            for expected in 1..=put {
                let (number, mut file) = queue.get().expect("an item");
                assert_eq!((number, name(&mut file)), (expected, expected));
            }
            put
        };
        for files in [200, 600] {
            let child = context.process(child, (files,)).start().expect("a child");
            let put = child.join().expect("a count");
            // As many as files, or as the buffers hold where the system was not told otherwise.
            assert!(put >= files.min(250) && put <= files + 1, "{put} with {files} files");
        }
    });
}

/// Whatever kind of queue, and however the putter ends.
#[test]
fn na_13_gone_right_after_put() {
    type Item = (u32, Handle<File>);
    type Queues = (Queue<Item>, JoinableQueue<Item>, SimpleQueue<Item>);
    for_each_method(|context| {
        let queues: Queues = (
            Queue::bounded(4).expect("a queue"),
            JoinableQueue::unbounded().expect("a queue"),
            SimpleQueue::new().expect("a queue"),
        );
        let put = |(queue, joinable, simple): Queues, way: String| {
            queue.put((1, file(1))).expect("put");
            queue.put_many([(2, file(2)), (3, file(3))]).expect("put");
            joinable.put((4, file(4))).expect("put");
            simple.put((5, file(5))).expect("put");
            match &*way {
                "kill" => kill(std::process::id(), Signal::KILL),
                "abort" => std::process::abort(),
                "panic" => panic!("as it is meant to be"),
                // SAFETY: ends the process, and runs nothing of it any more.
                _ => unsafe { libc::_exit(3) },
            }
        };
        for way in ["kill", "abort", "panic", "_exit"] {
            let child = context.process(put, (queues.clone(), way.to_owned())).start().expect("a child");
            assert!(child.join().is_err());
            let (queue, joinable, simple) = &queues;
            let mut items: Vec<Item> = (0..3).map(|_| queue.try_get().expect("an item")).collect();
            items.push(joinable.try_get().expect("an item"));
            items.push(simple.try_get().expect("an item"));
            for (expected, (number, mut file)) in (1..).zip(items) {
                assert_eq!((number, name(&mut file)), (expected, u64::from(expected)));
            }
            joinable.task_done().expect("one item");
            joinable.join().expect("the putter owes nothing");
            assert!(queue.is_empty() && joinable.is_empty() && simple.is_empty());
        }
    });
}

#[test]
fn na_02_killed_while_it_waits() {
    for_each_method(|context| {
        let queue = Queue::<u32>::bounded(1).expect("a queue");
        let (get, put) = (|queue: Queue<u32>| queue.get().is_ok(), |queue: Queue<u32>| queue.put(0).is_ok());
        for _ in 0..5 {
            for full in [false, true] {
                if full {
                    queue.put(1).expect("put");
                }
                let child = match full {
                    true => context.process(put, (queue.clone(),)).start(),
                    false => context.process(get, (queue.clone(),)).start(),
                }
                .expect("a child");
                wait_until("it sleeps", || state_of(child.pid()) == Some('S'));
                std::thread::sleep(Duration::from_millis(20));
                kill(child.pid(), Signal::KILL);
                wait_until("it is dead", || !is_running(child.pid()));
                let began = Instant::now();
                if full {
                    assert_eq!(queue.get_timeout(SOON).expect("an item"), 1);
                }
                queue.put_timeout(2, SOON).expect("put");
                assert_eq!(queue.get_timeout(SOON).expect("an item"), 2);
                assert!(began.elapsed() < Duration::from_secs(1));
                assert!(child.join().is_err());
            }
        }
    });
}

#[test]
fn na_30_limits_are_kept_while_a_peer_is_stopped() {
    for_each_method(|context| {
        const LIMIT: Duration = Duration::from_millis(100);
        /// What a busy machine may add.
        const SLACK: Duration = Duration::from_millis(900);
        let queue = JoinableQueue::<Vec<u8>>::unbounded().expect("a queue");
        let plain = Queue::<Vec<u8>>::unbounded().expect("a queue");
        // Most of the time it has one of the locks of one of them.
        let child = |queue: JoinableQueue<Vec<u8>>, plain: Queue<Vec<u8>>| {
            let large = vec![1; 16 << 20];
            while !plain.is_closed() {
                plain.put_ref(&large).expect("put");
                queue.put(vec![2; 4 << 20]).expect("put");
                plain.get().expect("an item");
                queue.get().expect("an item");
                queue.task_done().expect("one item");
            }
        };
        let child = context.process(child, (queue.clone(), plain.clone())).start().expect("a child");
        let mut held_up = 0;
        for round in 0..20 {
            std::thread::sleep(Duration::from_micros(2000 + round * 777));
            kill(child.pid(), Signal::STOP);
            wait_until("it is stopped", || state_of(child.pid()) == Some('T'));
            let mut in_time = |what: &str, call: &mut dyn FnMut() -> bool| {
                let began = Instant::now();
                held_up += u32::from(!call());
                assert!(began.elapsed() < LIMIT + SLACK, "{what} took {:?}", began.elapsed());
            };
            in_time("get_timeout", &mut || {
                !matches!(plain.get_timeout(LIMIT), Err(Error::Empty)) || plain.is_empty()
            });
            in_time("try_get", &mut || !matches!(plain.try_get(), Err(Error::Empty)) || plain.is_empty());
            in_time("get_many_timeout", &mut || plain.get_many_timeout(3, LIMIT).is_ok() || plain.is_empty());
            in_time("put_timeout", &mut || plain.put_timeout(vec![3], LIMIT).is_ok());
            in_time("try_put", &mut || plain.try_put(vec![3]).is_ok());
            in_time("join_timeout", &mut || queue.join_timeout(LIMIT).is_ok() || queue.unfinished() > 0);
            in_time("len", &mut || plain.len() < 100 && queue.len() < 100);
            kill(child.pid(), Signal::CONT);
            // So that it does not find it empty for ever.
            plain.put(vec![4]).and_then(|()| queue.put(vec![4])).expect("put");
        }
        assert!(held_up > 0, "it never had a lock when it was stopped");
        kill(child.pid(), Signal::STOP);
        let began = Instant::now();
        plain.close().and_then(|()| queue.close()).expect("closed");
        assert!(began.elapsed() < SLACK);
        kill(child.pid(), Signal::KILL);
        assert!(child.join().is_err());
        while plain.get_timeout(SOON).is_ok() {}
        assert!(matches!(plain.get(), Err(Error::Closed)));
    });
}

/// Bytes that the memory of the one queue of this process takes.
fn pages() -> u64 {
    let fds = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
    let is_queue = |path: &PathBuf| {
        path.read_link().is_ok_and(|target| target.to_string_lossy().contains("multiprocess-queue"))
    };
    let files = fds.map(|entry| entry.path()).filter(is_queue);
    files.map(|path| path.metadata().expect("a file").blocks() * 512).sum()
}

#[test]
fn a_million_items_come_and_go() {
    alone(|| {
        const ITEMS: u32 = 1_000_000;
        let queue = Queue::<(u32, Vec<u8>)>::unbounded().expect("a queue");
        let content = vec![7; 1024];
        for chunk in (0..ITEMS).step_by(500) {
            queue.put_many((chunk..chunk + 500).map(|number| (number, content.clone()))).expect("put");
        }
        assert_eq!(queue.len(), ITEMS as usize);
        assert!(pages() > 1_000_000_000);
        let child = |queue: Queue<(u32, Vec<u8>)>| {
            let mut expected = 0;
            while expected < ITEMS {
                for (number, content) in queue.get_many(1000).expect("items") {
                    assert!(number == expected && content.len() == 1024 && content[1023] == 7);
                    expected += 1;
                }
            }
        };
        Context::spawn()
            .process(child, (queue.clone(),))
            .start()
            .expect("a child")
            .join()
            .expect("an orderly end");
        assert!(queue.is_empty());
        assert!(pages() < 8 << 20, "{} bytes are left", pages());
        queue.put((1, content)).expect("put");
        assert_eq!(queue.get().expect("an item").0, 1);
    });
}

#[test]
fn na_14_memory_that_is_refused_is_an_error_to_the_putter() {
    alone(|| {
        let queue = Queue::<Vec<u8>>::unbounded().expect("a queue");
        queue.put(vec![1; 1000]).expect("put");
        let large = vec![2; 100 << 20];
        let used = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
        let pages: u64 = used.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number");
        // Not enough for a ring that holds the item.
        let room = Some(pages * 4096 + (64 << 20));
        let before = getrlimit(Resource::As);
        setrlimit(Resource::As, Rlimit { current: room, maximum: before.maximum }).expect("a limit");
        let error = queue.put_ref(&large).expect_err("not put");
        assert!(matches!(error, Error::Ground(_) | Error::Encode(_)), "{error}");
        queue.put(vec![3; 1000]).expect("put");
        setrlimit(Resource::As, before).expect("a limit");
        queue.put(large.clone()).expect("put");
        assert_eq!(queue.get().expect("an item"), [1; 1000]);
        assert_eq!(queue.get().expect("an item"), [3; 1000]);
        assert!(queue.get().expect("an item") == large);
    });
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted").lines().count()
}

#[test]
fn na_17_ten_thousand_queues_leave_nothing() {
    for_each_method(|_| {
        let go = |rounds: u32| {
            for round in 0..rounds {
                let queue = Queue::<(Lock, Handle<File>, Vec<u8>)>::bounded(4).expect("a queue");
                let joinable = JoinableQueue::<u32>::unbounded().expect("a queue");
                let simple = SimpleQueue::<u32>::new().expect("a queue");
                joinable.put(1).and_then(|()| simple.put(1)).expect("put");
                let item = || (Lock::new().expect("a lock"), file(1), vec![0; (round % 100_000) as usize]);
                queue.put(item()).expect("put");
                drop(queue.get().expect("an item"));
                // One that nobody gets.
                queue.put(item()).expect("put");
                if round % 100 == 0 {
                    queue.ready_fd().expect("a descriptor");
                }
            }
        };
        go(200);
        let threads = || std::fs::read_dir("/proc/self/task").expect("/proc is mounted").count();
        wait_until("the last watcher has ended", || threads() == 1);
        let before = Belongings::now();
        let mapped = mappings();
        go(3400);
        before.assert_same();
        assert!(mappings() <= mapped + 20, "{mapped} mappings before, {} now", mappings());
    });
}

/// NA-17: a process that has no descriptor left gets errors that say so, and goes on when it has some again.
#[test]
fn na_17_a_process_without_descriptors_left() {
    alone(|| {
        let (queue, plain) = (
            Queue::<Handle<File>>::unbounded().expect("a queue"),
            Queue::<u32>::bounded(9).expect("a queue"),
        );
        for number in 0..4 {
            queue.put(file(number)).expect("put");
        }
        let (near, far) = pipe().expect("a pipe");
        far.send(&file(7)).and_then(|()| far.send(&8)).expect("sent");
        let to_put = file(4);
        let before = getrlimit(Resource::Nofile);
        let lowest_free = File::open("/dev/null").expect("a file").as_raw_fd() as u64;
        let most = Rlimit { current: Some(lowest_free), ..before };
        setrlimit(Resource::Nofile, most).expect("a limit");

        let says_so = |what: &str, error: String| {
            assert!(error.contains("Too many open files"), "{what}: {error}");
        };
        says_so("bounded", Queue::<u32>::bounded(1).map(drop).expect_err("none left").to_string());
        says_so("unbounded", Queue::<u32>::unbounded().map(drop).expect_err("none left").to_string());
        says_so("joinable", JoinableQueue::<u32>::bounded(1).map(drop).expect_err("none left").to_string());
        says_so("simple", SimpleQueue::<u32>::new().map(drop).expect_err("none left").to_string());
        says_so("watched", queue.ready_fd().map(drop).expect_err("none left").to_string());
        says_so("pipe", pipe().map(drop).expect_err("none left").to_string());
        says_so("listener", Listener::new().map(drop).expect_err("none left").to_string());
        says_so("closed", near.close().expect_err("none left").to_string());
        // An item that cannot be received whole is gone, as one that cannot be decoded; the queue goes on.
        says_so("get", queue.get().map(drop).expect_err("none left").to_string());
        says_so("get_many", queue.get_many(2).map(drop).expect_err("none left").to_string());
        assert_eq!(queue.len(), 2);
        // What needs none, works.
        plain.put(1).expect("put");
        assert_eq!(plain.get().expect("an item"), 1);
        says_so("put", queue.put_ref(&to_put).expect_err("none left").to_string());
        assert_eq!(queue.len(), 2);

        setrlimit(Resource::Nofile, before).expect("a limit");
        queue.put(to_put).expect("put");
        for expected in 2..=4 {
            assert_eq!(name(&mut queue.get().expect("an item")), expected);
        }
        assert_eq!(name(&mut near.recv().expect("a file")), 7);
        assert_eq!(near.recv::<i32>().expect("a number"), 8);
        near.close().expect("closed");
        Queue::<u32>::bounded(1).and_then(|queue| queue.ready_fd()).expect("a descriptor");
    });
}
