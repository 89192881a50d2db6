//! Lines exactly as GNU `sha256sum` prints them, so that `sha256sum -c` can check them.

use crate::hash::Hash;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Lowercase hexadecimal.
pub fn hex(hash: &Hash) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    hash.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// Writes `HASH  PATH`. A name with a backslash, newline or carriage return has these escaped, and its line
/// starts with a backslash that says so.
pub fn write_line(out: &mut impl Write, hash: &Hash, path: &Path) -> io::Result<()> {
    let name = path.as_os_str().as_bytes();
    let mut line = Vec::with_capacity(name.len() + 68);
    if name.iter().any(|&b| escape(b).is_some()) {
        line.push(b'\\');
    }
    line.extend_from_slice(hex(hash).as_bytes());
    line.extend_from_slice(b"  ");
    for &b in name {
        match escape(b) {
            Some(letter) => line.extend_from_slice(&[b'\\', letter]),
            None => line.push(b),
        }
    }
    line.push(b'\n');
    out.write_all(&line)
}

/// The letter that stands for a byte after a backslash.
fn escape(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::hash_file;
    use crate::scratch::Scratch;
    use std::ffi::OsStr;
    use std::fs;
    use std::process::{Command, Stdio};

    fn line(name: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_line(&mut out, &[0xab; 32], Path::new(OsStr::from_bytes(name))).unwrap();
        out
    }

    #[test]
    fn odd_names_are_escaped_and_others_are_not() {
        let hash = "ab".repeat(32);
        for (name, want) in [
            (&b"a b*"[..], format!("{hash}  a b*\n")),
            (b"a\\b", format!("\\{hash}  a\\\\b\n")),
            (b"a\nb\rc", format!("\\{hash}  a\\nb\\rc\n")),
            (b"tab\t", format!("{hash}  tab\t\n")),
        ] {
            assert_eq!(line(name), want.as_bytes());
        }
        assert!(line(b"\xff\xfe").ends_with(b"  \xff\xfe\n"), "names that are not text pass unchanged");
    }

    /// Both directions against the real program, where there is one.
    #[test]
    fn sha256sum_prints_the_same_and_accepts_our_lines() {
        let scratch = Scratch::new();
        let names: [&[u8]; 7] =
            [b"plain", b"a b", b"back\\slash", b"new\nline", b"\\n", b"odd\xff", b"-dash *"];
        let mut paths: Vec<_> = names.iter().map(|n| scratch.path().join(OsStr::from_bytes(n))).collect();
        // Older versions do not escape carriage returns; then there is nothing to compare with.
        paths.push(scratch.path().join("carriage\rreturn"));
        for (i, path) in paths.iter().enumerate() {
            fs::write(path, vec![7; i * 1000]).unwrap();
        }
        let Ok(theirs) = Command::new("sha256sum").arg("--").args(&paths).output() else {
            eprintln!("no sha256sum on this machine");
            return;
        };
        if !theirs.stdout.split(|&b| b == b'\n').any(|l| l.ends_with(b"carriage\\rreturn")) {
            paths.pop();
        }
        let theirs = Command::new("sha256sum").arg("--").args(&paths).output().unwrap();
        assert!(theirs.status.success());

        let mut ours = Vec::new();
        for path in &paths {
            write_line(&mut ours, &hash_file(path).unwrap().0, path).unwrap();
        }
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs.stdout));
        assert_eq!(ours, theirs.stdout);

        let list = scratch.path().join("list");
        fs::write(&list, &ours).unwrap();
        let mut check = Command::new("sha256sum");
        check.args(["-c", "--strict", "--quiet"]).arg(&list).stdout(Stdio::null());
        assert!(check.status().unwrap().success());
    }
}
