//! `cargo xtask bench`: builds the `bench` package in release and passes the arguments on.

use crate::tools::{cargo, root};
use anyhow::{Context, Result};
use std::ffi::OsString;

pub fn run(args: &[OsString]) -> Result<bool> {
    let mut cargo = cargo();
    // Paths among the arguments are meant as seen by the caller.
    cargo.current_dir(std::env::current_dir().context("the current folder is gone")?);
    cargo.args(["run", "--quiet", "--release", "--package", "bench", "--manifest-path"]);
    cargo.arg(root().join("Cargo.toml")).arg("--").args(args);
    Ok(cargo.status().context("cannot start cargo")?.success())
}
