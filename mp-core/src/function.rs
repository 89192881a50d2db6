//! Functions that travel: function items and capture-free closures, called by the place of their code.
//!
//! # Design
//!
//! The type of a function item, or of a closure that captures nothing, has no bytes: whoever knows the type can call
//! it. So what is sent is *where the code for that type is*. For each type the compiler makes a static `Entry` with
//! a pointer to a wrapper for just that type, and the distance from `ANCHOR` to that entry is the same in every
//! process that runs the same build. A received distance is followed only if the build ids agree, the entry lies among
//! the constants of this image, carries the mark of its kind, and points into executable memory of the image.
//! Anything else is an [`Error::Function`] with the function's name. Functions hold no resource: a process that dies
//! takes nothing with it but the call it was in.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::image::{BuildId, Image};
use crate::message::{Fds, decode_from, encode_into};
use crate::{Error, Result};

/// The fixed point that distances are measured from.
pub(crate) static ANCHOR: u64 = MARK;

/// Begins every entry, so that a distance that leads elsewhere is noticed.
const MARK: u64 = 0x6d70_2d66_756e_6374;

/// Where the wrapper of one function is; `P` is the type of the wrapper's pointer.
#[repr(C)]
struct Entry<P> {
    mark: u64,
    kind: u64,
    wrapper: P,
}

/// A call whose arguments are decoded: runs the function and appends its encoded result.
pub type PreparedCall = Box<dyn FnOnce(&mut Vec<u8>, &mut Fds) -> Result<()>>;

/// A function whose captured values are decoded: each call takes one encoded item and appends its encoded result.
pub type PreparedFunction = Box<dyn FnMut(&[u8], &mut Fds, &mut Vec<u8>, &mut Fds) -> Result<()>>;

/// Wrapper of a function that is called once: decodes the arguments.
pub type Once = fn(&[u8], &mut Fds) -> Result<PreparedCall>;

/// Wrapper of a function that is called for many items: decodes the captured values.
pub type Many = fn(&[u8], &mut Fds) -> Result<PreparedFunction>;

/// What a freshly started process runs instead of its `main`, with the socket that it was given.
pub type Main = fn(OwnedFd) -> std::convert::Infallible;

/// The pointer types that [`Remote`] can carry.
///
/// # Safety
///
/// The type must be a plain function pointer, and `KIND` must differ from that of every other implementor.
pub unsafe trait Wrapper: Copy + 'static {
    /// Tells the kinds of wrappers apart in memory.
    #[doc(hidden)]
    const KIND: u64;
}

// SAFETY: a function pointer, with a number of its own.
unsafe impl Wrapper for Once {
    const KIND: u64 = 1;
}

// SAFETY: a function pointer, with a number of its own.
unsafe impl Wrapper for Many {
    const KIND: u64 = 2;
}

// SAFETY: a function pointer, with a number of its own.
unsafe impl Wrapper for Main {
    const KIND: u64 = 3;
}

/// The place of a function in this build, as it is sent to another process.
///
/// `P` says what comes out at the other side: [`Once`], [`Many`] or [`Main`].
///
/// ```
/// use mp_core::function::Remote;
/// use mp_core::message::Fds;
///
/// let double = Remote::each(|x: u32| x * 2);
/// let mut item = Vec::new();
/// mp_core::message::encode_into(&21u32, &mut item, &mut Fds::default())?;
///
/// // In this or any other process of the same build:
/// let mut function = double.resolve()?(&[], &mut Fds::default())?;
/// let (mut result, mut fds) = (Vec::new(), Fds::default());
/// function(&item, &mut Fds::default(), &mut result, &mut fds)?;
/// assert_eq!(mp_core::message::decode_from::<u32>(&result, &mut fds)?, 42);
/// # Ok::<(), mp_core::Error>(())
/// ```
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Remote<P> {
    distance: i64,
    build: BuildId,
    name: Cow<'static, str>,
    #[serde(skip)]
    kind: PhantomData<fn() -> P>,
}

impl<P> Clone for Remote<P> {
    fn clone(&self) -> Self {
        Remote { distance: self.distance, build: self.build, name: self.name.clone(), kind: PhantomData }
    }
}

impl<P> fmt::Debug for Remote<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.name)
    }
}

