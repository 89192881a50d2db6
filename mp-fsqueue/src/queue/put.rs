//! Adding items.

use super::{FsQueue, lock, lock_until};
use crate::error::{Error, Result};
use crate::host;
use crate::options::Durability;
use crate::segment;
use crate::sys::File;
use crate::writer::Writer;
use serde::{Serialize, de::DeserializeOwned};
use std::any::type_name;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

impl<T: Serialize + DeserializeOwned> FsQueue<T> {
    /// Adds an item. When it returns, every process sees the item, and it survives the death of this one.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`], [`Error::TooLarge`], [`Error::Full`] and [`Error::Io`] mean that nothing was put; but an
    /// [`Error::Io`] that says `cannot sync` means that the item is there and may not survive a power cut.
    pub fn put(&self, item: &T) -> Result<()> {
        self.put_with(None, |buffer| self.encode(item, buffer))
    }

    /// Adds an item that is encoded already.
    pub(super) fn put_encoded(&self, body: &[u8]) -> Result<()> {
        self.put_with(None, |buffer| {
            buffer.extend_from_slice(body);
            Ok(())
        })
    }

    fn put_with(
        &self,
        deadline: Option<Instant>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut guard = self.writer(deadline)?;
        let Some(writer) = guard.as_mut() else { return Err(self.no_writer()) };
        let file = writer.put(encode, deadline)?;
        self.make_durable(guard, file)
    }

    /// Adds an item, waiting up to `timeout` while the queue is [full](Error::Full). How long the disk takes to make it
    /// durable is not limited.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if the queue's lock was needed and not to be had in time, so that nothing was put; otherwise as
    /// [`FsQueue::put`].
    pub fn put_timeout(&self, item: &T, timeout: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(timeout);
        let mut pause = Duration::from_millis(1);
        let mut full = None;
        loop {
            match self.put_with(deadline, |buffer| self.encode(item, buffer)) {
                Err(e) if e.is_full() => {
                    let left = deadline.map_or(pause, |d| d.saturating_duration_since(Instant::now()));
                    if left.is_zero() {
                        return Err(e);
                    }
                    full = Some(e);
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                // What was seen before tells more.
                Err(e) if e.is_busy() => return Err(full.unwrap_or(e)),
                result => return result,
            }
        }
    }

    /// Adds items, many by one system call and all by one sync. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Partial`] if only the first ones were put; otherwise as [`FsQueue::put`].
    pub fn put_many<'a>(&self, items: impl IntoIterator<Item = &'a T>) -> Result<usize>
    where
        T: 'a,
    {
        let encode = |item: &T| {
            let mut body = Vec::new();
            self.encode(item, &mut body)?;
            if body.len() > crate::record::MAX_BODY {
                return Err(segment::too_large(self.path(), body.len()));
            }
            Ok(body)
        };
        let bodies = items.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        let mut guard = self.writer(None)?;
        let Some(writer) = guard.as_mut() else { return Err(self.no_writer()) };
        let (put, result) = writer.put_many(&bodies);
        let failed = |source: Error| match put {
            0 => source,
            _ => Error::Partial { put, source: Box::new(source) },
        };
        if let Some(file) = result.map_err(failed)? {
            self.make_durable(guard, file).map_err(failed)?;
        }
        Ok(put)
    }

    pub(super) fn encode(&self, item: &T, buffer: &mut Vec<u8>) -> Result<()> {
        let encoded = match self.inner.options.named {
            true => rmp_serde::encode::write_named(buffer, item),
            false => rmp_serde::encode::write(buffer, item),
        };
        encoded.map_err(|source| Error::Encode {
            path: self.path().to_owned(),
            type_name: type_name::<T>(),
            source,
        })
    }

    fn writer(&self, deadline: Option<Instant>) -> Result<MutexGuard<'_, Option<Writer>>> {
        let mut writer = lock_until(&self.inner.writer, deadline).ok_or_else(|| self.busy())?;
        if writer.as_ref().is_none_or(|w| w.pid != host::pid()) {
            *writer = Some(Writer::open(&self.inner.layout, &self.inner.options, deadline)?);
        }
        Ok(writer)
    }

    fn no_writer(&self) -> Error {
        Error::io("write to", self.path(), rustix::io::Errno::BADF)
    }

    fn make_durable(&self, guard: MutexGuard<'_, Option<Writer>>, file: Arc<File>) -> Result<()> {
        let result = match self.inner.options.durability {
            Durability::None => return Ok(()),
            Durability::Item => {
                drop(guard);
                file.sync()
            }
            Durability::Group { within, count } => {
                let ticket = self.inner.group.issue(file);
                drop(guard);
                self.inner.group.wait(ticket, within, count)
            }
        };
        if result.is_err()
            && let Some(writer) = lock(&self.inner.writer).as_mut()
        {
            writer.abandon();
        }
        result
    }
}
