//! Bytes and descriptors through a ring: everything about a queue but the type of its items.
//!
//! # Why no death can break it
//!
//! Putters take turns by one lock, getters by another; both locks pass on when their holder dies, and neither side has to be
//! repaired then, because all that a putter or getter does becomes true by the one exchange that publishes it. Nobody
//! sleeps while holding a lock, and nobody sleeps longer than [`SLICE`] without looking again.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mp_core::deadline::Deadline;
use mp_core::message::{Fds, SharedFd};
use mp_core::ring::{Doze, Ring, Staged};
use mp_core::spin::Spin;
use mp_sync::{RawGuard, RawLock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ready::Ready;
use crate::side::{Sent, Side};

/// How long a sleeper sleeps at most: a death is noticed within 100 ms.
pub(crate) const SLICE: Duration = Duration::from_millis(60);

/// How long an attempt that does not wait lets another process finish its own.
const MOMENT: Duration = Duration::from_millis(20);

/// How long a call waits.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// Not at all.
    Not,
    /// Until then, or for ever.
    Until(Option<Deadline>),
}

impl Wait {
    pub fn timeout(timeout: Duration) -> Wait {
        if timeout.is_zero() { Wait::Not } else { Wait::Until(Some(Deadline::after(timeout))) }
    }

    fn is_over(self) -> bool {
        match self {
            Wait::Not => true,
            Wait::Until(deadline) => deadline.is_some_and(Deadline::has_passed),
        }
    }

    fn deadline(self) -> Option<Deadline> {
        match self {
            Wait::Not => Some(Deadline::now()),
            Wait::Until(deadline) => deadline,
        }
    }

    /// Takes a lock. Who has it gives it back soon, so an attempt that would not have been in vain gives it that moment.
    fn guard(self, lock: &RawLock, matters: impl Fn() -> bool) -> Option<RawGuard<'_>> {
        let Wait::Not = self else { return lock.guard(self.deadline()) };
        let held = lock.try_guard();
        if held.is_some() || !matters() {
            return held;
        }
        lock.guard(Some(Deadline::after(MOMENT)))
    }
}

/// An encoded item.
#[derive(Default)]
pub(crate) struct Parcel<'a> {
    pub bytes: &'a [u8],
    pub fds: Fds,
}

/// What becomes of an item: where its bytes are in the buffer, and its descriptors.
pub(crate) type Each<'a> = dyn FnMut(Range<usize>, Result<Fds>) + 'a;

/// One who is told of items being taken, under the getters' lock.
pub(crate) trait Witness {
    /// `items` more than `got` are about to be taken.
    fn before(&self, _got: u64, _items: u64) {}
    /// `got` are taken.
    fn after(&self, _got: u64) {}
}

impl Witness for () {}

/// Buffer and witness of a getter.
pub(crate) struct Basket<'a> {
    pub bytes: &'a mut Vec<u8>,
    pub witness: &'a dyn Witness,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Channel {
    ring: Ring<RawLock>,
    side: Side,
    #[serde(skip)]
    local: Arc<Local>,
}

/// What this process has of its own here.
#[derive(Debug, Default)]
struct Local {
    put: Spin,
    get: Spin,
    ready: Ready,
}

impl Channel {
    pub fn new(limit: u64) -> Result<Channel> {
        Ok(Channel {
            ring: Ring::create("multiprocess-queue", limit)?,
            side: Side::new()?,
            local: Arc::default(),
        })
    }

    pub fn ring(&self) -> &Ring<RawLock> {
        &self.ring
    }

