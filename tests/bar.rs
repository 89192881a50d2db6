//! Barriers between processes (BAR-01 to BAR-10), and what becomes of them when parties die or stop (NA-4).

mod common;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{SOON, alone, sleep_for_ever, wait_until};
use mp_sync::{Barrier, BrokenReason, Error};
use multiprocess::core::arena::{Arena, InSharedMemory, Shared};
use multiprocess::{Context, Process};

const PARTIES: u32 = 5;

/// Numbers that all parties see.
#[repr(C)]
struct Board([AtomicU64; 8]);

// SAFETY: atomics only.
unsafe impl InSharedMemory for Board {}

/// As [`common::for_each_method`], for scenarios that leave an empty piece of the arena behind.
#[track_caller]
fn for_each_method(scenario: impl Fn(Context) + Copy + Send + 'static) {
    common::for_each_method(move |context| {
        scenario(context);
        Arena::global().sweep();
    });
}

/// For scenarios that leave memory behind until their process ends: that which dead ones had handles to, or a static has.
#[track_caller]
fn keeping_memory_for_each_method(scenario: impl Fn(Context) + Copy + Send + 'static) {
    // Each in a process of its own, as statics are set once.
    alone(move || scenario(Context::forkserver()));
    alone(move || scenario(Context::spawn()));
    alone(move || scenario(Context::fork()));
}

/// Runs `party` in four processes and here; their results, that of the caller last.
fn five<R, F>(context: Context, barrier: &Barrier, board: &Shared<Board>, party: F) -> Vec<R>
where
    R: serde::Serialize + serde::de::DeserializeOwned,
    F: Fn(Barrier, Shared<Board>) -> R + Copy,
{
    let start = |_| context.process(party, (barrier.clone(), board.clone())).start().expect("a party");
    let others: Vec<Process<R>> = (1..PARTIES).map(start).collect();
    let mine = party(barrier.clone(), board.clone());
    let mut results: Vec<R> = others.iter().map(|other| other.join().expect("a result")).collect();
    results.push(mine);
    results
}

fn barrier() -> Barrier {
    Barrier::new(PARTIES).expect("a barrier").with_timeout(SOON)
}

fn board() -> Shared<Board> {
    Shared::new().expect("memory")
}

/// Why it is broken, as text, so that it can come back from a process.
fn why(result: mp_sync::Result<u32>) -> String {
    match result {
        Err(Error::BrokenBarrier { reason, .. }) => format!("{reason:?}"),
        other => format!("{other:?}"),
    }
}

/// BAR-01, BAR-02, BAR-07.
#[test]
fn bar_01_bar_02_bar_07_lockstep() {
    for_each_method(|context| {
        for passes in [1, 10] {
            let (barrier, board) = (barrier(), board());
            assert_eq!((barrier.parties(), barrier.n_waiting(), barrier.broken()), (PARTIES, 0, false));
            let numbers: Vec<u64> = match passes {
                1 => five(context, &barrier, &board, |barrier, board| lockstep(&barrier, &board, 1)),
                _ => five(context, &barrier, &board, |barrier, board| lockstep(&barrier, &board, 10)),
            };
            // Each index once a pass: their sum is the same for all that is right.
            let sum: u64 = (0..u64::from(PARTIES)).sum();
            assert_eq!(numbers.iter().sum::<u64>(), 2 * passes * sum);
            assert_eq!((barrier.n_waiting(), barrier.broken()), (0, false));
        }
    });
}

/// Two lists as numbers of entries; the sum of the indices.
fn lockstep(barrier: &Barrier, board: &Board, passes: u64) -> u64 {
    let [first, second, ..] = &board.0;
    let parties = u64::from(PARTIES);
    let mut indices = 0;
    for pass in 0..passes {
        first.fetch_add(1, SeqCst);
        assert_eq!(second.load(SeqCst), pass * parties);
        indices += u64::from(barrier.wait().expect("passed"));
        assert!(!barrier.broken());
        second.fetch_add(1, SeqCst);
        assert_eq!(first.load(SeqCst), (pass + 1) * parties);
        indices += u64::from(barrier.wait().expect("passed"));
    }
    indices
}

/// What the actions below count, in the process that runs one.
static BOARD: OnceLock<Shared<Board>> = OnceLock::new();

#[test]
fn bar_03_the_action_runs_once_before_anybody_passes() {
    keeping_memory_for_each_method(|context| {
        let barrier = barrier().with_action(|| {
            BOARD.get().map(|board| board.0[0].fetch_add(1, SeqCst));
        });
        let board = board();
        five(context, &barrier, &board, |barrier, board| {
            let acted = &BOARD.get_or_init(|| board.clone()).0[0];
            barrier.wait().expect("passed");
            assert_eq!(acted.load(SeqCst), 1);
        });
        assert_eq!(board.0[0].load(SeqCst), 1);
    });
}

