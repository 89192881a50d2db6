//! The wrappers: for each type of function the compiler makes the code that decodes, calls and encodes, and a static
//! entry that leads to it.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    Arguments, Callable, Entry, MARK, Main, Many, Once, PreparedCall, PreparedFunction, Remote, Wrapper,
};
use crate::Result;
use crate::image::BuildId;
use crate::message::{Fds, decode_from, encode_into};

impl Remote<Once> {
    /// `function`, to be called once with a tuple of arguments (see [`Arguments::encode`]).
    pub fn call<F: Callable<A>, A: Arguments>(function: F) -> Self
    where
        F::Output: Serialize,
    {
        struct Place<F, A>(PhantomData<(F, A)>);
        impl<F: Callable<A>, A: Arguments> Place<F, A>
        where
            F::Output: Serialize,
        {
            const ENTRY: &'static Entry<Once> =
                &Entry { mark: MARK, kind: Once::KIND, wrapper: Self::prepare };

            fn prepare(bytes: &[u8], fds: &mut Fds) -> Result<PreparedCall> {
                let arguments = A::decode(bytes, fds)?;
                let call: Box<Call<'_>> =
                    Box::new(move |result, fds| encode_into(&conjure::<F>().call(arguments), result, fds));
                // SAFETY: the box owns an `A`, which was made from bytes alone and so borrows nothing; `F` has no bytes.
                Ok(unsafe { std::mem::transmute::<Box<Call<'_>>, PreparedCall>(call) })
            }
        }
        Self::new(Place::<F, A>::ENTRY, name_of(function))
    }
}

impl Remote<Many> {
    /// `function`, to be called with one item at a time.
    pub fn each<F: Fn(T) -> R, T: DeserializeOwned, R: Serialize>(function: F) -> Self {
        struct Place<F, T, R>(PhantomData<(F, T, R)>);
        impl<F: Fn(T) -> R, T: DeserializeOwned, R: Serialize> Place<F, T, R> {
            const ENTRY: &'static Entry<Many> =
                &Entry { mark: MARK, kind: Many::KIND, wrapper: Self::prepare };

            fn prepare(_: &[u8], _: &mut Fds) -> Result<PreparedFunction> {
                let function: Box<Each<'_>> = Box::new(|item, fds, result, result_fds| {
                    encode_into(&conjure::<F>()(decode_from::<T>(item, fds)?), result, result_fds)
                });
                // SAFETY: the box owns nothing.
                Ok(unsafe { std::mem::transmute::<Box<Each<'_>>, PreparedFunction>(function) })
            }
        }
        Self::new(Place::<F, T, R>::ENTRY, name_of(function))
    }

    /// `function`, to be called with one item at a time, spread out over its parameters.
    pub fn each_spread<F: Callable<A>, A: Arguments>(function: F) -> Self
    where
        F::Output: Serialize,
    {
        struct Place<F, A>(PhantomData<(F, A)>);
        impl<F: Callable<A>, A: Arguments> Place<F, A>
        where
            F::Output: Serialize,
        {
            const ENTRY: &'static Entry<Many> =
                &Entry { mark: MARK, kind: Many::KIND, wrapper: Self::prepare };

            fn prepare(_: &[u8], _: &mut Fds) -> Result<PreparedFunction> {
                let function: Box<Each<'_>> = Box::new(|item, fds, result, result_fds| {
                    encode_into(&conjure::<F>().call(A::decode(item, fds)?), result, result_fds)
                });
                // SAFETY: the box owns nothing.
                Ok(unsafe { std::mem::transmute::<Box<Each<'_>>, PreparedFunction>(function) })
            }
        }
        Self::new(Place::<F, A>::ENTRY, name_of(function))
    }

    /// `function`, to be called with captured values, decoded once, and one item at a time.
    pub fn each_with<F, C, T, R>(function: F) -> Self
    where
        F: Fn(&C, T) -> R,
        C: DeserializeOwned,
        T: DeserializeOwned,
        R: Serialize,
    {
        struct Place<F, C, T, R>(PhantomData<(F, C, T, R)>);
        impl<F: Fn(&C, T) -> R, C: DeserializeOwned, T: DeserializeOwned, R: Serialize> Place<F, C, T, R> {
            const ENTRY: &'static Entry<Many> =
                &Entry { mark: MARK, kind: Many::KIND, wrapper: Self::prepare };

            fn prepare(captures: &[u8], fds: &mut Fds) -> Result<PreparedFunction> {
                let captures: C = decode_from(captures, fds)?;
                let function: Box<Each<'_>> = Box::new(move |item, fds, result, result_fds| {
                    encode_into(&conjure::<F>()(&captures, decode_from::<T>(item, fds)?), result, result_fds)
                });
                // SAFETY: the box owns a `C`, which was made from bytes alone and so borrows nothing.
                Ok(unsafe { std::mem::transmute::<Box<Each<'_>>, PreparedFunction>(function) })
            }
        }
        Self::new(Place::<F, C, T, R>::ENTRY, name_of(function))
    }
}

impl Remote<Main> {
    /// `function`, to be run by a new process instead of its `main`.
    pub fn main<F: Fn(OwnedFd) -> std::convert::Infallible>(function: F) -> Self {
        struct Place<F>(PhantomData<F>);
        impl<F: Fn(OwnedFd) -> std::convert::Infallible> Place<F> {
            const ENTRY: &'static Entry<Main> = &Entry { mark: MARK, kind: Main::KIND, wrapper: Self::run };

            fn run(socket: OwnedFd) -> std::convert::Infallible {
                conjure::<F>()(socket)
            }
        }
        Self::new(Place::<F>::ENTRY, name_of(function))
    }

    /// The distance and the build alone, short enough for an environment variable.
    pub(crate) fn to_text(&self) -> String {
        format!("{:x}:{}", self.distance, self.build)
    }

    /// Reads the form that [`Remote::to_text`] writes.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (distance, build) = text.split_once(':')?;
        Some(Remote {
            distance: u64::from_str_radix(distance, 16).ok()? as i64,
            build: BuildId::parse(build)?,
            name: Cow::Borrowed("the main function of a child process"),
            kind: PhantomData,
        })
    }
}

type Call<'a> = dyn FnOnce(&mut Vec<u8>, &mut Fds) -> Result<()> + 'a;
type Each<'a> = dyn FnMut(&[u8], &mut Fds, &mut Vec<u8>, &mut Fds) -> Result<()> + 'a;

/// Uses `function` up without dropping it: it lives on wherever it is called.
fn name_of<F>(function: F) -> &'static str {
    conjure::<F>();
    std::mem::forget(function);
    std::any::type_name::<F>()
}

/// A function of a type that has no bytes.
fn conjure<'a, F>() -> &'a F {
    const {
        assert!(
            size_of::<F>() == 0 && !std::mem::needs_drop::<F>(),
            "only functions and closures that capture nothing can travel to another process: \
             hand captured values over with `.with(captures)`, or as arguments"
        );
    }
    // SAFETY: a dangling, aligned pointer is valid for a type without bytes. That a value of the type exists follows
    // from `Remote` being made from one, which is never dropped, and nothing but shared access to it is given out.
    unsafe { NonNull::<F>::dangling().as_ref() }
}
