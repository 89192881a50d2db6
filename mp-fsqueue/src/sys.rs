//! The system calls of this crate, each with the path in its error, interrupted calls resumed, and a point before each at
//! which tests kill the process.

use crate::error::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use std::path::{Path, PathBuf};

/// An open file and its path.
#[derive(Debug)]
pub(crate) struct File {
    pub fd: OwnedFd,
    pub path: PathBuf,
}

/// Whether a lock was free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    Taken,
    Busy,
}

impl File {
    pub fn open(path: &Path, flags: OFlags, mode: u32) -> Result<File> {
        point("open");
        match retry_on_intr(|| fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode))) {
            Ok(fd) => Ok(File { fd, path: path.to_owned() }),
            Err(e) => Err(Error::io("open", path, e)),
        }
    }

    /// Opens a file that may be missing.
    pub fn find(path: &Path, flags: OFlags) -> Result<Option<File>> {
        match File::open(path, flags, 0) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.io_kind() == Some(std::io::ErrorKind::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads from `offset` until `buffer` is full or the file ends.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            point("pread");
            match rustix::io::pread(&self.fd, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
        Ok(done)
    }

    /// Writes all of `bytes` at `offset`; an error comes with how many were written.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), (usize, Error)> {
        let mut done = 0;
        while done < bytes.len() {
            point("pwrite");
            match rustix::io::pwrite(&self.fd, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err((done, Error::io("write", &self.path, Errno::IO))),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err((done, Error::io("write", &self.path, e))),
            }
        }
        Ok(())
    }

    pub fn size(&self) -> Result<u64> {
        point("lseek");
        fs::seek(&self.fd, fs::SeekFrom::End(0)).map_err(|e| Error::io("find the size of", &self.path, e))
    }

    pub fn stat(&self) -> Result<fs::Stat> {
        point("fstat");
        fs::fstat(&self.fd).map_err(|e| Error::io("look at", &self.path, e))
    }

    pub fn truncate(&self, size: u64) -> Result<()> {
        point("ftruncate");
        retry_on_intr(|| fs::ftruncate(&self.fd, size)).map_err(|e| Error::io("truncate", &self.path, e))
    }

    /// Brings the content to the disk.
    pub fn sync(&self) -> Result<()> {
        point("fdatasync");
        #[cfg(test)]
        if fault::SYNCS_FAIL.get() {
            return Err(Error::io("sync", &self.path, Errno::IO));
        }
        retry_on_intr(|| fs::fdatasync(&self.fd)).map_err(|e| Error::io("sync", &self.path, e))?;
        #[cfg(test)]
        crate::power::synced(&self.fd);
        Ok(())
    }

    /// Sets room aside, so that a full disk does not stop those who would empty it. Where that cannot be, it is done without.
    pub fn reserve(&self, bytes: u64) {
        point("fallocate");
        let _ = fs::fallocate(&self.fd, fs::FallocateFlags::KEEP_SIZE, 0, bytes);
    }

    pub fn chmod(&self, mode: u32) -> Result<()> {
        point("fchmod");
        fs::fchmod(&self.fd, Mode::from_raw_mode(mode))
            .map_err(|e| Error::io("set the mode of", &self.path, e))
    }

    /// Says that the file is still in use.
    pub fn touch(&self) -> Result<()> {
        let now = fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
        let times = fs::Timestamps { last_access: now, last_modification: now };
        point("futimens");
        fs::futimens(&self.fd, &times).map_err(|e| Error::io("touch", &self.path, e))
    }

    pub fn lock(&self) -> Result<()> {
        point("flock");
        retry_on_intr(|| fs::flock(&self.fd, FlockOperation::LockExclusive))
            .map_err(|e| Error::io("lock", &self.path, e))
    }

    pub fn try_lock(&self) -> Result<Lock> {
        point("flock");
        match retry_on_intr(|| fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Lock::Taken),
            Err(Errno::WOULDBLOCK) => Ok(Lock::Busy),
            Err(e) => Err(Error::io("lock", &self.path, e)),
        }
    }

    /// Whether someone holds the lock. A moment's shared lock finds out; call it under the queue's lock only.
    pub fn is_locked(&self) -> Result<bool> {
        point("flock");
        match retry_on_intr(|| fs::flock(&self.fd, FlockOperation::NonBlockingLockShared)) {
            Ok(()) => self.unlock().map(|()| false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(Error::io("lock", &self.path, e)),
        }
    }

    pub fn unlock(&self) -> Result<()> {
        point("unlock");
        fs::flock(&self.fd, FlockOperation::Unlock).map_err(|e| Error::io("unlock", &self.path, e))
    }

    /// Whether other hosts may have this file open too.
    pub fn is_remote(&self) -> bool {
        #[cfg(test)]
        if crate::host::pretend::REMOTE.get() {
            return true;
        }
        // NFS, CIFS, SMB, SMB2, 9P, FUSE, Ceph, AFS, Coda, Lustre, GFS2, OCFS2.
        const REMOTE: [u64; 12] = [
            0x6969,
            0xff53_4d42,
            0x517b,
            0xfe53_4d42,
            0x0102_1997,
            0x6573_5546,
            0x00c3_6400,
            0x5346_414f,
            0x7375_7245,
            0x0bd0_0bd0,
            0x0116_1970,
            0x7461_636f,
        ];
        fs::fstatfs(&self.fd).is_ok_and(|s| REMOTE.contains(&(s.f_type as u64 & 0xffff_ffff)))
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Creates a directory and those above it; one that exists is fine.
pub(crate) fn make_dir(path: &Path, mode: Option<u32>) -> Result<()> {
    point("mkdir");
    match fs::mkdir(path, Mode::from_raw_mode(mode.unwrap_or(0o777))) {
        Ok(()) => {
            if let Some(mode) = mode {
                fs::chmod(path, Mode::from_raw_mode(mode))
                    .map_err(|e| Error::io("set the mode of", path, e))?;
            }
            Ok(())
        }
        Err(Errno::EXIST) if path.is_dir() => Ok(()),
        Err(Errno::NOENT) if path.parent().is_some_and(|p| !p.as_os_str().is_empty() && !p.exists()) => {
            if let Some(parent) = path.parent() {
                make_dir(parent, mode)?;
            }
            make_dir(path, mode)
        }
        Err(e) => Err(Error::io("create", path, e)),
    }
}

/// Removes a file; one that is gone is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    point("unlink");
    match fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    point("rename");
    fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
}

/// Brings the names in a directory to the disk.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let dir = File::open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
    point("fsync");
    let synced = retry_on_intr(|| fs::fsync(&dir.fd));
    #[cfg(test)]
    crate::power::synced(&dir.fd);
    match synced {
        // Some network file systems cannot, and need not.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(e) => Err(Error::io("sync", path, e)),
    }
}

