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

/// What the encoder would write for `value`, if that is a `Vec` of numbers, and there are any: nothing is copied.
#[inline]
pub fn split<T>(value: &T) -> Option<Whole<'_>> {
    macro_rules! try_one {
        ($($code:ident => $number:ty,)*) => {$(
            if typeid::of::<T>() == typeid::of::<Vec<$number>>() {
                // SAFETY: the types are equal, and neither has a lifetime in it.
                let numbers = unsafe { &*std::ptr::from_ref(value).cast::<Vec<$number>>() };
                let data: &[u8] = bytemuck::cast_slice(numbers);
                if data.is_empty() {
                    return None;
                }
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
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    let mut begin = [0; LONGEST_HEADER];
    let begin = &mut begin[..LONGEST_HEADER.min(length)];
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
    let Some(data) = length.checked_sub(skip) else { return Ok(None) };
    let expected = Header::new(code, data);
    Ok((data.is_multiple_of(code.size()) && begin.starts_with(expected.as_bytes())).then_some(skip))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fmt::Debug;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::Error;
    use crate::codec::{WIDE, bulk, decode_value, encode_value};

    /// Bytes that are said to be `length`; notes how much memory was asked for.
    struct Bytes<'a> {
        bytes: &'a [u8],
        length: u64,
        asked: Cell<usize>,
    }

    fn ends_early() -> Error {
        Error::Decode { type_name: "bytes", reason: "they end early".into() }
    }

    impl Source for Bytes<'_> {
        fn begin(&self, bytes: &mut [u8]) -> Result<()> {
            bytes.copy_from_slice(self.bytes.get(..bytes.len()).ok_or_else(ends_early)?);
            Ok(())
        }

        fn rest<N: Pod>(&self, skip: usize) -> Result<Vec<N>> {
            let rest = self.bytes.get(skip..self.length as usize).ok_or_else(ends_early)?;
            assert!(rest.len().is_multiple_of(size_of::<N>()), "no whole number of elements");
            self.asked.set(self.asked.get() + rest.len());
            Ok(bulk::copy_to_vec(rest))
        }
    }

    fn joined<T>(length: u64, bytes: &[u8]) -> Result<Option<T>> {
        let source = Bytes { bytes, length, asked: Cell::new(0) };
        let value = join(length, &source);
        assert!(source.asked.get() <= bytes.len(), "asked for {} of {}", source.asked.get(), bytes.len());
        value
    }

    fn memory<N: Pod>(numbers: Vec<N>) -> Vec<u8> {
        bytemuck::cast_slice(&numbers).to_vec()
    }

    /// What comes straight is what the decoder makes of the same bytes.
    fn is_what_the_decoder_says<N: Pod + DeserializeOwned>(bytes: &[u8]) {
        let length = bytes.len() as u64;
        if let Some(straight) = joined::<Vec<N>>(length, bytes).unwrap() {
            assert_eq!(decode_value::<Vec<N>>(bytes).ok().map(memory), Some(memory(straight)));
        }
        assert!(joined::<Box<[N]>>(length, bytes).unwrap().is_none());
    }

    /// Of a record that is said to be longer than it is, nothing comes.
    fn needs_all_bytes<N: Pod>(bytes: &[u8], more: u64) {
        let claimed = (bytes.len() as u64).saturating_add(more);
        assert!(matches!(joined::<Vec<N>>(claimed, bytes), Ok(None) | Err(Error::Decode { .. })));
    }

    macro_rules! for_each_number {
        ($function:ident($($argument:expr),*)) => {{
            $function::<u8>($($argument),*);
            $function::<u16>($($argument),*);
            $function::<u32>($($argument),*);
            $function::<u64>($($argument),*);
            $function::<usize>($($argument),*);
            $function::<u128>($($argument),*);
            $function::<i8>($($argument),*);
            $function::<i16>($($argument),*);
            $function::<i32>($($argument),*);
            $function::<i64>($($argument),*);
            $function::<isize>($($argument),*);
            $function::<i128>($($argument),*);
            $function::<f32>($($argument),*);
            $function::<f64>($($argument),*);
        }};
    }

    fn survives<N: Pod + Serialize + Debug>(bytes: &[u8]) {
        let numbers = bulk::copy_to_vec::<N>(bytes);
        let mut encoded = Vec::new();
        encode_value(&numbers, &mut encoded).unwrap();
        let Some(whole) = split(&numbers) else { return assert!(numbers.is_empty()) };
        let whole = whole.parts().concat();
        assert_eq!(whole, encoded, "what the encoder writes");
        let back = joined::<Vec<N>>(whole.len() as u64, &whole).unwrap().unwrap();
        assert_eq!(memory(back), memory(numbers));
    }

    /// Headers of lanes in which anything may be wrong, and so many bytes behind them as they say, or nearly so many.
    /// And by how much the header is wrong.
    fn hostile() -> impl Strategy<Value = (Vec<u8>, u64)> {
        let marker =
            prop_oneof![9 => prop::sample::select(&[0xc7_u8, 0xc8, 0xc9, 0xd7][..]), 1 => any::<u8>()];
        let code = prop_oneof![4 => 1..=12_u8, 1 => any::<u8>()];
        let lie = prop_oneof![6 => Just(0_u64), 1 => 1..20_u64, 1 => Just(u64::MAX), 1 => any::<u64>()];
        (marker, code, lie, vec(any::<u8>(), 0..600), any::<bool>()).prop_map(
            |(marker, code, lie, data, even)| {
                let data = &data[..if even { data.len() & !15 } else { data.len() }];
                let length = (data.len() as u64).wrapping_add(lie);
                let mut bytes = vec![marker];
                match marker {
                    0xc7 => bytes.extend([length as u8, code]),
                    0xc8 => bytes.extend((length as u16).to_be_bytes().into_iter().chain([code])),
                    0xc9 => bytes.extend((length as u32).to_be_bytes().into_iter().chain([code])),
                    _ => bytes.extend([WIDE | code].into_iter().chain(length.to_le_bytes())),
                }
                bytes.extend(data);
                (bytes, lie)
            },
        )
    }

    proptest! {
        #[test]
        fn numbers_survive(bytes in vec(any::<u8>(), 0..1000)) {
            for_each_number!(survives(&bytes));
        }

        #[test]
        fn hostile_headers_are_refused_or_right((bytes, lie) in hostile(), cut in any::<prop::sample::Index>()) {
            for_each_number!(is_what_the_decoder_says(&bytes));
            for_each_number!(is_what_the_decoder_says(&bytes[..cut.index(bytes.len())]));
            for_each_number!(needs_all_bytes(&bytes, lie.max(1)));
        }

        #[test]
        fn any_bytes_are_refused_or_right(bytes in vec(any::<u8>(), 0..40), more in 1..u64::MAX) {
            for_each_number!(is_what_the_decoder_says(&bytes));
            for_each_number!(needs_all_bytes(&bytes, more));
        }
    }

    #[test]
    fn long_vectors_survive() {
        for length in [0x100, 0xffff, 0x1_0000, 0x1_0010] {
            for_each_number!(survives(&vec![0xa5; length]));
        }
    }

    #[test]
    fn whatever_is_no_vector_of_numbers_goes_the_long_way() {
        #[derive(Debug)]
        #[repr(transparent)]
        struct Wrapped(Vec<u8>);

        assert!(split(&String::from("text")).is_none());
        assert!(split(&vec![true]).is_none());
        assert!(split(&vec!['x']).is_none());
        assert!(split(&[1_u8, 2]).is_none());
        assert!(split(&vec![vec![1_u8]]).is_none());
        assert!(split(&Wrapped(vec![1])).is_none());
        let bytes = split(&vec![1_u8, 2]).unwrap().parts().concat();
        assert!(joined::<Wrapped>(bytes.len() as u64, &bytes).unwrap().is_none());
        assert!(joined::<String>(bytes.len() as u64, &bytes).unwrap().is_none());
        assert!(joined::<Vec<bool>>(bytes.len() as u64, &bytes).unwrap().is_none());
    }
}
