//! Memory that processes share: values, arrays, lists and named blocks.
//!
//! Applications use the facade crate `multiprocess`.
#![deny(unsafe_op_in_unsafe_fn)]

mod array;
mod copy;
mod elements;
mod error;
mod guard;
mod list;
mod named;
mod pages;
mod plain;
mod raw_array;
mod raw_value;
mod slice;
mod strings;
mod synchronized;
mod value;
mod vec;
mod words;

pub use array::Array;
pub use copy::{Copied, copy};
pub use error::{Error, Result};
pub use guard::ValueGuard;
pub use list::{Item, ShareableList};
pub use named::SharedMemory;
pub use plain::Atomic;
pub use raw_array::RawArray;
pub use raw_value::RawValue;
pub use slice::SharedSlice;
pub use synchronized::{Locking, Raw, Synchronized, SynchronizedGuard, synchronized};
pub use value::Value;
pub use vec::SharedVec;
