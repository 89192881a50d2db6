//! Memory that processes share: values, arrays, lists and named blocks.
//!
//! Applications use the facade crate `multiprocess`.
#![deny(unsafe_op_in_unsafe_fn)]

mod array;
mod error;
mod guard;
mod typed;
mod value;

pub use array::Array;
pub use error::{Error, Result};
pub use guard::ValueGuard;
pub use value::Value;
