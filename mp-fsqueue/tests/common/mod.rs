//! What the tests share: directories that go away, and children of this very program.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fsqueue-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn queue(&self) -> PathBuf {
        self.0.join("queue")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Runs the test `name` of this program in a process of its own, which finds `role` and `dir` in its environment.
pub fn child(name: &str, role: &str, dir: &Path) -> Child {
    command(name, role, dir).spawn().unwrap()
}

pub fn command(name: &str, role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env("FSQUEUE_ROLE", role).env("FSQUEUE_DIR", dir);
    command.stdout(Stdio::null());
    command
}

/// What a child is to do.
pub fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var("FSQUEUE_ROLE").ok()?, std::env::var_os("FSQUEUE_DIR")?.into()))
}

/// The files of a queue's subdirectory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

/// The segment files.
pub fn segments(queue: &Path) -> Vec<PathBuf> {
    let mut found = files(&queue.join("segments"));
    found.retain(|f| f.extension().is_some_and(|e| e == "seg"));
    found
}
