//! Who is alive: a process is known by its pid and its start time, so that a recycled pid is not taken for it.
//!
//! Once a process is dead (a zombie is), [`ProcessId::is_alive`] says so for ever, whoever asks and whoever bears the pid
//! by then. Shared objects keep a [`ProcessId`] of their holder, which is plain data without an owner.
//!
//! Start times come from `/proc`. Where it is not mounted they are 0, "unknown": then a process counts as alive while
//! the kernel finds any process with its pid that has not ended, so a recycled pid is not noticed; a zombie still is.
//! Pids mean something only within one pid namespace; processes that share objects must share it.

use std::io::Write;
use std::mem;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

use bytemuck::{Pod, Zeroable};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::param::page_size;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The kernel's limit for pids on 64-bit machines.
const PID_BITS: u32 = 22;

/// One process, from its birth to its end and beyond.
///
/// Plain data: it fits into shared memory and messages. All zero is no process, and not alive.
///
/// ```
/// use mp_core::liveness::ProcessId;
///
/// let me = ProcessId::current();
/// assert_eq!(me.pid(), std::process::id());
/// assert!(me.is_alive());
/// assert_eq!(ProcessId::of(me.pid()), Some(me));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, Pod, Zeroable)]
#[repr(C)]
pub struct ProcessId {
    start_time: u64,
    /// 64 bits, so that the structure has no gaps.
    pid: u64,
}

impl ProcessId {
    /// This process. Costs a memory access once it is known; right in every child of a fork, too.
    #[inline]
    pub fn current() -> ProcessId {
        ProcessId::unpack(ProcessId::current_word())
    }

    /// [`current`](Self::current) as [`to_word`](Self::to_word) makes it, and a little faster: the hot paths of locks.
    #[inline]
    pub fn current_word() -> u64 {
        match HERE.word.load(Relaxed) {
            0 => ProcessId::find_current(),
            word => word,
        }
    }

    /// Whether `word`, of some process, is [`current_word`](Self::current_word). 0 is of none: not to be asked, because the
    /// answer would be wrong until this process is known, and one more branch is felt in a lock.
    #[inline]
    pub fn is_current_word(word: u64) -> bool {
        debug_assert!(word != 0);
        HERE.word.load(Relaxed) == word || ProcessId::is_found_current(word)
    }

    #[cold]
    fn is_found_current(word: u64) -> bool {
        ProcessId::current_word() == word
    }

    #[cold]
    fn find_current() -> u64 {
        let read = || ProcessId::read_current().to_word();
        // Threads that come here at the same time write the same.
        if HERE.is_wiped_in_children() {
            let word = read();
            HERE.word.store(word, Relaxed);
            return word;
        }
        let Some(cache) = cache() else { return read() };
        match cache.load(Relaxed) {
            0 => {
                let word = read();
                cache.store(word, Relaxed);
                word
            }
            word => word,
        }
    }

    /// This process as one word for shared memory, of which it takes [`WORD_BITS`](Self::WORD_BITS); 0 is none. Start times
    /// of up to 87 years after boot fit.
    #[inline]
    pub const fn to_word(self) -> u64 {
        (self.pid | self.start_time << PID_BITS) & ((1 << ProcessId::WORD_BITS) - 1)
    }

    /// How many bits [`to_word`](Self::to_word) uses; the others are always 0.
    pub const WORD_BITS: u32 = 60;

    /// The process that [`to_word`](Self::to_word) made a word of; none for 0.
    pub const fn from_word(word: u64) -> Option<ProcessId> {
        let process = ProcessId::unpack(word);
        if process.pid == 0 { None } else { Some(process) }
    }

    #[inline]
    const fn unpack(packed: u64) -> ProcessId {
        ProcessId { pid: packed & ((1 << PID_BITS) - 1), start_time: packed >> PID_BITS }
    }

    fn read_current() -> ProcessId {
        let pid = getpid().as_raw_nonzero().get() as u32;
        let start_time = Stat::read(pid).map_or(0, |stat| stat.start_time);
        ProcessId { pid: pid.into(), start_time }
    }

    /// The process that has this pid now; none if there is none or it is a zombie.
    pub fn of(pid: u32) -> Option<ProcessId> {
        let start_time = match Stat::read(pid) {
            Some(stat) if stat.ended => is_running(pid).then_some(stat.start_time)?,
            Some(stat) => stat.start_time,
            None => is_running(pid).then_some(0)?,
        };
        Some(ProcessId { pid: pid.into(), start_time })
    }

    /// A process of which pid and start time came by another way, such as a word in shared memory.
    pub const fn from_parts(pid: u32, start_time: u64) -> ProcessId {
        ProcessId { pid: pid as u64, start_time }
    }

