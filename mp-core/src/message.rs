//! Values and descriptors as one message.
//!
//! A [`Message`] is the bytes of a value and the table of descriptors that its handles point into. If the
//! process dies, the kernel closes what the table holds; a message that is dropped unsent gives back
//! everything it carried.
//!
//! # References in flight
//!
//! Some handles are more than a descriptor: a block in a shared arena is counted, and while a message carries
//! it, the message owns one count. The handle takes that count while it is encoded and registers with
//! [`Fds::on_unsent`] how to give it back. Exactly one of three things happens then:
//! - the message is sent: the callbacks are dropped uncalled, the count now belongs to the bytes that arrive;
//! - the message is decoded in this process: the same as soon as the first handle is met;
//! - the message is dropped: the callbacks run.
//!
//! Counts that belong to bytes are given back when these are decoded: each handle that comes out of them takes one of
//! its own, and at the end, however it came, by a value, an error or a panic, and however many handles were made, those
//! of the bytes are given back, once for each place in the bytes. [`discard`] gives them back without decoding. So bytes
//! are decoded or discarded once; of further copies, [`Fds::into_copy`] marks the tables.
//!
//! A message that a child has from its parent by a fork is the parent's, which undoes it. The child may decode its copy,
//! while the parent keeps what is in it; it must not send it.
//!
//! What is neither decoded nor discarded stays counted until the owner of the arena ends: messages in a socket and items
//! in a queue whose last reader died, those that a reader was killed with, those whose descriptors were lost, and an
//! arrived message that is dropped, because it might have been one of several copies.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arena::Chunk;
use crate::codec;
use crate::liveness::ProcessId;
use crate::segment::Segment;
use crate::{Error, Result};

/// A descriptor that a message and its owner hold together, so that queuing a message duplicates nothing.
pub type SharedFd = Arc<OwnedFd>;

/// The descriptors of one message, in the order in which its handles name them, and what to undo if it is
/// never sent.
#[derive(Default)]
// Most messages carry none: then there is nothing to make and nothing to drop.
pub struct Fds(Option<Box<Carried>>);

#[derive(Default)]
struct Carried {
    slots: Vec<Slot>,
    on_unsent: Vec<Box<dyn FnOnce() + Send + Sync>>,
    /// The process that has to undo it.
    pid: u32,
    /// Shared blocks, by descriptor and index, of which the value that is being decoded owns a count.
    owed: Vec<(u32, u32)>,
    /// Somebody else keeps the counts.
    is_copy: bool,
}

enum Slot {
    /// Each handle has its own.
    Own(SharedFd),
    /// Any number of handles of the message mean this one.
    Shared(SharedFd),
    /// A segment, mapped once for all handles that stand in it.
    Mapped(Segment),
    /// A chunk of an arena, opened once for all blocks that lie in it.
    Chunk(Arc<Chunk>),
    /// A handle took it.
    Taken,
}

impl Fds {
    /// An empty table; allocates nothing.
    pub const fn new() -> Fds {
        Fds(None)
    }

    fn carried(&mut self) -> &mut Carried {
        self.0.get_or_insert_default()
    }

    fn slots(&self) -> &[Slot] {
        self.0.as_ref().map_or(&[], |carried| &carried.slots)
    }

    /// The table of a message that arrived.
    pub fn received(fds: impl IntoIterator<Item = OwnedFd>) -> Fds {
        let slots: Vec<Slot> = fds.into_iter().map(|fd| Slot::Own(fd.into())).collect();
        let mut fds = Fds::new();
        if !slots.is_empty() {
            fds.carried().slots = slots;
        }
        fds
    }

    /// Puts in a descriptor for one handle; returns the index that the handle encodes.
    pub fn attach(&mut self, fd: SharedFd) -> u32 {
        let slots = &mut self.carried().slots;
        slots.push(Slot::Own(fd));
        (slots.len() - 1) as u32
    }

