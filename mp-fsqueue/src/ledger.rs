//! The journal under the queue's lock. Whoever holds the lock has read the journal to its end and may append to it. The
//! kernel frees the lock of a process that dies; what it was appending is whole or is cut off by the next holder.
//!
//! The journal is rewritten when it has grown: the new one is complete before it takes the name, and the old one ends with
//! `Moved`, so that others look for the new one. A death in between leaves `Moved` in a journal that was not replaced, where
//! it means nothing.

use crate::error::{Error, Result};
use crate::host;
use crate::journal::{ENTRY, Entry, VERSION};
use crate::layout::Layout;
use crate::state::State;
use crate::sys::{self, File, Lock};
use rustix::fs::OFlags;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A journal that is larger is rewritten, unless it would stay large.
const ROOMY: u64 = if cfg!(test) { 1 << 9 } else { 1 << 20 };

#[derive(Debug)]
pub(crate) struct Ledger {
    pub layout: Layout,
    lock: Arc<File>,
    journal: Arc<File>,
    read_only: bool,
    /// Bring every entry to the disk.
    durable: bool,
    mode: Option<u32>,
    /// Up to where the journal has been read.
    at: u64,
    /// The size at which it is rewritten.
    rewrite_at: u64,
    /// Entries that could not be read.
    pub damaged: u64,
    pub state: State,
    /// What has been applied but not written.
    staged: Vec<Entry>,
    /// Counts changes that others made.
    pub changes: u64,
}

/// The queue's lock, held.
#[derive(Debug)]
pub(crate) struct Held(Arc<File>);

impl Drop for Held {
    fn drop(&mut self) {
        // Nothing can be done about a failure; the next holder of this descriptor meets it again.
        let _ = self.0.unlock();
    }
}

/// A journal to be synced.
#[derive(Debug)]
#[must_use]
pub(crate) struct Unsynced(Option<Arc<File>>);

impl Unsynced {
    pub fn sync(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |journal| journal.sync())
    }
}

impl Ledger {
    /// Opens the journal; creates it if need be. Waits for the lock until `deadline` at most.
    pub fn open(
        layout: &Layout,
        durable: bool,
        mode: Option<u32>,
        deadline: Option<Instant>,
    ) -> Result<Ledger> {
        let create = OFlags::RDWR | OFlags::CREATE;
        let file_mode = mode.unwrap_or(0o666);
        let opened = File::open(&layout.lock(), create, file_mode)
            .and_then(|lock| Ok((lock, File::open(&layout.journal(), create, file_mode)?)));
        let (lock, journal, read_only) = match opened {
            Ok((lock, journal)) => (lock, journal, false),
            // Those who may only read can look.
            Err(e) => {
                let read = |path| File::open(path, OFlags::RDONLY, 0);
                match (read(&layout.lock()), read(&layout.journal())) {
                    (Ok(lock), Ok(journal)) => (lock, journal, true),
                    _ => return Err(e),
                }
            }
        };
        let mut ledger = Ledger {
            layout: layout.clone(),
            lock: Arc::new(lock),
            journal: Arc::new(journal),
            read_only,
            durable,
            mode,
            at: 0,
            rewrite_at: ROOMY,
            damaged: 0,
            state: State::default(),
            staged: Vec::new(),
            changes: 0,
        };
        let _held = ledger.lock(deadline)?;
        // Another process may have replaced the journal before we had the lock.
        ledger.reload()?;
        if durable && !ledger.state.durable && !read_only {
            ledger.append(&[Entry::Format { version: VERSION, durable }])?;
        }
        Ok(ledger)
    }

    /// Takes the lock, until `deadline` at most, and reads what is new.
    pub fn hold(&mut self, deadline: Option<Instant>) -> Result<Held> {
        let held = self.lock(deadline)?;
        self.catch_up()?;
        Ok(held)
    }

