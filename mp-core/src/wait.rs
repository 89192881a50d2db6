//! Waiting for descriptors.
