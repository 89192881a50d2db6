//! Several producers, several consumers, one queue: each job brings along the file to work on and the connection to answer on.
//! One of the consumers is killed in the middle of its work; the others go on, and its job is known.
//!
//! `cargo run --example producer_consumer`

use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, Write};

use multiprocess as mp;
use multiprocess::queue::Error as QueueError;
use multiprocess::{Connection, Handle, JoinableQueue, pipe};
use serde::{Deserialize, Serialize};

const PRODUCERS: u32 = 2;
const CONSUMERS: u32 = 3;
const JOBS: u32 = 20;

#[derive(Serialize, Deserialize)]
struct Job {
    title: String,
    /// An open file travels as it is: whoever gets the job needs no path and no rights.
    text: Handle<File>,
    /// For this job alone.
    answer: Connection,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    words: usize,
    process: u32,
}

fn text(number: u32) -> std::io::Result<Handle<File>> {
    let mut file = File::from(rustix::fs::memfd_create("text", rustix::fs::MemfdFlags::CLOEXEC)?);
    (0..=number).try_for_each(|word| write!(file, "word{word} "))?;
    file.rewind()?;
    Ok(Handle(file))
}

/// Puts jobs, collects the answers; the words of all, and how many jobs went without an answer.
fn produce(jobs: JoinableQueue<Job>, me: u32) -> Result<(usize, u32), String> {
    let run = || -> Result<(usize, u32), Box<dyn Error>> {
        let mut answers = Vec::new();
        for number in 0..JOBS {
            let (here, answer) = pipe()?;
            // Waits while the queue is full, so that a fast producer does not fill the memory.
            jobs.put(Job { title: format!("text {number} of {me}"), text: text(number)?, answer })?;
            answers.push(here);
        }
        let answers = answers.into_iter().map(|here| here.recv::<Answer>());
        // The connection of a consumer that died is at its end: nobody waits for it.
        let (words, silent) = answers.fold((0, 0), |(words, silent), answer| match answer {
            Ok(answer) => (words + answer.words, silent),
            Err(_) => (words, silent + 1),
        });
        Ok((words, silent))
    };
    run().map_err(|error| error.to_string())
}

fn consume(jobs: JoinableQueue<Job>, dies: bool) -> Result<u32, String> {
    let run = || -> Result<u32, Box<dyn Error>> {
        let mut done = 0;
        loop {
            let mut job = match jobs.get() {
                Err(QueueError::Closed) => return Ok(done),
                job => job?,
            };
            if dies {
                println!("process {} dies over {:?}", std::process::id(), job.title);
                std::process::abort();
            }
            let mut content = String::new();
            job.text.0.read_to_string(&mut content)?;
            job.answer
                .send(&Answer { words: content.split_whitespace().count(), process: std::process::id() })?;
            jobs.task_done()?;
            done += 1;
        }
    };
    run().map_err(|error| error.to_string())
}

fn main() -> Result<(), Box<dyn Error>> {
    let jobs = JoinableQueue::<Job>::bounded(5)?;
    let doomed = mp::process(consume, (jobs.clone(), true)).start()?;
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|me| mp::process(produce, (jobs.clone(), me)).start())
        .collect::<Result<_, _>>()?;
    println!("as expected: {}", doomed.join().expect_err("it died").to_string().lines().next().unwrap_or(""));
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|_| mp::process(consume, (jobs.clone(), false)).start())
        .collect::<Result<_, _>>()?;

    let (mut words, mut silent) = (0, 0);
    for producer in producers {
        let (some, without) = producer.join()??;
        words += some;
        silent += without;
    }
    // All is put and answered; one job was got and never done.
    let Err(QueueError::ConsumerDied { owed, .. }) = jobs.join() else { return Err("who died?".into()) };
    jobs.join()?;
    jobs.close()?;
    for consumer in consumers {
        println!("process {} did {} jobs", consumer.pid(), consumer.join()??);
    }
    println!("{words} words; {silent} job without an answer, {owed} of a dead consumer");
    assert_eq!((silent, owed), (1, 1));
    Ok(())
}

#[test]
fn runs() {
    main().expect("all but one of the jobs are answered");
}
