//! What does not compile, and what the compiler says about it.
//!
//! That a closure captures something shows only when code is generated for it, so the programs are built and not merely
//! checked: the one that passes makes `trybuild` do so.

#[test]
fn what_cannot_work_does_not_compile() {
    let programs = trybuild::TestCases::new();
    programs.pass("tests/compile_fail/passes.rs");
    programs.compile_fail("tests/compile_fail/captures.rs");
    programs.compile_fail("tests/compile_fail/unstarted.rs");
    programs.compile_fail("tests/compile_fail/daemon_after_start.rs");
    programs.compile_fail("tests/compile_fail/wrong_arguments.rs");
    // VAL-06
    programs.compile_fail("tests/compile_fail/no_lock.rs");
    programs.compile_fail("tests/compile_fail/locked_twice.rs");
}