    /// The pid. It may belong to another process by now.
    pub const fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// When it started, in clock ticks since boot; 0 if unknown.
    pub const fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Whether it still runs: not a zombie, and not another process with the same pid. Some microseconds.
    pub fn is_alive(&self) -> bool {
        if u32::try_from(self.pid).is_err() {
            return false;
        }
        match Stat::read(self.pid()) {
            Some(stat) if self.start_time != 0 && stat.start_time != self.start_time => false,
            // The first thread of a process may have ended while others run: the pidfd knows.
            Some(stat) => !stat.ended || is_running(self.pid()),
            None => is_running(self.pid()),
        }
    }

    /// A descriptor that becomes readable when the process ends; close-on-exec.
    ///
    /// # Errors
    /// `Error::Io` with "no such process" if it has ended already, or with the system's reason for refusing a descriptor.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let fail = |errno| Error::io(format!("opening a pidfd of process {}", self.pid), errno);
        let pid = u32::try_from(self.pid).ok().and_then(to_pid).ok_or_else(|| fail(Errno::SRCH))?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| fail(gone(errno)))?;
        // The pid may have changed hands before it was opened; from now on the descriptor keeps to its process.
        if self.is_alive() { Ok(fd) } else { Err(fail(Errno::SRCH)) }
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The id of a thread that is not a process is reported as one of these, depending on the kernel.
fn gone(errno: Errno) -> Errno {
    if matches!(errno, Errno::INVAL | Errno::NOENT) { Errno::SRCH } else { errno }
}

/// Whether the kernel knows a process of this pid that has not ended.
fn is_running(pid: u32) -> bool {
    let Some(pid) = to_pid(pid) else { return false };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => loop {
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Err(Errno::INTR) => continue,
                result => break result != Ok(1),
            }
        },
        Err(errno) if gone(errno) == Errno::SRCH => false,
        // No descriptors left, or no pidfds here: whether it can be signalled.
        Err(_) => rustix::process::test_kill_process(pid) != Err(Errno::SRCH),
    }
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    ended: bool,
    start_time: u64,
}

impl Stat {
    /// None if there is no such process, or no `/proc`.
    fn read(pid: u32) -> Option<Stat> {
        // All on the stack: this runs in children of a fork, too.
        let mut path = [0; 32];
        write!(&mut path[..], "/proc/{pid}/stat\0").ok()?;
        let path = std::ffi::CStr::from_bytes_until_nul(&path).ok()?;
        let file = retry(|| openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))?;
        let mut text = [0; 2048];
        let mut length = 0;
        while length < text.len() {
            match retry(|| rustix::io::read(&file, &mut text[length..]))? {
                0 => break,
                more => length += more,
            }
        }
        Stat::parse(&text[..length])
    }

    fn parse(text: &[u8]) -> Option<Stat> {
        // The second field is the name in parentheses, which may hold anything, parentheses too.
        let name_end = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X" | "x");
        // That was the third field; the start time is the 22nd.
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Stat { ended, start_time })
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> Option<T> {
    loop {
        match call() {
            Err(Errno::INTR) => continue,
            result => return result.ok(),
        }
    }
}

/// As large as any page that machines of this kind have.
const HERE_SIZE: usize = if cfg!(target_arch = "x86_64") { 4096 } else { 65536 };

/// This process as [`ProcessId::to_word`] makes it; 0 if it is not known yet. It fills pages of the program's own memory,
/// which the kernel clears in every child, however that was made. So it is at a fixed address, because every lock looks here.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
struct Here {
    /// A CPU that reads soon after it wrote to the same place of another page may wait for the write. Locks are often at the
    /// beginning of a page, and hardly ever at its end.
    _nothing: [u8; HERE_SIZE - size_of::<u64>()],
    word: AtomicU64,
}

static HERE: Here = Here { _nothing: [0; HERE_SIZE - size_of::<u64>()], word: AtomicU64::new(0) };

impl Here {
    /// Asks for it each time: what a process learns here, its children would have to learn anew.
    fn is_wiped_in_children(&'static self) -> bool {
        let (start, length) = (ptr::from_ref(self).cast_mut(), mem::size_of::<Here>());
        let page = page_size();
        // Larger pages would hold something else, too.
        start.addr().is_multiple_of(page) && length.is_multiple_of(page) && {
            // SAFETY: whole pages, which hold but an atomic of which all zero is valid. The advice changes nothing in this
            // process, and is refused for memory that is not private to it or has a file behind it.
            unsafe { madvise(start.cast(), length, Advice::LinuxWipeOnFork) }.is_ok()
        }
    }
}