impl<P: Wrapper> Remote<P> {
    fn new(entry: &'static Entry<P>, name: &'static str) -> Self {
        let distance = std::ptr::from_ref(entry).addr().wrapping_sub(std::ptr::from_ref(&ANCHOR).addr());
        Remote { distance: distance as i64, build: BuildId::current(), name: name.into(), kind: PhantomData }
    }

    /// The Rust path of the function, for messages to people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The function's wrapper in this process.
    ///
    /// # Errors
    /// [`Error::Function`] when another build of the program sent it, or it does not lead to a function of this kind.
    pub fn resolve(&self) -> Result<P> {
        let refuse = |reason: String| Error::Function { function: self.name.to_string(), reason };
        let image = Image::current();
        if self.build != image.build {
            return Err(refuse(format!(
                "it was sent by build {} of the program, and this process runs build {}",
                self.build, image.build
            )));
        }
        let address = std::ptr::from_ref(&ANCHOR).addr().wrapping_add(self.distance as usize);
        if !address.is_multiple_of(align_of::<Entry<usize>>())
            || !image.holds_constant(address, size_of::<Entry<usize>>())
        {
            return Err(refuse("its place is outside of this program".into()));
        }
        const { assert!(size_of::<P>() == size_of::<usize>()) };
        // SAFETY: the words lie aligned in constant memory of this image, as checked above, and any bits are valid.
        let [mark, kind, code] =
            unsafe { std::ptr::with_exposed_provenance::<[u64; 3]>(address).read_volatile() };
        if mark != MARK || kind != P::KIND || !image.is_code(code as usize) {
            return Err(refuse("there is no function of this kind at its place".into()));
        }
        // SAFETY: only `Entry<P>` is marked with the number of `P`, and its third word is a valid `P`.
        Ok(unsafe { (*std::ptr::with_exposed_provenance::<Entry<P>>(address)).wrapper })
    }
}

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
                let mut rest = bytes;
                let arguments = ($(decode_argument::<$name>(&mut rest, fds)?,)*);
                if rest.is_empty() { Ok(arguments) } else { Err(wrong_arguments::<Self>("there are bytes behind them")) }
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

fn decode_argument<T: DeserializeOwned>(rest: &mut &[u8], fds: &mut Fds) -> Result<T> {
    let (len, tail) =
        rest.split_first_chunk::<8>().ok_or_else(|| wrong_arguments::<T>("there are too few"))?;
    let (bytes, tail) = usize::try_from(u64::from_le_bytes(*len))
        .ok()
        .and_then(|len| tail.split_at_checked(len))
        .ok_or_else(|| wrong_arguments::<T>("the argument is cut off"))?;
    *rest = tail;
    decode_from(bytes, fds)
}

