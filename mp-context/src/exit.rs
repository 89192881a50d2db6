//! Leaving a child from anywhere inside it.

use mp_core::process::exit;

use crate::children;
use crate::current::current_process;
use crate::launch::flush_streams;
use crate::method::StartMethod;
use crate::stdio::complain;

/// Why a process exits: a code, a truth value (`true` is 1), nothing (0), or a sentence for the error stream (1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitReason {
    code: i32,
    text: Option<String>,
}

impl From<i32> for ExitReason {
    fn from(code: i32) -> Self {
        ExitReason { code, text: None }
    }
}

impl From<bool> for ExitReason {
    fn from(failed: bool) -> Self {
        i32::from(failed).into()
    }
}

impl From<()> for ExitReason {
    fn from((): ()) -> Self {
        0.into()
    }
}

impl From<&str> for ExitReason {
    fn from(text: &str) -> Self {
        ExitReason { code: 1, text: Some(text.to_owned()) }
    }
}

impl From<String> for ExitReason {
    fn from(text: String) -> Self {
        ExitReason { code: 1, text: Some(text) }
    }
}

/// Ends this process after printing `reason`, if it is a text, on the standard error stream.
///
/// Codes are cut to 8 bits: 300 is 44, and -1 is 255. Unlike `std::process::exit` it is right in forked children too:
/// the exit handlers that they inherited are not run. The parent sees
/// [`ProcessError::Exited`](crate::ProcessError::Exited). Follows Python's `sys.exit`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let process = mp_context::process(|| -> () { mp_context::exit(8) }, ()).start()?;
/// assert!(process.join().is_err());
/// assert_eq!(process.exit_code(), Some(8));
/// # Ok(())
/// # }
/// ```
pub fn exit(reason: impl Into<ExitReason>) -> ! {
    let ExitReason { code, text } = reason.into();
    if let Some(text) = text {
        complain(format_args!("{text}"));
    }
    if current_process().start_method() == Some(StartMethod::Fork) {
        children::finish();
        flush_streams();
        exit::now(code & 0xff)
    }
    std::process::exit(code & 0xff)
}
