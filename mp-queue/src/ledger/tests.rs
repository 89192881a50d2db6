//! What the dead owe is known exactly: ledgers under random use by processes that die between any two steps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Words of processes that do not run: this pid started at no such time.
fn dead(number: u64) -> u64 {
    let me = ProcessId::current();
    ProcessId::from_parts(me.pid(), me.start_time() + 1000 + number).to_word()
}

fn put(ring: &Ring<RawLock>, items: u64) {
    let held = ring.put_lock().try_guard().expect("the lock");
    let mut writer = ring.writer(&held).expect("a ring");
    (0..items)
        .for_each(|_| assert_eq!(writer.stage(b"x", &[], 0).expect("memory"), mp_core::ring::Staged::Yes));
    writer.publish();
}

/// As a getter does it, up to the step before which it dies.
fn take(ledger: &Ledger, ring: &Ring<RawLock>, process: u64, items: u64, steps: u32) {
    let held = ring.get_lock().try_guard().expect("the lock");
    let mut reader = ring.reader(&held).expect("a ring");
    for _ in 0..items {
        let next = reader.peek().expect("a ring").expect("an item");
        reader.pass(&next);
    }
    let got = ring.read();
    if steps > 0 {
        ledger.intend(process, got, items);
    }
    if steps > 1 {
        reader.publish();
    }
    if steps > 2 {
        ledger.settle(got + items);
    }
}

fn ring() -> Ring<RawLock> {
    Ring::create("ledger", u64::MAX).expect("memory")
}

fn died(result: Result<()>) -> (u32, u64) {
    match result {
        Err(Error::ConsumerDied { pid, owed }) => (pid, owed),
        other => panic!("{other:?}"),
    }
}

const NO_TIME: Option<Duration> = Some(Duration::ZERO);

#[test]
fn each_death_is_told_once_even_if_items_wait() {
    let (ledger, ring) = (Ledger::new().expect("memory"), ring());
    put(&ring, 10);
    take(&ledger, &ring, dead(1), 2, 3);
    take(&ledger, &ring, dead(2), 3, 3);
    assert_eq!(died(ledger.join(&ring, NO_TIME)).1, 2);
    assert_eq!(died(ledger.join(&ring, NO_TIME)).1, 3);
    assert!(matches!(ledger.join(&ring, NO_TIME), Err(Error::Timeout { unfinished: 5 })));
    take(&ledger, &ring, ProcessId::current().to_word(), 5, 3);
    (0..5).for_each(|_| ledger.done(&ring).expect("one of five"));
    ledger.join(&ring, NO_TIME).expect("all are done");
    assert!(matches!(ledger.done(&ring), Err(Error::TooManyDone)));
}

#[test]
fn one_that_died_before_it_took_owes_nothing() {
    let (ledger, ring) = (Ledger::new().expect("memory"), ring());
    put(&ring, 1);
    for number in 0..3 * ENTRIES as u64 {
        take(&ledger, &ring, dead(number), 1, 1);
        assert!(matches!(ledger.join(&ring, NO_TIME), Err(Error::Timeout { unfinished: 1 })));
    }
    // And one that died right after it did.
    take(&ledger, &ring, dead(0), 1, 2);
    assert_eq!(died(ledger.join(&ring, NO_TIME)), (std::process::id(), 1));
    ledger.join(&ring, NO_TIME).expect("nothing is left");
}

/// More may die than there are entries before somebody joins: their places go to others, and no debt is forgotten.
#[test]
fn more_die_than_there_are_entries() {
    const DEAD: u64 = 3 * ENTRIES as u64;
    let (ledger, ring) = (Ledger::new().expect("memory"), ring());
    put(&ring, 2 * DEAD + 1);
    (0..DEAD).for_each(|number| take(&ledger, &ring, dead(number), 2, 3));
    let mut told = 0;
    while let Err(Error::ConsumerDied { pid, owed }) = ledger.join(&ring, NO_TIME) {
        assert_eq!(pid, std::process::id());
        told += owed;
    }
    assert_eq!((told, ledger.unfinished(&ring)), (2 * DEAD, 1));
    take(&ledger, &ring, ProcessId::current().to_word(), 1, 3);
    ledger.done(&ring).expect("the last one");
    ledger.join(&ring, NO_TIME).expect("all are done");
}

