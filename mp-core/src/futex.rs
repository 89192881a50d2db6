//! Waiting on a shared word.