/// The names in a directory, without `.` and `..`.
pub(crate) fn list(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    point("getdents");
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    entries.map(|e| e.map(|e| e.file_name()).map_err(|e| Error::io("list", path, e))).collect()
}

/// A random number that is not 0.
pub(crate) fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    let got =
        retry_on_intr(|| rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()));
    match got {
        Ok(_) => Ok(u64::from_le_bytes(bytes).max(1)),
        Err(e) => Err(Error::io("draw a number from", Path::new("the system"), e)),
    }
}

/// Before each system call: tests count them, and kill the process at one of them.
#[cfg(not(test))]
#[inline(always)]
fn point(_call: &'static str) {}

#[cfg(test)]
pub(crate) use fault::point;

/// Kills the process before a chosen system call, and tells which calls were made.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::{Cell, RefCell};

    thread_local! {
        /// The disk is broken.
        pub static SYNCS_FAIL: Cell<bool> = const { Cell::new(false) };
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        static TRACE: RefCell<Option<Vec<&'static str>>> = const { RefCell::new(None) };
    }

    /// The `n`-th system call of this thread from now on, from 0, is not made: the process dies as by `kill -9`.
    pub fn kill_before(n: u64) {
        LEFT.set(Some(n));
    }

    /// The system calls that `work` makes in this thread.
    pub fn trace(work: impl FnOnce()) -> Vec<&'static str> {
        TRACE.set(Some(Vec::new()));
        work();
        TRACE.take().unwrap_or_default()
    }

    pub(crate) fn point(call: &'static str) {
        crate::power::look();
        TRACE.with_borrow_mut(|t| t.iter_mut().for_each(|t| t.push(call)));
        match LEFT.get() {
            Some(0) => {
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            Some(n) => LEFT.set(Some(n - 1)),
            None => {}
        }
    }
}
