//! Memory that processes share: values, arrays, lists and named blocks.
#![deny(unsafe_op_in_unsafe_fn)]
