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

mod arguments;
#[cfg(test)]
mod tests;
mod wrappers;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::image::{BuildId, Image};
use crate::message::Fds;
use crate::{Error, Result};

pub use arguments::{Arguments, Callable, discard_arguments};

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