    /// Puts in a descriptor that several handles of one message may mean: the same `Arc` is put in once.
    pub fn attach_shared(&mut self, fd: &SharedFd) -> u32 {
        let known = |slot: &Slot| matches!(slot, Slot::Shared(other) if Arc::ptr_eq(fd, other));
        let slots = &mut self.carried().slots;
        let index = slots.iter().rposition(known).unwrap_or_else(|| {
            slots.push(Slot::Shared(fd.clone()));
            slots.len() - 1
        });
        index as u32
    }

    /// Puts in a segment that several handles of one message may stand in, once.
    pub fn attach_segment(&mut self, segment: &Segment) -> u32 {
        self.attach_shared(segment.shared_fd())
    }

    /// Registers how to give back what a handle took for its journey, should the message never be sent or
    /// decoded.
    pub fn on_unsent(&mut self, undo: impl FnOnce() + Send + Sync + 'static) {
        let carried = self.carried();
        carried.on_unsent.push(Box::new(undo));
        carried.pid = ProcessId::current().pid();
    }

    /// Takes the descriptor at `index` for a handle named `what`, which owns it from now on.
    ///
    /// Duplicates it only if somebody in this process still holds it. Errors: [`Error::Decode`] for an index
    /// outside the table and for one that was taken before.
    pub fn take(&mut self, index: u32, what: &'static str) -> Result<OwnedFd> {
        let fd = self.share(index, what)?;
        *self.slot(index, what)? = Slot::Taken;
        Arc::try_unwrap(fd).or_else(|fd| {
            let duplicate = fd.as_fd().try_clone_to_owned();
            duplicate.map_err(|error| Error::io(format!("duplicating the descriptor of a {what}"), error))
        })
    }

    /// The descriptor at `index` for a handle named `what`, which others of the same message may mean as
    /// well.
    ///
    /// Errors: as in [`take`](Self::take).
    pub fn share(&mut self, index: u32, what: &'static str) -> Result<SharedFd> {
        match self.slot(index, what)? {
            Slot::Own(fd) | Slot::Shared(fd) => Ok(fd.clone()),
            Slot::Mapped(segment) => Ok(segment.shared_fd().clone()),
            Slot::Chunk(chunk) => Ok(chunk.segment().shared_fd().clone()),
            Slot::Taken => Err(taken(what, index)),
        }
    }

    /// The segment at `index` for a handle named `what`, mapped when the first handle of the message asks.
    ///
    /// Errors: as in [`take`](Self::take) and [`Segment::from_fd`].
    pub fn segment(&mut self, index: u32, what: &'static str) -> Result<Segment> {
        let slot = self.slot(index, what)?;
        let segment = match slot {
            Slot::Mapped(segment) => return Ok(segment.clone()),
            Slot::Chunk(chunk) => return Ok(chunk.segment().clone()),
            Slot::Own(fd) | Slot::Shared(fd) => Segment::from_shared_fd(fd.clone())?,
            Slot::Taken => return Err(taken(what, index)),
        };
        *slot = Slot::Mapped(segment.clone());
        Ok(segment)
    }

    /// The chunk of an arena at `index` for a handle named `what`, opened when the first handle of the message asks.
    pub(crate) fn chunk(&mut self, index: u32, what: &'static str) -> Result<Arc<Chunk>> {
        if let Slot::Chunk(chunk) = self.slot(index, what)? {
            return Ok(chunk.clone());
        }
        let chunk = Chunk::open(self.segment(index, what)?)?;
        *self.slot(index, what)? = Slot::Chunk(chunk.clone());
        Ok(chunk)
    }

    fn slot(&mut self, index: u32, what: &'static str) -> Result<&mut Slot> {
        let slots = self.0.as_mut().map_or(&mut [][..], |carried| &mut carried.slots);
        let count = slots.len();
        let outside = || wrong(what, format!("it names descriptor {index} of a message with {count}"));
        slots.get_mut(index as usize).ok_or_else(outside)
    }

    /// Number of descriptors, taken ones included.
    pub fn len(&self) -> usize {
        self.slots().len()
    }

