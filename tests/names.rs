//! START-13: the public names of the facade are complete, and none is there by accident.

use std::collections::BTreeSet;

/// Every public name; a change here is a change of what users have.
const NAMES: &[&str] = &[
    "Address",
    "Array",
    "AuthKey",
    "Barrier",
    "BoundedSemaphore",
    "BrokenReason",
    "Bulk",
    "Call",
    "Condition",
    "ConditionGuard",
    "Connection",
    "Context",
    "ContextExt",
    "CurrentProcess",
    "DeadOwner",
    "Durability",
    "Error",
    "Event",
    "ExitReason",
    "FsQueue",
    "Handle",
    "InitializeError",
    "JoinableQueue",
    "Listener",
    "ListenerBuilder",
    "Lock",
    "LockGuard",
    "Logger",
    "OnError",
    "PanicReport",
    "ParentProcess",
    "Peer",
    "Permit",
    "Pool",
    "PoolBuilder",
    "PoolError",
    "PoolStats",
    "PreloadOutcome",
    "Process",
    "ProcessBuilder",
    "ProcessError",
    "Queue",
    "RLock",
    "RLockGuard",
    "RawArray",
    "RawValue",
    "Resource",
    "Result",
    "Results",
    "ReturnWhen",
    "Semaphore",
    "ShareableList",
    "SharedMemory",
    "SharedSlice",
    "SharedVec",
    "SimpleQueue",
    "StartError",
    "StartMethod",
    "StartingProcess",
    "Stdio",
    "Synchronized",
    "TaskError",
    "TaskFailure",
    "Value",
    "ValueGuard",
    "With",
    "WorkerLost",
    "active_children",
    "allow_connection_pickling",
    "as_completed",
    "connect",
    "connect_async",
    "connect_timeout",
    "copy",
    "core",
    "cpu_count",
    "current_process",
    "default_start_method",
    "exit",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "initialize",
    "log_to_stderr",
    "parent_process",
    "physical_cpu_count",
    "pipe",
    "prelude",
    "process",
    "queue",
    "recommended_start_method",
    "reset_executable",
    "server_pid",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
    "shm",
    "signal_name",
    "simplex_pipe",
    "sync",
    "synchronized",
    "wait",
    "wait_ready",
    "wait_ready_async",
];

/// The names that `src/lib.rs` exports.
fn exported() -> BTreeSet<String> {
    let source = include_str!("../src/lib.rs");
    let mut names = BTreeSet::new();
    for item in source.split("pub ").skip(1) {
        let item = item.split(';').next().unwrap_or_default();
        if let Some(module) = item.strip_prefix("mod ") {
            names.insert(module.to_owned());
        }
        let Some(path) = item.strip_prefix("use ") else { continue };
        assert!(!path.contains('*'), "what {path} exports is not seen here");
        let list =
            path.split_once('{').map_or_else(|| path.rsplit("::").next().unwrap_or(path), |(_, list)| list);
        for name in list.trim_end_matches('}').split(',').map(str::trim).filter(|name| !name.is_empty()) {
            names.insert(name.rsplit(" as ").next().unwrap_or(name).to_owned());
        }
    }
    names
}

#[test]
fn start_13_the_public_names_are_those_of_the_list() {
    let listed: BTreeSet<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    let exported = exported();
    let missing: Vec<_> = listed.difference(&exported).collect();
    let unexpected: Vec<_> = exported.difference(&listed).collect();
    assert!(missing.is_empty() && unexpected.is_empty(), "missing: {missing:?}; unexpected: {unexpected:?}");
}

/// The names of Python's module that concern processes, queues and connections are all there: as it spells them, or for functions
/// as Rust does.
#[test]
fn start_13_the_names_of_python_are_there() {
    let python = [
        "active_children",
        "allow_connection_pickling",
        "cpu_count",
        "current_process",
        "freeze_support",
        "get_all_start_methods",
        "get_context",
        "get_start_method",
        "parent_process",
        "set_executable",
        "set_forkserver_preload",
        "set_start_method",
    ];
    let exported = exported();
    for name in python.into_iter().chain(["Pool", "Process", "ProcessError"]) {
        assert!(exported.contains(name), "{name}");
    }
    // `Pipe`, `connection.Client`, `connection.wait` are functions; the exceptions are variants of the error.
    for name in ["JoinableQueue", "Queue", "SimpleQueue", "Connection", "Listener", "AuthKey"] {
        assert!(exported.contains(name), "{name}");
    }
    for name in ["pipe", "simplex_pipe", "connect", "wait_ready"] {
        assert!(exported.contains(name), "{name}");
    }
}