#[test]
fn bar_04_abort() {
    for_each_method(|context| {
        let (barrier, board) = (barrier(), board());
        let results = five(context, &barrier, &board, |barrier, _| {
            if barrier.wait().expect("passed") == 2 {
                barrier.abort();
                return String::from("aborts");
            }
            why(barrier.wait())
        });
        assert_eq!(results.iter().filter(|result| *result == "Aborted").count(), 4, "{results:?}");
        assert!(barrier.broken() && barrier.n_waiting() == 0);
    });
}

#[test]
fn bar_05_a_time_limit_breaks_it_for_all() {
    for_each_method(|context| {
        let (barrier, board) = (barrier(), board());
        let results = five(context, &barrier, &board, |barrier, _| {
            let is_late = barrier.wait().expect("passed") == 2;
            if is_late {
                // Comes when the others have given up.
                wait_until("the time limit of the others", || barrier.broken());
            }
            let began = Instant::now();
            let result = why(barrier.wait_timeout(Duration::from_millis(500)));
            assert!(is_late || began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
            result
        });
        assert!(results.iter().all(|result| result == "TimedOut"), "{results:?}");
    });
}

#[test]
fn bar_06_one_party() {
    let barrier = Barrier::new(1).expect("a barrier");
    for _ in 0..2 {
        assert_eq!(barrier.wait_timeout(Duration::ZERO).expect("passed"), 0);
    }
}

#[test]
fn bar_07_those_who_wait_are_counted() {
    for_each_method(|context| {
        let barrier = barrier();
        let mut parties = Vec::new();
        for waiting in 1..PARTIES {
            let wait = |barrier: Barrier| barrier.wait().expect("passed");
            parties.push(context.process(wait, (barrier.clone(),)).start().expect("a party"));
            wait_until("one more", || barrier.n_waiting() == waiting);
            assert!(!barrier.broken());
        }
        assert_eq!(barrier.wait().expect("passed"), PARTIES - 1);
        // In the order in which they came.
        let indices: Vec<u32> = parties.iter().map(|party| party.join().expect("an index")).collect();
        assert_eq!(indices, (0..PARTIES - 1).collect::<Vec<_>>());
        assert_eq!((barrier.n_waiting(), barrier.broken()), (0, false));
    });
}

#[test]
fn bar_08_a_broken_barrier_is_told_at_once_and_a_reset_repairs_it() {
    for_each_method(|context| {
        let (barrier, board) = (barrier(), board());
        let aborts = |barrier: Barrier| barrier.abort();
        context.process(aborts, (barrier.clone(),)).start().expect("a child").join().expect("nothing");
        let began = Instant::now();
        assert_eq!(why(barrier.wait()), "Aborted");
        assert!(began.elapsed() < SOON / 2);
        assert!(Barrier::new(0).is_err());
        barrier.reset();
        assert!(!barrier.broken());
        five(context, &barrier, &board, |barrier, board| lockstep(&barrier, &board, 1));
    });
}

#[test]
fn bar_09_a_failing_action() {
    for_each_method(|context| {
        let barrier = barrier().with_action(|| Err::<(), _>("no paper"));
        let mut results = five(context, &barrier, &board(), |barrier, _| match barrier.wait() {
            Err(Error::Action { reason }) => reason,
            other => why(other),
        });
        results.sort();
        let failed = "ActionFailed";
        assert_eq!(results, [failed, failed, failed, failed, "no paper"]);
        assert!(barrier.broken());

        // A panic ends the process that it happens in, which may not be this one.
        let barrier = Barrier::new(2).expect("a barrier").with_action(|| -> () { panic!("on fire") });
        let wait = |barrier: Barrier| why(barrier.wait());
        let party = || context.process(wait, (barrier.clone(),)).start().expect("a party");
        let (first, second) = (party(), party());
        let results = [first.join(), second.join()];
        let told = results.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(told, [failed]);
        let panicked = results.iter().find_map(|result| result.as_ref().err()).map(ToString::to_string);
        assert!(panicked.as_ref().is_some_and(|text| text.contains("on fire")), "{panicked:?}");
    });
}

/// When a death must have been told, with slack for a busy machine.
const TOLD: Duration = Duration::from_millis(1500);

#[test]
fn na_04_a_party_that_is_killed_breaks_it_for_the_others() {
    keeping_memory_for_each_method(|context| {
        let barrier = Barrier::new(4).expect("a barrier");
        let wait = |barrier: Barrier| why(barrier.wait());
        let party = || context.process(wait, (barrier.clone(),)).start().expect("a party");
        let (victim, survivors) = (party(), [party(), party()]);
        wait_until("three who wait", || barrier.n_waiting() == 3);
        let killed = Instant::now();
        victim.kill().expect("a signal sent");
        let expected = format!("{:?}", BrokenReason::PartyDied { pid: victim.pid() });
        for survivor in survivors {
            assert_eq!(survivor.join().expect("a reason"), expected);
        }
        assert!(killed.elapsed() < TOLD, "told after {:?}", killed.elapsed());
        assert_eq!(why(barrier.wait()), expected);
        assert!(victim.join().is_err());
        barrier.reset();
        let others = [party(), party(), party()];
        assert!(barrier.wait_timeout(SOON).is_ok());
        others.iter().for_each(|other| assert!(other.join().expect("a result").starts_with("Ok")));
    });
}

#[test]
fn na_04_one_who_died_alone_is_found_by_the_next() {
    keeping_memory_for_each_method(|context| {
        let barrier = Barrier::new(2).expect("a barrier");
        let victim = context.process(|barrier: Barrier| drop(barrier.wait()), (barrier.clone(),));
        let victim = victim.start().expect("a party");
        wait_until("one who waits", || barrier.n_waiting() == 1);
        victim.kill().expect("a signal sent");
        assert!(victim.join().is_err());
        // What was looked at a moment ago is not looked at again.
        std::thread::sleep(Duration::from_millis(100));
        let expected = format!("{:?}", BrokenReason::PartyDied { pid: victim.pid() });
        assert_eq!(why(barrier.wait()), expected);
    });
}

#[test]
fn na_04_one_who_is_killed_in_the_action_breaks_it() {
    keeping_memory_for_each_method(|context| {
        let barrier = Barrier::new(2).expect("a barrier").with_action(|| {
            if let Some(board) = BOARD.get() {
                board.0[0].store(std::process::id().into(), SeqCst);
            }
            sleep_for_ever();
        });
        let board = board();
        let act = |barrier: Barrier, board: Shared<Board>| {
            BOARD.get_or_init(|| board);
            drop(barrier.wait());
        };
        let first = context.process(|barrier: Barrier| why(barrier.wait()), (barrier.clone(),));
        let first = first.start().expect("a party");
        wait_until("one who waits", || barrier.n_waiting() == 1);
        let victim = context.process(act, (barrier.clone(), board.clone())).start().expect("a party");
        wait_until("the action", || board.0[0].load(SeqCst) == u64::from(victim.pid()));
        assert_eq!(barrier.n_waiting(), 0);
        let killed = Instant::now();
        victim.kill().expect("a signal sent");
        let expected = format!("{:?}", BrokenReason::PartyDied { pid: victim.pid() });
        assert_eq!(first.join().expect("a reason"), expected);
        assert!(killed.elapsed() < TOLD, "told after {:?}", killed.elapsed());
        assert!(victim.join().is_err());
    });
}

#[test]
fn na_04_a_stopped_party_delays_nobody_and_gets_its_own_answer() {
    for_each_method(|context| {
        let barrier = Barrier::new(2).expect("a barrier").with_timeout(SOON);
        let wait = |barrier: Barrier| why(barrier.wait());
        let stopped = context.process(wait, (barrier.clone(),)).start().expect("a party");
        wait_until("one who waits", || barrier.n_waiting() == 1);
        let signal = |signal| {
            // SAFETY: no memory is involved; the process is our child and has not been waited for.
            assert_eq!(unsafe { libc::kill(stopped.pid() as i32, signal) }, 0);
        };
        signal(libc::SIGSTOP);
        wait_until("a stop", || common::state_of(stopped.pid()) == Some('T'));
        // It has arrived, so it passes; rounds that others make, or break, are not its own.
        assert_eq!(barrier.wait().expect("passed"), 1);
        for _ in 0..20 {
            let other = context.process(wait, (barrier.clone(),)).start().expect("a party");
            assert!(barrier.wait().is_ok());
            assert!(other.join().expect("a result").starts_with("Ok"));
        }
        let began = Instant::now();
        assert_eq!(why(barrier.wait_timeout(Duration::from_millis(50))), "TimedOut");
        assert!(began.elapsed() >= Duration::from_millis(50) && began.elapsed() < TOLD);
        barrier.reset();
        signal(libc::SIGCONT);
        assert_eq!(stopped.join().expect("a result"), "Ok(0)");
    });
}

/// BAR-10: a child looks at it and repairs it; the manager's are a matter of its own.
#[test]
fn bar_10_a_child_reads_the_parties_and_resets() {
    for_each_method(|context| {
        let barrier = barrier();
        barrier.abort();
        let look = |barrier: Barrier| {
            barrier.reset();
            barrier.parties()
        };
        let child = context.process(look, (barrier.clone(),)).start().expect("a child");
        assert_eq!(child.join().expect("a number"), PARTIES);
        assert_eq!(child.exit_code(), Some(0));
        assert!(!barrier.broken());
    });
}
