//! Who owns a named block, written where no crash can separate the two: a second name of the same file.
//!
//! # Design
//!
//! A block is one file in `/dev/shm` with two names: its *tag*, which says who owns it, and the name that users know.
//!
//! | step                                        | killed right after it                                   |
//! |---------------------------------------------|---------------------------------------------------------|
//! | the file is created under its tag           | a tag of a dead process: swept                          |
//! | its size is set, its room reserved          | the same; nobody else could see it yet                  |
//! | the tag is linked to the name, exclusively  | a tag of a dead process and a name of its file: swept   |
//! | at the end the name is unlinked, then the tag | a tag of a dead process: swept                        |
//!
//! So a block is whole from the moment its name can be found, and whatever its owner died of, the tag tells.
//!
//! A process that is alive is the only one to remove its tags. A process is known by pid and start time, so that a recycled
//! pid is not taken for the owner, and by its pid namespace, outside of which that means nothing: tags of other namespaces
//! are left alone. Only files of this user are touched, and only under names that begin with [`PREFIX`] or belong to the
//! very same file.
//!
//! Between looking at which file a name belongs to and unlinking it, somebody might replace it. So whoever unlinks a name
//! holds a lock (`flock`) on the file that it means to remove, and looks while holding it: names are given exclusively, so
//! one that belongs to this file stays with it until somebody with this very lock removes it. The kernel takes back the
//! lock of a process that dies.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mp_core::liveness::ProcessId;
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::name::{self, FOLDER};

/// What the names of tags begin with, and no names of blocks.
pub const PREFIX: &str = "mp-shm.";

/// How long a process may hold the lock of a file before another gives up.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The name of a file that tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    namespace: u64,
    owner: ProcessId,
    serial: u32,
    /// Of the block.
    name: String,
}

impl Tag {
    /// A tag by which this process owns the block `name`, different from all before.
    pub fn new(name: &str) -> Tag {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Relaxed);
        Tag { namespace: namespace(), owner: ProcessId::current(), serial, name: name.to_owned() }
    }

    /// Whether it is this process that owns the block.
    pub fn is_mine(&self) -> bool {
        self.owner == ProcessId::current()
    }

    /// The name of the file.
    pub fn file(&self) -> String {
        let Tag { namespace, owner, serial, name } = self;
        format!("{PREFIX}{namespace}.{}.{}.{serial}.{name}", owner.pid(), owner.start_time())
    }

    fn parse(file: &str) -> Option<Tag> {
        let mut parts = file.strip_prefix(PREFIX)?.splitn(5, '.');
        let namespace = parts.next()?.parse().ok()?;
        let owner = ProcessId::from_parts(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let serial = parts.next()?.parse().ok()?;
        let tag = Tag { namespace, owner, serial, name: name::check(parts.next()?).ok()?.to_owned() };
        (tag.file() == file).then_some(tag)
    }

    /// Removes the tag alone; the name, if there is one, belongs to nobody then.
    pub fn remove(&self) -> Result<(), Errno> {
        unlinkat(CWD, name::path(&self.file()), AtFlags::empty())
    }

    /// Removes the name, if it still is that of this file, and the tag.
    pub fn remove_block(&self, id: FileId) -> Result<(), Errno> {
        remove_name(&self.name, id)?;
        self.remove()
    }
}

/// Which file it is, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Stat> for FileId {
    fn from(status: &Stat) -> FileId {
        FileId { device: status.st_dev, inode: status.st_ino }
    }
}

