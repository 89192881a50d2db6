//! Small shared blocks.
