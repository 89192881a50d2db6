//! The command `fsqueue`, and other languages that read what it writes.
#![cfg(feature = "command")]

mod common;

use common::{Scratch, segments};
use mp_fsqueue::FsQueue;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn fsqueue(words: &[&str], input: &str, scratch: &Scratch) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fsqueue"));
    command.arg(words[0]).arg(scratch.queue()).args(&words[1..]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn shell_scripts_put_and_get() {
    let scratch = Scratch::new();
    let run = |words: &[&str], input: &str| fsqueue(words, input, &scratch);
    assert!(!run(&["get"], "").status.success(), "there is nothing");
    let items = [json!({"id": 7, "tags": ["a", null, 1.5]}), json!("text"), json!(-3)];
    let text = items.iter().map(|i| format!("{i}\n")).collect::<String>();
    assert!(run(&["put", "--durable"], &text).status.success());
    let listed = lines(&run(&["ls"], ""));
    assert_eq!(listed.iter().map(|l| &l["item"]).collect::<Vec<_>>(), items.iter().collect::<Vec<_>>());
    assert!(listed[0]["id"].as_str().unwrap().ends_with("-0"));
    assert_eq!(lines(&run(&["ls", "-n", "1"], "")).len(), 1);
    assert_eq!(lines(&run(&["get", "--timeout", "5"], "")), items[..1]);
    let stats = lines(&run(&["stats"], "")).remove(0);
    assert_eq!((&stats["waiting"], &stats["acknowledged"]), (&json!(2), &json!(1)));
    assert_eq!(lines(&run(&["watch", "-n", "1"], ""))[0]["waiting"], 2);
    assert_eq!(lines(&run(&["drain"], "")), items[1..]);
    assert_eq!(lines(&run(&["requeue", "--failed"], "")), [json!({"returned": 0, "retried": 0})]);
    assert!(run(&["check"], "").status.success());
    std::fs::write(scratch.queue().join("junk"), "").unwrap();
    let check = run(&["check"], "");
    assert!(!check.status.success() && lines(&check)[0]["path"].as_str().unwrap().ends_with("junk"));
    let bad = run(&["put"], "1\nnonsense\n");
    assert!(!bad.status.success() && String::from_utf8_lossy(&bad.stderr).contains("line 2"));
    assert_eq!(lines(&run(&["get"], "")), [json!(1)]);
    assert_eq!(
        Command::new(env!("CARGO_BIN_EXE_fsqueue")).arg("dance").output().unwrap().status.code(),
        Some(2)
    );
}

#[test]
fn an_item_that_cannot_be_printed_stays() {
    let scratch = Scratch::new();
    fsqueue(&["put"], "1\n2\n", &scratch);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fsqueue"));
    let output = command.arg("drain").arg(scratch.queue()).stdout(full).output().unwrap();
    assert!(!output.status.success() && !output.stderr.is_empty());
    assert_eq!(lines(&fsqueue(&["drain"], "", &scratch)), [json!(1), json!(2)]);
}

#[derive(Serialize, Deserialize)]
struct Event {
    name: String,
    at: f64,
    data: Vec<i32>,
    none: Option<u8>,
}

#[test]
fn can_20_python_reads_the_format() {
    let scratch = Scratch::new();
    let q = FsQueue::<Event>::builder().named_fields(true).open(scratch.queue()).unwrap();
    let event =
        |i: i32| Event { name: format!("event {i} \u{e9}"), at: 0.5, data: vec![i, -i, 1 << i], none: None };
    (0..30).for_each(|i| q.put(&event(i)).unwrap());
    (0..3).for_each(|_| drop(q.get().unwrap()));
    q.receive(2).unwrap().into_iter().for_each(|c| drop(c.fail("not today").unwrap()));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_queue.py");
    let python = match Command::new("python3").arg("-B").arg(script).arg(scratch.queue()).output() {
        Ok(output) => output,
        Err(e) => return eprintln!("no python3 here: {e}"),
    };
    let found = lines(&python);
    assert!(python.status.success());
    let expected = |i| serde_json::to_value(event(i)).unwrap();
    assert_eq!(found.len(), 27);
    for (line, i) in found.iter().zip(5..30) {
        assert_eq!((&line["item"], &line["sequence"]), (&expected(i), &json!(i)));
    }
    for (line, i) in found[25..].iter().zip(3..5) {
        assert_eq!((&line["failed"], &line["reason"]), (&expected(i), &json!("not today")));
    }
    assert_eq!(segments(&scratch.queue()).len(), 1);
}
