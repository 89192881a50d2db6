//! This host and this process: a boot identity, clocks, and whether another process still is who it was.

use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;

/// The identity of this boot of this host; 0 if the system does not tell.
pub(crate) fn boot_id() -> u128 {
    #[cfg(test)]
    if let Some(boot) = pretend::BOOT.get() {
        return boot;
    }
    static BOOT: OnceLock<u128> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
    })
}

/// Nanoseconds since the host started; never goes back.
pub(crate) fn since_boot() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// Nanoseconds since 1970, as the host's clock is set.
pub(crate) fn wall_clock() -> u64 {
    #[cfg(test)]
    return nanoseconds(ClockId::Realtime)
        .wrapping_add_signed(pretend::ADVANCE.get().wrapping_mul(1_000_000_000));
    #[cfg(not(test))]
    nanoseconds(ClockId::Realtime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

/// The system's number of this process. Asked every time: a forked child must not act as its parent.
pub(crate) fn pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The namespace that our pids belong to; 0 if the system does not tell.
pub(crate) fn pid_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |s| s.st_ino)
}

/// When a process started, in ticks since boot; none if there is no such process, or none that still runs.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // PID (NAME) STATE ..; the name may hold anything, even parentheses. The start is the 22nd field.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Other hosts, for tests: one per thread.
#[cfg(test)]
pub(crate) mod pretend {
    use std::cell::Cell;

    thread_local! {
        pub static BOOT: Cell<Option<u128>> = const { Cell::new(None) };
        /// Whether all files are on a network file system.
        pub static REMOTE: Cell<bool> = const { Cell::new(false) };
        /// Seconds by which the wall clock is wrong.
        pub static ADVANCE: Cell<i64> = const { Cell::new(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs() {
        assert!(start_time(pid()).is_some());
        assert_ne!(boot_id(), 0);
        assert!(since_boot() < wall_clock());
    }
}
