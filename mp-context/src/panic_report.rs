//! Panics, caught with their place and their stack.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::OnceLock;

use crate::error::PanicReport;
use crate::stdio::complain;

thread_local! {
    /// What the hook saw of the latest panic of this thread.
    static LATEST: RefCell<Option<PanicReport>> = const { RefCell::new(None) };
}

/// Called with the report of a panic that will not unwind.
static ON_ABORT: OnceLock<Box<dyn Fn(&PanicReport) + Send + Sync>> = OnceLock::new();

/// Runs `function`; a panic in it is returned with what is known of it.
///
/// The report has place and stack if [`install`] was called in this process and nobody has replaced the hook since.
pub fn catch<R>(function: impl FnOnce() -> R) -> Result<R, PanicReport> {
    LATEST.set(None);
    catch_unwind(AssertUnwindSafe(function)).map_err(|payload| {
        let report = LATEST.take().unwrap_or_else(|| PanicReport {
            message: message_of(&*payload),
            location: "an unknown place".into(),
            thread: thread_name(),
            backtrace: String::new(),
        });
        // A payload may panic when it is dropped.
        std::mem::forget(payload);
        report
    })
}

/// Sets the panic hook of a child: prints the name of the process, does what the hook before it did, and keeps a
/// report for [`catch`]. Where panics abort, `on_abort` gets the report before the process ends.
pub(crate) fn install(process: String, on_abort: impl Fn(&PanicReport) + Send + Sync + 'static) {
    let before = std::panic::take_hook();
    let _ = ON_ABORT.set(Box::new(on_abort));
    std::panic::set_hook(Box::new(move |info| {
        complain(format_args!("Process {process} (pid {}):", std::process::id()));
        before(info);
        let report = report(info);
        if cfg!(panic = "abort")
            && let Some(on_abort) = ON_ABORT.get()
        {
            on_abort(&report);
        }
        let _ = LATEST.try_with(|latest| latest.replace(Some(report)));
    }));
}

fn report(info: &PanicHookInfo<'_>) -> PanicReport {
    let wanted = std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value != "0");
    PanicReport {
        message: message_of(info.payload()),
        location: info.location().map_or_else(|| "an unknown place".into(), ToString::to_string),
        thread: thread_name(),
        backtrace: if wanted { Backtrace::force_capture().to_string() } else { String::new() },
    }
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a value that is not text".into())
}

fn thread_name() -> String {
    let is_main = rustix::thread::gettid() == rustix::process::getpid();
    let thread = std::thread::current();
    if is_main { "main".into() } else { thread.name().unwrap_or("unnamed").to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_with_its_message() {
        let report = catch(|| -> u8 { panic!("no {}", "luck") }).expect_err("a panic");
        assert_eq!(report.message, "no luck");
        assert_eq!(catch(|| 3), Ok(3));
    }

    #[test]
    fn any_payload_is_told() {
        let report = catch(|| std::panic::panic_any(7u8)).expect_err("a panic");
        assert_eq!(report.message, "a value that is not text");
    }
}
