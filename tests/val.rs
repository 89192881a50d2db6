//! VAL: values and arrays that processes share, and what becomes of them when processes are killed.

mod common;

use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};
use multiprocess as mp;
use multiprocess::core::arena::Arena;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::shm::copy;
use multiprocess::{
    Array, Context, Lock, Process, ProcessError, RLock, RawArray, RawValue, Synchronized, Value, synchronized,
};

use common::{Belongings, SOON, alone, for_each_method, sleep_for_ever, wait_until};

type Scalars = (Value<i32>, Value<f64>, Value<i16>, Value<i64>, Value<u8>);

fn read(values: &Scalars) -> (i32, f64, i16, i64, u8) {
    let (a, b, c, d, e) = values;
    (a.get().expect("a"), b.get().expect("b"), c.get().expect("c"), d.get().expect("d"), e.get().expect("e"))
}

#[test]
fn val_01_scalar_values() {
    for_each_method(|context| {
        let make = || -> mp::shm::Result<Scalars> {
            Ok((
                Value::new(4343)?,
                Value::new(3.625)?,
                Value::new(-232)?,
                Value::new(1 << 33)?,
                Value::new(b'x')?,
            ))
        };
        let values = make().expect("values");
        assert_eq!(read(&values), (4343, 3.625, -232, 1 << 33, b'x'));
        let write = |(a, b, c, d, e): Scalars| {
            a.set(24234).expect("a");
            b.set(-4.25).expect("b");
            c.set(234).expect("c");
            d.set(1 << 34).expect("d");
            e.set(b'y').expect("e");
        };
        context.process(write, (values.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert_eq!(read(&values), (24234, -4.25, 234, 1 << 34, b'y'));
    });
}

#[test]
fn val_02_raw_scalar_values() {
    type Raw = (RawValue<i32>, RawValue<f64>, RawValue<i16>, RawValue<i64>, RawValue<u8>);
    for_each_method(|context| {
        let make = || -> mp::shm::Result<Raw> {
            Ok((
                RawValue::new(4343)?,
                RawValue::new(3.625)?,
                RawValue::new(-232)?,
                RawValue::new(1 << 33)?,
                RawValue::new(b'x')?,
            ))
        };
        let values = make().expect("values");
        let read = |(a, b, c, d, e): &Raw| (a.get(), b.get(), c.get(), d.get(), e.get());
        assert_eq!(read(&values), (4343, 3.625, -232, 1 << 33, b'x'));
        let write = |(a, b, c, d, e): Raw| {
            a.set(24234);
            b.set(-4.25);
            c.set(234);
            d.set(1 << 34);
            e.set(b'y');
        };
        context.process(write, (values.clone(),)).start().expect("a child").join().expect("an orderly end");
        assert_eq!(read(&values), (24234, -4.25, 234, 1 << 34, b'y'));
    });
}

#[test]
fn val_03_values_do_not_alias() {
    let values: Vec<_> = (0..1000_u32).map(|n| Value::new(n).expect("a value")).collect();
    *values[0].lock().expect("a lock") = u32::MAX;
    assert!(values.iter().zip(0..1000).skip(1).all(|(value, n)| value.get().expect("a number") == n));
    assert_eq!(values[0].get().expect("a number"), u32::MAX);
    let guards: Vec<_> = values.iter().map(|value| value.try_lock().expect("a lock of its own")).collect();
    assert_eq!(guards.iter().filter(|guard| ***guard < 1000).count(), 999);
}

#[test]
fn val_04_array_operations() {
    for_each_method(|context| {
        let mut local = [680, 626, 934, 821, 150, 233, 548, 982, 714, 831];
        let array = Array::from_slice(&local).expect("an array");
        assert_eq!((array.len(), array.get(3).expect("an element")), (10, local[3]));
        let mut slice = [0; 5];
        array.copy_to_slice(2, &mut slice).expect("in bounds");
        assert_eq!(slice, local[2..7]);
        array.copy_from_slice(4, &[1, 2, 3, 4]).expect("in bounds");
        local[4..8].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(array.to_vec().expect("a list"), local);
        array.lock().expect("a lock")[3..6].sort();
        local[3..6].sort();
        assert_eq!(*array.lock().expect("a lock"), local);

        let sums = |array: Array<i32>| {
            let mut guard = array.lock().expect("a lock");
            (1..guard.len()).for_each(|i| guard[i] += guard[i - 1]);
        };
        context.process(sums, (array.clone(),)).start().expect("a child").join().expect("an orderly end");
        (1..local.len()).for_each(|i| local[i] += local[i - 1]);
        assert_eq!(array.to_vec().expect("a list"), local);
        let error = array.get(10).expect_err("out of bounds").to_string();
        assert!(error.contains("10"), "{error}");
    });
}

#[test]
fn val_05_raw_array() {
    for_each_method(|context| {
        let mut local = [680, 626, 934, 821, 150, 233, 548, 982, 714, 831];
        let array = RawArray::from_slice(&local).expect("an array");
        assert_eq!((array.len(), array.get(3).expect("an element")), (10, local[3]));
        let mut slice = [0; 5];
        array.copy_to_slice(2, &mut slice).expect("in bounds");
        assert_eq!(slice, local[2..7]);
        array.copy_from_slice(4, &[1, 2, 3, 4]).expect("in bounds");
        local[4..8].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(array.to_vec(), local);
        let sums = |array: RawArray<i32>| {
            for i in 1..array.len() {
                let sum = array.get(i).expect("an element") + array.get(i - 1).expect("an element");
                array.set(i, sum).expect("in bounds");
            }
        };
        context.process(sums, (array.clone(),)).start().expect("a child").join().expect("an orderly end");
        (1..local.len()).for_each(|i| local[i] += local[i - 1]);
        assert_eq!(array.to_vec(), local);
    });
}

/// An array of many pages, in a segment of its own.
#[test]
fn val_04_a_large_array() {
    for_each_method(|context| {
        const LENGTH: usize = 1_000_000;
        let array = Array::<f64>::zeroed(LENGTH).expect("an array");
        let fill = |array: Array<f64>, part: usize| {
            let part = part * LENGTH / 4..(part + 1) * LENGTH / 4;
            array.lock().expect("a lock")[part.clone()].iter_mut().zip(part).for_each(|(x, i)| *x = i as f64);
        };
        let start = |part| context.process(fill, (array.clone(), part)).start().expect("a child");
        let children: Vec<_> = (0..4).map(start).collect();
        children.iter().for_each(|child| child.join().expect("an orderly end"));
        assert!(array.lock().expect("a lock").iter().zip(0..).all(|(x, i)| *x == f64::from(i)));
    });
}

#[test]
fn val_06_lock_options() {
    for_each_method(|context| {
        let lock = Lock::new().expect("a lock");
        let value = Value::with_lock(1_u8, &lock).expect("a value");
        let array = Array::with_lock(&[1_u64, 2], &lock).expect("an array");
        assert!(value.get_lock() == &lock && array.get_lock() == &lock);
        let own = (Value::new(1_u8).expect("a value"), Array::<u8>::zeroed(1).expect("an array"));
        assert!(own.0.get_lock() != &lock && own.1.get_lock() != &lock);

        // Whoever holds the given lock keeps others from both; and it is that lock over there, too.
        let guard = lock.lock().expect("the lock");
        assert!(value.try_lock().is_err() && array.try_lock().is_err());
        let look = |lock: Lock, value: Value<u8>, array: Array<u64>, own: (Value<u8>, Array<u8>)| {
            let same = value.get_lock() == &lock && array.get_lock() == &lock;
            let free = own.0.try_lock().is_ok() && own.1.try_lock().is_ok();
            (same, value.try_lock().is_ok() || array.try_lock().is_ok(), free)
        };
        let child = context.process(look, (lock.clone(), value.clone(), array.clone(), own.clone()));
        assert_eq!(child.start().expect("a child").join().expect("an answer"), (true, false, true));
        drop(guard);
        let guard = own.0.get_lock().lock().expect("its own lock");
        assert!(own.0.try_lock().is_err());
        drop(guard);
        assert!(own.0.try_lock().is_ok());
    });
}

/// A raw object with a lock: the same memory, the very lock, and a recursive one may be taken again.
#[test]
fn val_06_a_raw_array_with_a_lock() {
    for_each_method(|context| {
        let (raw, lock) = (RawArray::<u32>::zeroed(3).expect("an array"), RLock::new().expect("a lock"));
        let array = synchronized(raw.clone(), &lock);
        assert_eq!(array.get_lock(), &lock);
        let work = |array: Synchronized<RawArray<u32>, RLock>| {
            for _ in 0..500 {
                let guard = array.lock().expect("the lock");
                for i in 0..3 {
                    array.set(i, guard.get(i).expect("an element") + 1).expect("the lock again");
                }
            }
        };
        let start = |_| context.process(work, (array.clone(),)).start().expect("a child");
        let children: Vec<Process<()>> = (0..3).map(start).collect();
        children.iter().for_each(|child| child.join().expect("an orderly end"));
        assert_eq!(raw.to_vec(), [1500; 3]);
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Foo {
    x: i64,
    y: f64,
    z: i64,
}

#[test]
fn val_07_a_copy_is_independent() {
    for_each_method(|context| {
        const FOO: Foo = Foo { x: 2, y: 5.0, z: 1 << 33 };
        let foo = Value::new(FOO).expect("a value");
        let (bar, raw) = (copy(&foo).expect("a copy"), RawValue::new(FOO).expect("a value"));
        let kept = copy(&raw).expect("a copy");
        let zero = |foo: Value<Foo>, raw: RawValue<Foo>| {
            foo.update(|foo| (foo.x, foo.y, foo.z) = (0, 0.0, 0)).expect("a lock");
            raw.set(Foo::zeroed());
        };
        let child = context.process(zero, (foo.clone(), raw.clone())).start().expect("a child");
        child.join().expect("an orderly end");
        assert_eq!((foo.get().expect("a value"), raw.get()), (Foo::zeroed(), Foo::zeroed()));
        assert_eq!((bar.get().expect("a value"), kept.get()), (FOO, FOO));
        assert!(bar != foo && bar.get_lock() != foo.get_lock());
    });
}

fn count(value: Value<u64>, rounds: u64) {
    (0..rounds).for_each(|_| *value.lock().expect("a lock") += 1);
}

#[test]
fn val_08_locked_increments_add_up() {
    for_each_method(|context| {
        let value = Value::new(0_u64).expect("a value");
        let start = |_| context.process(count, (value.clone(), 1000)).start().expect("a child");
        let children: Vec<_> = (0..4).map(start).collect();
        children.iter().for_each(|child| child.join().expect("an orderly end"));
        assert_eq!(value.get().expect("a number"), 4000);

        let value = Value::new(0_u64).expect("a value");
        let two_threads = |value: Value<u64>| {
            std::thread::scope(|scope| {
                (0..2).for_each(|_| drop(scope.spawn(|| count(value.clone(), 50))));
            });
        };
        let start = |_| context.process(two_threads, (value.clone(),)).start().expect("a child");
        let children: Vec<_> = (0..10).map(start).collect();
        children.iter().for_each(|child| child.join().expect("an orderly end"));
        assert_eq!(value.get().expect("a number"), 1000);
    });
}

/// Counts of four processes, and their sum.
type Counts = Value<[u64; 5]>;

/// Adds one to the count and the sum, in two steps; makes good what a dead process left half done.
fn add(counts: &Counts, me: usize) {
    let mut guard = counts.lock().expect("a lock");
    if guard.owner_died().is_some() {
        guard[4] = guard[..4].iter().sum();
    }
    assert_eq!(guard[4], guard[..4].iter().sum(), "only the dead leave it half done");
    guard[me] += 1;
    // Long enough for a good part of the kills to fall in between.
    (0..200).for_each(|_| std::hint::spin_loop());
    guard[4] += 1;
}

#[test]
fn val_08_increments_add_up_with_kills_at_any_moment() {
    for_each_method(|context| {
        let work = |counts: Counts, me: usize, rounds: u64| (0..rounds).for_each(|_| add(&counts, me));
        for round in 0..5 {
            let counts = Value::new([0; 5]).expect("a value");
            let start = |me| context.process(work, (counts.clone(), me, 1500)).start().expect("a child");
            let children: Vec<Process<()>> = (0..4).map(start).collect();
            for victim in [round % 4, (round + 1) % 4] {
                let goal = (victim as u64 + 1) * 100 + round as u64 * 37;
                wait_until("the counts grow", || {
                    // Whoever repairs the counts is still told.
                    counts.get().expect("counts")[victim] >= goal
                });
                children[victim].kill().expect("killed");
            }
            for (me, child) in children.iter().enumerate() {
                let ended = child.join();
                // A victim may have been done already.
                assert!(ended.is_ok() || [round % 4, (round + 1) % 4].contains(&me), "{ended:?}");
                if ended.is_ok() {
                    assert_eq!(counts.get().expect("counts")[me], 1500, "every increment of a survivor");
                }
            }
            add(&counts, 0);
            let counts = counts.get().expect("counts");
            assert_eq!(counts[4], counts[..4].iter().sum::<u64>());
        }
    });
}

/// NA-3: whoever comes next has the lock within 100 ms, and knows.
#[test]
fn val_08_the_next_one_is_told_that_the_holder_died() {
    for_each_method(|context| {
        let array = Array::from_slice(&[1_u64; 100]).expect("an array");
        let hold = |array: Array<u64>, to: Connection| {
            let mut guard = array.lock().expect("a lock");
            guard[..50].fill(2);
            to.send(&()).expect("sent");
            sleep_for_ever();
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(hold, (array.clone(), there)).start().expect("a child");
        here.recv::<()>().expect("it holds the lock");
        assert!(array.lock_timeout(Duration::from_millis(20)).is_err());
        child.kill().expect("killed");
        wait_until("it is dead", || !child.is_alive());
        assert_eq!(array.get(49).expect("an element"), 2);
        wait_until("its elements are shown", || format!("{array:?}").matches('2').count() == 50);
        let start = Instant::now();
        let mut guard = array.lock_timeout(SOON).expect("a lock");
        let time = start.elapsed();
        assert!(time < Duration::from_millis(100), "{time:?}");
        assert_eq!(guard.owner_died().expect("told").pid(), child.pid());
        assert_eq!((guard[49], guard[50]), (2, 1), "as it was left");
        guard.fill(3);
        drop(guard);
        assert!(array.lock().expect("a lock").owner_died().is_none(), "told once");
        let _ = child.join();
    });
}

/// A copy of a guard does not hold the lock; a lock that the child takes does.
#[test]
fn a_forked_child_reads_under_its_own_lock() {
    alone(|| {
        let value = Value::new(1_u64).expect("a value");
        let guard = value.lock().expect("a lock");
        let (here, there) = pipe().expect("a pipe");
        let child = Context::fork().fork_with(|| {
            there.send(&value.try_lock().is_err()).expect("sent");
            there.recv::<()>().expect("leave to lock");
            let mut own = value.lock().expect("a lock");
            *own += 1;
            *own
        });
        let child = child.expect("a child");
        assert!(here.recv::<bool>().expect("whether it is held"));
        drop(guard);
        here.send(&()).expect("sent");
        assert_eq!((child.join().expect("a number"), value.get().expect("a number")), (2, 2));
    });
}

#[cfg(debug_assertions)]
#[test]
fn the_copy_of_a_guard_in_a_forked_child_is_found_by_debug_builds() {
    alone(|| {
        let value = Value::new(1_u64).expect("a value");
        let mut guard = value.lock().expect("a lock");
        for write in [false, true] {
            let child = Context::fork().fork_with(|| if write { *guard = 2 } else { assert_eq!(*guard, 1) });
            match child.expect("a child").join() {
                Err(ProcessError::Panicked { report, .. }) => {
                    assert!(report.to_string().contains("but a copy of it"), "{report}")
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(*guard, 1);
        drop(guard);
        assert!(value.lock().expect("a lock").owner_died().is_none());
    });
}

#[test]
fn val_09_everything_freed_returns_to_the_system() {
    alone(|| {
        let before = Belongings::now();
        let mut random = 1_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize
        };
        let mut live: Vec<(Value<u64>, Option<Array<u8>>)> = Vec::new();
        for _ in 0..20_000 {
            let array = (next() % 4 == 0).then(|| Array::zeroed(next() % 5000).expect("an array"));
            live.push((Value::new(7).expect("a value"), array));
            if next() % 3 != 0 && live.len() > 100 {
                drop(live.swap_remove(next() % live.len()));
            }
        }
        while !live.is_empty() {
            drop(live.swap_remove(next() % live.len()));
        }
        Arena::global().sweep();
        assert_eq!(Arena::global().chunks(), 0);
        before.assert_same();
    });
}

/// Kilobytes of arena memory and of private memory, and the number of mappings. The pages of the arena's files count, whether
/// this process has touched them or not; its mappings are longer.
fn memory() -> (usize, usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("/proc is mounted");
    let (mut private, mut mappings) = (0, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        match first {
            "Anonymous:" => private += words.next().and_then(|size| size.parse().ok()).unwrap_or(0),
            _ if first.ends_with(':') => {}
            _ => mappings += 1,
        }
    }
    let fds =
        std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten().map(|entry| entry.path());
    let is_arena = |fd: &std::path::PathBuf| {
        std::fs::read_link(fd).is_ok_and(|file| file.to_string_lossy().contains("multiprocess-arena"))
    };
    let blocks =
        |fd| std::fs::metadata(fd).map_or(0, |file| std::os::unix::fs::MetadataExt::blocks(&file) as usize);
    (fds.filter(is_arena).map(blocks).sum::<usize>() / 2, private, mappings)
}

fn million<T>(make: impl Fn(u64) -> T, check: impl Fn(u64, &T) -> bool, bytes: usize) {
    const COUNT: u64 = 1_000_000;
    let (fds, (shared, private, mappings)) = (Belongings::now().fds().len(), memory());
    let all: Vec<T> = (0..COUNT).map(make).collect();
    let now = memory();
    let used = (now.0 - shared + now.1.saturating_sub(private)) << 10;
    assert!(used <= COUNT as usize * bytes, "{} bytes each", used as f64 / COUNT as f64);
    assert!(now.0 - shared > 24_000, "what is measured is there");
    assert!(now.2 - mappings < 50 && Belongings::now().fds().len() - fds < 50);
    assert!((0..COUNT).step_by(997).all(|n| check(n, &all[n as usize])));
    drop(all);
    let now = memory();
    assert!(now.0 <= shared + (4 << 10), "{} KiB of shared memory are left", now.0 - shared);
    assert!(now.1 <= private + (8 << 10), "{} KiB of private memory are left", now.1 - private);
    Arena::global().sweep();
    assert_eq!((Arena::global().chunks(), Belongings::now().fds().len()), (0, fds));
}

/// NA-17: 64 bytes each and the value, the handles included.
#[test]
fn val_09_a_million_values() {
    alone(|| {
        let check = |n, value: &Value<u64>| value.get().expect("a number") == n;
        million(|n| Value::new(n).expect("a value"), check, 64 + size_of::<u64>());
    });
}

#[test]
fn val_09_a_million_locks() {
    alone(|| million(|_| Lock::new().expect("a lock"), |_, lock| lock.try_lock().is_ok(), 64));
}

/// NA-17.
#[test]
fn val_09_ten_thousand_rounds_leave_descriptors_and_mappings_as_they_were() {
    alone(|| {
        let round = |n: u64| {
            let value = Value::new(n).expect("a value");
            let array = Array::from_slice(&[n; 1000]).expect("a segment of its own");
            let sent = mp::core::message::Message::encode(&(&value, &array)).expect("a message");
            let (value, array): (Value<u64>, Array<u64>) = sent.decode().expect("handles");
            assert_eq!(value.get().expect("a number"), array.get(999).expect("a number"));
        };
        round(0);
        let (before, mappings) = (Belongings::now(), memory().2);
        (0..10_000).for_each(round);
        before.assert_same();
        assert!(memory().2 <= mappings + 2, "{} mappings, before {mappings}", memory().2);
    });
}
