//! Who works on items: a file per consumer, whose lock the consumer holds as long as it lives.
//!
//! Files are made, locked and removed under the queue's lock, so nobody sees one between its creation and its lock.

use crate::error::Result;
use crate::host;
use crate::layout::Layout;
use crate::sys::{self, File};
use rustix::fs::OFlags;
use std::time::{Duration, Instant};

/// How often a consumer shows other hosts that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
const SIZE: usize = 40;

/// A consumer of this process.
#[derive(Debug)]
pub(crate) struct Me {
    pub id: u64,
    file: File,
    beat: Instant,
}

impl Me {
    /// Call it with the queue's lock.
    pub fn enter(layout: &Layout, mode: Option<u32>) -> Result<Me> {
        let id = sys::random()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = File::open(&layout.consumer(id), flags, mode.unwrap_or(0o666))?;
        if let Some(mode) = mode {
            file.chmod(mode)?;
        }
        file.lock()?;
        let pid = host::pid();
        let mut bytes = [0; SIZE];
        bytes[0..16].copy_from_slice(&host::boot_id().to_le_bytes());
        bytes[16..24].copy_from_slice(&host::pid_namespace().to_le_bytes());
        bytes[24..32].copy_from_slice(&(pid as u64).to_le_bytes());
        bytes[32..40].copy_from_slice(&host::start_time(pid).unwrap_or(0).to_le_bytes());
        file.write_at(&bytes, 0).map_err(|(_, e)| e)?;
        Ok(Me { id, file, beat: Instant::now() })
    }

    /// Shows other hosts that this consumer lives.
    pub fn beat(&mut self) -> Result<()> {
        if self.beat.elapsed() < HEARTBEAT {
            return Ok(());
        }
        self.beat = Instant::now();
        self.file.touch()
    }
}

/// Whether a consumer is dead. Call it with the queue's lock.
pub(crate) fn is_dead(layout: &Layout, id: u64, remote: bool, stale_after: Duration) -> Result<bool> {
    let Some(file) = File::find(&layout.consumer(id), OFlags::RDONLY)? else { return Ok(true) };
    let mut bytes = [0; SIZE];
    let got = file.read_at(&mut bytes, 0)?;
    let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    let boot = u128::from(word(0)) | u128::from(word(8)) << 64;
    let here = got == SIZE && boot == host::boot_id() && boot != 0;
    if !file.is_locked()? {
        return if here || !remote { Ok(true) } else { is_stale(&file, stale_after) };
    }
    // A child that the consumer forked may still hold its lock.
    if here && word(16) == host::pid_namespace() && word(16) != 0 {
        let (pid, start) = (word(24) as i32, word(32));
        return Ok(start != 0 && host::start_time(pid) != Some(start));
    }
    Ok(false)
}

/// Whether a file of another host has not been touched for so long.
pub(crate) fn is_stale(file: &File, age: Duration) -> Result<bool> {
    let touched = file.stat()?.st_mtime as u64;
    let now = host::wall_clock() / 1_000_000_000;
    Ok(touched.saturating_add(age.as_secs().max(1)) < now)
}
