//! Items and results of pools: of any size, in chunks of any size, with handles inside, and what becomes of the handles
//! when a task or a worker does not make it.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use multiprocess::core::Error;
use multiprocess::core::connection::{Connection, pipe, simplex_pipe};
use multiprocess::core::handle::Handle;
use multiprocess::{Context, Pool, PoolError, StartMethod, TaskError, TaskFailure};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use common::{SOON, alone, for_each_method, for_methods, wait_until};

const CHUNKS: [usize; 5] = [1, 2, 3, 7, 1000];

/// Methods whose lost workers are replaced without anything that stays behind; with fork, that needs a fork server.
const REPLACING: [StartMethod; 2] = [StartMethod::Spawn, StartMethod::ForkServer];

const MIB: usize = 1 << 20;

/// Bodies above 4 MiB do not go through the link.
const LENGTHS: [usize; 8] = [0, 1, MIB, 4 * MIB - 32, 4 * MIB, 5 * MIB, 40 * MIB, 0];

fn pool_of(context: Context) -> Pool {
    Pool::builder().processes(2).context(context).build().expect("a pool")
}

/// Bytes that tell their length.
fn filled(length: usize) -> Vec<u8> {
    vec![(length % 251) as u8 + 1; length]
}

#[test]
fn items_and_results_of_any_length() {
    for_methods(&[StartMethod::ForkServer], |context| {
        let pool = pool_of(context);
        for chunk in CHUNKS {
            let give_back = |item: Vec<u8>| {
                assert!(item == filled(item.len()));
                item
            };
            let results = pool.chunksize(chunk).map(give_back, LENGTHS.map(filled)).expect("results");
            let right = |(result, length): (&Vec<u8>, usize)| *result == filled(length);
            assert_eq!(results.len(), LENGTHS.len());
            assert!(results.iter().zip(LENGTHS).all(right), "chunks of {chunk}");
        }
    });
}

#[test]
fn long_results_of_short_items_and_short_results_of_long_items() {
    for_methods(&[StartMethod::ForkServer], |context| {
        let pool = pool_of(context);
        for chunk in CHUNKS {
            let results = pool.chunksize(chunk).map(filled, LENGTHS).expect("results");
            assert!(results.iter().map(Vec::len).eq(LENGTHS), "chunks of {chunk}");
            assert!(results.iter().all(|result| *result == filled(result.len())));
            let lengths = pool.chunksize(chunk).map(|item: Vec<u8>| item.len(), LENGTHS.map(filled));
            assert_eq!(lengths.expect("results"), LENGTHS, "chunks of {chunk}");
        }
        // As captured values, and as arguments.
        let sums = pool.with(filled(5 * MIB)).map(|captured, item: usize| captured.len() + item, 0..5);
        assert!(sums.expect("results").into_iter().eq(5 * MIB..5 * MIB + 5));
        assert_eq!(
            pool.apply(|a: Vec<u8>, b: Vec<u8>| [a, b].concat(), (filled(MIB), filled(5 * MIB)))
                .expect("a result"),
            [filled(MIB), filled(5 * MIB)].concat()
        );
    });
}

/// NA-32: no number of items is a threshold.
#[test]
fn na_32_any_number_of_items_in_chunks_of_any_size() {
    for_each_method(|context| {
        let pool = pool_of(context);
        for chunk in CHUNKS.into_iter().chain([99, 100, 101, usize::MAX]) {
            for count in [0, 1, 2, 3, 7, 99, 100, 101, 1000] {
                let results = pool.chunksize(chunk).map(|n: u64| n * n, 0..count).expect("results");
                assert!(
                    results.into_iter().eq((0..count).map(|n| n * n)),
                    "{count} items in chunks of {chunk}"
                );
                let sums = pool.chunksize(chunk).starmap(|a: u64, b: u64| a + b, (0..count).zip(1..));
                assert!(sums.expect("results").into_iter().eq((0..count).map(|n| 2 * n + 1)));
            }
        }
    });
}

#[test]
fn na_32_no_items_and_no_chunk() {
    alone(|| {
        let pool = Pool::new(2).expect("a pool");
        assert_eq!(pool.map(|n: u64| n, []).expect("nothing"), []);
        assert_eq!(pool.starmap(|a: u64, b: u64| a + b, []).expect("nothing"), []);
        assert_eq!(pool.stats().tasks, 0);
        let items: [u64; 2] = [1, 2];
        for error in [
            pool.chunksize(0).map(|n: u64| n, items).expect_err("no chunk"),
            pool.chunksize(0).map(|n: u64| n, []).expect_err("no chunk"),
            pool.chunksize(0).starmap(|n: u64| n, [(1,)]).expect_err("no chunk"),
            pool.chunksize(0).try_map(|n: u64| n, items).expect_err("no chunk"),
        ] {
            assert!(matches!(error, PoolError::Invalid { what: "chunk size", .. }), "{error}");
        }
        assert_eq!(pool.map(|()| (), [(); 3]).expect("results"), [(); 3]);
    });
}

