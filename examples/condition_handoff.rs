//! Two processes hand work to each other: one counts words, the other adds up, and a condition says whose turn it is.
//!
//! `cargo run --example condition_handoff`

use std::error::Error;
use std::time::Duration;

use multiprocess as mp;
use multiprocess::{Array, Condition, Value};

const TEXT: [&str; 5] = [
    "One process takes a line from the desk",
    "and counts its words",
    "The other one adds up what it is told",
    "and puts the next line there",
    "until none is left",
];

const LONGEST: usize = 64;

/// How long one waits for the other, which may have been killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What lies on the desk.
mod turn {
    pub const EMPTY: u32 = 0;
    pub const LINE: u32 = 1;
    pub const ANSWER: u32 = 2;
    pub const CLOSED: u32 = 3;
}

/// Shared memory for one line, or for the answer to it; handles to all of this travel like any other argument.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Desk {
    /// Who changes the rest holds the lock of this one.
    changed: Condition,
    turn: Value<u32>,
    line: Array<u8>,
    words: Value<u64>,
}

impl Desk {
    fn new() -> mp::shm::Result<Desk> {
        Ok(Desk {
            changed: Condition::new()?,
            turn: Value::new(turn::EMPTY)?,
            line: Array::zeroed(LONGEST)?,
            words: Value::new(0)?,
        })
    }

    /// Waits until one of `turns` has come, does `work`, and hands on.
    fn hand_on(&self, turns: &[u32], work: impl FnOnce(u32) -> mp::shm::Result<u32>) -> mp::shm::Result<u32> {
        let mut guard = self.changed.lock()?;
        let mut now = self.turn.get()?;
        while !turns.contains(&now) {
            // Gives up the lock until the other one has notified.
            if !self.changed.wait_timeout(&mut guard, PATIENCE)? {
                return Err(mp::sync::Error::Timeout { what: "the other one at the desk" }.into());
            }
            now = self.turn.get()?;
        }
        let next = work(now)?;
        self.turn.set(next)?;
        self.changed.notify_one()?;
        Ok(next)
    }
}

/// Counts the words of each line that it is handed; returns how many lines those were.
fn count(desk: &Desk) -> mp::shm::Result<usize> {
    let mut lines = 0;
    loop {
        let next = desk.hand_on(&[turn::LINE, turn::CLOSED], |now| {
            if now == turn::CLOSED {
                return Ok(now);
            }
            let line = desk.line.text()?;
            desk.words.set(String::from_utf8_lossy(&line).split_whitespace().count() as u64)?;
            Ok(turn::ANSWER)
        })?;
        if next == turn::CLOSED {
            return Ok(lines);
        }
        lines += 1;
    }
}

/// Hands out all lines and adds up the answers.
fn add_up(desk: &Desk, lines: &[&str]) -> mp::shm::Result<u64> {
    let mut sum = 0;
    for line in lines {
        desk.hand_on(&[turn::EMPTY], |_| {
            desk.line.set_text(line.as_bytes())?;
            Ok(turn::LINE)
        })?;
        desk.hand_on(&[turn::ANSWER], |_| {
            let words = desk.words.get()?;
            println!("{words:3} words: {line}");
            sum += words;
            Ok(turn::EMPTY)
        })?;
    }
    desk.hand_on(&[turn::EMPTY], |_| Ok(turn::CLOSED))?;
    Ok(sum)
}

/// What the counting process runs; errors travel home as text.
fn counter(desk: Desk) -> Result<usize, String> {
    count(&desk).map_err(|error| error.to_string())
}

fn run() -> Result<(u64, usize), Box<dyn Error>> {
    let desk = Desk::new()?;
    let process = mp::process(counter, (desk.clone(),)).name("counter").start()?;
    let sum = add_up(&desk, &TEXT)?;
    Ok((sum, process.join()??))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (words, lines) = run()?;
    println!("{words:3} words in {lines} lines");
    Ok(())
}

#[test]
fn every_line_is_counted_once() {
    let words = TEXT.iter().flat_map(|line| line.split(' ')).count() as u64;
    assert_eq!(run().expect("both processes come to an end"), (words, TEXT.len()));
}

#[test]
fn a_desk_serves_threads_as_well() {
    let desk = Desk::new().expect("shared memory");
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| count(&desk));
        assert_eq!(add_up(&desk, &["a b c", "", "  d  "]).expect("a sum"), 4);
        assert_eq!(counter.join().expect("no panic").expect("a count"), 3);
    });
}
