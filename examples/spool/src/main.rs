//! An event spool: several writers that never wait for a database, and one process that writes to it.
//!
//! ```text
//! cargo run -p spool -- [WRITERS] [EVENTS]
//! ```
//!
//! The database writer is killed with `kill -9` again and again, and started anew. It commits each batch together with the
//! ids of its events, and acknowledges it after that: what was committed but not acknowledged comes again and is recognised by
//! its id. In the end each event is in the table exactly once, in each writer's order.

use anyhow::{Context, Result, ensure};
use mp_fsqueue::FsQueue;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What happened.
#[derive(Serialize, Deserialize)]
struct Event {
    writer: u32,
    number: u32,
    text: String,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["--write", dir, writer, events] => write(Path::new(dir), writer.parse()?, events.parse()?),
        ["--store", dir] => store(Path::new(dir)),
        [] => supervise(4, 5000),
        [writers, events] => supervise(writers.parse()?, events.parse()?),
        _ => anyhow::bail!("usage: spool [WRITERS EVENTS]"),
    }
}

fn spool(dir: &Path) -> Result<FsQueue<Event>> {
    Ok(FsQueue::open(dir.join("spool"))?)
}

fn database(dir: &Path) -> Result<Connection> {
    let database = Connection::open(dir.join("events.sqlite"))?;
    database.busy_timeout(Duration::from_secs(10))?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         CREATE TABLE IF NOT EXISTS events
             (position INTEGER PRIMARY KEY, id TEXT UNIQUE, writer INTEGER, number INTEGER, text TEXT)",
    )?;
    Ok(database)
}

/// Puts events. When `put` has returned, the event outlives this process.
fn write(dir: &Path, writer: u32, events: u32) -> Result<()> {
    let spool = spool(dir)?;
    for number in 0..events {
        spool.put(&Event { writer, number, text: format!("event {number} of writer {writer}") })?;
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Moves events from the spool to the database, until it is killed.
fn store(dir: &Path) -> Result<()> {
    let (spool, mut database) = (spool(dir)?, database(dir)?);
    loop {
        let batch = match spool.receive_timeout(200, Duration::from_secs(60)) {
            Err(e) if e.is_empty() => continue,
            batch => batch?,
        };
        for error in &batch.bad {
            eprintln!("set aside: {error}");
        }
        let transaction = database.transaction()?;
        for event in &*batch {
            transaction.execute(
                "INSERT OR IGNORE INTO events (id, writer, number, text) VALUES (?1, ?2, ?3, ?4)",
                params![event.id().to_string(), event.writer, event.number, event.text],
            )?;
        }
        transaction.commit()?;
        batch.ack()?;
    }
}

fn start(words: &[&str]) -> Result<Child> {
    let itself = std::env::current_exe().context("cannot name this program")?;
    Command::new(itself).args(words).spawn().context("cannot start this program")
}

/// Starts everyone, kills the database writer on the way, and checks the table.
fn supervise(writers: u32, events: u32) -> Result<()> {
    let dir = Scratch(std::env::temp_dir().join(format!("spool-{}", std::process::id())));
    std::fs::create_dir_all(&dir.0)?;
    let path = dir.0.to_str().context("an odd name for a directory")?;
    let (spool, table) = (spool(&dir.0)?, database(&dir.0)?);
    let begin = Instant::now();
    let arguments = (0..writers).map(|w| (w.to_string(), events.to_string()));
    let mut children =
        arguments.map(|(w, n)| start(&["--write", path, &w, &n])).collect::<Result<Vec<_>>>()?;
    let all = u64::from(writers) * u64::from(events);
    let count = || table.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, u64>(0));
    let mut storer = start(&["--store", path])?;
    let mut kills = 0;
    while count()? < all || spool.stats()?.claimed > 0 || !spool.is_empty()? {
        ensure!(begin.elapsed() < Duration::from_secs(120), "{} of {all} events after two minutes", count()?);
        std::thread::sleep(Duration::from_millis(50));
        // Not so often that nothing gets done.
        if kills < 20 {
            storer.kill()?;
            storer.wait()?;
            storer = start(&["--store", path])?;
            kills += 1;
        }
    }
    storer.kill()?;
    storer.wait()?;
    for child in &mut children {
        ensure!(child.wait()?.success(), "a writer failed");
    }

    let mut rows = table.prepare("SELECT writer, number FROM events ORDER BY position")?;
    let mut next = vec![0; writers as usize];
    for row in rows.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?)))? {
        let (writer, number) = row?;
        let expected = next.get_mut(writer as usize).context("an unknown writer")?;
        ensure!(number == *expected, "writer {writer}: event {number} where {expected} belongs");
        *expected += 1;
    }
    ensure!(next.iter().all(|n| *n == events), "events are missing: {next:?}");
    let stats = spool.stats()?;
    println!(
        "{all} events of {writers} writers in {:.1?}; the database writer was killed {kills} times, {} events came again,\n\
         none is lost, none is double",
        begin.elapsed(),
        stats.returned
    );
    Ok(())
}

/// A directory that goes in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
