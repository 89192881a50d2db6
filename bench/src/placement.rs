//! Which CPU runs what, as `--pin` says.

use crate::options::Pin;
use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::HashMap;

/// Puts this process, and what it starts from now on, on CPU 0.
pub fn pin_parent(pin: Pin) -> Result<()> {
    if pin != Pin::None {
        sched_setaffinity(None, &only(0)).context("cannot pin this process to CPU 0")?;
    }
    Ok(())
}

/// Moves every process that descends from this one to CPU 1, if that is wanted.
pub fn split_off_descendants(pin: Pin) -> Result<()> {
    if pin != Pin::Split {
        return Ok(());
    }
    for pid in descendants(std::process::id()) {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let id = thread.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
            // A process may end while we look: then there is nothing to move.
            if let Some(id) = id
                && let Err(error) = sched_setaffinity(Some(id), &only(1))
                && error != rustix::io::Errno::SRCH
            {
                return Err(error).context("cannot pin a process to CPU 1");
            }
        }
    }
    Ok(())
}

/// Puts the calling thread on one CPU.
pub fn pin_to(cpu: usize) -> Result<()> {
    sched_setaffinity(None, &only(cpu)).with_context(|| format!("cannot pin this process to CPU {cpu}"))
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// Children, their children and so on.
fn descendants(of: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // PID (NAME) STATE PARENT ..; the name may hold anything, even parentheses.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut todo = vec![of];
    while let Some(pid) = todo.pop() {
        let mut next = children.remove(&pid).unwrap_or_default();
        found.extend_from_slice(&next);
        todo.append(&mut next);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn descendants_include_grandchildren() {
        use std::io::{BufRead, BufReader};
        // A shell gives background jobs no input unless told to; both end with ours.
        let mut shell = Command::new("sh")
            .args(["-c", "exec 3<&0; cat <&3 & echo $!; wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut grandchild = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut grandchild).unwrap();
        let found = descendants(std::process::id());
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(found.contains(&shell.id()));
        assert!(found.contains(&grandchild.trim().parse().unwrap()));
    }
}
