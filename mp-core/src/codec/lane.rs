//! Fast lanes: slices of numbers as one memory copy.
//!
//! Whether a sequence that serde hands over is a slice of numbers is asked of its iterator type, and whether
//! the one who wants a sequence is the ordinary `Vec` of numbers is asked of its visitor type. Both are
//! answered when the program is compiled. A lane is little-endian.

use std::mem::{ManuallyDrop, size_of, transmute_copy};
use std::slice;

use super::WIDE;
use super::bulk::copy_to_vec;
use rmp_serde::decode::Error;
use serde::de::{DeserializeSeed, Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

/// Element types of lanes, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    U8 = 1,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
}

impl Code {
    pub(super) fn from_wire(code: u8) -> Option<Code> {
        use Code::*;
        [U8, U16, U32, U64, U128, I8, I16, I32, I64, I128, F32, F64]
            .into_iter()
            .find(|known| *known as u8 == code)
    }

    /// Bytes of one element.
    pub(super) fn size(self) -> usize {
        match self {
            Code::U8 | Code::I8 => 1,
            Code::U16 | Code::I16 => 2,
            Code::U32 | Code::I32 | Code::F32 => 4,
            Code::U64 | Code::I64 | Code::F64 => 8,
            Code::U128 | Code::I128 => 16,
        }
    }
}

/// What stands before the elements of a lane.
pub(super) struct Header {
    bytes: [u8; LONGEST_HEADER],
    length: usize,
}

/// Bytes of the longest header.
pub(super) const LONGEST_HEADER: usize = 10;

impl Header {
    /// Before so many bytes of elements.
    #[inline]
    pub(super) fn new(code: Code, length: usize) -> Header {
        let code = code as u8;
        let mut bytes = [0; LONGEST_HEADER];
        let length = match length {
            0..=0xff => {
                bytes[..3].copy_from_slice(&[0xc7, length as u8, code]);
                3
            }
            0x100..=0xffff => {
                let [a, b] = (length as u16).to_be_bytes();
                bytes[..4].copy_from_slice(&[0xc8, a, b, code]);
                4
            }
            _ if length <= u32::MAX as usize => {
                let [a, b, c, d] = (length as u32).to_be_bytes();
                bytes[..6].copy_from_slice(&[0xc9, a, b, c, d, code]);
                6
            }
            _ => {
                bytes[..2].copy_from_slice(&[0xd7, WIDE | code]);
                bytes[2..].copy_from_slice(&(length as u64).to_le_bytes());
                LONGEST_HEADER
            }
        };
        Header { bytes, length }
    }

    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// If `iterator` runs over a slice of numbers: their type and their bytes.
#[inline]
pub(super) fn of_iterator<'a, I: 'a>(iterator: &'a I) -> Option<(Code, &'a [u8])> {
    macro_rules! try_each {
        ($($number:ty => $code:ident,)*) => {$(
            if typeid::of::<I>() == typeid::of::<slice::Iter<'static, $number>>() {
                // SAFETY: the types are equal but for the lifetime, which is shortened here to that of the
                // borrow, and a borrow of an iterator keeps what it iterates over borrowed.
                let numbers = unsafe { &*std::ptr::from_ref(iterator).cast::<slice::Iter<'a, $number>>() };
                return Some((Code::$code, bytemuck::cast_slice(numbers.as_slice())));
            }
        )*};
    }
    if cfg!(target_endian = "big") || size_of::<I>() != size_of::<slice::Iter<'static, u8>>() {
        return None;
    }
    try_each! {
        u8 => U8, u16 => U16, u32 => U32, u64 => U64, u128 => U128,
        i8 => I8, i16 => I16, i32 => I32, i64 => I64, i128 => I128,
        f32 => F32, f64 => F64,
    }
    #[cfg(target_pointer_width = "64")]
    try_each! { usize => U64, isize => I64, }
    None
}

