//! The encoder: rmp-serde for the scalars, our structure around them; see the [design](super).
//!
//! It only appends to memory of its own process.

use rmp_serde::Serializer;
use rmp_serde::encode::Error;
use serde::Serialize;
use serde::ser::{self, Error as _};

use super::{
    COUNTED, DEPTH, HANDLE, PLAIN, SOME, Stack, WIDE_BYTES, WIDE_MAP, WIDE_SEQ, WIDE_STR, lane, named,
};
use crate::handle;
use crate::message::Fds;

/// Bytes of a number with its marker, at most.
const UNSIGNED: usize = 9;

pub(super) struct Encoder<'a> {
    scalars: Serializer<&'a mut Vec<u8>>,
    fds: Option<&'a mut Fds>,
    depth: u16,
    stack: Stack,
    /// Structs are maps from names.
    named: bool,
    /// A struct left out a field although structs are arrays: the value has to be encoded with names.
    pub(super) needs_names: bool,
}

impl<'a> Encoder<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a mut Vec<u8>, fds: Option<&'a mut Fds>, named: bool) -> Encoder<'a> {
        Encoder {
            scalars: Serializer::new(bytes),
            fds,
            depth: 0,
            stack: Stack::here(),
            named,
            needs_names: false,
        }
    }

    #[inline]
    fn bytes(&mut self) -> &mut Vec<u8> {
        self.scalars.get_mut()
    }

    #[inline]
    fn enter(&mut self) -> Result<(), Error> {
        if self.depth == DEPTH || self.stack.is_used_up() {
            return Err(Error::DepthLimitExceeded);
        }
        self.depth += 1;
        Ok(())
    }

    /// The header of something whose length does not fit into 32 bits.
    fn wide(&mut self, kind: u8, length: usize) {
        self.bytes().extend([0xd7, kind]);
        self.bytes().extend((length as u64).to_le_bytes());
    }

    #[inline]
    fn seq_header(&mut self, length: usize) {
        match length {
            0..=15 => self.bytes().push(0x90 | length as u8),
            _ => self.long_header(0xdc, WIDE_SEQ, length),
        }
    }

    #[inline]
    fn map_header(&mut self, length: usize) {
        match length {
            0..=15 => self.bytes().push(0x80 | length as u8),
            _ => self.long_header(0xde, WIDE_MAP, length),
        }
    }

    /// The header of more than 15 items: `marker` stands before a length of 16 bits, the next one before one of 32.
    fn long_header(&mut self, marker: u8, wide: u8, length: usize) {
        if let Ok(length) = u16::try_from(length) {
            self.bytes().push(marker);
            self.bytes().extend(length.to_be_bytes());
        } else if let Ok(length) = u32::try_from(length) {
            self.bytes().push(marker + 1);
            self.bytes().extend(length.to_be_bytes());
        } else {
            self.wide(wide, length);
        }
    }

    /// A number above 127, as short as rmp-serde writes it, but in one piece.
    #[inline(never)]
    fn unsigned(&mut self, value: u64) {
        let bytes = self.bytes();
        if bytes.capacity() - bytes.len() < UNSIGNED {
            return self.unsigned_in_more_room(value);
        }
        let log: u8 = match value {
            0..=0xff => 0,
            0x100..=0xffff => 1,
            0x1_0000..=0xffff_ffff => 2,
            _ => 3,
        };
        let length = 1 << log;
        let mut piece = [0xcc | log; UNSIGNED];
        piece[1..].copy_from_slice(&(value << (64 - 8 * length)).to_be_bytes());
        let end = bytes.len() + 1 + length;
        bytes.extend_from_slice(&piece);
        bytes.truncate(end);
    }

    /// Out of the way of the others, which then need no stack.
    #[cold]
    #[inline(never)]
    fn unsigned_in_more_room(&mut self, value: u64) {
        self.bytes().reserve(UNSIGNED);
        self.unsigned(value);
    }

    #[inline]
    fn lane(&mut self, code: lane::Code, data: &[u8]) {
        self.bytes().extend_from_slice(lane::Header::new(code, data.len()).as_bytes());
        self.bytes().extend_from_slice(data);
    }

    fn variant(&mut self, name: &str) -> Result<(), Error> {
        self.bytes().push(0x81);
        ser::Serializer::serialize_str(self, name)
    }
}

/// A sequence or map whose items come one by one.
pub(super) struct Items<'e, 'a> {
    encoder: &'e mut Encoder<'a>,
    /// If nobody knew how many would come: where the 32-bit count stands, and how many came so far.
    uncounted: Option<(usize, u64)>,
    /// Names stand before the fields.
    named: bool,
}

impl<'e, 'a> Items<'e, 'a> {
    #[inline]
    fn counted(encoder: &'e mut Encoder<'a>) -> Result<Self, Error> {
        encoder.enter()?;
        Ok(Items { encoder, uncounted: None, named: false })
    }

    fn uncounted(encoder: &'e mut Encoder<'a>, marker: u8) -> Result<Self, Error> {
        encoder.enter()?;
        encoder.bytes().push(marker);
        let at = encoder.bytes().len();
        encoder.bytes().extend([0; 4]);
        Ok(Items { encoder, uncounted: Some((at, 0)), named: false })
    }

    #[inline]
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self.encoder)
    }

    #[inline]
    fn count(&mut self) {
        if let Some((_, count)) = &mut self.uncounted {
            *count += 1;
        }
    }

    #[inline]
    fn finish(self) -> Result<(), Error> {
        self.encoder.depth -= 1;
        if let Some((at, count)) = self.uncounted {
            let count =
                u32::try_from(count).map_err(|_| Error::custom("too many items of unknown number"))?;
            if let Some(field) = self.encoder.bytes().get_mut(at..at + 4) {
                field.copy_from_slice(&count.to_be_bytes());
            }
        }
        Ok(())
    }
}

