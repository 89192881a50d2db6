//! File descriptors that travel, inside any message and any user type.
//!
//! While a message is encoded, a handle puts its descriptor into the message's table and encodes the index. A
//! handle that is serialised by anything else, or outside a message, is an error that names it. When a
//! process dies, its descriptors are closed, those in its unsent messages included.
//!
//! The codec knows a handle by the name of its newtype struct (`MARK`). Only then, and only around the
//! handle's own code, it lends the table through a thread-local slot: a message without handles pays nothing.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::LocalKey;

use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::message::Fds;
use crate::{Error, Result};

/// The newtype struct that tells the codec that a handle comes.
pub(crate) const MARK: &str = "$mp_core::handle";
/// The same for the handle of a block in a shared arena, of which the message owns a count.
pub(crate) const COUNTED_MARK: &str = "$mp_core::counted handle";

thread_local! {
    /// The table of the message whose handle is being encoded.
    static ENCODING: RefCell<Option<Fds>> = const { RefCell::new(None) };
    /// The table of the message that is being decoded, once its first handle was met.
    static DECODING: RefCell<Option<Fds>> = const { RefCell::new(None) };
    /// The tables of messages inside of which others are being decoded.
    static OUTER: RefCell<Vec<Option<Fds>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `encode`, the code of one handle, with `fds` lent to it.
pub(crate) fn lend<R>(fds: &mut Fds, encode: impl FnOnce() -> R) -> R {
    struct Lent<'a>(&'a mut Fds);
    impl Drop for Lent<'_> {
        fn drop(&mut self) {
            *self.0 = ENCODING.take().unwrap_or_default();
        }
    }
    ENCODING.set(Some(std::mem::take(fds)));
    let _lent = Lent(fds);
    encode()
}

/// The table of a message while it is decoded: stays with the decoder until the first handle comes.
///
/// It is taken back by whoever made it; to have nothing to drop keeps it off the path of messages without handles.
pub(crate) struct Table<'a> {
    fds: &'a mut Fds,
    lent: bool,
}

impl<'a> Table<'a> {
    #[inline]
    pub(crate) fn new(fds: &'a mut Fds) -> Table<'a> {
        Table { fds, lent: false }
    }

    /// Makes the table reachable for handles until the message is decoded: serde may decode a handle later
    /// than it comes.
    pub(crate) fn lend(&mut self) {
        if !self.lent {
            let outer = DECODING.replace(Some(std::mem::take(self.fds)));
            OUTER.with_borrow_mut(|tables| tables.push(outer));
            self.lent = true;
        }
    }

    /// Ends decoding: what the message carried belongs to its bytes from the first handle on, and is given back.
    pub(crate) fn take_back(&mut self) {
        if self.lent {
            let outer = OUTER.with_borrow_mut(Vec::pop).flatten();
            *self.fds = DECODING.replace(outer).unwrap_or_default();
            self.lent = false;
            self.fds.decoded();
        }
        self.fds.settle();
    }

    /// Whether a handle was met.
    #[inline]
    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Notes that the message owns a count of this block: see [`Fds::owes`].
    pub(crate) fn owes(&mut self, block: (u32, u32)) {
        match self.lent {
            true => DECODING.with_borrow_mut(|fds| fds.iter_mut().for_each(|fds| fds.owes(block))),
            // Nor is it lent for this: what is discarded at the end of a thread may find the slot gone.
            false => self.fds.owes(block),
        }
    }

    /// Whether the counts of its handles belong to the bytes, rather than to what is undone when the message is dropped.
    pub(crate) fn is_delivered(&self) -> bool {
        self.lent || self.fds.is_delivered()
    }
}

/// Serialises a handle named `what`: `attach` puts its descriptors into the table and returns what to encode,
/// which holds no handles itself.
///
/// For types outside this module that are handles; see [`Fds`]. The error names `what` if no message is being
/// encoded.
pub fn serialize<S, B>(
    serializer: S,
    what: &'static str,
    attach: impl FnOnce(&mut Fds) -> Result<B>,
) -> Result<S::Ok, S::Error>
where
    S: Serializer,
    B: Serialize,
{
    serialize_as(MARK, serializer, what, attach)
}

/// As [`serialize`], for a block in a shared arena: `attach` takes a count of it for the message, and returns the index
/// of the descriptor and that of the block.
pub(crate) fn serialize_counted<S: Serializer>(
    serializer: S,
    what: &'static str,
    attach: impl FnOnce(&mut Fds) -> Result<(u32, u32)>,
) -> Result<S::Ok, S::Error> {
    serialize_as(COUNTED_MARK, serializer, what, attach)
}

fn serialize_as<S, B>(
    mark: &'static str,
    serializer: S,
    what: &'static str,
    attach: impl FnOnce(&mut Fds) -> Result<B>,
) -> Result<S::Ok, S::Error>
where
    S: Serializer,
    B: Serialize,
{
    struct Body<F> {
        what: &'static str,
        attach: Cell<Option<F>>,
    }
    impl<B: Serialize, F: FnOnce(&mut Fds) -> Result<B>> Serialize for Body<F> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let (Some(mut fds), Some(attach)) = (Borrowed::from(&ENCODING), self.attach.take()) else {
                return Err(S::Error::custom(format_args!("a {} travels only inside a message", self.what)));
            };
            let body = attach(&mut fds.fds);
            drop(fds);
            body.map_err(S::Error::custom)?.serialize(serializer)
        }
    }
    serializer.serialize_newtype_struct(mark, &Body { what, attach: Cell::new(Some(attach)) })
}