fn numbered_file(number: usize) -> Handle<File> {
    let file = rustix::fs::memfd_create("numbered", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
    let file = File::from(file);
    file.write_all_at(&number.to_le_bytes(), 0).expect("written");
    Handle(file)
}

fn number_of(file: &File) -> usize {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0).expect("a number");
    usize::from_le_bytes(bytes)
}

#[test]
fn many_items_and_results_with_handles() {
    for_each_method(|context| {
        let pool = pool_of(context);
        for chunk in CHUNKS {
            // Some have none, some have several.
            let items: Vec<Vec<Handle<File>>> =
                (0..150).map(|number| (0..number % 3).map(|_| numbered_file(number)).collect()).collect();
            let copy = |files: Vec<Handle<File>>| -> (Vec<usize>, Option<Handle<File>>) {
                let numbers: Vec<usize> = files.iter().map(|file| number_of(file)).collect();
                let made = numbers.first().map(|number| numbered_file(number + 1000));
                (numbers, made)
            };
            let results = pool.chunksize(chunk).map(copy, items).expect("results");
            assert_eq!(results.len(), 150);
            for (number, (numbers, made)) in results.into_iter().enumerate() {
                assert_eq!(numbers, vec![number; number % 3], "chunks of {chunk}");
                let made = made.map(|file| number_of(&file));
                assert_eq!(made, (number % 3 > 0).then_some(number + 1000), "chunks of {chunk}");
            }
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Load {
    bytes: Vec<u8>,
    files: Vec<Handle<File>>,
}

/// What is too long for the link goes through the same socket as the handles.
#[test]
fn handles_beside_long_bodies() {
    for_each_method(|context| {
        let pool = pool_of(context);
        for chunk in CHUNKS {
            let load = |(length, number): (usize, usize)| {
                let files = (0..number % 4).map(|_| numbered_file(number)).collect();
                Load { bytes: filled(length), files }
            };
            let lengths: Vec<usize> = LENGTHS.into_iter().filter(|length| *length < 10 * MIB).collect();
            let check = |load: &Load, length: usize, number: usize| {
                assert!(load.bytes == filled(length));
                assert!(load.files.iter().map(|file| number_of(file)).eq(vec![number; number % 4]));
            };
            let items: Vec<Load> = lengths.iter().copied().zip(0..).map(load).collect();
            let results = pool.chunksize(chunk).map(|load: Load| load, items).expect("results");
            for ((result, length), number) in results.iter().zip(&lengths).zip(0..) {
                check(result, *length, number);
            }
        }
    });
}

/// Captured values and items both have handles, and nobody gets those of another.
#[test]
fn handles_in_captured_values_and_in_items() {
    for_each_method(|context| {
        let pool = pool_of(context);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..10 {
                        let captured = 1_000_000 * (1 + thread) + 1000 * round;
                        let items = (0..7).map(numbered_file);
                        let sum = |captured: &Handle<File>, item: Handle<File>| {
                            number_of(captured) + number_of(&item)
                        };
                        let sums = pool.with(numbered_file(captured)).map(sum, items).expect("results");
                        assert!(sums.into_iter().eq(captured..captured + 7));
                    }
                });
            }
        });
    });
}

/// Whoever held the other end is told, though the workers live on: no descriptor is left in any of them, or on the way.
#[test]
fn handles_of_finished_tasks_are_closed_everywhere() {
    for_methods(&REPLACING, |context| {
        let pool = pool_of(context);
        let gone = |readers: Vec<Connection>| {
            for reader in readers {
                assert!(matches!(reader.recv_timeout::<usize>(SOON), Err(Error::EndOfFile { .. })));
            }
        };
        for chunk in [1, 2, 7] {
            let pipes = || (0..20).map(|_| simplex_pipe().expect("a pipe")).unzip();
            // Returned normally, tasks of very different length, so that some are handed from one worker to another.
            let (readers, writers): (Vec<Connection>, Vec<Connection>) = pipes();
            let tell = |(number, writer): (usize, Connection)| {
                std::thread::sleep(Duration::from_millis(if number % 20 == 0 { 30 } else { 0 }));
                writer.send(&number).expect("sent");
            };
            pool.chunksize(chunk).map(tell, writers.into_iter().enumerate()).expect("results");
            for (number, reader) in readers.iter().enumerate() {
                assert_eq!(reader.recv_timeout::<usize>(SOON).expect("a number"), number);
            }
            gone(readers);

            // Panicked.
            let (readers, writers): (Vec<Connection>, Vec<Connection>) = pipes();
            let panic = |_: Connection| -> Connection { panic!("on purpose") };
            let results = pool.chunksize(chunk).try_map(panic, writers).expect("results");
            assert!(results.into_iter().all(|result| result.is_err()));
            gone(readers);

            // Killed the worker.
            let (readers, writers): (Vec<Connection>, Vec<Connection>) = pipes();
            let die = |(number, writer): (usize, Connection)| {
                if number == 10 {
                    kill_process(getpid(), Signal::KILL).expect("a signal sent");
                }
                writer
            };
            let results =
                pool.chunksize(chunk).try_map(die, writers.into_iter().enumerate()).expect("results");
            let lost = lost_items(&results);
            assert!(lost.contains(&10) && lost.len() <= chunk, "{lost:?}");
            drop(results);
            gone(readers);
        }
    });
}

