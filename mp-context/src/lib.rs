//! Start methods and processes: functions that run in a process of their own, and what becomes of them.
//!
//! Part of `multiprocess`, usable alone. A process is described, started, and joined for its result:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let process = mp_context::process(|a: u32, b: u32| a + b, (40, 2)).start()?;
//! assert_eq!(process.join()?, 42);
//! # Ok(())
//! # }
//! ```
//!
//! Whatever ends a process, its parent is told how; whatever ends the parent, its children end with it.
#![forbid(unsafe_code)]

mod backtrace;
mod bootstrap;
mod builder;
mod child;
mod children;
mod context;
mod cpu;
mod current;
mod error;
mod exit;
mod forkserver;
mod forward;
mod initialize;
mod launch;
mod letter;
mod line;
mod logging;
mod method;
mod panic_report;
mod physical;
mod preparation;
mod process;
mod server;
mod stdio;
mod wait;

pub use builder::{ProcessBuilder, StartingProcess, active_children, process};
pub use context::{Context, get_context};
pub use cpu::cpu_count;
pub use current::{CurrentProcess, ParentProcess, current_process, parent_process};
pub use error::{PanicReport, ProcessError, StartError, signal_name};
pub use exit::{ExitReason, exit};
pub use forkserver::{PreloadOutcome, server_pid, set_forkserver_preload};
pub use initialize::{InitializeError, allow_connection_pickling, initialize};
pub use launch::{reset_executable, set_executable};
pub use logging::{Logger, get_logger, log_to_stderr};
pub use method::{
    StartMethod, default_start_method, get_all_start_methods, get_start_method, recommended_start_method,
    set_start_method,
};
pub use mp_core::auth::AuthKey;
pub use mp_core::process::entry::freeze_support;
pub use panic_report::catch;
pub use physical::physical_cpu_count;
pub use preparation::Resource;
pub use process::Process;
pub use server::OnError;
pub use stdio::Stdio;
pub use wait::{ReturnWhen, as_completed, wait};
