//! Values that are one vector of numbers and nothing else: they go from the vector into shared memory, and out of it into
//! the vector, without a stop between.
//!
//! Their bytes are those that the encoder would write. Nothing here is shared between processes.

use std::mem::{ManuallyDrop, transmute_copy};

use bytemuck::Pod;

use super::lane::{Code, Header, LONGEST_HEADER};
use crate::Result;

/// A vector of numbers, as header and elements; see [`split`].
pub struct Whole<'a> {
    header: Header,
    data: &'a [u8],
}

impl Whole<'_> {
    /// The encoded value, in two parts.
    #[inline]
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.header.as_bytes(), self.data]
    }
}

macro_rules! each_number {
    ($try_one:ident) => {
        $try_one! {
            U8 => u8, U16 => u16, U32 => u32, U64 => u64, U128 => u128,
            I8 => i8, I16 => i16, I32 => i32, I64 => i64, I128 => i128,
            F32 => f32, F64 => f64,
        }
        #[cfg(target_pointer_width = "64")]
        $try_one! { U64 => usize, I64 => isize, }
    };
}

/// What the encoder would write for `value`, if that is a `Vec` of numbers: nothing is copied.
#[inline]
pub fn split<T>(value: &T) -> Option<Whole<'_>> {
    macro_rules! try_one {
        ($($code:ident => $number:ty,)*) => {$(
            if typeid::of::<T>() == typeid::of::<Vec<$number>>() {
                // SAFETY: the types are equal, and neither has a lifetime in it.
                let numbers = unsafe { &*std::ptr::from_ref(value).cast::<Vec<$number>>() };
                let data: &[u8] = bytemuck::cast_slice(numbers);
                return Some(Whole { header: Header::new(Code::$code, data.len()), data });
            }
        )*};
    }
    if cfg!(target_endian = "little") {
        each_number!(try_one);
    }
    None
}

/// Bytes that are somewhere else.
pub(crate) trait Source {
    /// Fills all of `bytes` with the first ones.
    fn begin(&self, bytes: &mut [u8]) -> Result<()>;
    /// All from byte `skip` on; there is a whole number of elements.
    fn rest<N: Pod>(&self, skip: usize) -> Result<Vec<N>>;
}

/// The value in `source`, which has `length` bytes, if `T` is a `Vec` of numbers and these are a lane of just such.
#[inline]
pub(crate) fn join<T>(length: u64, source: &impl Source) -> Result<Option<T>> {
    macro_rules! try_one {
        ($($code:ident => $number:ty,)*) => {$(
            if typeid::of::<T>() == typeid::of::<Vec<$number>>() {
                let Some(skip) = header(Code::$code, length, source)? else { return Ok(None) };
                let numbers = ManuallyDrop::new(source.rest::<$number>(skip)?);
                // SAFETY: the types are equal, and the original is not dropped.
                return Ok(Some(unsafe { transmute_copy::<ManuallyDrop<Vec<$number>>, T>(&numbers) }));
            }
        )*};
    }
    if cfg!(target_endian = "little") {
        each_number!(try_one);
    }
    Ok(None)
}

/// The length of the header, if it is that of a lane of `code` which takes up all `length` bytes.
fn header(code: Code, length: u64, source: &impl Source) -> Result<Option<usize>> {
    let mut begin = [0; LONGEST_HEADER];
    let begin = &mut begin[..LONGEST_HEADER.min(length as usize)];
    source.begin(begin)?;
    let Some(skip) = begin.first().and_then(|marker| match marker {
        0xc7 => Some(3),
        0xc8 => Some(4),
        0xc9 => Some(6),
        0xd7 => Some(LONGEST_HEADER),
        _ => None,
    }) else {
        return Ok(None);
    };
    let Some(data) = (length as usize).checked_sub(skip) else { return Ok(None) };
    let expected = Header::new(code, data);
    Ok((data.is_multiple_of(code.size()) && begin.starts_with(expected.as_bytes())).then_some(skip))
}