/// If `V` is the visitor of an ordinary `Vec` of exactly these numbers: that vector.
#[inline]
pub(super) fn into_vec<'de, V: Visitor<'de>>(code: Code, bytes: &[u8]) -> Option<V::Value> {
    macro_rules! try_each {
        ($($code:ident => $($number:ty)|+,)*) => {
            match code {
                $(Code::$code => { $(
                    if wants_vec_of::<'de, $number, V>() {
                        let numbers = ManuallyDrop::new(copy_to_vec::<$number>(bytes));
                        // SAFETY: `wants_vec_of` found that the types are equal; the original is not dropped.
                        return Some(unsafe { transmute_copy::<ManuallyDrop<Vec<$number>>, V::Value>(&numbers) });
                    }
                )+ })*
            }
        };
    }
    if cfg!(any(target_endian = "big", not(target_pointer_width = "64"))) {
        return None;
    }
    try_each! {
        U8 => u8, U16 => u16, U32 => u32, U64 => u64 | usize, U128 => u128,
        I8 => i8, I16 => i16, I32 => i32, I64 => i64 | isize, I128 => i128,
        F32 => f32, F64 => f64,
    }
    None
}

/// Whether `V` is the visitor with which `Vec<T>` itself is deserialised, and not one that does more.
#[inline]
fn wants_vec_of<'de, T: Deserialize<'de>, V: Visitor<'de>>() -> bool {
    typeid::of::<V::Value>() == typeid::of::<Vec<T>>()
        && matches!(Vec::<T>::deserialize(Probe), Err(Probed(Some(id))) if id == typeid::of::<V>())
}

/// A deserializer that only looks which visitor comes.
struct Probe;

#[derive(Debug)]
struct Probed(Option<std::any::TypeId>);

impl std::fmt::Display for Probed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("probed")
    }
}

impl std::error::Error for Probed {}

impl serde::de::Error for Probed {
    fn custom<T: std::fmt::Display>(_: T) -> Probed {
        Probed(None)
    }
}

impl<'de> Deserializer<'de> for Probe {
    type Error = Probed;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Probed> {
        Err(Probed(None))
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Probed> {
        Err(Probed(Some(typeid::of::<V>())))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The elements of a lane, one by one.
pub(super) struct Elements<'a> {
    code: Code,
    bytes: &'a [u8],
}

impl<'a> Elements<'a> {
    /// `bytes` is a whole number of elements.
    pub(super) fn new(code: Code, bytes: &'a [u8]) -> Elements<'a> {
        Elements { code, bytes }
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() / self.code.size()
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((bytes, rest)) = self.bytes.split_at_checked(self.code.size()) else { return Ok(None) };
        if bytes.is_empty() {
            return Ok(None);
        }
        self.bytes = rest;
        seed.deserialize(Element { code: self.code, bytes }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left())
    }
}

/// One number of a lane.
struct Element<'a> {
    code: Code,
    bytes: &'a [u8],
}

impl<'de> Deserializer<'de> for Element<'_> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        macro_rules! number {
            ($number:ty) => {
                <$number>::from_le_bytes(self.bytes.try_into().map_err(|_| Error::LengthMismatch(1))?)
            };
        }
        match self.code {
            Code::U8 => visitor.visit_u8(number!(u8)),
            Code::U16 => visitor.visit_u16(number!(u16)),
            Code::U32 => visitor.visit_u32(number!(u32)),
            Code::U64 => visitor.visit_u64(number!(u64)),
            Code::U128 => visitor.visit_u128(number!(u128)),
            Code::I8 => visitor.visit_i8(number!(i8)),
            Code::I16 => visitor.visit_i16(number!(i16)),
            Code::I32 => visitor.visit_i32(number!(i32)),
            Code::I64 => visitor.visit_i64(number!(i64)),
            Code::I128 => visitor.visit_i128(number!(i128)),
            Code::F32 => visitor.visit_f32(number!(f32)),
            Code::F64 => visitor.visit_f64(number!(f64)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == crate::handle::MARK {
            return Err(Error::invalid_type(Unexpected::Other("a number"), &visitor));
        }
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