/// A table out of its slot for the code of one handle, and back in it afterwards, even if that code panics.
struct Borrowed {
    fds: Fds,
    slot: &'static LocalKey<RefCell<Option<Fds>>>,
}

impl Borrowed {
    fn from(slot: &'static LocalKey<RefCell<Option<Fds>>>) -> Option<Borrowed> {
        slot.take().map(|fds| Borrowed { fds, slot })
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.slot.set(Some(std::mem::take(&mut self.fds)));
    }
}

/// Deserialises a handle named `what`: `adopt` gets the table and what [`serialize`] encoded.
///
/// The error names `what` if no message is being decoded.
pub fn deserialize<'de, D, B, T>(
    deserializer: D,
    what: &'static str,
    adopt: impl FnOnce(&mut Fds, B) -> Result<T>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    B: DeserializeOwned,
{
    struct Body<F, B, T> {
        what: &'static str,
        adopt: F,
        types: PhantomData<fn(B) -> T>,
    }
    impl<'de, B, T, F> Visitor<'de> for Body<F, B, T>
    where
        B: DeserializeOwned,
        F: FnOnce(&mut Fds, B) -> Result<T>,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "the handle of a {}", self.what)
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
            let body = B::deserialize(deserializer)?;
            let Some(mut fds) = Borrowed::from(&DECODING) else {
                return Err(D::Error::custom(format_args!("a {} travels only inside a message", self.what)));
            };
            let adopted = (self.adopt)(&mut fds.fds, body);
            drop(fds);
            adopted.map_err(|error| match error {
                Error::Decode { reason, .. } => D::Error::custom(format_args!("{}: {reason}", self.what)),
                error => D::Error::custom(error),
            })
        }
    }
    deserializer.deserialize_newtype_struct(MARK, Body { what, adopt, types: PhantomData })
}

/// A file, socket or other owner of a descriptor that can sit in any message.
///
/// Sending duplicates the descriptor: the sender keeps its own, the receiver gets another to the same open
/// file. If either process dies, only its own is closed. Follows `multiprocessing.reduction.DupFd`.
///
/// ```
/// use std::{fs::File, io::Read};
/// use mp_core::{handle::Handle, message::Message};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let message = Message::encode(&("zeros", Handle(File::open("/dev/zero")?)))?;
/// let (_, mut file) = message.decode::<(String, Handle<File>)>()?;
/// let mut bytes = [1; 4];
/// file.read_exact(&mut bytes)?;
/// assert_eq!(bytes, [0; 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Handle<T>(pub T);

impl<T> Handle<T> {
    /// The owner of the descriptor.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> From<T> for Handle<T> {
    fn from(owner: T) -> Handle<T> {
        Handle(owner)
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Handle<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: AsFd> AsFd for Handle<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: AsFd> Serialize for Handle<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        inside::serialize(&self.0, serializer)
    }
}

impl<'de, T: From<OwnedFd>> Deserialize<'de> for Handle<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Handle<T>, D::Error> {
        inside::deserialize(deserializer).map(Handle)
    }
}

/// For fields of user types: `#[serde(with = "mp_core::handle::inside")] log: File`.
pub mod inside {
    use super::*;

    /// Serialises the descriptor of `owner` as [`Handle`] does.
    pub fn serialize<T: AsFd, S: Serializer>(owner: &T, serializer: S) -> Result<S::Ok, S::Error> {
        super::serialize(serializer, std::any::type_name::<T>(), |fds| {
            let duplicate = owner.as_fd().try_clone_to_owned();
            let duplicate =
                duplicate.map_err(|error| Error::io("duplicating a descriptor for a message", error))?;
            Ok(fds.attach(Arc::new(duplicate)))
        })
    }

    /// Deserialises the owner of a descriptor as [`Handle`] does.
    pub fn deserialize<'de, T: From<OwnedFd>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let what = std::any::type_name::<T>();
        super::deserialize(deserializer, what, |fds, index: u32| Ok(fds.take(index, what)?.into()))
    }
}
