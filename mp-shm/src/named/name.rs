//! Names of shared memory: what may be one, and names that nobody chose.

use std::fmt::Write;
use std::path::PathBuf;

use rustix::rand::{GetRandomFlags, getrandom};

use super::owner;
use crate::{Error, Result};

/// Where the system keeps named shared memory, as the C library knows it.
pub const FOLDER: &str = "/dev/shm";

/// In bytes; leaves room for what else stands in the names of [`owner::Tag`]s.
pub const LONGEST: usize = 190;

/// Where the file of that name is.
pub fn path(name: &str) -> PathBuf {
    [FOLDER, name].iter().collect()
}

/// `name` without the slash that it may begin with, if it can be the name of a block.
pub fn check(name: &str) -> Result<&str> {
    let refuse = |reason: String| Err(Error::Invalid { what: "name of shared memory", reason });
    let bare = name.strip_prefix('/').unwrap_or(name);
    if bare.is_empty() || bare == "." || bare == ".." || bare.contains(['/', '\0']) {
        return refuse(format!("{name:?} cannot be the name of a file"));
    }
    if bare.len() > LONGEST {
        return refuse(format!("it has {} bytes, {LONGEST} at most are possible", bare.len()));
    }
    if bare.starts_with(owner::PREFIX) {
        return refuse(format!("{name:?} begins with {:?}, which marks owners", owner::PREFIX));
    }
    Ok(bare)
}

/// A name that nothing else is likely to have.
pub fn generate() -> Result<String> {
    let mut random = [0; 8];
    let mut filled = 0;
    while filled < random.len() {
        match getrandom(&mut random[filled..], GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("making up a name for shared memory", errno)),
        }
    }
    let mut name = String::from("mp_");
    for byte in random {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(check("/leading").unwrap(), "leading");
        assert_eq!(check(&"x".repeat(LONGEST)).unwrap().len(), LONGEST);
        for wrong in ["", "/", ".", "..", "a/b", "//a", "a\0", "mp-shm.1", &"x".repeat(LONGEST + 1)] {
            assert!(matches!(check(wrong), Err(Error::Invalid { .. })), "{wrong:?}");
        }
        let name = generate().unwrap();
        assert_eq!(check(&name).unwrap(), name);
        assert_ne!(name, generate().unwrap());
    }
}