    /// Whether there are no descriptors, and nothing to undo.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.0.as_ref().is_none_or(|carried| carried.slots.is_empty() && carried.on_unsent.is_empty())
    }

    /// Whether there are no descriptors.
    pub fn is_empty(&self) -> bool {
        self.slots().is_empty()
    }

    /// The descriptors that are still there, in order; for whoever sends the message.
    pub fn iter(&self) -> impl Iterator<Item = &SharedFd> {
        self.slots().iter().filter_map(|slot| match slot {
            Slot::Own(fd) | Slot::Shared(fd) => Some(fd),
            Slot::Mapped(segment) => Some(segment.shared_fd()),
            Slot::Chunk(chunk) => Some(chunk.segment().shared_fd()),
            Slot::Taken => None,
        })
    }

    /// The message has left: what it carried belongs to the receiver, nothing is undone.
    pub fn delivered(&mut self) {
        if let Some(carried) = &mut self.0 {
            carried.on_unsent.clear();
        }
    }

    /// It was decoded, so that nothing is undone here. What came with a fork is undone where it was made all the same, and is
    /// not given back here.
    pub(crate) fn decoded(&mut self) {
        if let Some(carried) = &mut self.0 {
            carried.is_copy |= !carried.on_unsent.is_empty() && carried.pid != ProcessId::current().pid();
            carried.on_unsent.clear();
        }
    }

    /// The table of one of several copies of a message, whose counts somebody keeps until the last is decoded: decoding
    /// gives none back.
    pub fn into_copy(mut self) -> Fds {
        if let Some(carried) = &mut self.0 {
            carried.is_copy = true;
        }
        self
    }

    /// Whether what it carried is given back by the bytes, rather than by what is undone.
    pub(crate) fn is_delivered(&self) -> bool {
        self.0.as_ref().is_some_and(|carried| carried.on_unsent.is_empty())
    }

    /// Notes that the value being decoded owns a count of a block, given by descriptor and index.
    pub(crate) fn owes(&mut self, block: (u32, u32)) {
        if let Some(carried) = &mut self.0 {
            carried.owed.push(block);
        }
    }

    /// Gives back the counts that the decoded value owned: its handles took their own.
    pub(crate) fn settle(&mut self) {
        let Some(carried) = &mut self.0 else { return };
        let owed = std::mem::take(&mut carried.owed);
        if carried.is_copy {
            return;
        }
        for (fd, index) in owed {
            // Who sends what is no block has lost nothing.
            if let Ok(chunk) = self.chunk(fd, "shared block") {
                chunk.give_back(index);
            }
        }
    }

    /// Takes back everything that was attached after `mark` was made; for a value whose encoding failed, or panicked.
    pub fn truncate(&mut self, mark: Mark) {
        let Some(carried) = &mut self.0 else { return };
        carried.slots.truncate(mark.slots);
        carried.undo(mark.on_unsent);
    }

    /// How full it is now.
    #[inline]
    pub fn mark(&self) -> Mark {
        let on_unsent = self.0.as_ref().map_or(0, |carried| carried.on_unsent.len());
        Mark { slots: self.len(), on_unsent }
    }
}

/// How full a table was; see [`Fds::truncate`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    slots: usize,
    on_unsent: usize,
}

impl Carried {
    /// Undoes all but the first `keep`.
    fn undo(&mut self, keep: usize) {
        self.on_unsent.drain(keep.min(self.on_unsent.len())..).for_each(|undo| undo());
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.undo(0);
    }
}

impl Drop for Fds {
    #[inline]
    fn drop(&mut self) {
        if let Some(carried) = self.0.take() {
            give_up(carried);
        }
    }
}

/// Out of the way of messages that carry nothing.
#[cold]
#[inline(never)]
fn give_up(carried: Box<Carried>) {
    drop(carried);
}

impl fmt::Debug for Fds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One value on its way: its bytes and the descriptors of the handles inside.
///
/// Follows what `multiprocessing.reduction` does while a process is being started, at any time.
///
/// ```
/// use mp_core::message::Message;
/// # fn main() -> mp_core::Result<()> {
/// let message = Message::encode(&("answer", 42))?;
/// assert_eq!(message.decode::<(String, u32)>()?, ("answer".to_string(), 42));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Message {
    /// The encoded value.
    pub bytes: Vec<u8>,
    /// The descriptors that its handles name.
    pub fds: Fds,
}

