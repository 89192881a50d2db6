//! The ground of `multiprocess`: what two processes need before they can share anything.
//!
//! Functions, values, file descriptors and memory that travel. Applications use the facade crate `multiprocess`.
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("multiprocess needs Linux on a 64-bit CPU");

pub mod arena;
pub mod auth;
pub mod codec;
pub mod connection;
pub mod deadline;
pub mod error;
pub mod function;
pub mod futex;
pub mod handle;
mod image;
pub mod link;
pub mod listener;
pub mod liveness;
pub mod message;
pub mod parcel;
pub mod process;
pub mod region;
pub mod ring;
pub mod room;
pub mod segment;
pub mod spin;
pub mod wait;

pub use error::{Error, Result};
