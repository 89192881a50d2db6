//! Start methods and processes.
#![forbid(unsafe_code)]
