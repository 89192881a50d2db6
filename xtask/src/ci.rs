//! `cargo xtask ci`: what a change must pass. Tests run even where a lint failed, so that one go shows everything.

use anyhow::Result;

pub fn run() -> Result<bool> {
    let clean = crate::lint::run()?;
    let passed = crate::test::run(&[])?;
    if !clean {
        eprintln!("error: the lints failed, see above");
    }
    Ok(clean && passed)
}
