//! Programs that print results, with a time limit.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `command`, giving each line that it prints to `line` as it comes. After `limit` it is killed with its process
/// group; the lines that came before have been seen.
pub fn read(mut command: Command, limit: Duration, mut line: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + limit;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let output = child.stdout.take().context("no output")?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let seen = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(text) => {
                if let Err(error) = line(&text) {
                    break Err(error);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
            Err(RecvTimeoutError::Timeout) => break Err(anyhow::anyhow!("stopped after {limit:?}")),
        }
    };
    if seen.is_err() {
        // The child is not reaped yet, so its pid is still the name of its group.
        let group = Pid::from_raw(child.id().try_into()?).context("no such pid")?;
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().context("cannot wait for a child")?;
    seen?;
    if !status.success() {
        bail!("ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_before_the_time_limit_are_kept() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two; sleep 1000 & wait"]);
        let mut seen = Vec::new();
        let error = read(shell, Duration::from_secs(1), |l| {
            seen.push(l.to_owned());
            Ok(())
        });
        assert_eq!(seen, ["one", "two"]);
        assert!(error.unwrap_err().to_string().starts_with("stopped after"));
    }
}