/// The same in memory of its own, for systems whose pages are larger than `Here`, or where a linker gave it a file.
static CACHE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// None where the kernel cannot do that.
fn cache() -> Option<&'static AtomicU64> {
    static NONE: AtomicU32 = AtomicU32::new(0);
    let known = CACHE.load(Acquire);
    // SAFETY: a pointer from `new_cache`, whose page is never unmapped once it stands here, and aligned. An atomic, of which
    // all zero is valid, which is what the kernel makes of it in a child.
    if let Some(cache) = unsafe { known.as_ref() } {
        return Some(cache);
    }
    if NONE.load(Relaxed) != 0 {
        return None;
    }
    let Some(new) = new_cache() else {
        NONE.store(1, Relaxed);
        return None;
    };
    let cache = match CACHE.compare_exchange(ptr::null_mut(), new.as_ptr(), AcqRel, Acquire) {
        Ok(_) => new.as_ptr(),
        Err(other) => {
            // SAFETY: the mapping from `new_cache`, which nobody else has seen.
            let _ = unsafe { munmap(new.as_ptr().cast(), mem::size_of::<AtomicU64>()) };
            other
        }
    };
    // SAFETY: as above; not null.
    unsafe { cache.as_ref() }
}

fn new_cache() -> Option<NonNull<AtomicU64>> {
    let length = mem::size_of::<AtomicU64>();
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let page = unsafe {
        mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE).ok()?
    };
    // SAFETY: the mapping just made; the advice changes only what children see.
    if unsafe { madvise(page, length, Advice::LinuxWipeOnFork) }.is_err() {
        // SAFETY: the mapping just made, not used by anybody.
        let _ = unsafe { munmap(page, length) };
        return None;
    }
    NonNull::new(page.cast())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper() -> std::process::Child {
        // Ends when its standard input is closed.
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn names_may_hold_anything() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        let stat = Stat::parse(format!("12 (a) R (b)) {rest}").as_bytes());
        assert_eq!(stat, Some(Stat { ended: false, start_time: 4711 }));
        assert!(Stat::parse(format!("12 (a) {}", rest.replace('S', "Z")).as_bytes()).unwrap().ended);
        assert_eq!(Stat::parse(b"12 (a) S 1 2"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn a_zombie_and_a_reaped_process_are_dead() {
        let mut child = sleeper();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.is_alive());
        let pidfd = id.pidfd().unwrap();
        child.kill().unwrap();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })), Ok(1));
        assert!(!id.is_alive(), "a zombie");
        assert_eq!(ProcessId::of(child.id()), None);
        child.wait().unwrap();
        assert!(!id.is_alive());
        assert!(matches!(id.pidfd(), Err(Error::Io { .. })));
    }

    #[test]
    fn a_recycled_pid_is_another_process() {
        let me = ProcessId::current();
        let earlier = ProcessId::from_parts(me.pid(), me.start_time() - 1);
        assert!(!earlier.is_alive());
        assert!(earlier.pidfd().is_err());
    }

    #[test]
    fn without_a_start_time_the_kernel_is_asked() {
        let mut child = sleeper();
        let unknown = ProcessId::from_parts(child.id(), 0);
        assert!(unknown.is_alive() && is_running(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!unknown.is_alive() && !is_running(child.id()));
    }

    #[test]
    fn nobody_is_not_alive() {
        assert!(!ProcessId::default().is_alive());
        assert!(!ProcessId::from_parts(u32::MAX, 1).is_alive());
        assert!(!ProcessId { pid: u64::MAX, start_time: 0 }.is_alive());
        assert_eq!(ProcessId::of(0), None);
    }

    #[test]
    fn this_process_is_found_without_a_pointer_and_with_one() {
        let me = ProcessId::current();
        assert_eq!(HERE.word.load(Relaxed), me.to_word());
        let cache = cache().expect("a page");
        assert!(HERE.is_wiped_in_children() && cache.load(Relaxed) == 0);
        cache.store(me.to_word(), Relaxed);
        // SAFETY: the child makes no call but the last.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let wiped = cache.load(Relaxed) == 0 && HERE.word.load(Relaxed) == 0;
            // SAFETY: no preconditions.
            unsafe { libc::_exit(if wiped { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: `status` is a valid place.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
    }

    #[test]
    fn a_forked_child_is_itself() {
        let parent = ProcessId::current();
        // SAFETY: the child makes system calls only, and leaves without running anything of the parent.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let known = HERE.word.load(Relaxed) != 0;
            let me = ProcessId::current();
            let right = !known
                && me != parent
                && me == ProcessId::current()
                && me.pid() == getpid().as_raw_nonzero().get() as u32;
            // SAFETY: no preconditions.
            unsafe { libc::_exit(if right { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: `status` is a valid place.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(ProcessId::current(), parent);
    }
}
