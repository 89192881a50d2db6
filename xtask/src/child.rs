//! A child that cannot outlive or outwait us.
//!
//! The child runs in a process group led by a guard, a shell that waits for its input to end and then kills the group.
//! We hold the other end of that input: closing it stops a child that has gone silent, and our own death, however it
//! comes, closes it too. Whatever a run leaves behind in its group ends with the run.

use anyhow::{Context, Result};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long output may keep coming after the child has ended, from processes that left its group.
const DRAIN: Duration = Duration::from_secs(5);

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// Killed, because it printed nothing for the given time.
    Silent,
}

/// Runs `command`; `line` gets each line that it prints, to standard output or standard error, in the order of printing.
pub fn run(mut command: Command, silence: Duration, mut line: impl FnMut(&str)) -> Result<End> {
    let mut guard = Guard::start()?;
    let (stream, stdout) = std::io::pipe().context("cannot make a pipe")?;
    let stderr = stdout.try_clone().context("cannot duplicate a descriptor")?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.process_group(guard.group()?);
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    // It holds our ends of the pipe for writing, which would never end.
    drop(command);

    let (sender, output) = sync_channel(64);
    copy(stream, sender);
    let mut lines = Lines::default();
    let spoke_until_end = pump(&output, Silence::Since(Instant::now(), silence), &mut lines, &mut line);
    if !spoke_until_end {
        guard.kill_group();
    }
    let status = child.wait().context("cannot wait for a child")?;
    guard.kill_group();
    pump(&output, Silence::Until(Instant::now() + DRAIN), &mut lines, &mut line);
    lines.finish(&mut line);
    Ok(if spoke_until_end { End::Exited(status) } else { End::Silent })
}

/// When waiting for output ends.
enum Silence {
    /// When none has come for so long since the last.
    Since(Instant, Duration),
    /// At a point in time.
    Until(Instant),
}

/// Passes output on until it ends (`true`) or the wait is over (`false`).
fn pump(
    output: &Receiver<Vec<u8>>,
    mut wait: Silence,
    lines: &mut Lines,
    line: &mut impl FnMut(&str),
) -> bool {
    loop {
        let until = match wait {
            Silence::Since(last, limit) => last + limit,
            Silence::Until(deadline) => deadline,
        };
        match output.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(bytes) => lines.feed(&bytes, line),
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => return true,
        }
        if let Silence::Since(last, _) = &mut wait {
            *last = Instant::now();
        }
    }
}

/// Sends what a stream brings, from a thread that ends with the stream.
fn copy(mut stream: impl Read + Send + 'static, to: SyncSender<Vec<u8>>) {
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if to.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], line: &mut impl FnMut(&str)) {
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            self.rest.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.finish(line);
            }
        }
    }

    fn finish(&mut self, line: &mut impl FnMut(&str)) {
        if !self.rest.is_empty() {
            line(String::from_utf8_lossy(&self.rest).trim_end_matches(['\r', '\n']));
            self.rest.clear();
        }
    }
}

/// The leader of the child's process group.
struct Guard {
    shell: Child,
    alive: Option<ChildStdin>,
}

impl Guard {
    fn start() -> Result<Guard> {
        let mut shell = Command::new("sh")
            .args(["-c", "read -r _; kill -s KILL 0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let alive = shell.stdin.take();
        Ok(Guard { shell, alive })
    }

    fn group(&self) -> Result<i32> {
        Ok(self.shell.id().try_into()?)
    }

    /// Ends every process of the group; later calls do nothing.
    fn kill_group(&mut self) {
        if self.alive.take().is_some() {
            let _ = self.shell.wait();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.kill_group();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]);
        sh
    }

    #[test]
    fn lines_of_both_streams_arrive_in_order_and_so_does_the_status() {
        let mut seen = Vec::new();
        let end = run(shell("echo one; echo error >&2; printf two; exit 3"), Duration::from_secs(60), |l| {
            seen.push(l.to_owned())
        });
        assert_eq!(seen, ["one", "error", "two"]);
        assert!(matches!(end, Ok(End::Exited(status)) if status.code() == Some(3)), "{end:?}");
    }

    #[test]
    fn a_silent_child_is_killed_with_its_children() {
        let mut pids = Vec::new();
        // Both the shell and its sleeping child hold our pipes; the run ends only because both are killed.
        let end = run(shell("sleep 1000 & echo $!; echo $$; wait"), Duration::from_millis(300), |l| {
            pids.push(l.to_owned());
        });
        assert!(matches!(end, Ok(End::Silent)), "{end:?}");
        assert_eq!(pids.len(), 2);
        for pid in pids {
            assert!(gone(&pid), "process {pid} is still alive");
        }
    }

    #[test]
    fn what_a_child_leaves_in_its_group_ends_with_it() {
        let mut pid = String::new();
        let end = run(shell("sleep 1000 >/dev/null 2>&1 & echo $!"), Duration::from_secs(60), |l| {
            l.clone_into(&mut pid)
        });
        assert!(matches!(end, Ok(End::Exited(status)) if status.success()), "{end:?}");
        assert!(gone(&pid), "process {pid} is still alive");
    }

    /// Whether the process is gone or a zombie that init has yet to reap, within a generous time.
    fn gone(pid: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => thread::yield_now(),
                _ => return true,
            }
        }
        false
    }
}
