//! EINT: signals that arrive during blocking calls. The handler is installed without `SA_RESTART`, so that the system
//! ends each call with `EINTR`, and each signal is sent when the process is seen to sleep.

mod common;

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use mp_sync::{Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore};
use multiprocess::core::Error;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::core::wait::wait_ready;
use multiprocess::{
    Address, Handle, JoinableQueue, Listener, Pool, ProcessError, Queue, connect, current_process,
};
use rustix::process::{Pid, Signal, kill_process};

use common::{for_each_method, is_running, state_of, wait_until};

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, SeqCst);
}

fn count_signals() {
    // SAFETY: all fields of the action are set or may be zero, and the handler does nothing but an atomic addition.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_signal as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut())
    };
    assert_eq!(done, 0);
}

/// Sends a signal as soon as the process sleeps; whether it still ran.
fn interrupt(pid: u32) {
    wait_until("the process sleeps", || state_of(pid) == Some('S'));
    kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::USR1).expect("a signal sent");
}

/// More than any socket buffers.
const LARGE: usize = 16 << 20;

#[test]
fn eint_01_receive_and_send() {
    for_each_method(|context| {
        let child = |there: Connection| {
            count_signals();
            there.send("ready").expect("sent");
            let number: u32 = there.recv().expect("a number");
            there.send(&number).expect("sent");
            there.send_bytes(&vec![7; LARGE]).expect("sent");
            let bytes = there.recv_bytes().expect("bytes");
            assert!(bytes == vec![8; LARGE]);
            there.recv_timeout::<()>(Duration::from_secs(60)).expect("leave to go");
            there.send(&SIGNALS.load(SeqCst)).expect("sent");
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        assert_eq!(here.recv::<String>().expect("a word of the child"), "ready");
        (0..5).for_each(|_| interrupt(child.pid()));
        here.send(&1234_u32).expect("sent");
        assert_eq!(here.recv::<u32>().expect("the number"), 1234);
        // It sleeps with a part of its message sent.
        here.poll_forever().expect("a message");
        (0..5).for_each(|_| interrupt(child.pid()));
        assert!(here.recv_bytes().expect("bytes") == vec![7; LARGE]);
        // It sleeps, having received a part.
        let (first, second) = ([8; 1000], vec![8; LARGE - 1000]);
        let frame = split_frame(&here, LARGE as u64);
        frame(&first);
        (0..5).for_each(|_| interrupt(child.pid()));
        frame(&second);
        (0..5).for_each(|_| interrupt(child.pid()));
        here.send(&()).expect("sent");
        assert!(here.recv::<u32>().expect("a count") >= 1);
        child.join().expect("an orderly end");
    });
}

/// Queues as connections: whoever waits for an item, for room or for the last `task_done` waits on.
#[test]
fn eint_01_queues() {
    for_each_method(|context| {
        for which in 0..4 {
            let queue = JoinableQueue::<u32>::bounded(1).expect("a queue");
            let files = Queue::<Handle<File>>::bounded(1).expect("a queue");
            let wait =
                |queue: JoinableQueue<u32>, files: Queue<Handle<File>>, which: usize, there: Connection| {
                    count_signals();
                    there.send("ready").expect("sent");
                    match which {
                        0 => assert_eq!(queue.get().expect("an item"), 7),
                        1 => queue.put(8).expect("put"),
                        2 => queue.join().expect("all are done"),
                        _ => drop(files.get().expect("a file")),
                    }
                    there.send(&()).expect("sent");
                    SIGNALS.load(SeqCst)
                };
            if [1, 2].contains(&which) {
                queue.put(7).expect("put");
            }
            let (here, there) = pipe().expect("a pipe");
            let arguments = (queue.clone(), files.clone(), which, there);
            let child = context.process(wait, arguments).start().expect("a child");
            assert_eq!(here.recv::<String>().expect("a word of the child"), "ready");
            for _ in 0..20 {
                interrupt(child.pid());
                assert!(!here.poll(Duration::from_millis(5)).expect("a poll"), "it did not wait");
            }
            match which {
                0 => queue.put(7).expect("put"),
                1 => assert_eq!(queue.get().expect("an item"), 7),
                2 => queue.get().map(drop).and_then(|()| queue.task_done()).expect("done"),
                _ => files.put(Handle(File::open("/dev/null").expect("a file"))).expect("put"),
            }
            here.recv::<()>().expect("it waits no more");
            assert!(child.join().expect("a count") >= 5);
        }
    });
}

/// Begins a message of `length` bytes, whose parts may then be written one by one.
fn split_frame(connection: &Connection, length: u64) -> impl Fn(&[u8]) {
    let raw = std::os::fd::AsFd::as_fd(connection).try_clone_to_owned().expect("a descriptor");
    let raw = std::os::unix::net::UnixStream::from(raw);
    // The header of a message that is not sent: a one-byte message, its length exchanged.
    let (mut tap, end) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    Connection::from_fd(end.into()).expect("a connection").send_bytes(b"x").expect("sent");
    let mut header = Vec::new();
    std::io::Read::read_to_end(&mut tap, &mut header).expect("a frame");
    header.pop();
    header[..8].copy_from_slice(&length.to_le_bytes());
    std::io::Write::write_all(&mut &raw, &header).expect("written");
    move |part| std::io::Write::write_all(&mut &raw, part).expect("written")
}

#[test]
fn eint_02_accept() {
    for_each_method(|context| {
        let key = || current_process().authkey().clone();
        let child = |there: Connection, with_key: bool| {
            count_signals();
            let builder = Listener::builder();
            let builder =
                if with_key { builder.authkey(current_process().authkey().clone()) } else { builder };
            let listener = builder.bind_fresh().expect("a listener");
            there.send(listener.address().expect("an address")).expect("sent");
            listener.accept().expect("a client").send("welcome").expect("sent");
            there.send(&SIGNALS.load(SeqCst)).expect("sent");
        };
        for with_key in [false, true] {
            let (here, there) = pipe().expect("a pipe");
            let child = context.process(child, (there, with_key)).start().expect("a child");
            let address: Address = here.recv().expect("an address");
            (0..5).for_each(|_| interrupt(child.pid()));
            let client = connect(address, with_key.then(key).as_ref()).expect("a connection");
            assert_eq!(client.recv::<String>().expect("a word"), "welcome");
            assert!(here.recv::<u32>().expect("a count") >= 1);
            child.join().expect("an orderly end");
        }
    });
}

/// Connecting, too, while nobody accepts.
#[test]
fn eint_02_connect() {
    for_each_method(|context| {
        let listener = Listener::builder().authkey(current_process().authkey().clone()).bind_fresh();
        let listener = listener.expect("a listener");
        let child = |address: Address, there: Connection| {
            count_signals();
            there.send("ready").expect("sent");
            let client = connect(address, Some(current_process().authkey())).expect("a connection");
            client.send(&SIGNALS.load(SeqCst)).expect("sent");
        };
        let (here, there) = pipe().expect("a pipe");
        let address = listener.address().expect("an address").clone();
        let child = context.process(child, (address, there)).start().expect("a child");
        assert_eq!(here.recv::<String>().expect("a word of the child"), "ready");
        (0..5).for_each(|_| interrupt(child.pid()));
        assert!(listener.accept().expect("a client").recv::<u32>().expect("a count") >= 1);
        child.join().expect("an orderly end");
    });
}

#[test]
fn eint_03_join() {
    for_each_method(|context| {
        count_signals();
        let child = |parent: u32| (0..20).for_each(|_| interrupt(parent));
        let child = context.process(child, (std::process::id(),)).start().expect("a child");
        child.join().expect("an orderly end");
        assert!(!is_running(child.pid()));
        assert_eq!(child.exit_code(), Some(0));
        assert!(SIGNALS.load(SeqCst) >= 1);
    });
}

/// Time limits end when they should, however many signals come, and not before.
#[test]
fn eint_03_time_limits() {
    for_each_method(|context| {
        count_signals();
        let child = |parent: u32, there: Connection| {
            while !there.poll(Duration::from_millis(5)).expect("a poll") {
                interrupt(parent);
            }
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (std::process::id(), there)).start().expect("a child");
        let limit = Duration::from_millis(300);
        let within = |what: &str, wait: &dyn Fn()| {
            let start = Instant::now();
            wait();
            let took = start.elapsed();
            assert!(took >= limit && took < limit + Duration::from_secs(2), "{what} took {took:?}");
        };
        within("join", &|| {
            assert!(matches!(child.join_timeout(limit), Err(ProcessError::Timeout { .. })));
        });
        within("recv", &|| {
            assert!(matches!(here.recv_timeout::<()>(limit), Err(Error::Timeout { .. })));
        });
        within("poll", &|| assert!(!here.poll(limit).expect("a poll")));
        let (lock, recursive) = (Lock::new().expect("a lock"), RLock::new().expect("a lock"));
        let (none, event) = (Semaphore::new(0).expect("a semaphore"), Event::new().expect("an event"));
        let (two, condition) = (Barrier::new(2).expect("a barrier"), Condition::new().expect("a condition"));
        let _guard = lock.lock().expect("the lock");
        within("lock", &|| assert!(lock.lock_timeout(limit).is_err()));
        within("recursive lock", &|| {
            let _guard = recursive.lock().expect("the lock");
            let waits = || assert!(recursive.lock_timeout(limit).is_err());
            std::thread::scope(|scope| scope.spawn(waits).join().expect("no panic"));
        });
        within("semaphore", &|| assert!(none.acquire_timeout(limit).is_err()));
        within("event", &|| assert!(!event.wait_timeout(limit)));
        within("barrier", &|| assert!(two.wait_timeout(limit).is_err()));
        within("condition", &|| {
            let mut guard = condition.lock().expect("the lock");
            assert!(!condition.wait_timeout(&mut guard, limit).expect("the lock"));
        });
        let (empty, full) =
            (JoinableQueue::<u32>::bounded(1).expect("a queue"), Queue::<u32>::bounded(1).expect("a queue"));
        full.put(1).expect("put");
        within("get", &|| assert!(empty.get_timeout(limit).is_err()));
        within("get_many", &|| assert!(empty.get_many_timeout(2, limit).is_err()));
        within("put", &|| assert!(full.put_timeout(2, limit).is_err()));
        within("join of a queue", &|| {
            empty.put(1).and_then(|()| empty.get()).expect("an item");
            assert!(empty.join_timeout(limit).is_err());
        });
        within("wait", &|| assert!(wait_ready(&[&here], Some(limit)).expect("a wait").is_empty()));
        here.send(&()).expect("sent");
        child.join().expect("an orderly end");
        assert!(SIGNALS.load(SeqCst) >= 1);
    });
}

/// The parent starts processes, and its pool works, while signals rain.
#[test]
fn eint_03_starts_and_pools() {
    for_each_method(|context| {
        count_signals();
        let child = |parent: u32, there: Connection| {
            while !there.poll(Duration::from_millis(1)).expect("a poll") {
                let parent = Pid::from_raw(parent as i32).expect("a pid");
                kill_process(parent, Signal::USR1).expect("a signal sent");
            }
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (std::process::id(), there)).start().expect("a child");
        for number in 0..20 {
            let square = context.process(|n: u64| n * n, (number,)).start().expect("a child");
            assert_eq!(square.join().expect("a result"), number * number);
        }
        let pool = Pool::builder().processes(2).context(context).build().expect("a pool");
        for _ in 0..20 {
            assert!(pool.map(|n: u64| n + 1, 0..100).expect("results").into_iter().eq(1..101));
        }
        drop(pool);
        here.send(&()).expect("sent");
        child.join().expect("an orderly end");
        assert!(SIGNALS.load(SeqCst) >= 1);
    });
}

/// The signals that a thread blocks, by bit, from its record in /proc.
fn blocked(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
    u64::from_str_radix(line.trim(), 16).expect("a number")
}

/// The threads of the library take no signal away from those of the program; what they start blocks none.
#[test]
fn the_threads_of_the_library_block_all_signals_and_their_children_none() {
    struct Silent;
    impl log::Log for Silent {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, _: &log::Record<'_>) {}
        fn flush(&self) {}
    }
    for_each_method(|context| {
        // With a logger, its thread is there as well.
        log::set_logger(&Silent).expect("the first");
        log::set_max_level(log::LevelFilter::Warn);
        let of_task = || blocked(&std::fs::read_to_string("/proc/thread-self/status").expect("/proc"));
        assert_eq!(of_task(), 0);
        let pool = Pool::builder().processes(1).context(context).build().expect("a pool");
        // A worker that this thread started. By the time of its answer, all threads have named themselves.
        assert_eq!(pool.apply(of_task, ()).expect("a mask"), 0);
        let mut names = Vec::new();
        for task in std::fs::read_dir("/proc/self/task").expect("/proc").flatten() {
            let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
            let name = status.lines().next().and_then(|line| line.strip_prefix("Name:\t")).expect("a name");
            if name.starts_with("mp-") {
                names.push(name.to_owned());
                for signal in
                    [Signal::HUP, Signal::INT, Signal::TERM, Signal::USR1, Signal::CHILD, Signal::IO]
                {
                    assert!(blocked(&status) & (1 << (signal.as_raw() - 1)) != 0, "{name}: {signal:?}");
                }
            }
        }
        assert!(names.iter().any(|name| name == "mp-pool"), "{names:?}");
        // One that the pool's thread started, by a server that it started as well.
        if let Some(server) = multiprocess::server_pid() {
            kill_process(Pid::from_raw(server as i32).expect("a pid"), Signal::KILL).expect("a signal");
        }
        pool.apply(|| -> () { std::process::abort() }, ()).expect_err("lost");
        assert_eq!(pool.apply(of_task, ()).expect("a mask"), 0);
        assert_eq!(of_task(), 0);
        drop(pool);
        log::set_max_level(log::LevelFilter::Off);
    });
}

/// EINT-04: what is waited for comes after half a second of signals.
#[test]
fn eint_04_condition_event_and_barrier() {
    type Three = (Condition, Event, Barrier);
    for_each_method(|context| {
        let three = (
            Condition::new().expect("a condition"),
            Event::new().expect("an event"),
            Barrier::new(2).expect("a barrier"),
        );
        for which in 0..3 {
            let wait = |three: Three, which: usize, there: Connection| {
                count_signals();
                let mut guard = three.0.lock().expect("the lock");
                there.send("ready").expect("sent");
                match which {
                    0 => three.0.wait(&mut guard).expect("a notification"),
                    1 => three.1.wait(),
                    _ => assert!(three.2.wait().expect("two parties") < 2),
                }
                drop(guard);
                there.send(&()).expect("sent");
                SIGNALS.load(SeqCst)
            };
            let (here, there) = pipe().expect("a pipe");
            let child = context.process(wait, (three.clone(), which, there)).start().expect("a child");
            assert_eq!(here.recv::<String>().expect("a word of the child"), "ready");
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(500) {
                interrupt(child.pid());
                assert!(!here.poll(Duration::from_millis(10)).expect("a poll"), "it did not wait");
            }
            match which {
                0 => {
                    let _guard = three.0.lock().expect("the lock");
                    assert_eq!(three.0.notify_all().expect("the lock"), 1);
                }
                1 => three.1.set(),
                _ => assert!(three.2.wait().expect("two parties") < 2),
            }
            here.recv::<()>().expect("it waits no more");
            assert!(child.join().expect("a count") >= 10);
        }
    });
}

/// EINT-04: each is held elsewhere while the waiter gets a signal every 10 ms.
#[test]
fn eint_04_lock_recursive_lock_and_semaphore() {
    for_each_method(|context| {
        let held = (
            Lock::new().expect("a lock"),
            RLock::new().expect("a lock"),
            Semaphore::new(1).expect("a semaphore"),
            BoundedSemaphore::new(1).expect("a semaphore"),
        );
        for which in 0..4 {
            let wait = |held: (Lock, RLock, Semaphore, BoundedSemaphore), which: usize, there: Connection| {
                count_signals();
                there.send("ready").expect("sent");
                let acquired = match which {
                    0 => held.0.lock().map(drop),
                    1 => held.1.lock().map(drop),
                    2 => held.2.acquire().map(drop),
                    _ => held.3.acquire().map(drop),
                };
                there.send(&acquired.is_ok()).expect("sent");
                SIGNALS.load(SeqCst)
            };
            let guards = (
                held.0.lock().expect("the lock"),
                held.1.lock().expect("the lock"),
                held.2.acquire().expect("a permit"),
                held.3.acquire().expect("a permit"),
            );
            let (here, there) = pipe().expect("a pipe");
            let child = context.process(wait, (held.clone(), which, there)).start().expect("a child");
            assert_eq!(here.recv::<String>().expect("a word of the child"), "ready");
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(500) {
                interrupt(child.pid());
                assert!(!here.poll(Duration::from_millis(10)).expect("a poll"), "it did not wait");
            }
            drop(guards);
            assert!(here.recv::<bool>().expect("whether it succeeded"));
            assert!(child.join().expect("a count") >= 10);
        }
    });
}