/// Positions of the items that were lost with their worker.
fn lost_items<R>(results: &[Result<R, Box<TaskError>>]) -> Vec<usize> {
    let errors = results.iter().filter_map(|result| result.as_ref().err().map(AsRef::as_ref));
    let lost = |error: &TaskError| {
        assert!(matches!(error.cause, TaskFailure::WorkerLost(_)), "{error}");
        error.item
    };
    errors.map(lost).collect()
}

/// A task that is tried again by another worker gets its handles once more, and so does one with a long body.
#[test]
fn handles_and_long_bodies_of_tasks_that_are_tried_again() {
    for_methods(&REPLACING, |context| {
        let pool = pool_of(context);
        for chunk in [1, 3] {
            let (here, there) = pipe().expect("a pipe");
            let work = |once: &Connection, load: Load| {
                // Whoever gets the word dies of it.
                if load.files.len() == 2 && once.recv_timeout::<()>(Duration::ZERO).is_ok() {
                    kill_process(getpid(), Signal::KILL).expect("a signal sent");
                }
                let numbers: Vec<usize> = load.files.iter().map(|file| number_of(file)).collect();
                (load.bytes.len(), numbers)
            };
            here.send(&()).expect("sent");
            let load = |number: usize| Load {
                bytes: filled(if number == 5 { 5 * MIB } else { number }),
                files: (0..if number == 5 { 2 } else { 1 }).map(|_| numbered_file(number)).collect(),
            };
            let results = pool.chunksize(chunk).retries(1).with(there).map(work, (0..10).map(load));
            for (number, (length, numbers)) in results.expect("results").into_iter().enumerate() {
                assert_eq!(length, if number == 5 { 5 * MIB } else { number });
                assert_eq!(numbers, vec![number; if number == 5 { 2 } else { 1 }]);
            }
        }
        assert_eq!(pool.stats().workers_lost, 2);
    });
}

/// What cannot be sent is an error before anything runs, and closes what it had already taken.
#[test]
fn items_that_cannot_be_encoded() {
    for_each_method(|context| {
        let pool = pool_of(context);
        let (reader, writer) = simplex_pipe().expect("a pipe");
        let closed = pipe().expect("a pipe").0;
        closed.close().expect("closed");
        let error = pool.map(|_: Connection| (), [writer, closed]).expect_err("one is closed");
        assert!(matches!(&error, PoolError::Encode { what, .. } if what == "item 1"), "{error}");
        assert!(matches!(reader.recv_timeout::<()>(SOON), Err(Error::EndOfFile { .. })));
        // A result that cannot be sent is the error of its item, and the others have theirs.
        let give = |fail: bool| {
            let (reader, writer) = simplex_pipe().expect("a pipe");
            if fail {
                writer.close().expect("closed");
            }
            (reader, writer)
        };
        let results = pool.chunksize(1).try_map(give, [false, true, false]).expect("results");
        let [Ok((reader, writer)), Err(error), Ok(_)] = &results[..] else { panic!("{results:?}") };
        writer.send(&1).expect("sent");
        assert_eq!(reader.recv::<i32>().expect("a number"), 1);
        assert!(matches!(error.cause, TaskFailure::Result(_)), "{error}");
    });
}

/// Refuses some numbers wherever it is decoded or encoded.
#[derive(Debug, Deserialize)]
#[serde(try_from = "u64")]
struct Picky(u64);

impl TryFrom<u64> for Picky {
    type Error = String;

    fn try_from(number: u64) -> Result<Picky, String> {
        if number == 3 { Err("no threes".into()) } else { Ok(Picky(number)) }
    }
}

impl Serialize for Picky {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 30 {
            Err(serde::ser::Error::custom("no thirties"))
        } else {
            self.0.serialize(serializer)
        }
    }
}

type Numbered = Result<(u64, Option<Handle<File>>), Box<TaskError>>;