    /// Puts all `parcels`, as many at once as there is room for; how many were put before an error.
    pub fn put(&self, parcels: &mut [Parcel<'_>], wait: Wait) -> (usize, Result<()>) {
        let mut done = 0;
        loop {
            match self.try_put(&mut parcels[done..], wait) {
                (put, Err(Error::Full)) => done += put,
                (put, result) => return (done + put, result),
            }
            let doze = self.ring.doze_until_got();
            match self.try_put(&mut parcels[done..], wait) {
                (put, Err(Error::Full)) => {
                    done += put;
                    if wait.is_over() {
                        return (done, Err(Error::Full));
                    }
                    nap(&doze, &self.local.put, wait);
                }
                (put, result) => return (done + put, result),
            }
        }
    }

    /// Puts as many as there is room for.
    pub fn try_put(&self, parcels: &mut [Parcel<'_>], wait: Wait) -> (usize, Result<()>) {
        let matters = || self.ring.len() < self.ring.limit() || self.ring.is_closed();
        let Some(held) = wait.guard(self.ring.put_lock(), matters) else { return (0, Err(Error::Full)) };
        let mut writer = match self.ring.writer(&held) {
            Ok(writer) => writer,
            Err(error) => return (0, Err(error.into())),
        };
        let mut put = 0;
        let mut result = Ok(());
        for parcel in parcels.iter() {
            // The descriptors go first: once the item is visible, they must be there.
            let sent = match parcel.fds.is_empty() {
                true => Ok(Sent::As(0)),
                false if self.ring.is_closed() => Err(Error::Closed),
                false if self.ring.len() + put as u64 >= self.ring.limit() => Err(Error::Full),
                false => self.send(writer.number(), put, &parcel.fds),
            };
            let staged = sent.and_then(|sent| match sent {
                Sent::NoRoom => Ok(Staged::Full),
                Sent::As(attempt) => Ok(writer.stage(&[parcel.bytes], attempt)?),
            });
            result = match staged {
                Ok(Staged::Yes) => Ok(()),
                Ok(Staged::Full) => Err(Error::Full),
                Ok(Staged::Closed) => Err(Error::Closed),
                Err(error) => Err(error),
            };
            if result.is_err() {
                break;
            }
            put += 1;
        }
        if !writer.publish() {
            return (0, Err(Error::Closed));
        }
        parcels.iter_mut().take(put).for_each(|parcel| parcel.fds.delivered());
        (put, result)
    }

    fn send(&self, number: u64, staged: usize, fds: &Fds) -> Result<Sent> {
        let sent = self.side.send(number, fds)?;
        if matches!(sent, Sent::As(_)) || staged > 0 || !self.ring.is_empty() {
            return Ok(sent);
        }
        // No item will take away what is in the way: it is of putters that were killed.
        let Some(_held) = self.ring.get_lock().try_guard() else { return Ok(sent) };
        self.side.drain()?;
        match self.side.send(number, fds)? {
            Sent::NoRoom => Err(Error::TooManyHandles { count: fds.len() }),
            sent => Ok(sent),
        }
    }

    /// Gets up to `most` items, at least one: appends the bytes of each to the buffer and calls `each`, under the lock, before
    /// they are taken.
    pub fn get(&self, most: usize, wait: Wait, basket: &mut Basket<'_>, each: &mut Each<'_>) -> Result<()> {
        loop {
            match self.try_get(most, wait, basket, each) {
                Err(Error::Empty) => {}
                result => return result,
            }
            let doze = self.ring.doze_until_put();
            match self.try_get(most, wait, basket, each) {
                Err(Error::Empty) if !wait.is_over() => nap(&doze, &self.local.get, wait),
                result => return result,
            }
        }
    }

    /// As [`get`](Self::get), without waiting for an item.
    pub fn try_get(
        &self,
        most: usize,
        wait: Wait,
        basket: &mut Basket<'_>,
        each: &mut Each<'_>,
    ) -> Result<()> {
        let matters = || !self.ring.is_empty() || self.ring.is_closed();
        let Some(held) = wait.guard(self.ring.get_lock(), matters) else { return Err(Error::Empty) };
        // Before the look at the items: if it is closed now, those are the last.
        let closed = self.ring.is_closed();
        let mut reader = self.ring.reader(&held)?;
        let mut got = 0;
        while got < most {
            let Some(next) = reader.peek()? else { break };
            let start = basket.bytes.len();
            // Before the descriptors, which are gone once they are received.
            match reader.read(&next, 0, basket.bytes) {
                Err(error) if got == 0 => return Err(error.into()),
                Err(_) => break,
                Ok(()) => {}
            }
            let fds = match next.about {
                0 => Ok(Fds::new()),
                attempt => self.side.receive(next.number, attempt),
            };
            let lost = fds.is_err();
            // That is for a call of its own, so that it costs no other item.
            if lost && got > 0 {
                basket.bytes.truncate(start);
                break;
            }
            each(start..basket.bytes.len(), fds);
            reader.pass(&next);
            got += 1;
            if lost {
                break;
            }
        }
        if got == 0 && closed {
            // Of putters that came too late.
            let _ = self.side.drain();
            return Err(Error::Closed);
        }
        if got == 0 {
            return Err(Error::Empty);
        }
        let before = self.ring.read();
        basket.witness.before(before, got as u64);
        let give_back = reader.should_give_back();
        reader.publish();
        basket.witness.after(before + got as u64);
        if give_back && let Some(put_held) = self.ring.put_lock().try_guard() {
            // If it does not work now, the next getter tries again.
            let _ = self.ring.give_back(&put_held, &held);
        }
        Ok(())
    }

    pub fn ready_fd(&self) -> Result<SharedFd> {
        self.local.ready.fd(&self.ring)
    }

    pub fn close(&self) {
        self.ring.close();
    }
}

/// A short spin while that pays, then a sleep.
fn nap(doze: &Doze<'_>, spin: &Spin, wait: Wait) {
    if !spin.until(|| doze.is_over()) {
        doze.sleep(Some(Deadline::within(wait.deadline(), SLICE)));
    }
}

#[cfg(test)]
mod tests;
