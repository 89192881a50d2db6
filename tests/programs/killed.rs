//! NA-12: whatever a family does, and whoever started whom, it is gone within a second of the `kill -9` of its head.

use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::{AuthKey, Context, Listener, Process, Queue, StartMethod};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{is_running, sleep_for_ever, state_of, wait_until};
use crate::program::Program;
use crate::{Main, Test};

pub const PROGRAMS: &[(&str, Main)] = &[("killed", family)];

pub const TESTS: &[(&str, Test)] = &[
    ("na_12_idle_children", || each_method("idle")),
    ("na_12_busy_children", || each_method("busy")),
    ("na_12_busy_children_that_block_all_signals", busy_with_signals_blocked),
    ("na_12_stopped_children", || each_method("stopped")),
    ("na_12_children_blocked_in_recv", || each_method("recv")),
    ("na_12_children_blocked_in_get", || each_method("get")),
    ("na_12_children_blocked_in_put", || each_method("put")),
    ("na_12_children_blocked_in_accept", || each_method("accept")),
    ("na_12_daemons", || each_method("daemon")),
    ("na_12_grandchildren", || each_method("grandchildren")),
    ("na_12_grandchildren_of_a_killed_child", killed_in_the_middle),
    // Fork is out: it refuses in a process with a second thread, so that no thread can end that started a process.
    ("na_12_children_whose_starting_thread_has_ended", || {
        ["spawn", "forkserver"]
            .iter()
            .for_each(|method| die("thread", Program::start("killed", &["thread", method])));
    }),
    ("na_12_children_of_a_killed_fork_server", || {
        die("server", Program::start("killed", &["server", "forkserver"]))
    }),
];

/// Children in a family.
const CHILDREN: usize = 3;

const LIMIT: Duration = Duration::from_secs(1);

fn each_method(how: &str) {
    for method in StartMethod::ALL {
        die(how, Program::start("killed", &[how, method.name()]));
    }
}

fn busy_with_signals_blocked() {
    let own = std::env::current_exe().expect("the path of this program");
    for method in StartMethod::ALL {
        let mut command = Command::new("env");
        command.arg("--block-signal").arg(&own).args(["program", "killed", "busy", method.name()]);
        die("busy", Program::from_command(&mut command));
    }
}

/// Kills the head of a family that is ready, and waits for the end of the others.
fn die(how: &str, mut program: Program) {
    assert_eq!(program.line(), "ready");
    let family = program.mark().bearers();
    assert!(family.len() > CHILDREN, "{how}: {family:?}");
    program.kill();
    let killed = Instant::now();
    let gone = program.gone_within(LIMIT);
    assert!(
        gone,
        "{how}: after {:?} there are still {:?} of {family:?}",
        killed.elapsed(),
        program.mark().bearers()
    );
}

/// The program `killed HOW METHOD`: a family that does HOW, started with METHOD.
fn family(arguments: Vec<String>) {
    let [how, method] = &arguments[..] else { panic!("arguments are HOW METHOD, not {arguments:?}") };
    let context = mp::get_context(&**method).expect("a method");
    let (here, there) = pipe().expect("a pipe");
    // Of all children, and of nobody else when the head is dead.
    let queue = Queue::bounded(1).expect("a queue");
    if how == "put" {
        queue.put(1).expect("put");
    }
    let start =
        || -> Vec<Process<()>> { (0..CHILDREN).map(|_| start_one(context, how, &there, &queue)).collect() };
    let children = if how == "thread" {
        std::thread::scope(|scope| scope.spawn(start).join().expect("children"))
    } else {
        start()
    };
    let voices = if how == "grandchildren" { 2 * CHILDREN } else { CHILDREN };
    (0..voices).for_each(|_| here.recv::<()>().expect("a word of a child"));
    match &**how {
        "get" | "put" => {
            for child in &children {
                wait_until("the child waits", || state_of(child.pid()) == Some('S'));
            }
        }
        "stopped" => {
            for child in &children {
                send(child.pid(), Signal::STOP);
                wait_until("the child stops", || state_of(child.pid()) == Some('T'));
            }
        }
        "server" => {
            let server = mp::server_pid().expect("a fork server");
            send(server, Signal::KILL);
            wait_until("the server ends", || !is_running(server));
            assert!(children.iter().all(Process::is_alive), "children outlive their server");
        }
        _ => {}
    }
    println!("ready");
    sleep_for_ever();
}

fn start_one(context: Context, how: &str, there: &Connection, queue: &Queue<u32>) -> Process<()> {
    let arguments = (how.to_owned(), context.get_start_method().to_owned(), again(there), queue.clone());
    context.process(member, arguments).daemon(how == "daemon").start().expect("a child")
}

/// The same end once more, for another process.
fn again(connection: &Connection) -> Connection {
    let duplicate = connection.as_fd().try_clone_to_owned().expect("a descriptor");
    Connection::from_fd(duplicate).expect("a connection")
}

/// A child of the family.
fn member(how: String, method: String, there: Connection, queue: Queue<u32>) {
    let grandchild = (how == "grandchildren").then(|| {
        let context = mp::get_context(&*method).expect("a method");
        start_one(context, "idle", &there, &queue)
    });
    there.send(&()).expect("sent");
    match &*how {
        "busy" => loop {
            std::hint::spin_loop();
        },
        "get" | "put" => {
            let result = if how == "get" { queue.get().map(drop) } else { queue.put(2) };
            panic!("it waited for nothing: {result:?}");
        }
        "accept" => {
            let address = format!("@mp-test-{}", std::process::id());
            let listener = Listener::builder().authkey(AuthKey::random()).bind(address).expect("a listener");
            listener.accept().expect("nobody ever comes");
        }
        "recv" => {
            let (here, _open) = pipe().expect("a pipe");
            here.recv::<()>().expect("nothing ever comes");
        }
        _ => sleep_for_ever(),
    }
    drop(grandchild);
}

/// The head lives on; the grandchildren end with the child that started them.
fn killed_in_the_middle() {
    crate::common::for_each_method(|context| {
        let (here, there) = pipe().expect("a pipe");
        let child = start_one(context, "grandchildren", &there, &Queue::bounded(1).expect("a queue"));
        (0..2).for_each(|_| here.recv::<()>().expect("a word of a child"));
        child.kill().expect("a signal sent");
        child.join().expect_err("it was killed");
        drop(there);
        // Both held the other end, and nobody else.
        assert!(here.poll(LIMIT).expect("a poll"), "the grandchild lives on");
    });
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a pid");
    kill_process(pid, signal).expect("a signal sent");
}
