//! Chunks, results in any order and of any bytes, and ends of calls.

use proptest::prelude::*;

use super::*;

fn job(items: u64, chunk: usize) -> Job {
    let function = Function::new(Remote::each(|item: u64| item), None::<&()>).unwrap();
    Job::new(function, 0..items, chunk, 0, mp_core::message::encode_into).unwrap()
}

/// What a worker sends for `items`.
fn values(items: Range<u64>, chunk: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        if chunk == 1 {
            mp_core::codec::encode_value(&item, &mut bytes).unwrap();
        } else {
            push_part(&mut bytes, |bytes| mp_core::codec::encode_value(&item, bytes)).unwrap();
        }
    }
    bytes
}

fn items_of(job: &Job, task: usize) -> Range<u64> {
    let first = job.first_item(task) as u64;
    first..first + job.items_of(task) as u64
}

#[test]
fn every_item_is_in_one_task() {
    for chunk in [1, 2, 3, 7, 20, usize::MAX] {
        for items in 0..22 {
            let job = job(items, chunk);
            assert_eq!((job.len(), job.items()), ((items as usize).div_ceil(chunk), items as usize));
            let mut next = 0;
            for task in 0..job.len() {
                assert_eq!(items_of(&job, task).start, next);
                next = items_of(&job, task).end;
                assert_eq!(job.body(task), values(items_of(&job, task), chunk));
                assert!(job.fds(task).is_empty());
            }
            assert_eq!(next, items);
        }
    }
}

#[test]
fn results_come_in_any_order_and_leave_in_that_of_the_items() {
    for chunk in [1, 2, 5, 100] {
        let job = job(23, chunk);
        for task in (0..job.len()).rev() {
            job.succeed(task, &values(items_of(&job, task), chunk), Vec::new());
        }
        job.wait(None).unwrap();
        let results: Vec<u64> = job.results().into_iter().map(|result| result.unwrap()).collect();
        assert!(results.into_iter().eq(0..23));
    }
}

#[test]
fn a_failure_belongs_to_the_items_that_it_is_about() {
    let job = job(14, 4);
    job.succeed(0, &values(0..4, 4), Vec::new());
    job.cut_short(1, &values(4..6, 4), Vec::new(), 2, TaskFailure::Result("sixth".into()));
    job.fail(2, TaskFailure::Argument("all".into()));
    // The last has a value too few.
    job.succeed(3, &values(12..13, 4), Vec::new());
    job.wait(None).unwrap();
    let told: Vec<String> = job
        .results::<u64>()
        .into_iter()
        .enumerate()
        .map(|(item, result)| match result {
            Ok(value) => value.to_string(),
            Err(error) => {
                assert_eq!(error.item, item);
                match error.cause {
                    TaskFailure::Skipped => "skipped".into(),
                    TaskFailure::Argument(reason) => reason,
                    TaskFailure::Result(reason) if reason.contains("cut off") => "cut off".into(),
                    TaskFailure::Result(reason) => reason,
                    other => format!("{other:?}"),
                }
            }
        })
        .collect();
    let expected =
        ["0", "1", "2", "3", "4", "5", "sixth", "skipped", "all", "all", "all", "all", "12", "cut off"];
    assert_eq!(told, expected);
}

#[test]
fn whoever_lets_go_of_a_call_ends_it() {
    let unfinished = Arc::new(job(3, 1));
    let ticket = Ticket::new(unfinished.clone());
    ticket.succeed(0, &values(0..1, 1), Vec::new());
    drop(ticket);
    assert!(matches!(unfinished.wait(None), Err(PoolError::Terminated)));

    let finished = Arc::new(job(1, 1));
    let ticket = Ticket::new(finished.clone());
    ticket.succeed(0, &values(0..1, 1), Vec::new());
    drop(ticket);
    finished.wait(None).unwrap();
    assert_eq!(finished.results::<u64>().len(), 1);

    let broken = job(1, 1);
    broken.abort(PoolError::Closed);
    broken.abort(PoolError::Terminated);
    assert!(matches!(broken.wait(None), Err(PoolError::Closed)), "the first reason counts");
}

proptest! {
    #[test]
    fn any_bytes_make_one_result_for_each_item(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        chunk in 1usize..5,
        cut in 0usize..4,
    ) {
        let job = job(4, chunk);
        for task in 0..job.len() {
            if cut < job.items_of(task) {
                job.cut_short(task, &bytes, Vec::new(), cut, TaskFailure::Skipped);
            } else {
                job.succeed(task, &bytes, Vec::new());
            }
        }
        job.wait(None).unwrap();
        prop_assert_eq!(job.results::<(String, Vec<u64>)>().len(), 4);
    }
}
