//! Group commit: threads that put at the same time wait for the disk together.

use crate::error::{Error, Result};
use crate::sys::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Group {
    state: Mutex<State>,
    news: Condvar,
    arrivals: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Puts so far, and how many of them are on the disk.
    issued: u64,
    synced: u64,
    /// Puts behind here, up to there, may not be on the disk, and why.
    failed: Vec<(u64, u64, i32)>,
    /// The file of the last put. Older files were synced before it was begun.
    file: Option<Arc<File>>,
    /// Somebody is at it.
    led: bool,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a put. Call it before another one can be written.
    pub fn issue(&self, file: Arc<File>) -> u64 {
        let mut state = self.lock();
        state.issued += 1;
        state.file = Some(file);
        let issued = state.issued;
        drop(state);
        self.arrivals.notify_one();
        issued
    }

    /// Returns when the put is on the disk. The first that comes syncs for all.
    pub fn wait(&self, ticket: u64, within: Duration, count: usize) -> Result<()> {
        let mut state = self.lock();
        loop {
            let failure = state.failed.iter().find(|(from, upto, _)| *from < ticket && ticket <= *upto);
            if let (Some((.., errno)), Some(file)) = (failure, &state.file) {
                return Err(Error::io("sync", &file.path, std::io::Error::from_raw_os_error(*errno)));
            }
            if state.synced >= ticket {
                return Ok(());
            }
            if state.led {
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.led = true;
            let deadline = Instant::now() + within;
            while state.issued - state.synced < count as u64 {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.arrivals.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            let (upto, file) = (state.issued, state.file.clone());
            drop(state);
            let result = file.map_or(Ok(()), |f| f.sync());
            state = self.lock();
            state.led = false;
            match result {
                Ok(()) => state.synced = state.synced.max(upto),
                Err(e) => {
                    let errno = match &e {
                        Error::Io { source, .. } => source.raw_os_error(),
                        _ => None,
                    };
                    let from = state.synced;
                    state.failed.push((from, upto, errno.unwrap_or(rustix::io::Errno::IO.raw_os_error())));
                    state.synced = upto;
                }
            }
            self.news.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::sys::fault;
    use crate::{Durability, FsQueue};
    use std::time::{Duration, Instant};

    #[test]
    fn can_20_one_sync_serves_as_many_puts_as_were_asked_for() {
        let dir = std::env::temp_dir().join(format!("fsqueue-group-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let open = |within, count| {
            let group = Durability::Group { within: Duration::from_millis(within), count };
            FsQueue::<u32>::builder().durability(group).open(&dir).unwrap()
        };
        // Four that come together need not wait for time to pass.
        let q = open(60_000, 4);
        let round = || {
            std::thread::scope(|s| {
                let threads = (0..4).map(|_| s.spawn(|| fault::trace(|| q.put(&7).unwrap())));
                let calls = threads.collect::<Vec<_>>().into_iter().flat_map(|t| t.join().unwrap());
                calls.filter(|c| *c == "fdatasync").count()
            })
        };
        let start = Instant::now();
        round(); // begins the file
        assert_eq!(round(), 1);
        assert!(start.elapsed() < Duration::from_secs(60));
        // One that is alone waits for others, but not for ever.
        let alone = open(30, 4);
        let start = Instant::now();
        alone.put(&7).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert_eq!(q.len().unwrap(), 9);
        drop((q, alone));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
