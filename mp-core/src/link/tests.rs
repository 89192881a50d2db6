//! A link under random work, under a worker that is killed, and under one that goes wild.

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::layout::{Layout, Side, Slot};
use super::spans::Span;
use super::*;
use crate::Error;
use crate::deadline::Deadline;

const SOON: Duration = Duration::from_secs(60);

fn small(slots: u32, bytes: u32) -> (ParentSide, WorkerSide) {
    let layout = Layout { slots, task_bytes: bytes, result_bytes: bytes };
    let (parent, half) = Link::with_layout(layout).unwrap().split();
    (parent, half.into_worker_side().unwrap())
}

fn header(id: u64) -> TaskHeader {
    TaskHeader { id, function: id as u32 ^ 5, fds: id as u32 % 3, flags: id as u32 % 7 }
}

fn result(id: u64) -> ResultHeader {
    ResultHeader { id, status: id as u32 % 4, ..ResultHeader::default() }
}

fn body(id: u64, length: usize) -> Vec<u8> {
    (0..length).map(|i| (id as usize * 31 + i) as u8).collect()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    Publish,
    Claim,
    Answer(usize),
    Revoke,
    Receive,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![3 => 0usize..100, 1 => 0usize..=65536];
    prop_oneof![
        4 => length.clone().prop_map(Step::Push),
        3 => Just(Step::Publish),
        4 => Just(Step::Claim),
        4 => length.prop_map(Step::Answer),
        1 => Just(Step::Revoke),
        4 => Just(Step::Receive),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn behaves_like_queues(steps in prop::collection::vec(step(), 1..300)) {
        let (mut parent, mut worker) = small(8, 128 << 10);
        let mut next_id = 0;
        // (id, length) in each state.
        let mut pushed = VecDeque::new();
        let mut published = VecDeque::new();
        let mut working = VecDeque::new();
        let mut answered = VecDeque::new();
        let mut received = Vec::new();
        for step in steps {
            match step {
                Step::Push(length) => {
                    let (first, second) = (body(next_id, length), [1, 2, 3]);
                    if parent.tasks.try_push(header(next_id), &[&first, &second]).unwrap() {
                        pushed.push_back((next_id, length));
                    } else {
                        let there = pushed.len() + published.len() + working.len() + answered.len();
                        prop_assert!(there > 0, "an empty link has room");
                    }
                    next_id += 1;
                }
                Step::Publish => {
                    parent.tasks.publish();
                    published.append(&mut pushed);
                }
                Step::Claim => {
                    let expected = published.pop_front();
                    let task = worker.try_next().unwrap();
                    prop_assert_eq!(task.is_some(), expected.is_some());
                    if let (Some(task), Some((id, length))) = (task, expected) {
                        prop_assert_eq!(task.header, header(id));
                        prop_assert_eq!(&task.body[..length], &body(id, length)[..]);
                        prop_assert_eq!(&task.body[length..], &[1, 2, 3]);
                        working.push_back((id, length));
                    }
                }
                Step::Answer(length) => {
                    if let Some(&(id, _)) = working.front()
                        && worker.try_push(result(id), &[&body(id, length)]).unwrap()
                    {
                        prop_assert!(!worker.publish(), "the parent never slept");
                        working.pop_front();
                        answered.push_back((id, length));
                    }
                }
                Step::Revoke => {
                    published.append(&mut pushed);
                    let revoked = parent.tasks.revoke().unwrap();
                    prop_assert_eq!(revoked.len(), published.len());
                    for ((id, length), (got, bytes)) in published.drain(..).zip(revoked.tasks()) {
                        prop_assert_eq!(got, header(id));
                        prop_assert_eq!(&bytes[..length], &body(id, length)[..]);
                    }
                }
                Step::Receive => {
                    let expected = answered.pop_front();
                    let got = parent.results.next(&mut received).unwrap();
                    prop_assert_eq!(got.is_some(), expected.is_some());
                    if let (Some((got, done)), Some((id, length))) = (got, expected) {
                        prop_assert_eq!(got, result(id));
                        prop_assert_eq!(&received, &body(id, length));
                        prop_assert_eq!(parent.tasks.complete(done.unwrap()).unwrap(), header(id));
                    }
                }
            }
            let claimed: Vec<u64> = parent.tasks.claimed().unwrap().map(|(header, _)| header.id).collect();
            let expected: Vec<u64> = answered.iter().chain(&working).map(|&(id, _)| id).collect();
            prop_assert_eq!(claimed, expected);
            let outstanding = answered.len() + working.len() + published.len() + pushed.len();
            prop_assert_eq!(parent.tasks.outstanding().len(), outstanding);
        }
    }
}

#[test]
fn two_threads_exchange_many_tasks_with_sleeps_on_both_sides() {
    const TASKS: u64 = 20_000;
    let (mut parent, mut worker) = small(16, 4096);
    let (bell, hear) = std::sync::mpsc::channel();
    let working = thread::spawn(move || {
        for id in 0..TASKS {
            let task = worker.next(Some(Deadline::after(SOON))).unwrap().unwrap();
            assert_eq!((task.header, task.body), (header(id), &id.to_le_bytes()[..]));
            let answer = (id * 2).to_le_bytes();
            if worker.send(result(id), &[&answer], Some(Deadline::after(SOON))).unwrap() {
                bell.send(()).unwrap();
            }
        }
    });
    let (mut sent, mut got, mut received) = (0, 0, Vec::new());
    while got < TASKS {
        while sent < TASKS && parent.tasks.try_push(header(sent), &[&sent.to_le_bytes()]).unwrap() {
            sent += 1;
        }
        parent.tasks.publish();
        while let Some((header, done)) = parent.results.next(&mut received).unwrap() {
            assert_eq!((header, &received[..]), (result(got), &(got * 2).to_le_bytes()[..]));
            parent.tasks.complete(done.unwrap()).unwrap();
            got += 1;
        }
        let all_pushed = sent == TASKS || parent.tasks.outstanding().len() == 16;
        if got < TASKS && all_pushed && parent.results.prepare_sleep() {
            hear.recv_timeout(SOON).unwrap();
        }
    }
    working.join().unwrap();
    assert_eq!(parent.tasks.outstanding().len(), 0);
}

#[test]
fn a_full_result_ring_makes_the_worker_wait() {
    let (mut parent, mut worker) = small(2, 64);
    for id in 0..2 {
        assert!(worker.try_push(result(id), &[&[0; 30]]).unwrap());
    }
    assert!(!worker.try_push(result(2), &[]).unwrap());
    assert!(matches!(worker.wait_room(None), Err(Error::Invalid { .. })), "nobody would ever wake it");
    assert!(!worker.publish());
    let late = Some(Deadline::after(Duration::from_millis(1)));
    assert!(matches!(worker.send(result(2), &[], late), Err(Error::Timeout { .. })));
    let working =
        thread::spawn(move || worker.send(result(2), &[&[7; 64]], Some(Deadline::after(SOON))).unwrap());
    let (mut ids, mut received) = (Vec::new(), Vec::new());
    while ids.len() < 3 {
        match parent.results.next(&mut received).unwrap() {
            Some((header, _)) => ids.push(header.id),
            None => thread::yield_now(),
        }
    }
    assert_eq!((ids, received), (vec![0, 1, 2], vec![7; 64]));
    assert!(!working.join().unwrap());
}

#[test]
fn na_10_a_killed_worker_leaves_an_exact_account() {
    let (mut parent, mut worker) = small(8, 4096);
    for id in 0..5 {
        assert!(parent.tasks.try_push(header(id), &[&body(id, 10)]).unwrap());
    }
    parent.tasks.publish();
    // SAFETY: the child only uses memory that exists, and dies by itself.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = worker.try_next().ok().flatten().map(|task| task.header.id);
        let answered = done.is_some_and(|id| matches!(worker.send(result(id), &[b"done"], None), Ok(false)));
        let second = worker.try_next().ok().flatten().is_some();
        // Half a result: written, never published.
        let half = worker.try_push(result(1), &[b"half"]).is_ok();
        let signal = if answered && second && half { libc::SIGKILL } else { libc::SIGABRT };
        // SAFETY: no preconditions.
        unsafe {
            libc::raise(signal);
            libc::_exit(1);
        }
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(libc::WTERMSIG(status), libc::SIGKILL);

    let mut received = Vec::new();
    let (got, done) = parent.results.next(&mut received).unwrap().unwrap();
    assert_eq!((got.id, &received[..]), (0, &b"done"[..]));
    parent.tasks.complete(done.unwrap()).unwrap();
    assert!(parent.results.next(&mut received).unwrap().is_none(), "half a result is none");
    let revoked = parent.tasks.revoke().unwrap();
    let again: Vec<_> = revoked.tasks().map(|(header, bytes)| (header.id, bytes.to_vec())).collect();
    assert_eq!(again, (2..5).map(|id| (id, body(id, 10))).collect::<Vec<_>>());
    drop(revoked);
    let lost: Vec<_> = parent.tasks.claimed().unwrap().collect();
    assert_eq!(lost, [(header(1), &body(1, 10)[..])]);
}

#[test]
fn a_worker_gone_wild_is_an_error() {
    let (mut parent, mut worker) = small(8, 4096);
    let mut received = Vec::new();

    // A result for a task that it never claimed, and one for a task that does not exist.
    assert!(parent.tasks.try_push(header(0), &[]).unwrap());
    parent.tasks.publish();
    for id in [0, 9] {
        assert!(!worker.send(result(id), &[], None).unwrap());
        let (_, done) = parent.results.next(&mut received).unwrap().unwrap();
        assert!(matches!(parent.tasks.complete(done.unwrap()), Err(Error::Invalid { .. })));
    }
    assert_eq!(parent.tasks.outstanding().len(), 1);

    // A claim word that cannot be.
    let view = parent.tasks.view().clone();
    view.tasks().publish(3);
    assert!(matches!(parent.tasks.claimed(), Err(Error::Invalid { .. })));
    assert!(matches!(parent.tasks.revoke(), Err(Error::Invalid { .. })));

    // A body out of bounds.
    let slot = Slot::result(result(0), Span { start: 4000, end: 0 }, 100);
    // SAFETY: a test with both sides in one thread: nobody else writes.
    unsafe { view.write(Side::Results, 2, Span { start: 0, end: 0 }, slot, &[]) };
    assert!(!view.results().publish(3));
    assert!(matches!(parent.results.next(&mut received), Err(Error::Invalid { .. })));

    // More results than there can be.
    assert!(!view.results().publish(2 + 9));
    assert!(matches!(parent.results.next(&mut received), Err(Error::Invalid { .. })));
}

#[test]
fn one_worker_only_and_no_entry_beyond_the_limit() {
    let link = Link::create().unwrap();
    let (mut parent, half) = link.split();
    let second = WorkerHalf::new(parent.tasks.view());
    let _worker = half.into_worker_side().unwrap();
    assert!(matches!(second.into_worker_side(), Err(Error::Invalid { .. })));

    let long = vec![3; parent.tasks.max_entry() + 1];
    assert!(matches!(parent.tasks.try_push(header(0), &[&long]), Err(Error::TooLong { .. })));
    assert!(parent.tasks.try_push(header(0), &[&long[1..]]).unwrap(), "the longest fits");
    assert!(!parent.tasks.try_push(header(1), &[]).unwrap(), "and fills the link");
    assert_eq!(parent.tasks.revoke().unwrap().len(), 1);
    assert!(parent.tasks.try_push(header(1), &[]).unwrap());
}

#[test]
fn memory_of_a_burst_is_given_back() {
    const LONG: usize = 1 << 20;
    let (mut parent, half) = Link::create().unwrap().split();
    let mut worker = half.into_worker_side().unwrap();
    let blocks = |parent: &ParentSide| {
        rustix::fs::fstat(parent.tasks.view().segment()).unwrap().st_blocks as usize * 512
    };
    let later = || Deadline::after(Duration::from_secs(10));
    let (mut next, mut received) = (0, Vec::new());
    let mut exchange = |parent: &mut ParentSide, worker: &mut WorkerSide, count: u64, length: usize| {
        for id in next..next + count {
            assert!(parent.tasks.try_push(header(id), &[&body(id, length)]).unwrap());
        }
        parent.tasks.publish();
        assert_eq!(parent.tasks.trim(later()), None, "all is in use");
        for id in next..next + count {
            assert!(worker.try_next().unwrap().unwrap().body == body(id, length));
            assert!(worker.try_push(result(id), &[&body(id + 1, length)]).unwrap());
        }
        let _ = worker.publish();
        if length == LONG {
            let now = later();
            let due = worker.trim(now).unwrap();
            assert!(due.is_some_and(|due| due > now), "the parent has not read them");
        }
        for id in next..next + count {
            let (_, done) = parent.results.next(&mut received).unwrap().unwrap();
            assert!(received == body(id + 1, length));
            parent.tasks.complete(done.unwrap()).unwrap();
        }
        next += count;
    };

    exchange(&mut parent, &mut worker, 7, LONG);
    assert!(blocks(&parent) > 2 * 7 * LONG);
    // Not at once, as it may be needed again.
    let due = parent.tasks.trim(Deadline::now()).unwrap();
    assert!(due > Deadline::now() && worker.trim(Deadline::now()).unwrap().is_some());
    assert!(blocks(&parent) > 2 * 7 * LONG);
    assert_eq!((parent.tasks.trim(later()), worker.trim(later()).unwrap()), (None, None));
    assert!(blocks(&parent) < 3 << 20, "{} bytes are left", blocks(&parent));
    assert!(!worker.has_grown());

    // All works as before, and the area grows again.
    exchange(&mut parent, &mut worker, 5, 1000);
    exchange(&mut parent, &mut worker, 7, LONG);
    assert!(blocks(&parent) > 2 * 7 * LONG);
    // Short entries that come later find it unused: nobody needs to call `trim`.
    let limit = Deadline::after(SOON);
    while blocks(&parent) >= 3 << 20 {
        assert!(!limit.has_passed(), "{} bytes are left", blocks(&parent));
        exchange(&mut parent, &mut worker, 5, 1000);
    }
}