/// The file that has this name now.
pub fn file_of(path: &Path) -> Result<Option<FileId>, Errno> {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(Some(FileId::from(&status))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Unlinks the name of a block, if it is that of this file; false if it is not, or is none.
pub fn remove_name(name: &str, id: FileId) -> Result<bool, Errno> {
    let path = name::path(name);
    // Looks first, so as not to open files of other kinds.
    if file_of(&path)? != Some(id) {
        return Ok(false);
    }
    let Some((file, status)) = open(&path)? else { return Ok(false) };
    if FileId::from(&status) != id {
        return Ok(false);
    }
    lock(&file, Instant::now() + PATIENCE)?;
    unlink_if(&path, id)
}

/// Removes the blocks whose owners are dead, and the beginnings of such; returns how many. Of all names, or of one.
///
/// Goes on where one cannot be removed, and returns the first reason if there was nothing else. If others are at it as
/// well, waits for them as long as `patience`, all in all.
pub fn sweep(name: Option<&str>, patience: Duration) -> Result<usize, Errno> {
    let deadline = Instant::now() + patience;
    let mut is_dead = HashMap::new();
    let mut removed = 0;
    let mut failed = None;
    let namespace = namespace();
    for file in files(name.unwrap_or_default())? {
        let Some(tag) = Tag::parse(&file).filter(|tag| tag.namespace == namespace) else { continue };
        if !*is_dead.entry(tag.owner).or_insert_with(|| !tag.owner.is_alive()) {
            continue;
        }
        match sweep_one(&tag, deadline) {
            Ok(true) => removed += 1,
            Ok(false) => {}
            Err(errno) => failed = failed.or(Some(errno)),
        }
    }
    match failed {
        Some(errno) if removed == 0 => Err(errno),
        _ => Ok(removed),
    }
}

/// False if somebody else does it, or it is another user's.
fn sweep_one(tag: &Tag, deadline: Instant) -> Result<bool, Errno> {
    let Some((file, status)) = open(&name::path(&tag.file()))? else { return Ok(false) };
    let is_plain = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    if !is_plain || status.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    match lock(&file, deadline) {
        Err(Errno::TIMEDOUT) => return Ok(false),
        result => result?,
    }
    unlink_if(&name::path(&tag.name), FileId::from(&status))?;
    match tag.remove() {
        // Somebody else held the lock before.
        Err(Errno::NOENT) => Ok(false),
        result => result.map(|()| true),
    }
}

/// For whoever holds the lock of the file.
fn unlink_if(path: &Path, id: FileId) -> Result<bool, Errno> {
    if file_of(path)? != Some(id) {
        return Ok(false);
    }
    match unlinkat(CWD, path, AtFlags::empty()) {
        // By somebody who does not care for locks.
        Err(Errno::NOENT) => Ok(false),
        result => result.map(|()| true),
    }
}

/// None if there is no such file, or it is not for this user.
fn open(path: &Path) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => {
            let status = fstat(&file)?;
            Ok(Some((file, status)))
        }
        Err(Errno::NOENT | Errno::ACCESS | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Locks a file until it is closed: `Errno::TIMEDOUT` if another process does not let go of it.
fn lock(file: impl AsFd, deadline: Instant) -> Result<(), Errno> {
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Err(Errno::TIMEDOUT),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(1)),
            result => return result,
        }
    }
}

/// Names of what may be tags of a block whose name ends like this.
fn files(end: &str) -> Result<Vec<String>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, FOLDER, flags, Mode::empty())?;
    let mut files = Vec::new();
    for entry in rustix::fs::Dir::new(folder)? {
        let entry = entry?;
        let file = entry.file_name().to_bytes();
        if file.starts_with(PREFIX.as_bytes()) && file.ends_with(end.as_bytes()) {
            files.extend(std::str::from_utf8(file).map(str::to_owned));
        }
    }
    Ok(files)
}

/// The pid namespace of this process; 0 where `/proc` is not mounted.
fn namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |status| status.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_they_are_written() {
        for name in ["x", "with.dots.1.2", "ünï"] {
            let tag = Tag::new(name);
            assert_eq!(Tag::parse(&tag.file()), Some(tag.clone()));
            assert!(tag.is_mine());
        }
        let longest = Tag {
            namespace: u32::MAX.into(),
            owner: ProcessId::from_parts(u32::MAX, u64::MAX),
            serial: u32::MAX,
            name: "x".repeat(name::LONGEST),
        };
        assert!(longest.file().len() <= 255);
        for file in
            ["mp-shm.1.2.3.4", "mp-shm.1.2.3.x.n", "mp-shm.01.2.3.4.n", "1.2.3.4.n", "mp-shm.1.2.3.4./n"]
        {
            assert_eq!(Tag::parse(file), None, "{file}");
        }
    }
}
