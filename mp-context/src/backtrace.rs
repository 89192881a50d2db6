//! The part of a stack that its reader wrote.

/// Cuts the frames of the panic itself off the top of `backtrace`, and those of this library off its bottom.
///
/// What cannot be told apart, as in a program without symbols, stays whole.
pub(crate) fn trim(backtrace: &str) -> String {
    let frames = frames(backtrace);
    const PANIC: [&str; 3] = ["rust_begin_unwind", "core::panicking::", "std::panicking::begin_panic"];
    let is_panic = |frame: &&str| {
        let symbol = frame.lines().next().unwrap_or_default();
        PANIC.iter().any(|part| symbol.contains(part))
    };
    let top = frames.iter().rposition(is_panic).map_or(0, |last| last + 1);
    // By its symbol, or by its file where the symbol was inlined.
    let is_call = |frame: &&str| {
        frame.contains("mp_core::function") || (frame.contains("mp-core") && frame.contains("/function/"))
    };
    let bottom = frames[top..].iter().position(is_call).map_or(frames.len(), |count| top + count);
    let kept = &frames[top..bottom];
    if kept.is_empty() { backtrace.to_owned() } else { kept.concat() }
}

/// The frames, each with the lines that belong to it.
fn frames(backtrace: &str) -> Vec<&str> {
    let begins =
        |line: &str| line.split_once(": ").is_some_and(|(number, _)| number.trim().parse::<u32>().is_ok());
    let mut starts = Vec::new();
    let mut position = 0;
    for line in backtrace.split_inclusive('\n') {
        if begins(line) {
            starts.push(position);
        }
        position += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([backtrace.len()]);
    starts.iter().zip(ends).map(|(start, end)| &backtrace[*start..end]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "   0: __rustc::rust_begin_unwind
             at /rustc/library/std/src/panicking.rs:689:5
   1: core::panicking::panic_fmt
             at /rustc/library/core/src/panicking.rs:80:14
   2: program::deep
             at ./src/main.rs:3:5
   3: program::work
             at ./src/main.rs:7:5
   4: call<program::work, u8>
             at /registry/mp-core-0.1.0/src/function/arguments.rs:63:17
   5: _start
";

    #[test]
    fn the_frames_of_the_reader_stay() {
        let trimmed = trim(WHOLE);
        assert!(trimmed.starts_with("   2: program::deep"), "{trimmed}");
        assert!(trimmed.ends_with("./src/main.rs:7:5\n"), "{trimmed}");
    }

    #[test]
    fn what_is_not_understood_stays_whole() {
        for text in ["", "disabled backtrace", "   0: <unknown>\n   1: <unknown>\n"] {
            assert_eq!(trim(text), text);
        }
    }
}
