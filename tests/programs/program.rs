//! A running stand-alone program, as a test sees it.
#![allow(dead_code, reason = "each subject uses its own part")]

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::common::{Mark, holds_within};

/// A program of this executable, running. Killed when dropped, and its family with it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    mark: Mark,
}

impl Program {
    /// Starts the program `name`, as this executable is named.
    pub fn start<S: AsRef<OsStr>>(name: &str, arguments: &[S]) -> Program {
        let own = std::env::current_exe().expect("the path of this program");
        let mut all = vec![OsString::from("program"), OsString::from(name)];
        all.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        Program::from_command(Command::new(own).args(all))
    }

    /// Starts whatever `command` says; its standard output comes here.
    pub fn from_command(command: &mut Command) -> Program {
        let mark = Mark::new();
        let command = command.env(Mark::VARIABLE, mark.value());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a program");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Program { child, stdout, mark }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The mark that the program and everything it starts bear.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line).expect("a line");
        assert!(read > 0, "the program ended before it said what was expected of it");
        line.trim_end().to_owned()
    }

    /// Kills the program itself, and nothing else, with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("a signal sent");
        self.child.wait().expect("a status");
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a status")
    }

    /// Waits until it ends and everybody has closed its standard output; returns what is left of that.
    pub fn finish(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("text");
        let status = self.wait();
        self.mark.assert_gone();
        (status, rest)
    }

    /// Whether the whole family is gone within `limit`.
    pub fn gone_within(&self, limit: Duration) -> bool {
        holds_within(limit, || self.mark.bearers().is_empty())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