#[test]
fn one_that_died_between_the_steps_of_task_done_did_it() {
    let (ledger, ring) = (Ledger::new().expect("memory"), ring());
    put(&ring, 3);
    take(&ledger, &ring, dead(1), 3, 3);
    // The exchange alone.
    let index = ledger.find(dead(1)).expect("an entry");
    let last = ledger.last();
    ledger.words[LAST].store(Last::new(last.count() + 1, index, 1).0, Release);
    assert_eq!(died(ledger.join(&ring, NO_TIME)).1, 2);
    ledger.join(&ring, NO_TIME).expect("nothing is left");
}

#[test]
fn what_others_do_counts_for_the_one_who_got_it() {
    let (ledger, ring) = (Ledger::new().expect("memory"), ring());
    put(&ring, 5);
    take(&ledger, &ring, dead(1), 5, 3);
    (0..4).for_each(|_| ledger.done(&ring).expect("one of five"));
    assert_eq!(died(ledger.join(&ring, NO_TIME)).1, 1);
    ledger.join(&ring, NO_TIME).expect("nothing is left");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64),
    Take {
        process: u64,
        items: u64,
        steps: u32,
    },
    Done(u64),
    /// The dead are found.
    Join,
}

fn step() -> impl Strategy<Value = Step> {
    let take = (0_u64..5, 1_u64..4, 0_u32..4).prop_map(|(process, items, steps)| Step::Take {
        process,
        items,
        steps,
    });
    prop_oneof![
        3 => (1_u64..5).prop_map(Step::Put),
        4 => take,
        4 => (0_u64..5).prop_map(Step::Done),
        1 => Just(Step::Join),
    ]
}

proptest! {
    #[test]
    fn debts_are_exact(steps in prop::collection::vec(step(), 1..200)) {
        let (ledger, ring) = (Ledger::new().expect("memory"), ring());
        let mut debts = BTreeMap::<u64, u64>::new();
        let mut done = 0;
        for step in steps {
            match step {
                Step::Put(items) => put(&ring, items),
                Step::Take { process, items, steps } if ring.len() >= items => {
                    take(&ledger, &ring, dead(process), items, steps);
                    if steps > 1 {
                        *debts.entry(dead(process)).or_default() += items;
                    }
                }
                Step::Take { .. } => {}
                Step::Done(process) => {
                    // After `get` returned, its process has no step to go.
                    ledger.settle(ring.read());
                    let owes = debts.get(&dead(process)).copied().unwrap_or(0);
                    if owes > 0 {
                        ledger.done_by(dead(process), &ring).expect("it owes");
                        debts.insert(dead(process), owes - 1);
                        done += 1;
                    }
                }
                Step::Join => {
                    while let Err(Error::ConsumerDied { owed, .. }) = ledger.join(&ring, NO_TIME) {
                        let debtor = debts.iter().find(|(_, owes)| **owes == owed).map(|(debtor, _)| *debtor);
                        prop_assert!(debtor.is_some(), "nobody owes {}", owed);
                        debts.remove(&debtor.unwrap_or(0));
                        done += owed;
                    }
                    prop_assert!(debts.values().all(|owes| *owes == 0));
                }
            }
            prop_assert_eq!(ledger.unfinished(&ring), ring.written() - done);
        }
    }
}

/// Threads take and do as fast as they can; nothing is counted twice or not at all.
#[test]
fn threads_at_once() {
    const EACH: u64 = 20_000;
    let (ledger, ring) = (Ledger::new().expect("memory"), ring());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    // Hardly more is put than is done, so that a look at both that is too old would show.
                    let held = ring.put_lock().guard(None).expect("the lock");
                    let mut writer = ring.writer(&held).expect("a ring");
                    writer.stage(b"x", &[], 0).expect("memory");
                    assert!(writer.publish());
                    drop(held);
                    let held = ring.get_lock().guard(None).expect("the lock");
                    let mut reader = ring.reader(&held).expect("a ring");
                    let next = reader.peek().expect("a ring").expect("an item");
                    reader.pass(&next);
                    ledger.before(ring.read(), 1);
                    reader.publish();
                    ledger.after(ring.read());
                    drop(held);
                    ledger.done(&ring).expect("one of mine");
                }
            });
        }
    });
    ledger.join(&ring, NO_TIME).expect("all are done");
    assert!((0..ENTRIES).all(|index| ledger.owes(index) == 0));
}
