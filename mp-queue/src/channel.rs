//! Bytes and descriptors through a ring: everything about a queue but the type of its items.
//!
//! # Why no death can break it
//!
//! Putters take turns by one lock, getters by another; both locks pass on when their holder dies, and neither side has to be
//! repaired then, because all that a putter or getter does becomes true by the one exchange that publishes it. Nobody
//! sleeps while holding a lock, and nobody sleeps longer than [`SLICE`](crate::wait::SLICE) without looking again.

use std::hint::spin_loop;
use std::sync::Arc;

use mp_core::message::{Fds, SharedFd};
use mp_core::ring::{Doze, Next, Record, Ring, Short, Staged};
use mp_core::spin::Spin;
use mp_sync::{RawGuard, RawLock};
use serde::{Deserialize, Serialize};

use crate::error::{Boxed, Error, Result};
use crate::ready::Ready;
use crate::side::{Sent, Side};
use crate::wait::Wait;

/// So many places a putter that spins waits for, if there are that many, looking at most so often with so long between.
const BATCH: u64 = 64;
const PATIENCE: u32 = 16;
const PAUSES: u32 = 64;

/// An encoded item.
#[derive(Default)]
pub(crate) struct Parcel<'a> {
    pub bytes: &'a [u8],
    pub fds: Fds,
}

/// One who is told of items being taken, under the getters' lock.
pub(crate) trait Witness {
    /// `items` more than `got` are about to be taken.
    fn before(&self, _got: u64, _items: u64) {}
    /// `got` are taken.
    fn after(&self, _got: u64) {}
}

impl Witness for () {}

/// What becomes of an item that was found.
pub(crate) enum Fate {
    /// It is taken, and the next one is looked at.
    Taken,
    /// It is taken, and that is enough.
    Last,
    /// It stays for another call.
    Left,
}

/// What came of putting one item; small enough for registers.
pub(crate) enum Put {
    /// It is in the ring.
    Done,
    /// There was no room in time.
    Full,
    Failed(Boxed),
}

/// What came of getting one item.
pub(crate) enum Got {
    /// No item came in time.
    Nothing,
    /// A short one.
    Short,
    /// One that had to be taken otherwise.
    Other,
    Failed(Boxed),
}

/// An item that is still in the ring, under the lock.
pub(crate) struct Found<'a> {
    record: Record<'a>,
    next: Next,
    side: &'a Side,
}

impl Found<'_> {
    /// Appends its bytes.
    #[inline]
    pub fn read(&self, bytes: &mut Vec<u8>) -> Result<()> {
        Ok(self.record.read(0, bytes)?)
    }

    /// Its bytes, if they are few and nothing else came with it.
    #[inline(always)]
    fn read_short(&self, bytes: &mut Short) -> bool {
        !self.has_handles() && self.record.read_short(bytes)
    }

    /// Whether descriptors came with it.
    #[inline]
    pub fn has_handles(&self) -> bool {
        self.next.about != 0
    }

    /// Its descriptors, which are gone then: to be asked for last.
    #[inline]
    pub fn handles(&self) -> Result<Fds> {
        if !self.has_handles() {
            return Ok(Fds::new());
        }
        self.side.receive(self.next.number, self.next.about)
    }

    /// Its bytes, appended, and its descriptors, which are an error if they are lost. Such an item comes alone, so that it
    /// costs no other: behind others it is left, and there is nothing.
    pub fn gather(&self, bytes: &mut Vec<u8>, is_first: bool) -> Result<(Fate, Option<Result<Fds>>)> {
        let start = bytes.len();
        self.read(bytes)?;
        match self.handles() {
            Err(_) if !is_first => {
                bytes.truncate(start);
                Ok((Fate::Left, None))
            }
            Err(lost) => Ok((Fate::Last, Some(Err(lost)))),
            handles => Ok((Fate::Taken, Some(handles))),
        }
    }

    /// The item itself, if it is a vector of numbers.
    #[inline]
    pub fn read_whole<T>(&self) -> Result<Option<T>> {
        Ok(self.record.read_whole()?)
    }
}

