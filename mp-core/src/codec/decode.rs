//! The decoder of what the encoder and rmp-serde write; see the [design](super).
//!
//! Bytes come from other processes, perhaps hostile or dead ones: every length is checked against the bytes
//! that are there.

use rmp_serde::decode::Error;
use serde::Deserializer;
use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeSeed, Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::lane::{self, Code, Elements};
use super::{COUNTED, DEPTH, HANDLE, PLAIN, SOME, Stack, WIDE, WIDE_BYTES, WIDE_MAP, WIDE_SEQ, WIDE_STR};
use crate::handle::{self, Table};

mod counts;

pub(super) struct Decoder<'de, 'f> {
    input: &'de [u8],
    table: Option<Table<'f>>,
    depth: u16,
    stack: Stack,
}

/// What an extension holds.
enum Extension<'de> {
    Str(&'de [u8]),
    Bytes(&'de [u8]),
    Lane(Code, &'de [u8]),
    Seq(usize),
    Map(usize),
    Handle,
}

impl<'de, 'f> Decoder<'de, 'f> {
    #[inline]
    pub(super) fn new(input: &'de [u8], table: Option<Table<'f>>) -> Decoder<'de, 'f> {
        Decoder { input, table, depth: DEPTH, stack: Stack::here() }
    }

    /// Nothing may come after the value.
    #[inline]
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

    /// Consumes the next byte.
    #[inline]
    fn marker(&mut self) -> Result<u8, Error> {
        self.array().map(|[marker]| marker)
    }

    /// The unsigned number that stands here, if one does: without a look at what else it may be.
    #[inline(never)]
    fn unsigned(&mut self) -> Option<u64> {
        // However long it is, it does not end behind these.
        let Some(([marker, bytes @ ..], _)) = self.input.split_first_chunk::<9>() else {
            return self.last_unsigned();
        };
        let (number, length) = match *marker {
            0x00..=0x7f => (u64::from(*marker), 0),
            0xcc..=0xcf => {
                let length = 1 << (*marker - 0xcc);
                (u64::from_be_bytes(*bytes) >> (64 - 8 * length), length)
            }
            _ => return None,
        };
        self.input = &self.input[1 + length..];
        Some(number)
    }

    /// As [`unsigned`](Self::unsigned), near the end of the bytes.
    #[inline(never)]
    fn last_unsigned(&mut self) -> Option<u64> {
        let (&marker, rest) = self.input.split_first()?;
        let length = match marker {
            0x00..=0x7f => {
                self.input = rest;
                return Some(marker.into());
            }
            0xcc..=0xcf => 1 << (marker - 0xcc),
            _ => return None,
        };
        let (bytes, behind) = rest.split_at_checked(length)?;
        self.input = behind;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// An integer of 128 bits, if one stands here: rmp-serde writes them as bytes, big-endian.
    fn wide_number(&mut self) -> Result<Option<u128>, Error> {
        let Some(rest) = self.input.strip_prefix(&[0xc4, 16]) else { return Ok(None) };
        self.input = rest;
        self.array().map(|bytes| Some(u128::from_be_bytes(bytes)))
    }

    /// What the extension with this marker holds; the marker is consumed.
    fn extension(&mut self, marker: u8) -> Result<Extension<'de>, Error> {
        let length = match marker {
            0xc7 => self.length::<1>()?,
            0xc8 => self.length::<2>()?,
            0xc9 => self.length::<4>()?,
            0xd7 => return self.wide(),
            0xd4 => match self.array()? {
                [HANDLE, PLAIN] => return Ok(Extension::Handle),
                [HANDLE, COUNTED] => {
                    self.note_count();
                    return Ok(Extension::Handle);
                }
                [kind, _] => return Err(unknown(kind)),
            },
            _ => return Err(unknown(marker)),
        };
        let [code] = self.array()?;
        self.lane(code, length)
    }

    fn lane(&mut self, code: u8, length: usize) -> Result<Extension<'de>, Error> {
        let code = Code::from_wire(code).ok_or_else(|| unknown(code))?;
        if !length.is_multiple_of(code.size()) {
            let size = code.size();
            return Err(Error::custom(format_args!(
                "{length} bytes are no whole number of elements of {size}"
            )));
        }
        Ok(Extension::Lane(code, self.split(length)?))
    }

    #[cold]
    fn wide(&mut self) -> Result<Extension<'de>, Error> {
        let [kind] = self.array()?;
        let length = usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| ends_early())?;
        match kind {
            WIDE_STR => self.split(length).map(Extension::Str),
            WIDE_BYTES => self.split(length).map(Extension::Bytes),
            WIDE_SEQ => self.items(length, 1).map(Extension::Seq),
            WIDE_MAP => self.items(length, 2).map(Extension::Map),
            _ if kind & WIDE != 0 => self.lane(kind & !WIDE, length),
            _ => Err(unknown(kind)),
        }
    }

    /// Goes one level deeper; whoever comes back counts `depth` up again.
    #[inline(always)]
    fn enter(&mut self) -> Result<(), Error> {
        if self.depth == 0 || self.stack.is_used_up() {
            return Err(Error::DepthLimitExceeded);
        }
        self.depth -= 1;
        Ok(())
    }

    /// Runs `inside` one level deeper.
    #[inline]
    fn nested<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.enter()?;
        let value = inside(self)?;
        self.depth += 1;
        Ok(value)
    }

    #[inline(always)]
    fn seq<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.enter()?;
        let mut items = Items { decoder: self, left: length };
        let value = visitor.visit_seq(&mut items);
        let left = items.left;
        self.depth += 1;
        // What is not touched need not be moved.
        match left {
            0 => value,
            _ => value.and_then(|value| used_up(left, value)),
        }
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
    fn str<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(str::from_utf8(self.split(length)?).map_err(Error::Utf8Error)?)
    }

    #[inline]
    fn bytes<V: Visitor<'de>>(&mut self, length: usize, as_seq: bool, visitor: V) -> Result<V::Value, Error> {
        let bytes = self.split(length)?;
        match as_seq {
            true => visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied())),
            false => visitor.visit_borrowed_bytes(bytes),
        }
    }

    /// Decodes what comes; `as_seq` says that bytes are wanted as a sequence.
    #[inline]
    fn any<V: Visitor<'de>>(&mut self, as_seq: bool, visitor: V) -> Result<V::Value, Error> {
        let marker = self.marker()?;
        match marker {
            0x00..=0x7f => visitor.visit_u8(marker),
            0xe0..=0xff => visitor.visit_i8(marker as i8),
            0x90..=0x9f => {
                let length = self.items((marker & 0x0f) as usize, 1)?;
                self.seq(length, visitor)
            }
            0xa0..=0xbf => self.str((marker & 0x1f) as usize, visitor),
            0x80..=0x8f => {
                let length = self.items((marker & 0x0f) as usize, 2)?;
                self.map(length, visitor)
            }
            0xc0 => visitor.visit_unit(),
            0xc2 => visitor.visit_bool(false),
            0xc3 => visitor.visit_bool(true),
            0xca => visitor.visit_f32(f32::from_be_bytes(self.array()?)),
            0xcb => visitor.visit_f64(f64::from_be_bytes(self.array()?)),
            0xcc => visitor.visit_u8(u8::from_be_bytes(self.array()?)),
            0xcd => visitor.visit_u16(u16::from_be_bytes(self.array()?)),
            0xce => visitor.visit_u32(u32::from_be_bytes(self.array()?)),
            0xcf => visitor.visit_u64(u64::from_be_bytes(self.array()?)),
            0xd0 => visitor.visit_i8(i8::from_be_bytes(self.array()?)),
            0xd1 => visitor.visit_i16(i16::from_be_bytes(self.array()?)),
            0xd2 => visitor.visit_i32(i32::from_be_bytes(self.array()?)),
            0xd3 => visitor.visit_i64(i64::from_be_bytes(self.array()?)),
            _ => self.longer(marker, as_seq, visitor),
        }
    }

    /// As [`any`](Self::any), out of the way of what comes most often.
    #[cold]
    #[inline(never)]
    fn other<V: Visitor<'de>>(&mut self, as_seq: bool, visitor: V) -> Result<V::Value, Error> {
        self.any(as_seq, visitor)
    }

    /// A sequence of a known number of items: mostly they are few.
    #[inline(always)]
    fn tuple<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.input.split_first() {
            Some((&marker @ 0x90..=0x9f, rest)) if rest.len() >= (marker & 0x0f) as usize => {
                self.input = rest;
                self.seq((marker & 0x0f) as usize, visitor)
            }
            _ => self.other(true, visitor),
        }
    }

    /// What is long or rare.
    #[inline(never)]
    fn longer<V: Visitor<'de>>(&mut self, marker: u8, as_seq: bool, visitor: V) -> Result<V::Value, Error> {
        let length = match marker {
            0xd9 | 0xc4 => self.length::<1>()?,
            0xda | 0xc5 | 0xdc | 0xde => self.length::<2>()?,
            0xdb | 0xc6 | 0xdd | 0xdf => self.length::<4>()?,
            SOME => return self.nested(|decoder| visitor.visit_some(decoder)),
            _ => {
                return match self.extension(marker)? {
                    Extension::Str(bytes) => {
                        visitor.visit_borrowed_str(str::from_utf8(bytes).map_err(Error::Utf8Error)?)
                    }
                    Extension::Bytes(bytes) if as_seq => {
                        visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied()))
                    }
                    Extension::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
                    Extension::Lane(code, bytes) => lane_seq(code, bytes, visitor),
                    Extension::Seq(length) => self.seq(length, visitor),
                    Extension::Map(length) => self.map(length, visitor),
                    Extension::Handle => self.handle(visitor),
                };
            }
        };
        match marker {
            0xd9..=0xdb => self.str(length, visitor),
            0xc4..=0xc6 => self.bytes(length, as_seq, visitor),
            0xdc | 0xdd => {
                let length = self.items(length, 1)?;
                self.seq(length, visitor)
            }
            _ => {
                let length = self.items(length, 2)?;
                self.map(length, visitor)
            }
        }
    }

    /// The elements of a lane at once, if one stands here and `V` is the visitor of just such a vector.
    #[inline]
    fn whole_lane<V: Visitor<'de>>(&mut self) -> Option<V::Value> {
        let Some(marker @ (0xc7..=0xc9 | 0xd7)) = self.input.first().copied() else { return None };
        let start = self.input;
        self.input = &start[1..];
        let value = match self.extension(marker) {
            Ok(Extension::Lane(code, bytes)) => lane::into_vec::<V>(code, bytes),
            _ => None,
        };
        if value.is_none() {
            self.input = start;
        }
        value
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

