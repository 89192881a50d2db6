//! What one side of a ring publishes, in all interleavings. A thread that stops early is a process that was killed.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::thread;

use super::published::{Progress, Published};
use crate::futex::{Ordering::*, wait};

fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn progress(items: u64) -> Progress {
    Progress { items, place: items * 10 }
}

#[test]
fn readers_see_whole_records_in_order() {
    explore(3, || {
        let side = Arc::new(Published::default());
        let owner = thread::spawn({
            let side = side.clone();
            move || {
                for items in 1..=3 {
                    side.publish(progress(items), 1, || ());
                }
            }
        });
        let mut last = 0;
        for _ in 0..2 {
            let (seen, _) = side.read();
            assert_eq!(seen, progress(seen.items), "torn");
            assert!(seen.items >= last);
            last = seen.items;
        }
        owner.join().unwrap();
        assert_eq!(side.read_own(), progress(3));
    });
}

/// Sleeps until `done` says so of what is published; what that was.
fn sleep_until(side: &Published, done: impl Fn(bool, u64) -> bool) -> u64 {
    loop {
        let turn = side.now();
        let closed = side.is_closed();
        let (seen, word) = side.read();
        if done(closed, seen.items) {
            return seen.items;
        }
        if side.announce(word) && wait(side.turn(), turn, None) == super::WaitResult::Woken {
            side.awake(word);
        }
    }
}

/// So many threads that sleep until `done`.
fn sleepers(
    side: &Arc<Published>,
    count: usize,
    done: fn(bool, u64) -> bool,
) -> Vec<thread::JoinHandle<u64>> {
    let sleeper = |_| {
        let side = side.clone();
        thread::spawn(move || sleep_until(&side, done))
    };
    (0..count).map(sleeper).collect()
}

#[test]
fn a_sleeper_is_woken_again() {
    explore(3, || {
        let side = Arc::new(Published::default());
        let sleepers = sleepers(&side, 1, |_, items| items == 2);
        side.publish(progress(1), 1, || ());
        side.publish(progress(2), 1, || ());
        sleepers.into_iter().for_each(|sleeper| assert_eq!(sleeper.join().unwrap(), 2));
    });
}

#[test]
fn all_sleepers_are_woken() {
    explore(2, || {
        let side = Arc::new(Published::default());
        let sleepers = sleepers(&side, 2, |_, items| items == 1);
        side.publish(progress(1), 2, || ());
        sleepers.into_iter().for_each(|sleeper| assert_eq!(sleeper.join().unwrap(), 1));
    });
}

#[test]
fn one_item_each_for_two_sleepers() {
    use crate::futex::AtomicU32;
    explore(2, || {
        let (side, taken) = (Arc::new(Published::default()), Arc::new(AtomicU32::new(0)));
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let (side, taken) = (side.clone(), taken.clone());
                thread::spawn(move || {
                    loop {
                        let turn = side.now();
                        let (seen, word) = side.read();
                        let got = taken.load(Acquire);
                        if u64::from(got) < seen.items {
                            if taken.compare_exchange(got, got + 1, AcqRel, Acquire).is_ok() {
                                return;
                            }
                            continue;
                        }
                        if side.announce(word) && wait(side.turn(), turn, None) == super::WaitResult::Woken {
                            side.awake(word);
                        }
                    }
                })
            })
            .collect();
        // Each wakes one only.
        side.publish(progress(1), 1, || ());
        side.publish(progress(2), 1, || ());
        takers.into_iter().for_each(|taker| taker.join().unwrap());
    });
}

/// A queue of numbers made of two sides; the model's locks stand for ours, which a death passes on.
#[derive(Default)]
struct Toy {
    put: Published,
    got: Published,
    put_lock: Mutex<()>,
    get_lock: Mutex<()>,
    cells: [Cell; 3],
}

struct Cell(UnsafeCell<u64>);

impl Default for Cell {
    fn default() -> Cell {
        Cell(UnsafeCell::new(0))
    }
}

// SAFETY: the model panics if two threads use one at the same time.
unsafe impl Sync for Cell {}

#[derive(Debug, PartialEq)]
enum Got {
    Item(u64),
    Nothing,
    Closed,
}

impl Toy {
    /// Whether it was put; one that dies does all but publish.
    fn put(&self, value: u64, dies: bool) -> bool {
        let _held = self.put_lock.lock().unwrap();
        let at = self.put.read_own().items;
        // SAFETY: see `Cell`.
        self.cells[at as usize].0.with_mut(|cell| unsafe { *cell = value });
        !dies && self.put.publish_if_open(progress(at + 1), 1, || ())
    }

