//! Locks, semaphores, conditions, events and barriers that processes share.
#![deny(unsafe_op_in_unsafe_fn)]
