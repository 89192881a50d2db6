//! The bare system calls that everything else is measured against. Unsafe code is here, in `pthread` and in `ring`.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::{CString, c_char};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// With this argument the program ends at once: the cheapest child it can have.
pub const NOOP: &str = "--noop";

/// With this argument and a number, the program measures so many forks and prints nanoseconds, one a line.
pub const FORKS: &str = "--forks";

unsafe extern "C" {
    static environ: *const *mut c_char;
}

/// A command line of this very program, made before the clock runs.
pub struct Itself {
    path: CString,
    argument: CString,
}

impl Itself {
    pub fn new(argument: &str) -> Result<Itself> {
        let path = std::env::current_exe().context("cannot name this program")?;
        Ok(Itself {
            path: CString::new(path.into_os_string().into_vec())?,
            argument: CString::new(argument)?,
        })
    }

    /// Starts it with `posix_spawn` and waits until it has ended.
    pub fn spawn_and_wait(&self) -> Result<()> {
        let argv = [self.path.as_ptr().cast_mut(), self.argument.as_ptr().cast_mut(), std::ptr::null_mut()];
        let mut pid = 0;
        // SAFETY: the path and each argument are C strings that live in `self`, the list of arguments ends with null,
        // null attributes and file actions mean none, and no other thread changes the environment (this program
        // never sets a variable of its own).
        let error = unsafe {
            libc::posix_spawn(
                &mut pid,
                self.path.as_ptr(),
                std::ptr::null(),
                std::ptr::null(),
                argv.as_ptr(),
                environ,
            )
        };
        ensure!(error == 0, "posix_spawn: {}", std::io::Error::from_raw_os_error(error));
        wait(pid)
    }
}

/// Forks a child that exits at once, and waits for it.
fn fork_and_wait() -> Result<()> {
    // SAFETY: the child calls nothing but `_exit`, which is async-signal-safe.
    match unsafe { libc::fork() } {
        // SAFETY: `_exit` may be called at any time and does not return.
        0 => unsafe { libc::_exit(0) },
        -1 => bail!("fork: {}", std::io::Error::last_os_error()),
        pid => wait(pid),
    }
}

fn wait(pid: libc::pid_t) -> Result<()> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live integer that only this call writes to.
        if unsafe { libc::waitpid(pid, &mut status, 0) } == pid {
            ensure!(status == 0, "a child ended with wait status {status:#x}");
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        ensure!(error.kind() == std::io::ErrorKind::Interrupted, "waitpid: {error}");
    }
}

/// Microseconds of `n` forks from a fresh process, which is small and has one thread.
pub fn forks(n: usize) -> Result<Vec<f64>> {
    let me = std::env::current_exe().context("cannot name this program")?;
    let output =
        Command::new(me).args([FORKS, &n.to_string()]).output().context("cannot start this program")?;
    ensure!(output.status.success(), "forks: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|l| Ok(l.parse::<f64>()? / 1e3)).collect()
}

/// The program of the fresh process.
pub fn forks_main() -> ExitCode {
    let measure = || -> Result<String> {
        let n: usize = std::env::args().nth(2).context("how many?")?.parse()?;
        let mut lines = String::with_capacity(n * 8);
        for _ in 0..n {
            let start = Instant::now();
            fork_and_wait()?;
            lines += &format!("{}\n", start.elapsed().as_nanos());
        }
        Ok(lines)
    };
    match measure().and_then(|lines| Ok(std::io::stdout().write_all(lines.as_bytes())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