fn wrong_arguments<T>(reason: &str) -> Error {
    Error::Decode { type_name: std::any::type_name::<T>(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(a: u8, b: u64) -> u64 {
        u64::from(a) + b
    }

    fn run_once<A: Arguments>(remote: &Remote<Once>, arguments: &A) -> Result<Vec<u8>> {
        let (mut bytes, mut result) = (Vec::new(), Vec::new());
        arguments.encode(&mut bytes, &mut Fds::default())?;
        remote.resolve()?(&bytes, &mut Fds::default())?(&mut result, &mut Fds::default())?;
        Ok(result)
    }

    #[test]
    fn functions_of_any_number_of_arguments() {
        let sum = run_once(&Remote::call(add), &(1u8, 41u64)).expect("a call");
        assert_eq!(decode_from::<u64>(&sum, &mut Fds::default()).expect("a value"), 42);
        run_once(&Remote::call(|| ()), &()).expect("no argument");
        let eight = |a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8| vec![a, b, c, d, e, f, g, h];
        let list = run_once(&Remote::call(eight), &(1u8, 2u8, 3u8, 4u8, 5u8, 6u8, 7u8, 8u8)).expect("a call");
        assert_eq!(
            decode_from::<Vec<u8>>(&list, &mut Fds::default()).expect("a value"),
            [1, 2, 3, 4, 5, 6, 7, 8]
        );
    }

    #[test]
    fn arguments_of_other_types_are_an_error() {
        let remote = Remote::call(add);
        for wrong in [
            run_once(&remote, &(1u8,)),
            run_once(&remote, &("one".to_owned(), 2u64)),
            run_once(&remote, &(1u8, 2u64, 3u8)),
        ] {
            assert!(matches!(wrong, Err(Error::Decode { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn captured_values_are_decoded_once() {
        let mut captures = Vec::new();
        encode_into(&10i64, &mut captures, &mut Fds::default()).expect("a value");
        let remote = Remote::each_with(|k: &i64, x: i64| k * x);
        let mut function = remote.resolve().expect("here")(&captures, &mut Fds::default()).expect("captures");
        for x in [1i64, 2, 3] {
            let (mut item, mut result) = (Vec::new(), Vec::new());
            encode_into(&x, &mut item, &mut Fds::default()).expect("a value");
            function(&item, &mut Fds::default(), &mut result, &mut Fds::default()).expect("a call");
            assert_eq!(decode_from::<i64>(&result, &mut Fds::default()).expect("a value"), 10 * x);
        }
    }

    #[test]
    fn a_wrong_build_or_place_is_an_error_with_the_name() {
        let good = Remote::call(add);
        let mut bad =
            vec![Remote { build: BuildId::parse(&"00".repeat(20)).expect("an id"), ..good.clone() }];
        for distance in
            [0, 1, 8, i64::MAX, i64::MIN, good.distance + 8, good.distance + 16, good.distance - 8]
        {
            bad.push(Remote { distance, ..good.clone() });
        }
        // The wrapper's own code, and the entry of another kind of function.
        let code = good.resolve().expect("good") as usize;
        bad.push(Remote {
            distance: code.wrapping_sub(std::ptr::from_ref(&ANCHOR).addr()) as i64,
            ..good.clone()
        });
        bad.push(Remote { distance: Remote::each(|x: u8| x).distance, ..good.clone() });
        for remote in bad {
            let error = remote.resolve().expect_err("refused").to_string();
            assert!(error.contains("tests::add"), "{error}");
        }
    }

    fn distance_to<T>(target: &T) -> i64 {
        std::ptr::from_ref(target).addr().wrapping_sub(std::ptr::from_ref(&ANCHOR).addr()) as i64
    }

    #[test]
    fn an_entry_that_somebody_has_written_is_refused() {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        static FORGED: [AtomicU64; 3] = [const { AtomicU64::new(1) }; 3];
        let good = Remote::call(add);
        let code = good.resolve().expect("good") as usize as u64;
        for (word, value) in FORGED.iter().zip([MARK, Once::KIND, code]) {
            word.store(value, Relaxed);
        }
        let on_heap = Box::new([MARK, Once::KIND, code]);
        for distance in [distance_to(&FORGED), distance_to(&*on_heap)] {
            let forged = Remote { distance, ..good.clone() };
            assert!(matches!(forged.resolve(), Err(Error::Function { .. })));
        }
    }

    #[test]
    fn any_distance_leads_to_a_function_of_its_kind_or_to_an_error() {
        let good = Remote::call(add);
        let mut found = 0;
        // All around the anchor, all around an entry, and nowhere.
        let around = |middle: i64| (middle - (2 << 20)..middle + (2 << 20)).step_by(8);
        let nowhere = [i64::MIN, i64::MIN + 8, i64::MAX - 7];
        for distance in around(0).chain(around(good.distance)).chain(nowhere) {
            match (Remote::<Once> { distance, ..good.clone() }).resolve() {
                Ok(_) => found += 1,
                Err(error) => assert!(matches!(error, Error::Function { .. }), "{error}"),
            }
        }
        assert!(found > 1, "the functions of these tests, at least");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_function_or_an_error(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
            place in 0..200usize,
            bit in 0..8,
        ) {
            let resolve = |bytes: &[u8]| {
                decode_from::<Remote<Many>>(bytes, &mut Fds::default()).and_then(|remote| remote.resolve().map(|_| ()))
            };
            proptest::prop_assert!(resolve(&bytes).is_err());
            // One that is nearly right: only its name may have changed.
            let mut bytes = Vec::new();
            encode_into(&Remote::each(|x: u8| x), &mut bytes, &mut Fds::default()).expect("a value");
            let place = place % bytes.len();
            bytes[place] ^= 1u8 << bit;
            let ordered = matches!(resolve(&bytes), Ok(()) | Err(Error::Function { .. } | Error::Decode { .. }));
            proptest::prop_assert!(ordered);
        }
    }
}
