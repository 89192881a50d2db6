//! The SHA-256 of a file.

use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// Bytes read at a time: enough to make system calls free, few enough to stay in the cache between reading and hashing.
const CHUNK: usize = 128 << 10;

thread_local! {
    /// Each worker reads all its files through one buffer.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Hashes the file at `path`, whatever its size; returns that too, in bytes.
pub fn hash_file(path: &Path) -> io::Result<(Hash, u64)> {
    let mut file = File::open(path)?;
    BUFFER.with_borrow_mut(|buffer| hash(&mut file, buffer))
}

fn hash(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<(Hash, u64)> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    loop {
        match input.read(buffer) {
            Ok(0) => return Ok((hash.finalize().into(), bytes)),
            Ok(n) => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::hex;
    use crate::scratch::Scratch;
    use std::fs;

    #[test]
    fn known_values() {
        let scratch = Scratch::new();
        let file = scratch.path().join("file");
        for (text, want) in [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(hex(&hash_file(&file).unwrap().0), want);
        }
    }

    #[test]
    fn files_larger_than_the_buffer_hash_as_a_whole() {
        let scratch = Scratch::new();
        let file = scratch.path().join("file");
        for size in [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            fs::write(&file, &data).unwrap();
            assert_eq!(
                hash_file(&file).unwrap(),
                (Sha256::digest(&data).into(), size as u64),
                "{size} bytes"
            );
        }
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let scratch = Scratch::new();
        let error = hash_file(&scratch.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
