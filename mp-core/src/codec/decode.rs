//! The decoder: rmp-serde for the scalars, our structure around them; see the [design](super).
//!
//! Bytes come from other processes, perhaps hostile or dead ones: every length is checked against the bytes that are there.

use rmp_serde::decode::Error;
use serde::Deserializer;
use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeSeed, Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::lane::{self, Code, Elements};
use super::{DEPTH, HANDLE, SOME, Stack, WIDE, WIDE_BYTES, WIDE_MAP, WIDE_SEQ, WIDE_STR};
use crate::handle::{self, Table};

pub(super) struct Decoder<'de, 'f> {
    input: &'de [u8],
    table: Option<Table<'f>>,
    depth: u16,
    stack: Stack,
}

/// What stands next; headers are consumed, scalars not.
enum Next<'de> {
    /// So many bytes, for rmp-serde.
    Scalar(usize),
    Str(&'de [u8]),
    Bytes(&'de [u8]),
    Lane(Code, &'de [u8]),
    Seq(usize),
    Map(usize),
    Some,
    Handle,
}

impl<'de, 'f> Decoder<'de, 'f> {
    pub(super) fn new(input: &'de [u8], table: Option<Table<'f>>) -> Decoder<'de, 'f> {
        Decoder { input, table, depth: DEPTH, stack: Stack::here() }
    }

    /// Nothing may come after the value.
    pub(super) fn end(&self) -> Result<(), Error> {
        match self.input.len() {
            0 => Ok(()),
            left => Err(Error::custom(format_args!("{left} bytes are left after the value"))),
        }
    }

    #[inline]
    fn split(&mut self, length: usize) -> Result<&'de [u8], Error> {
        let (head, rest) = self.input.split_at_checked(length).ok_or_else(ends_early)?;
        self.input = rest;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.input.split_first_chunk().ok_or_else(ends_early)?;
        self.input = rest;
        Ok(*head)
    }

    /// A big-endian length of `N` bytes.
    #[inline]
    fn length<const N: usize>(&mut self) -> Result<usize, Error> {
        Ok(self.array::<N>()?.iter().fold(0, |length, byte| length << 8 | *byte as usize))
    }

    /// Checks that so many items can be there at all: each takes a byte at least.
    #[inline]
    fn items(&self, length: usize, each: usize) -> Result<usize, Error> {
        if length > self.input.len() / each { Err(ends_early()) } else { Ok(length) }
    }

    #[inline]
    fn peek(&self) -> Result<u8, Error> {
        self.input.first().copied().ok_or_else(ends_early)
    }

    #[inline]
    fn next(&mut self) -> Result<Next<'de>, Error> {
        let marker = self.peek()?;
        let scalar = match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => 1,
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 => 3,
            0xca | 0xce | 0xd2 => 5,
            0xcb | 0xcf | 0xd3 => 9,
            _ => 0,
        };
        if scalar > 0 {
            return Ok(Next::Scalar(scalar));
        }
        self.input = &self.input[1..];
        match marker {
            0xa0..=0xbf => self.split((marker & 0x1f) as usize).map(Next::Str),
            0xd9 => self.length::<1>().and_then(|length| self.split(length)).map(Next::Str),
            0xda => self.length::<2>().and_then(|length| self.split(length)).map(Next::Str),
            0xdb => self.length::<4>().and_then(|length| self.split(length)).map(Next::Str),
            0xc4 => self.length::<1>().and_then(|length| self.split(length)).map(Next::Bytes),
            0xc5 => self.length::<2>().and_then(|length| self.split(length)).map(Next::Bytes),
            0xc6 => self.length::<4>().and_then(|length| self.split(length)).map(Next::Bytes),
            0x90..=0x9f => self.items((marker & 0x0f) as usize, 1).map(Next::Seq),
            0xdc => self.length::<2>().and_then(|length| self.items(length, 1)).map(Next::Seq),
            0xdd => self.length::<4>().and_then(|length| self.items(length, 1)).map(Next::Seq),
            0x80..=0x8f => self.items((marker & 0x0f) as usize, 2).map(Next::Map),
            0xde => self.length::<2>().and_then(|length| self.items(length, 2)).map(Next::Map),
            0xdf => self.length::<4>().and_then(|length| self.items(length, 2)).map(Next::Map),
            0xc7 => self.length::<1>().and_then(|length| self.lane(length)),
            0xc8 => self.length::<2>().and_then(|length| self.lane(length)),
            0xc9 => self.length::<4>().and_then(|length| self.lane(length)),
            0xd7 => self.wide(),
            SOME => Ok(Next::Some),
            0xd4 => match self.array()? {
                [HANDLE, 0] => Ok(Next::Handle),
                [kind, _] => Err(unknown(kind)),
            },
            _ => Err(unknown(marker)),
        }
    }

    fn lane(&mut self, length: usize) -> Result<Next<'de>, Error> {
        let [code] = self.array()?;
        self.elements(code, length)
    }

    fn elements(&mut self, code: u8, length: usize) -> Result<Next<'de>, Error> {
        let code = Code::from_wire(code).ok_or_else(|| unknown(code))?;
        if !length.is_multiple_of(code.size()) {
            let size = code.size();
            return Err(Error::custom(format_args!(
                "{length} bytes are no whole number of elements of {size}"
            )));
        }
        Ok(Next::Lane(code, self.split(length)?))
    }

    #[cold]
    fn wide(&mut self) -> Result<Next<'de>, Error> {
        let [kind] = self.array()?;
        let length = usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| ends_early())?;
        match kind {
            WIDE_STR => self.split(length).map(Next::Str),
            WIDE_BYTES => self.split(length).map(Next::Bytes),
            WIDE_SEQ => self.items(length, 1).map(Next::Seq),
            WIDE_MAP => self.items(length, 2).map(Next::Map),
            _ if kind & WIDE != 0 => self.elements(kind & !WIDE, length),
            _ => Err(unknown(kind)),
        }
    }

    /// Runs `inside` one level deeper.
    #[inline]
    fn nested<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth == 0 || self.stack.is_used_up() {
            return Err(Error::DepthLimitExceeded);
        }
        self.depth -= 1;
        let value = inside(self)?;
        self.depth += 1;
        Ok(value)
    }

    #[inline]
    fn seq<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.nested(|decoder| {
            let mut items = Items { decoder, left: length };
            let value = visitor.visit_seq(&mut items)?;
            used_up(items.left, value)
        })
    }

    #[inline]
    fn map<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.nested(|decoder| {
            let mut items = Items { decoder, left: length };
            let value = visitor.visit_map(&mut items)?;
            used_up(items.left, value)
        })
    }

    #[inline]
    fn scalar<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Error> {
        let bytes = self.split(length)?;
        rmp_serde::Deserializer::from_read_ref(bytes).deserialize_any(visitor)
    }

    #[inline]
    fn any<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.next()? {
            Next::Scalar(length) => self.scalar(length, visitor),
            Next::Str(bytes) => visitor.visit_borrowed_str(str::from_utf8(bytes).map_err(Error::Utf8Error)?),
            Next::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Next::Lane(code, bytes) => lane_seq(code, bytes, visitor),
            Next::Seq(length) => self.seq(length, visitor),
            Next::Map(length) => self.map(length, visitor),
            Next::Some => self.nested(|decoder| visitor.visit_some(decoder)),
            Next::Handle => self.handle(visitor),
        }
    }

    /// As `any`, for a visitor that wants a sequence even of bytes.
    #[inline]
    fn sequence<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            0xc4..=0xc6 => match self.next()? {
                Next::Bytes(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied())),
                _ => Err(unknown(0xc4)),
            },
            _ => self.any(visitor),
        }
    }

    fn handle<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        if let Some(table) = &mut self.table {
            table.lend();
        }
        self.nested(|decoder| visitor.visit_newtype_struct(decoder))
    }
}

