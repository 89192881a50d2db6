//! `cargo xtask lint`: formatting, clippy in each feature variant, rustdoc; warnings are errors.

use crate::tools::cargo;
use anyhow::{Context, Result};

/// One check: cargo's arguments and the environment it needs.
struct Check {
    name: &'static str,
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
}

const CHECKS: &[Check] = &[
    Check { name: "format", args: &["fmt", "--all", "--check"], env: &[] },
    Check {
        name: "clippy",
        // Tests that have a run of their own are named, as `--all-targets` leaves them out.
        args: &["clippy", "--workspace", "--all-targets", "--test", "huge", "--", "-D", "warnings"],
        env: &[],
    },
    Check {
        name: "clippy, no features",
        args: &[
            "clippy",
            "-p",
            "multiprocess",
            "--no-default-features",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        env: &[],
    },
    Check {
        name: "rustdoc",
        args: &["doc", "--workspace", "--no-deps"],
        env: &[("RUSTDOCFLAGS", "-D warnings")],
    },
];

pub fn run() -> Result<bool> {
    let mut failed = Vec::new();
    for check in CHECKS {
        eprintln!("== {}: cargo {}", check.name, check.args.join(" "));
        let mut cargo = cargo();
        cargo.args(check.args).envs(check.env.iter().copied());
        if !cargo.status().with_context(|| format!("cannot start cargo {}", check.args[0]))?.success() {
            failed.push(check.name);
        }
    }
    if !failed.is_empty() {
        eprintln!("lint failed: {}", failed.join("; "));
    }
    Ok(failed.is_empty())
}
