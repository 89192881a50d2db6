//! A chat: one process listens, each guest is a process of its own, and all hear what one says.
//!
//! `cargo run --example chat` lets three guests talk. On a terminal you are a guest, too: what you type is said,
//! until the end of input. Other terminals can join with `cargo run --example chat -- ADDRESS NAME`, if `CHAT_KEY` is set to
//! the same secret in all of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, IsTerminal, stdin};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mp::{Address, AuthKey, Connection, Listener, connect};
use multiprocess as mp;

/// How long the room waits for a guest that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the room hears from a guest: a line, or that it has left.
type Heard = (String, Option<String>);

/// Guests by name, and the half of their connection that the room speaks to.
type Guests = Arc<Mutex<BTreeMap<String, Connection>>>;

/// The key of this family of processes, or the one that several terminals agree on.
fn key() -> AuthKey {
    match std::env::var("CHAT_KEY") {
        Ok(secret) => AuthKey::new(secret),
        Err(_) => mp::current_process().authkey().clone(),
    }
}

/// Lets in whoever has the key, and hears each guest on a thread of its own.
fn welcome(listener: &Listener, guests: &Guests, room: &Sender<Heard>) {
    for guest in listener.incoming() {
        // The two directions by themselves: one thread hears, another speaks.
        let Ok((hear, speak)) = guest.and_then(Connection::split) else { continue };
        let (guests, room) = (guests.clone(), room.clone());
        thread::spawn(move || {
            let Ok(name) = hear.recv::<String>() else { return };
            lock(&guests).insert(name.clone(), speak);
            let _ = room.send((name.clone(), Some("(comes in)".into())));
            // The end of its connection, by whatever cause, is the end of its visit.
            while let Ok(line) = hear.recv::<String>() {
                let _ = room.send((name.clone(), Some(line)));
            }
            lock(&guests).remove(&name);
            let _ = room.send((name, None));
        });
    }
}

/// Says to all guests what one of them said, until all visits are over or nobody can come any more; returns the lines.
fn preside(
    heard: &Receiver<Heard>,
    guests: &Guests,
    visits: usize,
    deserted: impl Fn() -> bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = 0;
    while left < visits {
        let Ok((name, said)) = heard.recv_timeout(Duration::from_secs(1)) else {
            // Guests may die before they come in.
            if deserted() {
                break;
            }
            continue;
        };
        left += usize::from(said.is_none());
        let line = format!("{name}: {}", said.as_deref().unwrap_or("(leaves)"));
        println!("{line}");
        for guest in lock(guests).values() {
            // Whoever does not listen any more is about to be seen leaving; one that does not read (stopped, perhaps) holds up
            // the others once, and hears nothing more.
            let _ = guest.send_timeout(&line, PATIENCE);
        }
        lines.push(line);
    }
    lines
}

fn lock(guests: &Guests) -> std::sync::MutexGuard<'_, BTreeMap<String, Connection>> {
    guests.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A guest that says its lines, each when it has heard its last one, and leaves. Returns how many lines it heard.
fn guest(address: Address, name: String, lines: Vec<String>) -> Result<usize, String> {
    let talk = || -> mp::Result<usize> {
        let room = connect(address, Some(&key()))?;
        room.send(&name)?;
        let mut heard = 0;
        for line in ["(comes in)".to_owned()].iter().chain(&lines) {
            if heard > 0 {
                room.send(line)?;
            }
            let own = format!("{name}: {line}");
            while room.recv::<String>()? != own {
                heard += 1;
            }
            heard += 1;
        }
        Ok(heard)
    };
    talk().map_err(|error| error.to_string())
}

/// A guest at a terminal: says what is typed, shows what is heard.
fn visit(address: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let (hear, speak) = connect(address, Some(&key()))?.split()?;
    let shows = thread::spawn(move || {
        while let Ok(line) = hear.recv::<String>() {
            println!("{line}");
        }
    });
    speak.send(name)?;
    for line in stdin().lock().lines() {
        speak.send(&line?)?;
    }
    speak.end_sending()?;
    let _ = shows.join();
    Ok(())
}

/// A whole conversation; returns its lines.
fn chat(at_a_terminal: bool) -> Result<Vec<String>, Box<dyn Error>> {
    let listener = Arc::new(Listener::builder().authkey(key()).bind_fresh()?);
    let address = listener.address()?.clone();
    let guests = Guests::default();
    let (room, heard) = mpsc::channel();
    let door = {
        let (listener, guests, room) = (listener.clone(), guests.clone(), room.clone());
        thread::spawn(move || welcome(&listener, &guests, &room))
    };
    println!("the room is at {address}");

    let script = [("ann", "anybody here?"), ("bob", "I am"), ("eve", "so am I")];
    let start = |(name, line): (&str, &str)| {
        let lines = vec![line.to_owned(), "bye".to_owned()];
        mp::process(guest, (address.clone(), name.to_owned(), lines)).name(name).start()
    };
    let processes = script.into_iter().map(start).collect::<Result<Vec<_>, _>>()?;
    // A stranger without the key hears nothing, and disturbs nobody.
    let stranger = connect(&address, Some(&AuthKey::new("a guess")));
    println!("a stranger: {}", stranger.err().map_or("was let in".into(), |error| error.to_string()));

    let visits = script.len() + usize::from(at_a_terminal);
    if at_a_terminal {
        thread::spawn(move || {
            for line in stdin().lock().lines().map_while(Result::ok) {
                let _ = room.send(("you".into(), Some(line)));
            }
            let _ = room.send(("you".into(), None));
        });
    }
    let deserted = || !at_a_terminal && processes.iter().all(|guest| !guest.is_alive());
    let lines = preside(&heard, &guests, visits, deserted);
    listener.close();
    door.join().map_err(|_| "the thread at the door panicked")?;
    for process in processes {
        println!("{} heard {} lines", process.name(), process.join()??);
    }
    Ok(lines)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => chat(stdin().is_terminal()).map(drop),
        [address, name] => visit(address, name),
        _ => Err("usage: chat [ADDRESS NAME]".into()),
    }
}

#[test]
fn everybody_is_heard() {
    let lines = chat(false).expect("a conversation");
    for name in ["ann", "bob", "eve"] {
        let of_one: Vec<&String> = lines.iter().filter(|line| line.starts_with(name)).collect();
        assert_eq!(of_one.len(), 4, "{lines:?}");
        assert_eq!(of_one[0], &format!("{name}: (comes in)"));
        assert_eq!(of_one[2..], [&format!("{name}: bye"), &format!("{name}: (leaves)")]);
    }
    assert_eq!(lines.len(), 12, "{lines:?}");
}