fn lane_seq<'de, V: Visitor<'de>>(code: Code, bytes: &[u8], visitor: V) -> Result<V::Value, Error> {
    let mut elements = Elements::new(code, bytes);
    let value = visitor.visit_seq(&mut elements)?;
    used_up(elements.left(), value)
}

#[inline]
fn used_up<T>(left: usize, value: T) -> Result<T, Error> {
    match left {
        0 => Ok(value),
        _ => Err(Error::custom(format_args!("{left} items are left after the last that was expected"))),
    }
}

#[cold]
fn ends_early() -> Error {
    Error::custom("the bytes end in the middle of a value")
}

#[cold]
fn unknown(marker: u8) -> Error {
    Error::custom(format_args!("there is no value with the marker {marker:#04x}"))
}

impl<'de> Deserializer<'de> for &mut Decoder<'de, '_> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.any(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            0xc0 => {
                self.input = &self.input[1..];
                visitor.visit_none()
            }
            SOME => {
                self.input = &self.input[1..];
                self.nested(|decoder| visitor.visit_some(decoder))
            }
            _ => visitor.visit_some(self),
        }
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            0xc7..=0xc9 | 0xd7 => match self.next()? {
                Next::Lane(code, bytes) => match lane::into_vec::<V>(code, bytes) {
                    Some(value) => Ok(value),
                    None => lane_seq(code, bytes, visitor),
                },
                Next::Seq(length) => self.seq(length, visitor),
                Next::Bytes(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied())),
                Next::Str(_) | Next::Map(_) => {
                    Err(Error::invalid_type(Unexpected::Other("no sequence"), &visitor))
                }
                _ => Err(unknown(0xd7)),
            },
            _ => self.sequence(visitor),
        }
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.sequence(visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, Error>
    where
        V: Visitor<'de>,
    {
        self.sequence(visitor)
    }

    #[inline]
    fn deserialize_struct<V>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error>
    where
        V: Visitor<'de>,
    {
        self.sequence(visitor)
    }

    fn deserialize_enum<V>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error>
    where
        V: Visitor<'de>,
    {
        match self.next()? {
            Next::Str(name) => {
                let name = str::from_utf8(name).map_err(Error::Utf8Error)?;
                visitor.visit_enum(BorrowedStrDeserializer::new(name))
            }
            Next::Map(1) => self.nested(|decoder| visitor.visit_enum(Variant { decoder })),
            _ => Err(Error::invalid_type(Unexpected::Other("no enum"), &visitor)),
        }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name != handle::MARK {
            return visitor.visit_newtype_struct(self);
        }
        match self.next()? {
            Next::Handle => self.handle(visitor),
            _ => Err(Error::invalid_type(Unexpected::Other("no handle"), &visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.peek()? {
            0xc0 | 0x90 => {
                self.input = &self.input[1..];
                visitor.visit_unit()
            }
            _ => self.any(visitor),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.next()? {
            Next::Scalar(length) => self.scalar(length, visitor),
            Next::Bytes(bytes) if bytes.len() == 16 => visitor.visit_i128(wide_number(bytes)? as i128),
            _ => Err(Error::invalid_type(Unexpected::Other("no integer"), &visitor)),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.next()? {
            Next::Scalar(length) => self.scalar(length, visitor),
            Next::Bytes(bytes) if bytes.len() == 16 => visitor.visit_u128(wide_number(bytes)?),
            _ => Err(Error::invalid_type(Unexpected::Other("no integer"), &visitor)),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit map identifier ignored_any
    }
}

/// rmp-serde writes integers of 128 bits as bytes, big-endian.
fn wide_number(bytes: &[u8]) -> Result<u128, Error> {
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| Error::LengthMismatch(16))
}

/// The items of a sequence, or the pairs of a map.
struct Items<'d, 'de, 'f> {
    decoder: &'d mut Decoder<'de, 'f>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de, '_> {
    type Error = Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de, '_> {
    type Error = Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next_element_seed(seed)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(&mut *self.decoder)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// A variant of an enum that carries data.
struct Variant<'d, 'de, 'f> {
    decoder: &'d mut Decoder<'de, 'f>,
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de, '_> {
    type Error = Error;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        Ok((seed.deserialize(&mut *self.decoder)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        de::Deserialize::deserialize(self.decoder)
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.decoder)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.decoder.deserialize_tuple(length, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.decoder.deserialize_struct("", fields, visitor)
    }
}
