//! The place of a Unix socket in the file system: binding and reaching it however long its path is, and taking it
//! away again.
//!
//! A process that is killed leaves its socket file behind, as with any program; the folders of listeners that chose
//! their own place are swept by the next such listener of the same user.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dev, FileType, Mode, OFlags, chmod, fstat, open, statat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with};

use crate::auth::fill_random;
use crate::liveness::ProcessId;
use crate::{Error, Result};

/// What the folders of listeners without an address of their own begin with.
const PREFIX: &str = "mp-listener-";
const NAME: &str = "socket";
/// A path this long needs no detour.
const SHORT: usize = 107;

/// A bound socket file, and the folder around it if that was made for it.
pub(super) struct Place {
    path: PathBuf,
    folder: Option<PathBuf>,
    /// Device and inode, by which it is known again.
    file: (Dev, u64),
    owner: ProcessId,
}

impl Place {
    /// Binds `socket` to `path` and lets those connect whom `mode` allows to write.
    pub(super) fn bind(socket: BorrowedFd<'_>, path: &Path, mode: Mode) -> rustix::io::Result<Place> {
        let (address, _folder) = through_folder(path)?;
        bind(socket, &address)?;
        // Through a descriptor, so that nobody can put another file in its place meanwhile.
        let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let found = fstat(&file)?;
        let place = Place {
            path: path.into(),
            folder: None,
            file: (found.st_dev, found.st_ino),
            owner: ProcessId::current(),
        };
        if FileType::from_raw_mode(found.st_mode) == FileType::Socket {
            // Not without `/proc`; the listener looks at who connects in any case.
            let _ = chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode);
        }
        Ok(place)
    }

    /// Makes a new folder that only this user can enter, and binds `socket` in it.
    pub(super) fn bind_fresh(socket: BorrowedFd<'_>, mode: Mode) -> Result<Place> {
        let folder = fresh_folder()?;
        let path = folder.join(NAME);
        match Place::bind(socket, &path, mode) {
            Ok(mut place) => {
                place.folder = Some(folder);
                Ok(place)
            }
            Err(errno) => {
                let _ = fs::remove_dir(&folder);
                Err(Error::io(format!("listening on {}", path.display()), errno))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    /// Takes the file away if it is still the one that was bound, and this the process that did so.
    fn drop(&mut self) {
        if self.owner != ProcessId::current() {
            return;
        }
        let found = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The address of `path`, through a descriptor of its folder if it is too long for the system.
fn through_folder(path: &Path) -> rustix::io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    match (SocketAddrUnix::new(path), path.parent(), path.file_name()) {
        (Err(Errno::NAMETOOLONG), Some(folder), Some(name)) => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let detour = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
            Ok((SocketAddrUnix::new(detour)?, Some(folder)))
        }
        (address, ..) => Ok((address?, None)),
    }
}

/// The address of the socket file at `path`, through a descriptor of the file if it is too long for the system.
pub(super) fn through_file(path: &Path) -> rustix::io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    match SocketAddrUnix::new(path) {
        Err(Errno::NAMETOOLONG) => {
            let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            Ok((SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?, Some(file)))
        }
        address => Ok((address?, None)),
    }
}

/// A folder in the one for temporary files, or in `/tmp` if a socket in that would have too long a path for others.
fn fresh_folder() -> Result<PathBuf> {
    let preferred = std::env::temp_dir();
    sweep(&preferred);
    let me = ProcessId::current();
    let mut random = [0; 8];
    fill_random(&mut random)?;
    let name = format!("{PREFIX}{}-{}-{:016x}", me.pid(), me.start_time(), u64::from_ne_bytes(random));
    let is_short = |base: &Path| base.join(&name).join(NAME).as_os_str().len() <= SHORT;
    let make = |base: &Path| {
        let folder = base.join(&name);
        fs::DirBuilder::new().mode(0o700).create(&folder).map(|()| folder)
    };
    let fallback = Path::new("/tmp");
    if !is_short(&preferred)
        && let Ok(folder) = make(fallback)
    {
        sweep(fallback);
        return Ok(folder);
    }
    make(&preferred).map_err(|error| {
        Error::io(format!("making a folder for a listener in {}", preferred.display()), error)
    })
}

/// Removes what listeners of this user left in `base` when they were killed.
fn sweep(base: &Path) {
    let me = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let owner = entry.file_name().to_str().and_then(owner_of);
        if owner.is_none_or(|owner| owner.is_alive()) {
            continue;
        }
        let folder = entry.path();
        let Ok(found) = fs::symlink_metadata(&folder) else { continue };
        if found.uid() != me || !found.is_dir() {
            continue;
        }
        let file = folder.join(NAME);
        let age = || found.modified().ok().and_then(|time| time.elapsed().ok());
        if is_deserted(&file) {
            let _ = fs::remove_file(&file);
            let _ = fs::remove_dir(&folder);
        } else if age().is_some_and(|age| age > Duration::from_secs(60)) {
            // Only if it is empty: its maker was killed before it bound anything.
            let _ = fs::remove_dir(&folder);
        }
    }
}

fn owner_of(name: &str) -> Option<ProcessId> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let (pid, start_time) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(ProcessId::from_parts(pid, start_time))
}

/// Whether there is a socket file on which nobody listens: a process of another container may, whose pid means
/// nothing here.
fn is_deserted(file: &Path) -> bool {
    let is_socket = statat(CWD, file, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Socket);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let knock = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &through_file(file)?.0)
    };
    is_socket && knock() == Err(Errno::CONNREFUSED)
}

/// `path` with the current folder in front, so that it means the same wherever the process goes.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    if path.file_name().is_none_or(OsStr::is_empty) {
        let reason = format!("{} names no file", path.display());
        return Err(Error::Invalid { what: "address", reason });
    }
    std::path::absolute(path).map_err(|error| Error::io(format!("finding {}", path.display()), error))
}