macro_rules! scalars {
    ($($method:ident($number:ty))*) => {$(
        #[inline]
        fn $method(self, value: $number) -> Result<(), Error> {
            (&mut self.scalars).$method(value)
        }
    )*};
}

macro_rules! integers {
    ($($method:ident($number:ty))*) => {$(
        #[inline]
        fn $method(self, value: $number) -> Result<(), Error> {
            match u64::try_from(value) {
                Ok(value @ 0..=0x7f) => self.bytes().push(value as u8),
                Ok(value) => self.unsigned(value),
                Err(_) => return (&mut self.scalars).$method(value),
            }
            Ok(())
        }
    )*};
}

impl<'e, 'a> ser::Serializer for &'e mut Encoder<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Items<'e, 'a>;
    type SerializeTuple = Items<'e, 'a>;
    type SerializeTupleStruct = Items<'e, 'a>;
    type SerializeTupleVariant = Items<'e, 'a>;
    type SerializeMap = Items<'e, 'a>;
    type SerializeStruct = Items<'e, 'a>;
    type SerializeStructVariant = Items<'e, 'a>;

    scalars! {
        serialize_bool(bool) serialize_char(char) serialize_f32(f32) serialize_f64(f64)
        serialize_i128(i128) serialize_u128(u128)
    }

    integers! {
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Error> {
        if value.len() <= u32::MAX as usize {
            return (&mut self.scalars).serialize_str(value);
        }
        self.wide(WIDE_STR, value.len());
        self.bytes().extend_from_slice(value.as_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        if value.len() <= u32::MAX as usize {
            return (&mut self.scalars).serialize_bytes(value);
        }
        self.wide(WIDE_BYTES, value.len());
        self.bytes().extend_from_slice(value);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        let start = self.bytes().len();
        value.serialize(&mut *self)?;
        if matches!(self.bytes().get(start), Some(&(0xc0 | SOME))) {
            self.bytes().insert(start, SOME);
        }
        Ok(())
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Error> {
        (&mut self.scalars).serialize_unit()
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        if name == named::MARK && !self.named {
            self.named = true;
            let done = value.serialize(&mut *self);
            self.named = false;
            return done;
        }
        let kind = match name {
            handle::MARK => PLAIN,
            handle::COUNTED_MARK => COUNTED,
            _ => return value.serialize(self),
        };
        self.bytes().extend([0xd4, HANDLE, kind]);
        // While it is lent, the table is out of reach of handles inside the handle.
        match self.fds.take() {
            Some(fds) => {
                let done = handle::lend(fds, || value.serialize(&mut *self));
                self.fds = Some(fds);
                done
            }
            None => value.serialize(self),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.enter()?;
        self.variant(variant)?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(())
    }

    #[inline]
    fn serialize_seq(self, length: Option<usize>) -> Result<Items<'e, 'a>, Error> {
        match length {
            Some(length) => self.serialize_tuple(length),
            None => Items::uncounted(self, 0xdd),
        }
    }

    #[inline]
    fn serialize_tuple(self, length: usize) -> Result<Items<'e, 'a>, Error> {
        self.seq_header(length);
        Items::counted(self)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Items<'e, 'a>, Error> {
        self.serialize_tuple(length)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Items<'e, 'a>, Error> {
        self.variant(variant)?;
        self.serialize_tuple(length)
    }

    #[inline]
    fn serialize_map(self, length: Option<usize>) -> Result<Items<'e, 'a>, Error> {
        match length {
            Some(length) => {
                self.map_header(length);
                Items::counted(self)
            }
            None => Items::uncounted(self, 0xdf),
        }
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Items<'e, 'a>, Error> {
        // A lone field gets its name: serde's adjacently tagged enums leave out the content of unit variants.
        if !self.named && length != 1 {
            return self.serialize_tuple(length);
        }
        self.map_header(length);
        Ok(Items { named: true, ..Items::counted(self)? })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Items<'e, 'a>, Error> {
        self.variant(variant)?;
        self.serialize_struct(variant, length)
    }

    #[inline]
    fn collect_seq<I>(self, items: I) -> Result<(), Error>
    where
        I: IntoIterator,
        I::Item: Serialize,
    {
        let items = items.into_iter();
        match lane::of_iterator(&items) {
            Some((_, [])) => self.seq_header(0),
            Some((code, bytes)) => self.lane(code, bytes),
            None => {
                let length = match items.size_hint() {
                    (low, Some(high)) if low == high => Some(low),
                    _ => None,
                };
                let mut seq = self.serialize_seq(length)?;
                for item in items {
                    ser::SerializeSeq::serialize_element(&mut seq, &item)?;
                }
                return seq.finish();
            }
        }
        Ok(())
    }
}

macro_rules! items {
    ($($trait:ident::$method:ident)*) => {$(
        impl ser::$trait for Items<'_, '_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.count();
                self.item(value)
            }

            #[inline]
            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        }
    )*};
}

items! {
    SerializeSeq::serialize_element SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident)*) => {$(
        impl ser::$trait for Items<'_, '_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
                if self.named {
                    self.item(name)?;
                }
                self.item(value)
            }

            fn skip_field(&mut self, _: &'static str) -> Result<(), Error> {
                if self.named {
                    return Ok(());
                }
                self.encoder.needs_names = true;
                Err(Error::InvalidDataModel("a field is left out of an array"))
            }

            #[inline]
            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Items<'_, '_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.count();
        self.item(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.item(value)
    }

    #[inline]
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}