impl Message {
    /// The message that carries `value`.
    ///
    /// Errors: [`Error::Encode`] if the value refuses to be serialised or is nested too deeply.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Message> {
        let mut message = Message::default();
        encode_into(value, &mut message.bytes, &mut message.fds)?;
        Ok(message)
    }

    /// The value inside; what no handle took is given back.
    ///
    /// Errors: [`Error::Decode`] if the bytes are not a `T`, whatever they are.
    pub fn decode<T: DeserializeOwned>(mut self) -> Result<T> {
        decode_from(&self.bytes, &mut self.fds)
    }

    /// Gives back all that it carries, if it arrived and nobody wants it.
    ///
    /// ```
    /// # #[cfg(not(loom))] {
    /// use mp_core::{arena::Arena, connection::Connection};
    ///
    /// let (here, there) = Connection::pair()?;
    /// here.send(&Arena::global().alloc(8, 8)?)?;
    /// there.recv_message()?.discard();
    /// # }
    /// # Ok::<(), mp_core::Error>(())
    /// ```
    pub fn discard(mut self) {
        discard(&self.bytes, &mut self.fds);
    }
}

/// Appends `value` to `bytes` and its descriptors to `fds`; on an error, both are as before.
///
/// For callers that put many values into one buffer: costs no allocation of its own. Errors:
/// [`Error::Encode`].
#[inline]
pub fn encode_into<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>, fds: &mut Fds) -> Result<()> {
    codec::encode(value, bytes, Some(fds))
}

/// The value in `bytes`, all of them, whose handles are in `fds`; what no handle took is given back.
///
/// Several values may share one table. Errors: [`Error::Decode`].
#[inline(always)]
pub fn decode_from<T: DeserializeOwned>(bytes: &[u8], fds: &mut Fds) -> Result<T> {
    codec::decode(bytes, Some(fds))
}

/// Gives back what the handles in `bytes` carry, for a value that nobody decodes; see [`decode_from`].
#[inline]
pub fn discard(bytes: &[u8], fds: &mut Fds) {
    if !fds.is_plain() {
        codec::discard(bytes, fds);
    }
}

fn taken(what: &'static str, index: u32) -> Error {
    wrong(what, format!("another handle took descriptor {index} of this message"))
}

