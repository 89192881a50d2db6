//! Whether there is room for what is about to be made, where the kernel would answer with a signal instead of an error.
//!
//! Files in memory are files: one that grows beyond `RLIMIT_FSIZE` is a `SIGXFSZ`, which ends the process.

use std::io::{Error, ErrorKind};

use rustix::process::{Resource, getrlimit};

/// Whether this process may have a file of so many bytes.
///
/// # Errors
/// "File too large", with the limit.
pub fn file(wanted: usize) -> std::io::Result<()> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if limit < wanted as u64 => Err(Error::new(
            ErrorKind::FileTooLarge,
            format!("{wanted} bytes are more than a file of this process may have (RLIMIT_FSIZE is {limit})"),
        )),
        _ => Ok(()),
    }
}

/// Whether there is so much memory, where the kernel would end some process for want of it instead of failing.
///
/// Looks for large sizes only, where that costs nothing by comparison. What files of a control group do not
/// say, or where there are none, is taken as unlimited.
///
/// # Errors
/// "Out of memory", with the numbers.
pub fn memory(wanted: usize) -> std::io::Result<()> {
    const LARGE: usize = 64 << 20;
    if wanted < LARGE {
        return Ok(());
    }
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let field = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
    };
    let system = read("/proc/meminfo").and_then(|text| {
        let kib = field(&text, "MemAvailable:")?.saturating_add(field(&text, "SwapFree:").unwrap_or(0));
        Some(kib.saturating_mul(1024))
    });
    // Files that are only cached count as used there, but give way.
    let group = |folder: &str, limit: &str, used: &str| {
        let stat = read(&format!("{folder}/memory.stat")).unwrap_or_default();
        let cached = ["inactive_file ", "active_file "].map(|name| field(&stat, name).unwrap_or(0));
        let used = number(&format!("{folder}/{used}"))?.saturating_sub(cached[0].saturating_add(cached[1]));
        Some(number(&format!("{folder}/{limit}"))?.saturating_sub(used))
    };
    let free = [
        system,
        group("/sys/fs/cgroup", "memory.max", "memory.current"),
        group("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ];
    match free.into_iter().flatten().min() {
        Some(free) if free < wanted as u64 => Err(Error::new(
            ErrorKind::OutOfMemory,
            format!("{wanted} bytes of memory are wanted, {free} are available"),
        )),
        _ => Ok(()),
    }
}
