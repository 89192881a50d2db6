//! `cargo xtask bench`: builds the `bench` package as a program for which speed matters is built, and passes the arguments on.

use crate::tools::{cargo, root};
use anyhow::{Context, Result};
use std::ffi::OsString;

pub fn run(args: &[OsString]) -> Result<bool> {
    let mut cargo = cargo();
    // Paths among the arguments are meant as seen by the caller.
    cargo.current_dir(std::env::current_dir().context("the current folder is gone")?);
    // Ours and what it is measured against alike.
    cargo.args(["run", "--quiet", "--profile", "whole", "--package", "bench", "--manifest-path"]);
    cargo.arg(root().join("Cargo.toml")).arg("--").args(args);
    Ok(cargo.status().context("cannot start cargo")?.success())
}
