//! What a shareable list can hold.

use std::fmt::{self, Write};

use crate::Error;

/// One item of a [`ShareableList`](crate::ShareableList).
///
/// Printed with `{}` it looks as in Python.
///
/// ```
/// use mp_shm::Item;
///
/// assert_eq!(Item::from("it's").to_string(), "\"it's\"");
/// assert_eq!(Item::from(b"\0").to_string(), r"b'\x00'");
/// assert_eq!(Item::from(1e16).to_string(), "1e+16");
/// assert_eq!(Item::from(None::<i64>), Item::None);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Item {
    /// Nothing.
    #[default]
    None,
    /// True or false.
    Bool(bool),
    /// A number of 64 bits with a sign.
    Int(i64),
    /// A number, bit for bit: NaNs keep what they carry.
    Float(f64),
    /// A text of any characters, NULs included.
    Str(String),
    /// Any bytes.
    Bytes(Vec<u8>),
}

impl Item {
    /// Whether it is [`Item::None`].
    pub fn is_none(&self) -> bool {
        matches!(self, Item::None)
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Item::Bool(value) = self { Some(*value) } else { None }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        if let Item::Int(value) = self { Some(*value) } else { None }
    }

    /// The float, if it is one.
    pub fn as_float(&self) -> Option<f64> {
        if let Item::Float(value) = self { Some(*value) } else { None }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Item::Str(value) = self { Some(value) } else { None }
    }

    /// The bytes, if it is such.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let Item::Bytes(value) = self { Some(value) } else { None }
    }
}

macro_rules! from {
    ($($variant:ident: $($type:ty),*;)*) => {$($(
        impl From<$type> for Item {
            fn from(value: $type) -> Item {
                Item::$variant(value.into())
            }
        }
    )*)*};
}

from! {
    Bool: bool;
    Int: i8, i16, i32, i64, u8, u16, u32;
    Float: f32, f64;
    Str: &str, String, Box<str>, char;
    Bytes: &[u8], Vec<u8>, Box<[u8]>;
}

impl<const N: usize> From<[u8; N]> for Item {
    fn from(value: [u8; N]) -> Item {
        Item::Bytes(value.into())
    }
}

impl<const N: usize> From<&[u8; N]> for Item {
    fn from(value: &[u8; N]) -> Item {
        Item::Bytes(value.into())
    }
}

impl From<()> for Item {
    fn from((): ()) -> Item {
        Item::None
    }
}

impl<T: Into<Item>> From<Option<T>> for Item {
    fn from(value: Option<T>) -> Item {
        value.map_or(Item::None, Into::into)
    }
}

impl TryFrom<u64> for Item {
    type Error = Error;

    /// Refuses what 64 bits with a sign cannot hold.
    fn try_from(value: u64) -> Result<Item, Error> {
        let too_large = |_| Error::Invalid { what: "item", reason: format!("{value} is more than 2^63 - 1") };
        i64::try_from(value).map(Item::Int).map_err(too_large)
    }
}

impl TryFrom<usize> for Item {
    type Error = Error;

    /// Refuses what 64 bits with a sign cannot hold.
    fn try_from(value: usize) -> Result<Item, Error> {
        Item::try_from(value as u64)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::None => f.write_str("None"),
            Item::Bool(value) => f.write_str(if *value { "True" } else { "False" }),
            Item::Int(value) => value.fmt(f),
            Item::Float(value) => write_float(f, *value),
            Item::Str(value) => write_text(f, value),
            Item::Bytes(value) => write_bytes(f, value),
        }
    }
}

fn write_float(f: &mut fmt::Formatter<'_>, value: f64) -> fmt::Result {
    if value.is_nan() {
        return f.write_str("nan");
    }
    if value.is_infinite() {
        return f.write_str(if value > 0.0 { "inf" } else { "-inf" });
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent @ -4..16 if exponent < 0 || value.fract() != 0.0 => write!(f, "{value}"),
        -4..16 => write!(f, "{value:.1}"),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(f, "{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
    }
}

fn quote_for(has: impl Fn(char) -> bool) -> char {
    if has('\'') && !has('"') { '"' } else { '\'' }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = quote_for(|quote| text.contains(quote));
    f.write_char(quote)?;
    for character in text.chars() {
        match character {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\\' => f.write_str("\\\\")?,
            _ if character == quote => write!(f, "\\{quote}")?,
            '\'' | '"' => f.write_char(character)?,
            // What Rust would not print as it is, that is.
            _ if character.escape_debug().len() > 1 => match u32::from(character) {
                code @ ..0x100 => write!(f, "\\x{code:02x}")?,
                code @ ..0x1_0000 => write!(f, "\\u{code:04x}")?,
                code => write!(f, "\\U{code:08x}")?,
            },
            _ => f.write_char(character)?,
        }
    }
    f.write_char(quote)
}

fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let quote = quote_for(|quote| bytes.contains(&(quote as u8)));
    write!(f, "b{quote}")?;
    for byte in bytes {
        match byte {
            b'\n' => f.write_str("\\n")?,
            b'\r' => f.write_str("\\r")?,
            b'\t' => f.write_str("\\t")?,
            b'\\' => f.write_str("\\\\")?,
            _ if char::from(*byte) == quote => write!(f, "\\{quote}")?,
            b' '..=b'~' => f.write_char(char::from(*byte))?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    f.write_char(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_as_in_python() {
        let floats = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (-273.154, "-273.154"),
            (100.0, "100.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (5e-324, "5e-324"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, text) in floats {
            assert_eq!(Item::from(value).to_string(), text);
        }
        assert_eq!(
            Item::from("a'b\"c\\\n\u{1}ä\u{200b}\u{e0001}").to_string(),
            r#"'a\'b"c\\\n\x01ä\u200b\U000e0001'"#
        );
        assert_eq!(Item::from(b"a'\"\xff\t").to_string(), r#"b'a\'"\xff\t'"#);
        assert_eq!(Item::from(b"'").to_string(), "b\"'\"");
        assert_eq!((Item::from(true).to_string(), Item::None.to_string()), ("True".into(), "None".into()));
    }

    #[test]
    fn integers_beyond_64_bits_are_refused() {
        assert_eq!(Item::try_from(i64::MAX as u64).unwrap(), Item::Int(i64::MAX));
        assert!(matches!(Item::try_from(1_u64 << 63), Err(Error::Invalid { .. })));
    }
}
