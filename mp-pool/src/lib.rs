//! A pool of worker processes.
#![forbid(unsafe_code)]