    fn lock(&self, deadline: Option<Instant>) -> Result<Held> {
        let Some(deadline) = deadline else {
            self.lock.lock()?;
            return Ok(Held(self.lock.clone()));
        };
        // The system has no lock with a time limit.
        let mut pause = Duration::from_micros(20);
        while self.lock.try_lock()? == Lock::Busy {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Busy { path: self.layout.root.clone() });
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(2));
        }
        Ok(Held(self.lock.clone()))
    }

    /// Whether this process may only look.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether anyone who uses the queue waits for the disk. Then files must not go, nor be replaced, before what replaces
    /// them is there.
    pub fn is_durable(&self) -> bool {
        self.durable || self.state.durable
    }

    pub fn is_remote(&self) -> bool {
        self.lock.is_remote()
    }

    fn catch_up(&mut self) -> Result<()> {
        if !self.staged.is_empty() {
            // Something ended in the middle, by a panic.
            return self.forget();
        }
        let size = match self.journal.size() {
            Ok(size) => size,
            // On a network file system the old file may be gone already.
            Err(_) => return self.reload(),
        };
        if size == self.at {
            if size == 0 {
                return self.begin();
            }
            return Ok(());
        }
        if size < self.at {
            return self.reload();
        }
        self.read_on(size, false)
    }

    /// A new journal begins with the version.
    fn begin(&mut self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        if let Some(mode) = self.mode {
            self.journal.chmod(mode)?;
        }
        self.journal.reserve(2 * ROOMY);
        self.append(&[Entry::Format { version: VERSION, durable: self.durable }])
    }

    fn reload(&mut self) -> Result<()> {
        let flags = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR | OFlags::CREATE };
        self.journal = Arc::new(File::open(&self.layout.journal(), flags, self.mode.unwrap_or(0o666))?);
        self.state = State::default();
        (self.at, self.damaged) = (0, 0);
        self.changes += 1;
        let read = match self.journal.size()? {
            0 => self.begin(),
            size => self.read_on(size, true),
        };
        if read.is_err() {
            self.at = u64::MAX;
        }
        read?;
        self.rewrite_at = ROOMY.max(self.at * 4);
        Ok(())
    }

    fn read_on(&mut self, size: u64, fresh: bool) -> Result<()> {
        let mut bytes = vec![0; (size - self.at) as usize];
        let got = self.journal.read_at(&mut bytes, self.at)?;
        bytes.truncate(got);
        self.changes += 1;
        let entries = bytes.chunks(ENTRY).map(Entry::decode).collect::<Vec<_>>();
        // What is damaged at the end was being written when its writer died.
        let whole = entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        for entry in &entries[..whole] {
            match entry {
                Some(Entry::Format { version, .. }) if *version != VERSION => {
                    return Err(Error::NotAQueue {
                        path: self.journal.path.clone(),
                        why: format!("its format is version {version}, this program knows version {VERSION}"),
                    });
                }
                Some(Entry::Moved) if !fresh => return self.reload(),
                Some(entry) => self.state.apply(entry),
                None => self.damaged += 1,
            }
        }
        if fresh && whole == 0 && bytes.len() >= ENTRY {
            return Err(Error::NotAQueue {
                path: self.journal.path.clone(),
                why: "no entry of it can be read".to_owned(),
            });
        }
        self.at += (whole * ENTRY) as u64;
        if whole * ENTRY < bytes.len() && !self.read_only {
            self.journal.truncate(self.at)?;
        }
        if self.at == 0 { self.begin() } else { Ok(()) }
    }

    /// Writes down what happened. On an error nothing has happened.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        entries.iter().for_each(|e| self.stage(*e));
        self.flush()
    }

    /// Lets something happen here, to be written down with what follows. Entries that continue the one before join it.
    pub fn stage(&mut self, entry: Entry) {
        self.state.apply(&entry);
        let joined = self.staged.last().and_then(|last| last.join(&entry));
        match (joined, self.staged.last_mut()) {
            (Some(joined), Some(last)) => *last = joined,
            _ => self.staged.push(entry),
        }
    }

    /// Writes down what was staged. On an error none of it has happened.
    pub fn flush(&mut self) -> Result<()> {
        let written = match &self.staged[..] {
            [] => return Ok(()),
            [entry] => self.journal.write_at(&entry.encode(), self.at),
            many => self.journal.write_at(&many.iter().flat_map(Entry::encode).collect::<Vec<_>>(), self.at),
        };
        if let Err((_, e)) = written {
            let _ = self.journal.truncate(self.at);
            self.forget()?;
            return Err(e);
        }
        self.at += (self.staged.len() * ENTRY) as u64;
        self.staged.clear();
        if self.at >= self.rewrite_at {
            // The old journal is as good; on a full disk this is tried again later.
            if self.rewrite().is_err() {
                self.rewrite_at = self.at + ROOMY;
            }
        }
        Ok(())
    }

    /// Drops what was staged.
    fn forget(&mut self) -> Result<()> {
        self.staged.clear();
        // Read again, now or when that is possible.
        self.at = u64::MAX;
        self.reload()
    }

    /// Brings what was appended to the disk, if that is wanted.
    pub fn sync(&self) -> Result<()> {
        self.unsynced().sync()
    }

    /// What to sync when the lock is free again, so that others go on meanwhile. A journal that takes its place until then
    /// holds the same and is on the disk.
    pub fn unsynced(&self) -> Unsynced {
        Unsynced(self.durable.then(|| self.journal.clone()))
    }

    pub fn rewrite(&mut self) -> Result<()> {
        let format = Entry::Format { version: VERSION, durable: self.is_durable() };
        let mut bytes = format.encode().to_vec();
        bytes.extend(self.state.snapshot().iter().flat_map(Entry::encode));
        let path = self.layout.new_journal();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let new = File::open(&path, flags, self.mode.unwrap_or(0o666))?;
        if let Some(mode) = self.mode {
            new.chmod(mode)?;
        }
        new.reserve(2 * ROOMY);
        new.write_at(&bytes, 0).map_err(|(_, e)| e)?;
        if self.is_durable() {
            new.sync()?;
        }
        if self.damaged > 0 {
            // Nothing is deleted because it could not be read.
            let kept = self.layout.failed().join(format!("journal-{:016x}.damaged", sys::random()?));
            rustix::fs::link(&self.journal.path, &kept).map_err(|e| Error::io("keep a copy of", &kept, e))?;
            self.damaged = 0;
        }
        let moved = self.journal.write_at(&Entry::Moved.encode(), self.at);
        if let Err((_, e)) =
            moved.and_then(|()| sys::rename(&path, &self.layout.journal()).map_err(|e| (0, e)))
        {
            let _ = self.journal.truncate(self.at);
            return Err(e);
        }
        let path = self.layout.journal();
        self.journal = Arc::new(File { path, ..new });
        self.at = bytes.len() as u64;
        self.rewrite_at = ROOMY.max(self.at * 4);
        if self.is_durable() { sys::sync_dir(&self.layout.root) } else { Ok(()) }
    }

    /// What to add to this host's clock; the same for all its processes until it boots anew, however its clock is set.
    pub fn clock_offset(&mut self) -> Result<u64> {
        let boot = host::boot_id();
        if let Some(offset) = self.state.hosts.get(&boot) {
            return Ok(*offset);
        }
        let offset = host::wall_clock().saturating_sub(host::since_boot());
        self.append(&[Entry::Host { boot, offset }])?;
        Ok(offset)
    }
}
