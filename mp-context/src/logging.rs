//! The logger of the library itself, and what children take over of its settings.
//!
//! It writes through the [`log`] facade, with the target `multiprocess`. If the program has installed no logger there,
//! its records can be printed on the standard error stream instead: [`log_to_stderr`]. Level and destination are passed
//! on to children by every start method. Nothing here is held while a process may die: the settings are two atomics.

use std::fmt::Display;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use log::{Level, LevelFilter, Metadata, Record};
use serde::{Deserialize, Serialize};

use crate::current::current_process;
use crate::forward::{self, Outlet};
use crate::panic_report;
use crate::stdio::complain;

/// Target of all records of the library.
pub(crate) const TARGET: &str = "multiprocess";

/// The level that was set, as a number.
static LEVEL: AtomicUsize = AtomicUsize::new(UNSET);
const UNSET: usize = usize::MAX;

/// Whether records that no other logger takes go to the standard error stream.
static TO_STDERR: AtomicBool = AtomicBool::new(false);

/// The library's own logger: a handle to its one level and destination, which is copied freely.
///
/// Programs may write to it too. A record names the file and line of the call. It goes to the logger that the program
/// has installed with the `log` crate, with the target `multiprocess`; without one, to the standard error stream if
/// [`log_to_stderr`] was called, and else nowhere. Children begin with the settings that their parent had when it
/// started them. Follows the object of Python's `multiprocessing.get_logger()`.
///
/// ```
/// use log::{Level, LevelFilter};
///
/// let logger = mp_context::get_logger();
/// logger.set_level(LevelFilter::Warn);
/// assert_eq!(logger.level(), LevelFilter::Warn);
/// assert!(!logger.is_enabled(Level::Info));
/// logger.info("nobody sees this");
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Logger;

/// The library's own logger. Follows Python's `multiprocessing.get_logger`.
#[must_use]
pub fn get_logger() -> Logger {
    Logger
}

/// Has the library's own records printed on the standard error stream, as `[LEVEL/ProcessName] message`, by this process
/// and by children that it starts from now on; sets the level too, unless it is `None`. Returns the logger.
///
/// Where the program has a logger of the `log` crate, the records go there as before, and nowhere else. It may install
/// one later: the place for it is not taken. Calling this twice prints nothing twice. Follows Python's
/// `multiprocessing.log_to_stderr`.
///
/// ```
/// use log::LevelFilter;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// mp_context::log_to_stderr(LevelFilter::Info);
/// // Prints `[INFO/MainProcess] process worker (pid 4711) started with method forkserver`, and more.
/// mp_context::process(|| (), ()).name("worker").start()?.join()?;
/// # Ok(())
/// # }
/// ```
pub fn log_to_stderr(level: impl Into<Option<LevelFilter>>) -> Logger {
    if let Some(level) = level.into() {
        Logger.set_level(level);
    }
    TO_STDERR.store(true, Relaxed);
    Logger
}

impl Logger {
    /// Lets through records of `level` and those that are more severe, in this process and in children that it starts
    /// from now on.
    pub fn set_level(&self, level: LevelFilter) {
        LEVEL.store(level as usize, Relaxed);
    }

    /// The level that was set. Before any was, everything that the program's logger takes is let through, or warnings
    /// and errors where there is no such logger.
    pub fn level(&self) -> LevelFilter {
        match LEVEL.load(Relaxed) {
            UNSET if log::max_level() == LevelFilter::Off => LevelFilter::Warn,
            UNSET => log::max_level(),
            number => filter_of(number),
        }
    }

    /// Whether a record of `level` would go anywhere.
    pub fn is_enabled(&self, level: Level) -> bool {
        level <= self.level() && Destination::of(level) != Destination::Nowhere
    }

    /// Writes a record; `message` is only looked at if somebody takes it.
    #[track_caller]
    pub fn log(&self, level: Level, message: impl Display) {
        self.log_from(Location::caller(), level, message);
    }

    fn log_from(&self, place: &Location<'_>, level: Level, message: impl Display) {
        if level > self.level() {
            return;
        }
        match Destination::of(level) {
            Destination::Nowhere => {}
            Destination::Program => log::logger().log(
                &Record::builder()
                    .level(level)
                    .target(TARGET)
                    .file(Some(place.file()))
                    .line(Some(place.line()))
                    .args(format_args!("{message}"))
                    .build(),
            ),
            Destination::Stderr => complain(format_args!("[{level}/{}] {message}", current_process().name())),
        }
    }

    /// Writes a record for those who look for a mistake.
    #[track_caller]
    pub fn debug(&self, message: impl Display) {
        self.log(Level::Debug, message);
    }

    /// Writes a record of what happens in the normal course of things.
    #[track_caller]
    pub fn info(&self, message: impl Display) {
        self.log(Level::Info, message);
    }

    /// Writes a record of what may lead to an error.
    #[track_caller]
    pub fn warn(&self, message: impl Display) {
        self.log(Level::Warn, message);
    }

    /// Writes a record of an error.
    #[track_caller]
    pub fn error(&self, message: impl Display) {
        self.log(Level::Error, message);
    }
}

/// Where records of the library go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Program,
    Stderr,
    Nowhere,
}

impl Destination {
    fn of(level: Level) -> Destination {
        let most = log::max_level();
        let metadata = Metadata::builder().level(level).target(TARGET).build();
        if most == LevelFilter::Off && TO_STDERR.load(Relaxed) {
            Destination::Stderr
        } else if level <= log::STATIC_MAX_LEVEL && level <= most && log::logger().enabled(&metadata) {
            Destination::Program
        } else {
            Destination::Nowhere
        }
    }
}

/// The filter of that number; the most detailed one if there is none.
pub(crate) fn filter_of(number: usize) -> LevelFilter {
    LevelFilter::iter().find(|filter| *filter as usize == number).unwrap_or(LevelFilter::Trace)
}

/// What a child takes over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Inheritance {
    level: usize,
    to_stderr: bool,
    forwarding: Option<Outlet>,
}

impl Inheritance {
    /// The settings of this process, and where the child's records go if they are to come here.
    pub fn new(forwarding: Option<Outlet>) -> Inheritance {
        Inheritance { level: LEVEL.load(Relaxed), to_stderr: TO_STDERR.load(Relaxed), forwarding }
    }

    /// Makes them those of this process.
    pub fn take_over(self) {
        LEVEL.store(self.level, Relaxed);
        TO_STDERR.store(self.to_stderr, Relaxed);
        if let Some(outlet) = self.forwarding {
            forward::install(outlet);
        }
    }
}

/// Records a step in the life of a child, where a logger that panics must not change how the child ends.
#[track_caller]
pub(crate) fn note(message: impl Display) {
    let place = Location::caller();
    if Logger.is_enabled(Level::Info) {
        let _ = panic_report::catch(|| Logger.log_from(place, Level::Info, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_filters() {
        for filter in LevelFilter::iter() {
            assert_eq!(filter_of(filter as usize), filter);
        }
        assert_eq!(filter_of(77), LevelFilter::Trace);
    }

    // LOG-01: without a logger and without `log_to_stderr`, records go nowhere, and their messages are not looked at.
    #[test]
    fn log_01_nothing_is_formatted_for_nobody() {
        struct Untouched;
        impl Display for Untouched {
            fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                panic!("it was formatted");
            }
        }
        let logger = get_logger();
        assert!(!logger.is_enabled(Level::Error));
        logger.error(Untouched);
    }
}
