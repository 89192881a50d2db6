//! The table of test runs. `cargo xtask test` makes all of them: the first by itself, the others two at a time.
//!
//! To test a feature variant, add a line: cargo's arguments after `cargo test --no-fail-fast`. Suites that need a
//! variant name it in `required-features` or `#![cfg(feature = ..)]`, so that the other runs leave them out.

/// One `cargo test`.
pub struct Run {
    /// How the summary calls it.
    pub name: &'static str,
    /// What follows `cargo test --no-fail-fast`.
    pub args: &'static [&'static str],
    /// What follows `--`. Chooses tests; left out when the caller brings arguments, which would widen that choice.
    pub tests: &'static [&'static str],
    /// What rustc is told for the test program alone, which must be one: all it is made of stays as in other runs.
    pub flags: &'static [&'static str],
    /// Environment variables; `RUSTFLAGS` is added to the caller's.
    pub env: &'static [(&'static str, &'static str)],
    /// Folder under the build folder for runs whose flags would otherwise invalidate the main build.
    pub target: Option<&'static str>,
}

/// Rust brings a linker of its own for x86-64; elsewhere it uses the system's anyway.
const SYSTEM_LINKER: &[&str] =
    if cfg!(all(target_arch = "x86_64", target_env = "gnu")) { &["-Clinker-features=-lld"] } else { &[] };

const DEFAULT: Run = Run { name: "", args: &[], tests: &[], flags: &[], env: &[], target: None };

/// The model checker replaces atomics and threads, so only its own models run: tests with `loom` in their path. One at a
/// time, because each execution maps and unmaps its stacks: two in one process wait for each other most of the time.
const MODELS: Run = Run {
    tests: &["loom", "--test-threads=1"],
    env: &[("RUSTFLAGS", "--cfg loom")],
    target: Some("loom"),
    ..DEFAULT
};

/// Every run.
pub const RUNS: &[Run] = &[
    // Unit, integration, example and doc tests of all members.
    Run { name: "workspace", args: &["--workspace"], ..DEFAULT },
    // Gigabytes, most of the time in the kernel.
    Run { name: "huge messages", args: &["-p", "multiprocess", "--test", "huge"], ..DEFAULT },
    Run { name: "loom models", args: &["-p", "mp-core", "--release", "--lib"], ..MODELS },
    Run { name: "loom models of locks", args: &["-p", "mp-sync", "--release", "--lib"], ..MODELS },
    // Other ways to build and link: whether children are found and constructors run shows in whole programs.
    Run {
        name: "fat LTO, stripped",
        args: &["-p", "multiprocess", "--profile", "whole", "--test", "programs"],
        ..DEFAULT
    },
    Run {
        name: "64 codegen units",
        args: &["-p", "multiprocess", "--profile", "pieces", "--test", "programs"],
        ..DEFAULT
    },
    Run {
        name: "the system's linker",
        args: &["-p", "multiprocess", "--test", "programs"],
        flags: SYSTEM_LINKER,
        ..DEFAULT
    },
    // The test harness needs panics that unwind; stand-alone programs do not.
    Run {
        name: "panics that abort",
        args: &["-p", "multiprocess", "--test", "programs"],
        tests: &["the_panic_of_a_child_is_told"],
        env: &[("RUSTFLAGS", "-Cpanic=abort")],
        target: Some("abort"),
        ..DEFAULT
    },
    // Programs that call `freeze_support()` themselves, or forget to.
    Run {
        name: "without auto",
        args: &["-p", "multiprocess", "--no-default-features", "--test", "no_auto"],
        ..DEFAULT
    },
];
