//! Functions of 0 to 8 arguments, and the tuples that are their arguments.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::{Fds, decode_from, discard, encode_into};
use crate::{Error, Result};

/// A tuple of 0 to 8 arguments, each encoded as a value of its own.
///
/// Bulk arguments such as `Vec<u8>` or `Vec<f64>` so take the fast lane (see [`crate::codec`]).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the arguments of a function in another process",
    label = "not a tuple of up to 8 serialisable values",
    note = "arguments are a tuple, also for one: `(value,)`, or `()` for none; each implements serde's `Serialize` and `Deserialize`"
)]
pub trait Arguments: Sized {
    /// Appends the arguments.
    ///
    /// # Errors
    /// [`Error::Encode`] of the first argument that cannot be encoded.
    fn encode(&self, bytes: &mut Vec<u8>, fds: &mut Fds) -> Result<()>;

    /// Reads what [`Arguments::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Decode`] when the bytes are something else.
    fn decode(bytes: &[u8], fds: &mut Fds) -> Result<Self>;
}

/// A function that can be called with the tuple `A` of 0 to 8 arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a function of the arguments `{A}`",
    note = "the arguments must be a tuple with one value for each parameter: `(value,)` for one, `()` for none",
    note = "write the parameter types of a closure out: `|x: u32| ..`"
)]
pub trait Callable<A> {
    /// What the function returns.
    type Output;
    /// Calls the function.
    fn call(&self, arguments: A) -> Self::Output;
}

macro_rules! tuples {
    ($($name:ident)*) => {
        impl<$($name: Serialize + DeserializeOwned),*> Arguments for ($($name,)*) {
            #[allow(non_snake_case, unused_variables, reason = "a macro for 0 to 8 arguments")]
            fn encode(&self, bytes: &mut Vec<u8>, fds: &mut Fds) -> Result<()> {
                let ($($name,)*) = self;
                $(encode_argument($name, bytes, fds)?;)*
                Ok(())
            }

            #[allow(unused_variables, unused_mut, reason = "a macro for 0 to 8 arguments")]
            fn decode(bytes: &[u8], fds: &mut Fds) -> Result<Self> {
                let mut rest = Rest { bytes, fds };
                let arguments = ($(rest.decode::<$name>()?,)*);
                if rest.bytes.is_empty() { Ok(arguments) } else { Err(wrong_arguments::<Self>("there are bytes behind them")) }
            }
        }

        impl<Function: Fn($($name),*) -> Output, Output, $($name),*> Callable<($($name,)*)> for Function {
            type Output = Output;
            #[allow(non_snake_case, reason = "a macro for 0 to 8 arguments")]
            fn call(&self, ($($name,)*): ($($name,)*)) -> Output {
                self($($name),*)
            }
        }
    };
}
tuples!();
tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);

fn encode_argument<T: Serialize>(argument: &T, bytes: &mut Vec<u8>, fds: &mut Fds) -> Result<()> {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 8]);
    encode_into(argument, bytes, fds)?;
    let len = (bytes.len() - start - 8) as u64;
    bytes[start..start + 8].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

/// Gives back what encoded arguments carry; for those that nobody decodes.
pub fn discard_arguments(bytes: &[u8], fds: &mut Fds) {
    drop(Rest { bytes, fds });
}

/// Arguments that are not decoded yet. If one cannot be, what the others carry is given back.
struct Rest<'a> {
    bytes: &'a [u8],
    fds: &'a mut Fds,
}

impl<'a> Rest<'a> {
    fn decode<T: DeserializeOwned>(&mut self) -> Result<T> {
        decode_from(self.next().map_err(wrong_arguments::<T>)?, self.fds)
    }

    /// The bytes of the next one, or what is wrong with it.
    fn next(&mut self) -> Result<&'a [u8], &'static str> {
        let (len, tail) = self.bytes.split_first_chunk::<8>().ok_or("there are too few")?;
        let (bytes, tail) = usize::try_from(u64::from_le_bytes(*len))
            .ok()
            .and_then(|len| tail.split_at_checked(len))
            .ok_or("the argument is cut off")?;
        self.bytes = tail;
        Ok(bytes)
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        while let Ok(bytes) = self.next() {
            discard(bytes, self.fds);
        }
    }
}

fn wrong_arguments<T>(reason: &str) -> Error {
    Error::Decode { type_name: std::any::type_name::<T>(), reason: reason.into() }
}
