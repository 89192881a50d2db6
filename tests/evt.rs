//! EVT: events between processes and threads, also from signal handlers (NA-27), cleared at once (NA-28), and when a waiter
//! is killed (NA-4).

mod common;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use mp_sync::Event;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{Context, Process};

use common::{alone, for_each_method, is_running, state_of, wait_until};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

#[test]
fn evt_01_set_clear_and_wait() {
    for_each_method(|context| {
        let check = |event: Event| {
            assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO));
            let began = Instant::now();
            assert!(!event.wait_timeout(SHORT));
            assert!(began.elapsed() >= SHORT);
            event.set();
            assert!(event.is_set());
            event.wait();
            assert!(event.wait_timeout(SHORT) && event.wait_timeout(Duration::ZERO));
            event.clear();
            assert!(!event.is_set());
        };
        let event = Event::new().expect("an event");
        check(event.clone());
        context.process(check, (event.clone(),)).start().expect("a child").join().expect("the same");
    });
}

#[test]
fn evt_02_set_by_a_child() {
    for_each_method(|context| {
        let event = Event::new().expect("an event");
        let set_later = |event: Event| {
            thread::sleep(SHORT);
            event.set();
        };
        let child = context.process(set_later, (event.clone(),)).start().expect("a child");
        event.wait();
        assert!(event.is_set());
        child.join().expect("set");
    });
}

#[test]
fn evt_03_printable_state() {
    let event = Event::new().expect("an event");
    assert_eq!(format!("{event:?}"), "<Event unset>");
    event.set();
    assert_eq!(format!("{event:?}"), "<Event set>");
    event.clear();
    assert_eq!(format!("{event:?}"), "<Event unset>");
}

/// Says that it is there, and waits; whether the event was set.
fn wait(event: Event, there: Connection) -> bool {
    there.send(&()).expect("sent");
    event.wait_timeout(LONG)
}

/// A child that sleeps in the wait.
fn waiter(context: Context, event: &Event) -> Process<bool> {
    let (here, there) = pipe().expect("a pipe");
    let child = context.process(wait, (event.clone(), there)).start().expect("a child");
    here.recv::<()>().expect("it is there");
    let mut asleep = 0;
    wait_until("it sleeps", || {
        asleep = if state_of(child.pid()) == Some('S') { asleep + 1 } else { 0 };
        asleep == 5
    });
    child
}

/// NA-28
#[test]
fn evt_04_set_is_idempotent_and_wakes_though_it_is_cleared() {
    for_each_method(|context| {
        let event = Event::new().expect("an event");
        event.set();
        event.set();
        event.clear();
        assert!(!event.is_set());
        for _ in 0..20 {
            let children = [waiter(context, &event), waiter(context, &event)];
            event.set();
            event.clear();
            children.iter().for_each(|child| assert!(child.join().expect("an answer")));
            assert!(!event.is_set());
        }
    });
}

/// NA-4
#[test]
fn evt_04_a_killed_waiter_harms_nobody() {
    for_each_method(|context| {
        let event = Event::new().expect("an event");
        let children = [waiter(context, &event), waiter(context, &event), waiter(context, &event)];
        children[1].kill().expect("killed");
        children[1].join().expect_err("killed");
        let began = Instant::now();
        event.set();
        assert!(began.elapsed() < Duration::from_secs(1) && !is_running(children[1].pid()));
        assert!(children[0].join().expect("an answer") && children[2].join().expect("an answer"));
        event.clear();
        assert!(!event.wait_timeout(SHORT));
    });
}

static EVENT: OnceLock<Event> = OnceLock::new();

extern "C" fn set_in_handler(_: libc::c_int) {
    if let Some(event) = EVENT.get() {
        event.set();
    }
}

/// Has the handler of SIGUSR1 set the event.
fn install() -> &'static Event {
    let event = EVENT.get_or_init(|| Event::new().expect("an event"));
    // SAFETY: the handler calls nothing that a handler must not call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = set_in_handler as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    event
}

#[test]
fn na_27_a_handler_sets_what_its_thread_waits_for() {
    alone(|| {
        let event = install();
        // SAFETY: no preconditions.
        let me = unsafe { libc::pthread_self() } as usize;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    // SAFETY: the thread waits for this one to end.
                    unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR1) };
                    (0..100).for_each(|_| std::hint::spin_loop());
                }
            });
            for _ in 0..2000 {
                event.clear();
                assert!(event.wait_timeout(LONG));
                event.clear();
                event.set();
                event.clear();
                while !event.is_set() {}
            }
            stop.store(true, Relaxed);
        });
    });
}

#[test]
fn na_27_a_signal_from_a_child_ends_the_wait() {
    for_each_method(|context| {
        let event = install();
        let call = |pid: u32| {
            wait_until("the parent sleeps", || state_of(pid) == Some('S'));
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGUSR1) }, 0);
        };
        let child = context.process(call, (std::process::id(),)).start().expect("a child");
        event.wait();
        child.join().expect("called");
    });
}
