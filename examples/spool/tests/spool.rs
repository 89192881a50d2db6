//! The example does what it says.

use std::process::Command;

#[test]
fn can_24_a_database_writer_killed_on_the_way_loses_and_doubles_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_spool")).args(["3", "2000"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("6000 events of 3 writers") && text.contains("none is lost"), "{text}");
}