/// What is said of the items of a call: their values, their error, or that they were not tried.
fn told(results: &[Numbered]) -> Vec<String> {
    let tell = |(position, result): (usize, &Numbered)| match result {
        Ok((value, file)) => {
            assert_eq!(file.as_ref().map(|file| number_of(file)), Some(position));
            value.to_string()
        }
        Err(error) => {
            assert_eq!(error.item, position);
            match &error.cause {
                TaskFailure::Panicked { report, .. } => report.message.clone(),
                TaskFailure::Argument(_) => "argument".into(),
                TaskFailure::Result(_) => "result".into(),
                TaskFailure::Skipped => "skipped".into(),
                other => format!("{other:?}"),
            }
        }
    };
    results.iter().enumerate().map(tell).collect()
}

/// A chunk that fails at an item: those before it have their values, handles included, and those after it were not tried.
#[test]
fn a_chunk_that_fails_keeps_the_results_before() {
    for_methods(&[StartMethod::ForkServer], |context| {
        let pool = pool_of(context);
        let panics = |number: u64| {
            assert!(number != 3, "three");
            (number * 10, Some(numbered_file(number as usize)))
        };
        for bad in ["three", "argument", "result"] {
            for (chunk, last) in [(1, 3), (2, 3), (3, 5), (4, 3), (7, 6), (1000, 6)] {
                let results = match bad {
                    "three" => pool.chunksize(chunk).try_map(panics, 0..7).expect("results"),
                    "argument" => {
                        let work = |Picky(number): Picky| (number * 10, Some(numbered_file(number as usize)));
                        pool.chunksize(chunk).try_map(work, (0..7).map(Picky)).expect("results")
                    }
                    _ => {
                        let work = |number: u64| (Picky(number * 10), Some(numbered_file(number as usize)));
                        let results = pool.chunksize(chunk).try_map(work, 0..7).expect("results");
                        let plain = |(Picky(number), file)| (number, file);
                        results.into_iter().map(|result| result.map(plain)).collect()
                    }
                };
                let expected = (0..7).map(|item| match item {
                    3 => bad.to_owned(),
                    4.. if item <= last => "skipped".into(),
                    _ => (item * 10).to_string(),
                });
                assert_eq!(told(&results), expected.collect::<Vec<_>>(), "{bad} in chunks of {chunk}");
            }
        }
        // The error of the whole call is that of the item that failed.
        let error = pool.chunksize(7).map(panics, 0..7).expect_err("three");
        assert!(matches!(&error, PoolError::Task(error) if error.item == 3), "{error}");
        // Values that are too long for the link together.
        let long = |number: usize| {
            assert!(number != 3, "three");
            filled(2 * MIB + number)
        };
        let results = pool.chunksize(7).try_map(long, 0..7).expect("results");
        assert!(results[..3].iter().enumerate().all(|(number, result)| {
            result.as_ref().is_ok_and(|bytes| *bytes == filled(2 * MIB + number))
        }));
        assert!(matches!(&results[3], Err(error) if matches!(error.cause, TaskFailure::Panicked { .. })));
        assert!(
            results[4..].iter().all(|result| {
                matches!(result, Err(error) if matches!(error.cause, TaskFailure::Skipped))
            })
        );
    });
}

/// Memory that all links of this process hold, in bytes.
fn memory_of_links() -> u64 {
    let entries = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let links = entries.map(|entry| entry.path()).filter(|path| {
        std::fs::read_link(path).is_ok_and(|name| name.to_string_lossy().contains("multiprocess-link"))
    });
    links.filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.blocks() * 512).sum()
}

/// What a burst of long items and results took is given back when nothing follows, and when short ones follow.
#[test]
fn memory_of_a_burst_is_given_back() {
    for_methods(&[StartMethod::ForkServer], |context| {
        let pool = pool_of(context);
        let burst = || {
            // Watched on the way: by the time the results are here, it may be small again.
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let watcher = scope.spawn(|| {
                    let mut most = 0;
                    while !over.load(Relaxed) {
                        most = most.max(memory_of_links());
                    }
                    most
                });
                let items = (0..16).map(|_| filled(4 * MIB - 32));
                let results = pool.map(|item: Vec<u8>| item, items);
                over.store(true, Relaxed);
                assert_eq!(results.expect("results").len(), 16);
                assert!(
                    watcher.join().expect("a watcher") > 8 * MIB as u64,
                    "the test is about something else"
                );
            });
        };
        burst();
        wait_until("an idle pool is small", || memory_of_links() < 6 * MIB as u64);
        burst();
        wait_until("a pool with short tasks is small", || {
            assert_eq!(pool.map(|item: u64| item, 0..100).expect("results").len(), 100);
            memory_of_links() < 6 * MIB as u64
        });
    });
}