    fn get(&self, dies: bool) -> Got {
        let _held = self.get_lock.lock().unwrap();
        let (put, word) = self.put.read();
        let closed = Published::says_closed(word);
        let at = self.got.read_own().items;
        if at == put.items {
            return if closed { Got::Closed } else { Got::Nothing };
        }
        // SAFETY: see `Cell`.
        let value = self.cells[at as usize].0.with(|cell| unsafe { *cell });
        if dies {
            return Got::Nothing;
        }
        self.got.publish(progress(at + 1), 1, || ());
        Got::Item(value)
    }

    /// All that is left.
    fn rest(&self) -> Vec<u64> {
        let mut rest = Vec::new();
        while let Got::Item(value) = self.get(false) {
            rest.push(value);
        }
        rest
    }
}

/// Two putters and two getters, of each the first may be killed; closed beside them if nobody is, else behind them.
fn trade(preemptions: usize, dying_putter: bool, dying_getter: bool) {
    explore(preemptions, move || {
        let toy = Arc::new(Toy::default());
        let putters = [(1, dying_putter), (2, false)].map(|(value, dies)| {
            let toy = toy.clone();
            thread::spawn(move || toy.put(value, dies))
        });
        let getters = [dying_getter, false].map(|dies| {
            let toy = toy.clone();
            thread::spawn(move || toy.get(dies))
        });
        let all_live = !dying_putter && !dying_getter;
        if all_live {
            toy.put.close();
        }
        let acknowledged = putters.map(|putter| putter.join().unwrap());
        let got = getters.map(|getter| getter.join().unwrap());
        if !all_live {
            toy.put.close();
        }
        let rest = toy.rest();
        assert!(
            rest.is_empty() || !got.contains(&Got::Closed),
            "closed was said too early: {got:?} {rest:?}"
        );
        let mut all: Vec<u64> = rest;
        all.extend(got.iter().filter_map(|got| if let Got::Item(value) = got { Some(*value) } else { None }));
        all.sort();
        let expected: Vec<u64> =
            [1, 2].into_iter().filter(|value| acknowledged[*value as usize - 1]).collect();
        assert_eq!(all, expected, "lost, twice or never acknowledged");
        assert_eq!(toy.get(false), Got::Closed);
        assert!(!toy.put(3, false));
    });
}

#[test]
fn nothing_is_lost_by_a_close() {
    trade(2, false, false);
}

#[test]
fn nothing_is_lost_by_a_death() {
    trade(2, true, false);
    trade(2, false, true);
}

#[test]
fn a_close_wakes_all_who_sleep() {
    explore(2, || {
        let side = Arc::new(Published::default());
        let sleepers = sleepers(&side, 2, |closed, _| closed);
        side.close();
        sleepers.into_iter().for_each(|sleeper| assert_eq!(sleeper.join().unwrap(), 0));
    });
}

#[test]
fn what_a_sleeper_sees_after_a_close_is_the_last() {
    explore(2, || {
        let side = Arc::new(Published::default());
        let sleeper = sleepers(&side, 1, |closed, _| closed).remove(0);
        let published = thread::spawn({
            let side = side.clone();
            move || u64::from(side.publish_if_open(progress(1), 1, || ()))
        });
        side.close();
        assert_eq!(sleeper.join().unwrap(), published.join().unwrap());
    });
}

/// One who only looks does not keep the wake-up of one who takes.
#[test]
fn a_wake_up_is_passed_on() {
    explore(2, || {
        let side = Arc::new(Published::default());
        let sleepers = [true, false].map(|watches| {
            let side = side.clone();
            thread::spawn(move || {
                loop {
                    let turn = side.now();
                    let (seen, word) = side.read();
                    if seen.items == 1 {
                        return;
                    }
                    if side.announce(word) && wait(side.turn(), turn, None) == super::WaitResult::Woken {
                        side.awake(word);
                        if watches {
                            side.pass_on(word);
                        }
                    }
                }
            })
        });
        side.publish(progress(1), 1, || ());
        let [watcher, taker] = sleepers;
        taker.join().unwrap();
        side.shout();
        watcher.join().unwrap();
    });
}

/// One item at least is there all the time.
#[test]
fn what_is_never_empty_is_never_found_empty() {
    explore(3, || {
        let sides = Arc::new([Published::default(), Published::default()]);
        sides[0].publish(progress(1), 1, || ());
        let trader = thread::spawn({
            let sides = sides.clone();
            move || {
                for items in 1..=2 {
                    sides[0].publish(progress(items + 1), 1, || ());
                    sides[1].publish(progress(items), 1, || ());
                }
            }
        });
        let [put, got] = &*sides;
        assert!(super::Doze::if_empty(put, got).is_none());
        trader.join().unwrap();
    });
}
