//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What is told to those who ask.
pub const USAGE: &str = "\
usage: fsqueue put|get|drain|ls|stats|requeue|watch|check DIR [OPTION ..]

  put      adds the JSON values of standard input, one a line
  get      takes and prints the oldest item; fails if there is none
  drain    takes and prints all items that wait
  ls       prints the items that wait, with their ids, and takes none
  stats    prints counts, unreadable and foreign files, and why items failed
  requeue  gives back what dead consumers worked on
  watch    prints the counts whenever they change
  check    prints what is wrong with the files; fails if something is

  -n N                how many: items of get and ls, lines of watch
  --timeout SECONDS   get: how long to wait; watch: how often to look
  --durable           do not return before the disk has it
  --older-than SECONDS  requeue: other hosts' consumers that were silent for so long (900)
  --failed            requeue: also what failed";

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    Put,
    Get,
    Drain,
    List,
    Stats,
    Requeue,
    Watch,
    Check,
}

/// The whole command line.
#[derive(Debug, PartialEq)]
pub struct Arguments {
    pub command: Command,
    pub dir: PathBuf,
    pub limit: Option<usize>,
    pub timeout: Option<Duration>,
    pub older_than: Duration,
    pub durable: bool,
    pub failed: bool,
}

/// Reads a command line; none if help is wanted.
pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Option<Arguments>, String> {
    let mut words = words;
    let mut places = Vec::new();
    let (mut limit, mut timeout, mut older_than) = (None, None, Duration::from_secs(900));
    let (mut durable, mut failed) = (false, false);
    while let Some(word) = words.next() {
        let mut value = || words.next().and_then(|w| w.into_string().ok()).ok_or("a value is missing");
        match word.to_str() {
            Some("-h" | "--help") => return Ok(None),
            Some("-n") => limit = Some(value()?.parse().map_err(|e| format!("-n: {e}"))?),
            Some("--timeout") => timeout = Some(seconds(&value()?)?),
            Some("--older-than") => older_than = seconds(&value()?)?,
            Some("--durable") => durable = true,
            Some("--failed") => failed = true,
            Some(option) if option.starts_with('-') => return Err(format!("no such option: {option}")),
            _ => places.push(word),
        }
    }
    let [command, dir] =
        <[OsString; 2]>::try_from(places).map_err(|_| "a command and a directory are needed")?;
    let command = match command.to_str() {
        Some("put") => Command::Put,
        Some("get") => Command::Get,
        Some("drain") => Command::Drain,
        Some("ls") => Command::List,
        Some("stats") => Command::Stats,
        Some("requeue") => Command::Requeue,
        Some("watch") => Command::Watch,
        Some("check") => Command::Check,
        _ => return Err(format!("no such command: {}", command.display())),
    };
    Ok(Some(Arguments { command, dir: dir.into(), limit, timeout, older_than, durable, failed }))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|e| format!("{text}: {e}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| format!("{text}: {e}"))
}
