//! Shared memory segments.
