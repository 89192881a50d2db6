//! The table of test runs. `cargo xtask test` makes all of them, in this order.
//!
//! To test a feature variant, add a line: cargo's arguments after `cargo test --no-fail-fast`. Suites that need a
//! variant name it in `required-features` or `#![cfg(feature = ..)]`, so that the other runs leave them out.

/// One `cargo test`.
pub struct Run {
    /// How the summary calls it.
    pub name: &'static str,
    /// What follows `cargo test --no-fail-fast`.
    pub args: &'static [&'static str],
    /// Environment variables; `RUSTFLAGS` is added to the caller's.
    pub env: &'static [(&'static str, &'static str)],
    /// Folder under the build folder for runs whose flags would otherwise invalidate the main build.
    pub target: Option<&'static str>,
    /// Chooses its tests by name; left out when the caller brings arguments, which would widen that choice.
    pub picks_tests: bool,
}

/// Every run.
pub const RUNS: &[Run] = &[
    // Unit, integration, example and doc tests of all members.
    Run { name: "workspace", args: &["--workspace"], env: &[], target: None, picks_tests: false },
    // The model checker replaces atomics and threads, so only its own models run: tests with `loom` in their path.
    Run {
        name: "loom models",
        args: &["-p", "mp-core", "--release", "--lib", "loom"],
        env: &[("RUSTFLAGS", "--cfg loom")],
        target: Some("loom"),
        picks_tests: true,
    },
];