/// The visitor checks the range; what is no unsigned number is told so by `any`.
macro_rules! unsigned {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.unsigned() {
                Some(number) => visitor.visit_u64(number),
                None => self.other(false, visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Decoder<'de, '_> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.any(false, visitor)
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
        match self.whole_lane::<V>() {
            Some(value) => Ok(value),
            None => self.any(true, visitor),
        }
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.tuple(visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, Error>
    where
        V: Visitor<'de>,
    {
        self.tuple(visitor)
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
        self.tuple(visitor)
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
        let start = self.input;
        let length = match self.marker()? {
            0x81 => return self.nested(|decoder| visitor.visit_enum(Variant { decoder })),
            marker @ 0xa0..=0xbf => (marker & 0x1f) as usize,
            0xd9 => self.length::<1>()?,
            0xda => self.length::<2>()?,
            _ => {
                self.input = start;
                return Err(Error::invalid_type(Unexpected::Other("no enum"), &visitor));
            }
        };
        let name = str::from_utf8(self.split(length)?).map_err(Error::Utf8Error)?;
        visitor.visit_enum(BorrowedStrDeserializer::new(name))
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
        let start = self.input;
        let marker = self.marker()?;
        match self.extension(marker) {
            Ok(Extension::Handle) => self.handle(visitor),
            _ => {
                // What is left begins with a whole value: see `counts`.
                self.input = start;
                Err(Error::invalid_type(Unexpected::Other("no handle"), &visitor))
            }
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
            _ => self.any(false, visitor),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.wide_number()? {
            Some(number) => visitor.visit_i128(number as i128),
            None => self.any(false, visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.wide_number()? {
            Some(number) => visitor.visit_u128(number),
            None => self.any(false, visitor),
        }
    }

    unsigned! { deserialize_u16 deserialize_u32 deserialize_u64 }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 f32 f64 char str string bytes byte_buf unit map identifier ignored_any
    }
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