fn wrong(what: &'static str, reason: String) -> Error {
    Error::Decode { type_name: what, reason }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde::{Deserialize, Deserializer, Serializer};

    use super::*;
    use crate::handle::{self, Handle};

    static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);

    /// A handle that counts itself while it travels.
    #[derive(Debug)]
    struct Counted;

    impl Serialize for Counted {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            handle::serialize(serializer, "Counted", |fds| {
                IN_FLIGHT.fetch_add(1, Ordering::SeqCst);
                fds.on_unsent(|| {
                    IN_FLIGHT.fetch_sub(1, Ordering::SeqCst);
                });
                Ok(7_u8)
            })
        }
    }

    impl<'de> Deserialize<'de> for Counted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Counted, D::Error> {
            handle::deserialize(deserializer, "Counted", |_, body: u8| {
                assert_eq!(body, 7);
                IN_FLIGHT.fetch_sub(1, Ordering::SeqCst);
                Ok(Counted)
            })
        }
    }

    fn refuse<S: Serializer>(_: &(), _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it refuses"))
    }

    #[test]
    fn references_in_flight_are_given_back_once() {
        let in_flight = || IN_FLIGHT.load(Ordering::SeqCst);
        let message = Message::encode(&[Counted, Counted]).unwrap();
        assert_eq!(in_flight(), 2);
        drop(message);
        assert_eq!(in_flight(), 0);

        Message::encode(&[Counted, Counted]).unwrap().decode::<[Counted; 2]>().unwrap();
        assert_eq!(in_flight(), 0);
        assert!(Message::encode(&(Counted, 1)).unwrap().decode::<(Counted, String)>().is_err());
        assert_eq!(in_flight(), 0);

        let (a, b) = crate::connection::pipe().unwrap();
        a.send(&Some(Counted)).unwrap();
        assert_eq!(in_flight(), 1);
        b.recv::<Option<Counted>>().unwrap();
        assert_eq!(in_flight(), 0);
        drop(b);
        assert!(a.send(&Counted).is_err());
        assert_eq!(in_flight(), 0);

        #[derive(Serialize)]
        struct Bad(Counted, #[serde(serialize_with = "refuse")] ());
        let mut message = Message::encode(&Counted).unwrap();
        let length = message.bytes.len();
        assert!(encode_into(&Bad(Counted, ()), &mut message.bytes, &mut message.fds).is_err());
        assert_eq!((in_flight(), message.bytes.len()), (1, length));
        drop(message);
        assert_eq!(in_flight(), 0);
    }

    #[test]
    fn handles_travel_in_any_shape() {
        #[derive(Serialize, Deserialize)]
        #[serde(tag = "kind")]
        enum Tagged {
            Log {
                name: String,
                #[serde(with = "crate::handle::inside")]
                file: File,
            },
        }
        #[derive(Serialize, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            inner: Inner,
        }
        #[derive(Serialize, Deserialize)]
        struct Inner {
            file: Option<Handle<File>>,
            segment: Segment,
        }
        let null = || File::open("/dev/null").unwrap();
        let segment = Segment::create("shape", 1).unwrap();
        let inner = Inner { file: Some(Handle(null())), segment };
        let value = (Tagged::Log { name: "x".into(), file: null() }, Flat { inner });
        let message = Message::encode(&value).unwrap();
        assert_eq!(message.fds.len(), 3);
        let (Tagged::Log { name, .. }, flat) = message.decode::<(Tagged, Flat)>().unwrap();
        assert_eq!((name.as_str(), flat.inner.segment.len()), ("x", 1));
        assert!(flat.inner.file.is_some());
    }

    #[test]
    fn wrong_indices_are_errors() {
        let message = Message::encode(&Handle(File::open("/dev/null").unwrap())).unwrap();
        let twice = [&[0x92], &message.bytes[..], &message.bytes[..]].concat();
        let outside = Message { bytes: message.bytes.clone(), fds: Fds::new() };
        let error = outside.decode::<Handle<File>>().unwrap_err().to_string();
        assert!(error.contains("names descriptor 0 of a message with 0"), "{error}");
        let error =
            Message { bytes: twice, fds: message.fds }.decode::<[Handle<File>; 2]>().unwrap_err().to_string();
        assert!(error.contains("another handle took descriptor 0"), "{error}");
    }

    #[test]
    fn handles_refuse_other_formats_even_within_a_message() {
        struct Inside(Handle<File>);
        impl Serialize for Inside {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&rmp_serde::to_vec(&self.0).map_err(serde::ser::Error::custom)?)
            }
        }
        let file = Handle(File::open("/dev/null").unwrap());
        let error = rmp_serde::to_vec(&file).unwrap_err().to_string();
        assert!(error.contains("File travels only inside a message"), "{error}");
        let error = Message::encode(&(file.0.try_clone().map(Handle).unwrap(), Inside(file)))
            .unwrap_err()
            .to_string();
        assert!(error.contains("File travels only inside a message"), "{error}");
    }

    #[test]
    fn batches_share_one_table() {
        let (mut bytes, mut fds, mut ends) = (Vec::new(), Fds::new(), vec![0]);
        for number in 0..100_u32 {
            let file = (number % 10 == 0).then(|| Handle(File::open("/dev/null").unwrap()));
            encode_into(&(number, file), &mut bytes, &mut fds).unwrap();
            ends.push(bytes.len());
        }
        assert_eq!(fds.len(), 10);
        for (number, range) in ends.windows(2).enumerate() {
            let value =
                decode_from::<(usize, Option<Handle<File>>)>(&bytes[range[0]..range[1]], &mut fds).unwrap();
            assert_eq!((value.0, value.1.is_some()), (number, number % 10 == 0));
        }
    }
}
