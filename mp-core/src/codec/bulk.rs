//! Plain data in bulk: arrays of any `Pod` type as one memory copy.
//!
//! For fields of user types: `#[serde(with = "mp_core::codec::bulk")] samples: Vec<Sample>`; anywhere else,
//! [`Bulk`]. Nothing here is shared between processes.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{NoUninit, Pod};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A `Vec<T>`, `Box<[T]>` or `[T; N]` of plain data that travels as one memory copy each way.
///
/// Vectors of numbers need no wrapper. Bytes are as in memory: sender and receiver must be the same kind of
/// machine.
///
/// ```
/// use mp_core::{codec::Bulk, message::Message};
/// # fn main() -> mp_core::Result<()> {
/// let points: Vec<[f32; 3]> = vec![[1.0, 2.0, 3.0]; 100];
/// let message = Message::encode(&("mesh", Bulk(points)))?;
/// let (_, points) = message.decode::<(String, Bulk<Vec<[f32; 3]>>)>()?;
/// assert_eq!(points[99], [1.0, 2.0, 3.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bulk<C>(pub C);

impl<C> Bulk<C> {
    /// The data.
    pub fn into_inner(self) -> C {
        self.0
    }
}

impl<C> From<C> for Bulk<C> {
    fn from(data: C) -> Bulk<C> {
        Bulk(data)
    }
}

impl<C> Deref for Bulk<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

impl<C> DerefMut for Bulk<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.0
    }
}

impl<C: Encode> Serialize for Bulk<C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de, C: Decode> Deserialize<'de> for Bulk<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bulk<C>, D::Error> {
        deserialize(deserializer).map(Bulk)
    }
}

/// What [`Bulk`] can send.
pub trait Encode {
    /// Its memory.
    fn as_bytes(&self) -> &[u8];
}

/// What [`Bulk`] can receive.
pub trait Decode: Sized {
    /// The data with this memory, or `None` if the length does not fit.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl<T: NoUninit> Encode for Vec<T> {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T: NoUninit> Encode for Box<[T]> {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T: NoUninit> Encode for &[T] {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T: NoUninit, const N: usize> Encode for [T; N] {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T: Pod> Decode for Vec<T> {
    fn from_bytes(bytes: &[u8]) -> Option<Vec<T>> {
        let whole = match size_of::<T>() {
            0 => bytes.is_empty(),
            size => bytes.len().is_multiple_of(size),
        };
        whole.then(|| copy_to_vec(bytes))
    }
}

impl<T: Pod> Decode for Box<[T]> {
    fn from_bytes(bytes: &[u8]) -> Option<Box<[T]>> {
        Vec::from_bytes(bytes).map(Vec::into_boxed_slice)
    }
}

impl<T: Pod, const N: usize> Decode for [T; N] {
    fn from_bytes(bytes: &[u8]) -> Option<[T; N]> {
        let mut data = [T::zeroed(); N];
        let memory: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
        (memory.len() == bytes.len()).then(|| memory.copy_from_slice(bytes))?;
        Some(data)
    }
}

/// The numbers whose memory is `bytes`, by one copy; bytes beyond the last whole one are left out.
pub(super) fn copy_to_vec<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let count = bytes.len().checked_div(size_of::<T>()).unwrap_or(0);
    let mut data = Vec::<T>::with_capacity(count);
    // SAFETY: the vector has room for `count` values of `T`, that many bytes are there to copy, the two do
    // not overlap, and any bytes make a `T: Pod`.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.as_mut_ptr().cast(), count * size_of::<T>());
        data.set_len(count);
    }
    data
}

/// Serialises the memory of `data`.
pub fn serialize<C: Encode, S: Serializer>(data: &C, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(data.as_bytes())
}

/// Deserialises plain data; a length that does not fit is an error.
pub fn deserialize<'de, C: Decode, D: Deserializer<'de>>(deserializer: D) -> Result<C, D::Error> {
    struct Memory<C>(PhantomData<C>);

    impl<'de, C: Decode> serde::de::Visitor<'de> for Memory<C> {
        type Value = C;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "the bytes of a {}", std::any::type_name::<C>())
        }

        fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<C, E> {
            C::from_bytes(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
        }

        // For formats that have no bytes of their own.
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<C, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = items.next_element::<u8>()? {
                bytes.push(byte);
            }
            self.visit_bytes(&bytes)
        }
    }

    deserializer.deserialize_bytes(Memory(PhantomData))
}