/// Out of the way of short items.
#[cold]
#[inline(never)]
fn take_otherwise(found: Found<'_>, take: &mut dyn FnMut(Found<'_>) -> Result<()>) -> Result<(), Boxed> {
    take(found).map_err(Box::new)
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

    #[inline]
    pub fn ring(&self) -> &Ring<RawLock> {
        &self.ring
    }

    /// Puts one item without descriptors, whose bytes are `head` and `body`.
    ///
    /// The same code for items of all types, so that much of it is there already when a thread wakes up.
    #[inline(never)]
    pub fn put_one(&self, head: &[u8], body: &[u8], wait: &Wait) -> Put {
        loop {
            let held = self.ring.put_lock().guard_at_once();
            if body.is_empty()
                && let Some(held) = &held
                && self.ring.put_short(held, head)
            {
                return Put::Done;
            }
            if let Some(put) = self.put_otherwise(held, head, body, *wait) {
                return put;
            }
        }
    }

    /// Puts one item the general way; none if there was no room, and it waited for some.
    #[cold]
    #[inline(never)]
    fn put_otherwise(&self, held: Option<RawGuard<'_>>, head: &[u8], body: &[u8], wait: Wait) -> Option<Put> {
        let put =
            held.or_else(|| self.guard_put(wait)).map_or(Ok(false), |held| self.put_held(&held, head, body));
        match put {
            Ok(true) => Some(Put::Done),
            Ok(false) if self.wait_for_room(wait) => None,
            Ok(false) => Some(Put::Full),
            Err(error) => Some(Put::Failed(error)),
        }
    }

    #[inline(always)]
    fn guard_put(&self, wait: Wait) -> Option<RawGuard<'_>> {
        wait.guard(self.ring.put_lock(), || self.may_put(), || self.ring.written())
    }

    #[inline(always)]
    fn guard_get(&self, wait: Wait) -> Option<RawGuard<'_>> {
        let matters = || !self.ring.is_empty() || self.ring.is_closed();
        wait.guard(self.ring.get_lock(), matters, || self.ring.read())
    }

    /// Puts one item under the lock: whether there was room.
    #[inline(always)]
    fn put_held(&self, held: &RawGuard<'_>, head: &[u8], body: &[u8]) -> Result<bool, Boxed> {
        let mut writer = self.ring.writer(held)?;
        match writer.stage(head, body, 0)? {
            Staged::Yes if writer.publish() => Ok(true),
            Staged::Full => Ok(false),
            Staged::Yes | Staged::Closed => Err(Box::new(Error::Closed)),
        }
    }

    /// Whether an attempt to put would not be in vain.
    fn may_put(&self) -> bool {
        self.ring.len() < self.ring.limit() || self.ring.is_closed()
    }

    /// Until there may be room; false if the time is over.
    #[cold]
    #[inline(never)]
    fn wait_for_room(&self, wait: Wait) -> bool {
        if wait.is_over() {
            return false;
        }
        let doze = self.ring.doze_until_got();
        let limit = self.ring.limit();
        if self.ring.len() < limit || self.ring.is_closed() {
            return true;
        }
        // A getter that is at it makes room for more soon: going on at the first place would only be in its way.
        let (wanted, mut looks) = ((limit / 4).clamp(1, BATCH), 0);
        let spun = self.local.put.until_beside(self.ring.is_apart(true), || {
            if !doze.is_over() {
                return false;
            }
            looks += 1;
            if looks == PATIENCE || limit.saturating_sub(self.ring.len()) >= wanted {
                return true;
            }
            (0..PAUSES).for_each(|_| spin_loop());
            false
        });
        if !spun {
            wait.sleep(&doze);
        }
        true
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
                    if !self.local.put.until_beside(self.ring.is_apart(true), || doze.is_over()) {
                        wait.sleep(&doze);
                    }
                }
                (put, result) => return (done + put, result),
            }
        }
    }

    /// Puts as many as there is room for.
    pub fn try_put(&self, parcels: &mut [Parcel<'_>], wait: Wait) -> (usize, Result<()>) {
        let Some(held) = self.guard_put(wait) else { return (0, Err(Error::Full)) };
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
                Sent::As(attempt) => Ok(writer.stage(parcel.bytes, &[], attempt)?),
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

    /// Gets one item: puts it into `short`, if it is that, or else has `other` take it, under the lock.
    ///
    /// The same code for items of all types, as for [`put_one`](Self::put_one).
    #[inline(never)]
    pub fn get_one<W: Witness>(
        &self,
        wait: &Wait,
        witness: &W,
        short: &mut Short,
        other: &mut dyn FnMut(Found<'_>) -> Result<()>,
    ) -> Got {
        loop {
            let held = self.ring.get_lock().guard_at_once();
            let would_wait = matches!(wait, Wait::Until(_));
            if let Some(held) = &held
                && let Some(taken) = self.ring.get_short(held, short, would_wait)
            {
                let number = taken.number();
                witness.before(number, 1);
                taken.publish();
                witness.after(number + 1);
                return Got::Short;
            }
            if let Some(got) = self.get_otherwise(held, *wait, witness, short, other) {
                return got;
            }
        }
    }

    /// Gets one item the general way; none if there was none, or somebody was faster, and it waited for one.
    #[cold]
    #[inline(never)]
    fn get_otherwise<W: Witness>(
        &self,
        held: Option<RawGuard<'_>>,
        wait: Wait,
        witness: &W,
        short: &mut Short,
        other: &mut dyn FnMut(Found<'_>) -> Result<()>,
    ) -> Option<Got> {
        // First, so that one who has to wait needs but the short way when it wakes up.
        if let Some(doze) = self.ring.doze_if_empty() {
            drop(held);
            return if self.wait_for_item(wait, &doze) { None } else { Some(Got::Nothing) };
        }
        let mut got = Got::Nothing;
        let mut each = |found: Found<'_>| {
            got = Got::Short;
            if !found.read_short(short) {
                got = Got::Other;
                take_otherwise(found, other)?;
            }
            Ok(Fate::Last)
        };
        match self.try_get(held, 1, wait, witness, &mut each) {
            Ok(true) => Some(got),
            // Somebody was faster.
            Ok(false) if !wait.is_over() => None,
            Ok(false) => Some(Got::Nothing),
            Err(error) => Some(Got::Failed(error)),
        }
    }

    /// Gets up to `most` items, at least one: calls `each` with each of them, under the lock, before they are taken.
    pub fn get(
        &self,
        most: usize,
        wait: Wait,
        witness: &impl Witness,
        mut each: impl FnMut(Found<'_>) -> Result<Fate>,
    ) -> Result<()> {
        let mut each = |found: Found<'_>| each(found).map_err(Box::new);
        while !self.try_get(None, most, wait, witness, &mut each).map_err(|error| *error)? {
            let doze = self.ring.doze_if_empty();
            if doze.map_or(wait.is_over(), |doze| !self.wait_for_item(wait, &doze)) {
                return Err(Error::Empty);
            }
        }
        Ok(())
    }

    /// Until there may be an item, or the queue is closed; false if the time is over.
    #[cold]
    #[inline(never)]
    fn wait_for_item(&self, wait: Wait, doze: &Doze<'_>) -> bool {
        if wait.is_over() {
            return false;
        }
        if !self.local.get.until_beside(self.ring.is_apart(false), || doze.is_over()) {
            wait.sleep(doze);
        }
        true
    }

    /// As [`get`](Self::get), without waiting for an item: whether there was one. Takes the lock, unless it is `held`.
    #[inline(always)]
    fn try_get(
        &self,
        held: Option<RawGuard<'_>>,
        most: usize,
        wait: Wait,
        witness: &impl Witness,
        each: &mut impl FnMut(Found<'_>) -> Result<Fate, Boxed>,
    ) -> Result<bool, Boxed> {
        let Some(held) = held.or_else(|| self.guard_get(wait)) else { return Ok(false) };
        let mut reader = self.ring.reader(&held)?;
        let mut got = 0;
        while got < most {
            let Some(next) = reader.peek()? else { break };
            let fate = match each(Found { record: reader.record(&next)?, next, side: &self.side }) {
                Err(error) if got == 0 => return Err(error),
                Err(_) | Ok(Fate::Left) => break,
                Ok(fate) => fate,
            };
            reader.pass(&next);
            got += 1;
            if matches!(fate, Fate::Last) {
                break;
            }
        }
        if got == 0 && reader.is_drained() {
            // Of putters that came too late.
            let _ = self.side.drain();
            return Err(Box::new(Error::Closed));
        }
        if got == 0 {
            return Ok(false);
        }
        let before = reader.taken_before();
        witness.before(before, got as u64);
        let give_back = reader.should_give_back();
        reader.publish();
        witness.after(before + got as u64);
        if give_back {
            self.give_back(&held);
        }
        Ok(true)
    }

    #[cold]
    fn give_back(&self, held: &RawGuard<'_>) {
        if let Some(put_held) = self.ring.put_lock().try_guard() {
            // If it does not work now, the next getter tries again.
            let _ = self.ring.give_back(&put_held, held);
        }
    }

    pub fn ready_fd(&self) -> Result<SharedFd> {
        self.local.ready.fd(&self.ring)
    }

    pub fn close(&self) {
        self.ring.close();
    }
}

#[cfg(test)]
mod tests;
