//! The command.
//!
fn main() {}
