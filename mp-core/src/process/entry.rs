//! How a started program becomes a child before its `main` is reached, with nothing to set up in the program.
//!
//! # Design
//!
//! [`super::spawn`] starts the program with a marker in its environment that says which function to run, a socket to
//! the parent as descriptor 3 and a [`super::lifeline`] as descriptor 4. A constructor in `.init_array` looks for the
//! marker. Without it, it returns at once. With it, it removes the marker (so that no program started from the child
//! takes it for its own), takes hold of the lifeline, runs the constructors of the program that are still to come,
//! does what the Rust runtime does before `main`, and runs the function, which never returns. A marker without the two
//! descriptors is a leftover and ignored; so is one in a program with raised privileges.
//!
//! Without the feature `auto` there is no constructor, and `main` calls [`freeze_support`] instead. What was found is
//! remembered, so that a program that has neither is told so before it starts anything.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{FileType, fstat};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use crate::connection::Connection;
use crate::function::{Main, Remote};
use crate::image::Image;
use crate::{Error, Result};

/// Names the function to run in the environment of a started program.
pub(super) const MARKER: &str = "MULTIPROCESS_CHILD";
/// Where the child finds the socket to its parent.
pub(super) const SOCKET_FD: RawFd = 3;
/// Where the child finds its lifeline.
pub(super) const LIFELINE_FD: RawFd = 4;

/// Whether a child started from this program would be recognised.
static PRESENT: AtomicBool = AtomicBool::new(false);

/// The first message of a child to its parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Hello {
    /// The function is found and its arguments are decoded; it is about to be called.
    Ready {
        /// Pid of the child.
        pid: u32,
    },
    /// The child ends without having called anything.
    Refused {
        /// Why.
        reason: String,
    },
}

#[cfg(feature = "auto")]
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = on_start;

#[cfg(feature = "auto")]
extern "C" fn on_start() {
    PRESENT.store(true, Relaxed);
    if let Some(marker) = take_marker() {
        run_constructors_to_come();
        runtime_init();
        become_child(&marker);
    }
}

/// Turns this process into a child if it was started as one, and then never returns; otherwise does nothing.
///
/// The first statement of `main` in programs built without the feature `auto`; harmless in all others.
/// Follows Python's `multiprocessing.freeze_support`.
///
/// ```
/// // First thing in `main`:
/// mp_core::process::entry::freeze_support();
/// ```
pub fn freeze_support() {
    PRESENT.store(true, Relaxed);
    if let Some(marker) = take_marker() {
        become_child(&marker);
    }
}

/// Whether children can be started from this program by executing it anew.
///
/// # Errors
/// [`Error::Invalid`] says what is missing.
pub fn check() -> Result<()> {
    let reason = if !Image::current().is_program {
        "this code is a shared library inside of another program, which would not become a child when started; \
         use the start method fork"
    } else if !PRESENT.load(Relaxed) {
        "this program does not turn into a child when started: enable the feature `auto`, \
         or call `freeze_support()` first thing in `main`"
    } else {
        return Ok(());
    };
    Err(Error::Invalid { what: "start of a process", reason: reason.into() })
}

/// The marker, if this process was started with it and with what belongs to it.
fn take_marker() -> Option<String> {
    // SAFETY: reads a value that the kernel gave to the program at its start.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return None;
    }
    let marker = std::env::var_os(MARKER)?;
    // SAFETY: called before `main` or first thing in it, so no other thread of this program reads the environment.
    unsafe { std::env::remove_var(MARKER) };
    let is = |fd: RawFd, kind: FileType| {
        // SAFETY: used for this one call, which fails if the descriptor is not open.
        let stat = fstat(unsafe { BorrowedFd::borrow_raw(fd) });
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
    };
    (is(SOCKET_FD, FileType::Socket) && is(LIFELINE_FD, FileType::Fifo)).then(|| marker.into_string().ok())?
}

/// Runs the constructors behind our own, as the loader would have done after it.
#[cfg(feature = "auto")]
fn run_constructors_to_come() {
    use std::ffi::{c_char, c_int};
    type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let all = Image::current().constructors.clone();
    let own = (&raw const CONSTRUCTOR).addr();
    if !all.contains(&own) {
        return;
    }
    let arguments: Vec<_> = std::env::args_os()
        .filter_map(|argument| {
            std::ffi::CString::new(std::os::unix::ffi::OsStringExt::into_vec(argument)).ok()
        })
        .collect();
    let mut argv: Vec<*const c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    let argc = argv.len() as c_int;
    argv.push(std::ptr::null());
    let mut slot = own + size_of::<usize>();
    while slot < all.end {
        // SAFETY: `slot` is an entry of the constructor table of this image, which the loader has relocated.
        let address = unsafe { *std::ptr::with_exposed_provenance::<usize>(slot) };
        if address != 0 && address != usize::MAX {
            // SAFETY: entries of the table are constructors, to be called once each with these arguments; the loader
            // is still at our own entry and will not come back to call them. They may read `argv` while they run.
            unsafe {
                let constructor = std::mem::transmute::<usize, Constructor>(address);
                constructor(argc, argv.as_ptr(), environ);
            }
        }
        slot += size_of::<usize>();
    }
    // Constructors may keep pointers to their arguments for the life of the program.
    std::mem::forget((arguments, argv));
}

/// What the Rust runtime does before `main` and a child relies on.
#[cfg(feature = "auto")]
fn runtime_init() {
    // SAFETY: sets a disposition, no handler; writing to a closed pipe then is an error and not a death.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn become_child(marker: &str) -> ! {
    // SAFETY: the parent put these two descriptors there for us, and nobody else in this process knows of them.
    let (socket, lifeline) = unsafe { (OwnedFd::from_raw_fd(SOCKET_FD), OwnedFd::from_raw_fd(LIFELINE_FD)) };
    let close_on_exec =
        |fd: &OwnedFd| fcntl_setfd(fd.as_fd(), FdFlags::CLOEXEC).map_err(|e| Error::io("fcntl", e));
    let main = Remote::<Main>::from_text(marker)
        .ok_or_else(|| Error::Invalid { what: "marker of a child process", reason: format!("{marker:?}") })
        .and_then(|remote| remote.resolve())
        .and_then(|main| close_on_exec(&socket).map(|()| main))
        .and_then(|main| close_on_exec(&lifeline).map(|()| main))
        .and_then(|main| super::lifeline::hold(lifeline).map(|()| main));
    match main {
        Ok(main) => match main(socket) {},
        Err(error) => {
            // If this fails too, the parent is told by the end of the process.
            let _ = Connection::from_fd(socket)
                .and_then(|c| c.send(&Hello::Refused { reason: error.to_string() }));
            super::exit::now(1)
        }
    }
}
