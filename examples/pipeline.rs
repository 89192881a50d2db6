//! A file compressed by several processes: one reads, some compress, and this one writes what they made, in order.
//!
//! `cargo run --release --example pipeline [FILE]` compresses the file, or one that it makes up, into a temporary folder, checks
//! that the file comes back, and says how long it took with several processes and with one.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use multiprocess as mp;
use multiprocess::Queue;
use multiprocess::core::codec::Bulk;

const BLOCK: usize = 256 << 10;

/// A block and its place in the file; `Bulk` travels as one copy.
type Block = (u64, Bulk<Vec<u8>>);

type Failure = Box<dyn Error>;

fn compress(block: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(block)?;
    encoder.finish()
}

/// Gives `each` the blocks of a file.
fn read_blocks(
    path: &Path,
    mut each: impl FnMut(u64, Vec<u8>) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut file = File::open(path)?;
    for number in 0.. {
        let mut block = Vec::with_capacity(BLOCK);
        (&mut file).take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(number);
        }
        each(number, block)?;
    }
    Ok(0)
}

/// Writes a compressed block behind its length.
fn write_block(out: &mut impl Write, block: &[u8]) -> std::io::Result<()> {
    out.write_all(&(block.len() as u32).to_le_bytes())?;
    out.write_all(block)
}

/// What reads the file: a process of its own, so that it is never in the way of the others.
fn reader(path: PathBuf, raw: Queue<Block>) -> Result<u64, String> {
    let blocks = read_blocks(&path, |number, block| Ok(raw.put((number, Bulk(block)))?));
    let closed = raw.close();
    blocks
        .and_then(|blocks| closed.map(|()| blocks).map_err(Failure::from))
        .map_err(|error| error.to_string())
}

/// What compresses: takes blocks until there are no more; returns how many it did.
fn compressor(raw: Queue<Block>, packed: Queue<Block>) -> Result<u64, String> {
    let mut blocks = 0;
    for item in &raw {
        let (number, block) = item.map_err(|error| error.to_string())?;
        let block = compress(&block).map_err(|error| error.to_string())?;
        packed.put((number, Bulk(block))).map_err(|error| error.to_string())?;
        blocks += 1;
    }
    Ok(blocks)
}

fn with_processes(input: &Path, output: &Path, workers: usize) -> Result<(), Failure> {
    // Bounded: whoever is too fast waits, so that memory does not grow with the file.
    let (raw, packed) = (Queue::bounded(16)?, Queue::bounded(16)?);
    let compressors = (0..workers)
        .map(|_| mp::process(compressor, (raw.clone(), packed.clone())).start())
        .collect::<Result<Vec<_>, _>>()?;
    let reader = mp::process(reader, (input.to_path_buf(), raw.clone())).start()?;

    let mut out = BufWriter::new(File::create(output)?);
    let (mut next, mut early) = (0, BTreeMap::new());
    let done = thread::scope(|scope| -> Result<Vec<_>, Failure> {
        let done = scope.spawn(|| {
            let done: Vec<_> = compressors.iter().map(|worker| (worker.name(), worker.join())).collect();
            // However they ended, nothing more comes.
            packed.close().map(|()| done)
        });
        let mut write_all = || -> Result<(), Failure> {
            for item in &packed {
                let (number, Bulk(block)) = item?;
                early.insert(number, block);
                while let Some(block) = early.remove(&next) {
                    write_block(&mut out, &block)?;
                    next += 1;
                }
            }
            Ok(())
        };
        let written = write_all();
        // After a failure the others must not wait for us.
        raw.close()?;
        packed.close()?;
        written?;
        Ok(done.join().map_err(|_| "the thread that waits for the processes panicked")??)
    })?;
    for (name, blocks) in done {
        println!("{name} compressed {} blocks", blocks??);
    }
    let blocks = reader.join()??;
    out.flush()?;
    if next != blocks {
        return Err(format!("{next} of {blocks} blocks were written").into());
    }
    Ok(())
}

fn alone(input: &Path, output: &Path) -> Result<(), Failure> {
    let mut out = BufWriter::new(File::create(output)?);
    read_blocks(input, |_, block| Ok(write_block(&mut out, &compress(&block)?)?))?;
    Ok(out.flush()?)
}

/// Whether `packed` is `input`, compressed.
fn check(input: &Path, packed: &Path) -> Result<(), Failure> {
    let mut packed = BufReader::new(File::open(packed)?);
    read_blocks(input, |number, block| {
        let mut length = [0; 4];
        packed.read_exact(&mut length)?;
        let part = (&mut packed).take(u32::from_le_bytes(length).into());
        let mut unpacked = Vec::new();
        DeflateDecoder::new(part).read_to_end(&mut unpacked)?;
        if unpacked == block { Ok(()) } else { Err(format!("block {number} is another one").into()) }
    })?;
    match packed.read_exact(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
        _ => Err("there is more than the file".into()),
    }
}

/// A file of words in no order.
fn generate(path: &Path, bytes: usize) -> Result<(), Failure> {
    const WORDS: [&str; 8] = ["lock ", "queue ", "fork\n", "spawn ", "pool ", "event ", "barrier ", "42 "];
    let mut out = BufWriter::new(File::create(path)?);
    let (mut state, mut written) = (1_u64, 0);
    while written < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = WORDS[(state >> 61) as usize].as_bytes();
        out.write_all(word)?;
        written += word.len();
    }
    Ok(out.flush()?)
}

/// Compresses both ways and compares: seconds with processes, and without.
fn compare(input: &Path, folder: &Path, workers: usize) -> Result<(f64, f64), Failure> {
    let (ours, single) = (folder.join("processes.deflate"), folder.join("alone.deflate"));
    let start = Instant::now();
    with_processes(input, &ours, workers)?;
    let with = start.elapsed().as_secs_f64();
    let start = Instant::now();
    alone(input, &single)?;
    let without = start.elapsed().as_secs_f64();
    check(input, &ours)?;
    if std::fs::read(&ours)? != std::fs::read(&single)? {
        return Err("the two ways made different files".into());
    }
    Ok((with, without))
}

/// A folder that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("pipeline-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn main() -> Result<(), Failure> {
    let scratch = Scratch::new()?;
    let input = match std::env::args_os().nth(1) {
        Some(path) => path.into(),
        None => {
            let path = scratch.0.join("words");
            generate(&path, 64 << 20)?;
            path
        }
    };
    let workers = mp::cpu_count();
    let (with, without) = compare(&input, &scratch.0, workers)?;
    println!("{workers} processes: {with:.2} s; one: {without:.2} s; {:.2} times as fast", without / with);
    Ok(())
}

#[test]
fn what_several_processes_compress_is_what_one_does() {
    let scratch = Scratch::new().unwrap();
    let input = scratch.0.join("words");
    // The last block is a short one.
    generate(&input, 5 * BLOCK + 17).unwrap();
    compare(&input, &scratch.0, 3).unwrap();
}
