//! How a named block comes to be, and how it is found: whole, or not at all.
//!
//! A process that is killed in here leaves nothing that others could take for a block; see `owner`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::Duration;

use mp_core::room;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, linkat, openat, statvfs};
use rustix::io::Errno;
use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::SharedMemory;
use super::name;
use super::owner::{self, FileId, Tag};
use crate::pages::reserve;
use crate::words::Words;
use crate::{Error, Result};

/// Removes the block of that name if its owner is dead; an error if it is there afterwards.
pub fn make_way(name: &str) -> Result<()> {
    let path = name::path(name);
    let is_there = || owner::file_of(&path).is_ok_and(|file| file.is_some());
    if is_there() {
        // What is still there then is not to be removed, or cannot be.
        let _ = owner::sweep(Some(name), owner::PATIENCE);
        if is_there() {
            return Err(Error::AlreadyExists { name: name.into() });
        }
    }
    Ok(())
}

/// A new block, filled before its name can be found.
pub fn create(name: &str, size: usize, fill: &impl Fn(&Words)) -> Result<SharedMemory> {
    let what = || format!("creating shared memory {name:?} of {size} bytes");
    let fail = |errno: Errno| match errno {
        Errno::NOSPC | Errno::NOMEM | Errno::DQUOT => Error::NoSpace { name: name.into(), size },
        Errno::EXIST => Error::AlreadyExists { name: name.into() },
        errno => Error::io(what(), errno),
    };
    room::file(size).map_err(|error| Error::io(what(), error))?;
    // Asked first, so that what does not fit does not fill the folder for a moment.
    if free_space().is_some_and(|free| free < size as u64) || room::memory(size).is_err() {
        return Err(fail(Errno::NOSPC));
    }
    let (tag, mut mapping) = loop {
        let tag = Tag::new(name);
        match ShmemConf::new().os_id(tag.file()).size(size).create() {
            Ok(mapping) => break (tag, mapping),
            // Of this process, from before it became another program.
            Err(ShmemError::MappingIdExists) => {}
            Err(error) => return Err(fail(to_errno(&error))),
        }
    };
    // Until the end of this function the mapping removes the tag when dropped.
    let path = name::path(&tag.file());
    let file = openat(CWD, &path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
    let file = file.map_err(fail)?;
    reserve(&file, size).map_err(fail)?;
    let status = fstat(&file).map_err(fail)?;
    fill(&words_of(&mapping));
    linkat(CWD, &path, CWD, name::path(name), AtFlags::empty()).map_err(fail)?;
    mapping.set_owner(false);
    Ok(SharedMemory::new(name, mapping, &status, Some(tag)))
}

/// None if the name changed hands in the meantime.
pub fn open(name: &str) -> Result<Option<SharedMemory>> {
    let path = name::path(name);
    let damaged = |reason: &str| {
        Err(Error::Damaged { what: "block of shared memory", name: name.into(), reason: reason.into() })
    };
    let fail = |errno: Errno| match errno {
        Errno::NOENT => Error::NotFound { name: name.into() },
        errno => Error::io(format!("opening shared memory {name:?}"), errno),
    };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match openat(CWD, &path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return damaged("it is another kind of file"),
        file => file.map_err(fail)?,
    };
    let status = fstat(&file).map_err(fail)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return damaged("it is another kind of file");
    }
    let is_it = || owner::file_of(&path).map(|file| file == Some(FileId::from(&status))).map_err(fail);
    // A second name may be the tag of somebody who is dead.
    if status.st_nlink > 1 {
        // One that cannot be removed is no reason not to open this one.
        let _ = owner::sweep(Some(name), owner::PATIENCE);
        if !is_it()? {
            return Ok(None);
        }
    }
    if status.st_size == 0 {
        return damaged("it has no bytes");
    }
    let mapping = ShmemConf::new().os_id(name).open().map_err(|error| fail(to_errno(&error)))?;
    // While `file` is open, no other file can look like it.
    if !is_it()? || mapping.len() as u64 != status.st_size as u64 {
        return Ok(None);
    }
    Ok(Some(SharedMemory::new(name, mapping, &status, None)))
}

/// What `create` makes of the first name that is not taken.
pub fn first_free<T>(
    mut generate: impl FnMut() -> Result<String>,
    create: impl Fn(&str) -> Result<T>,
) -> Result<T> {
    loop {
        match create(&generate()?) {
            Err(Error::AlreadyExists { .. }) => {}
            result => return result,
        }
    }
}

/// To be used for as long as the mapping lives.
pub fn words_of(mapping: &Shmem) -> Words {
    let start = NonNull::new(mapping.as_ptr()).unwrap_or(NonNull::<AtomicU64>::dangling().cast());
    let length = if mapping.as_ptr().is_null() { 0 } else { mapping.len() };
    // SAFETY: the mapping starts at a page and ends with one, so there is a whole last word; the words are part of what
    // holds it, or used within its scope; safe code gets at the bytes through them only.
    unsafe { Words::new(start, length) }
}

/// Bytes that the folder has left for this user; none if it does not say.
fn free_space() -> Option<u64> {
    let folder = statvfs(name::FOLDER).ok().filter(|folder| folder.f_blocks > 0)?;
    Some(folder.f_bavail.saturating_mul(folder.f_frsize))
}

pub fn check_size(size: usize) -> Result<()> {
    if size == 0 || isize::try_from(size).is_err() {
        let reason = format!("no mapping can have {size} bytes");
        return Err(Error::Invalid { what: "size of shared memory", reason });
    }
    Ok(())
}

/// Sweeps once a second at most, so that many blocks cost no more than few.
pub fn sweep_now_and_then() {
    /// Nanoseconds of the monotonic clock.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let next = NEXT.load(Relaxed);
    let later = now + Duration::from_secs(1).as_nanos() as u64;
    if now >= next && NEXT.compare_exchange(next, later, Relaxed, Relaxed).is_ok() {
        // Whoever creates a block is not to fail because of what others left.
        let _ = owner::sweep(None, Duration::ZERO);
    }
}

fn to_errno(error: &ShmemError) -> Errno {
    match error {
        ShmemError::MapCreateFailed(code)
        | ShmemError::MapOpenFailed(code)
        | ShmemError::UnknownOsError(code) => Errno::from_raw_os_error(*code as i32),
        ShmemError::MappingIdExists => Errno::EXIST,
        _ => Errno::INVAL,
    }
}
