//! The command line: `treehash DIR.. [--workers N] [--start-method M] [--quiet]`.

use multiprocess::{StartMethod, cpu_count};
use std::ffi::OsString;
use std::path::PathBuf;

pub const USAGE: &str = "\
usage: treehash DIR.. [--workers N] [--start-method spawn|forkserver|fork] [--quiet]

Prints the SHA-256 of every regular file below each DIR, as `sha256sum` does, sorted by path.

  --workers N         worker processes (default: one for each CPU)
  --start-method M    how they are started (default: forkserver)
  --quiet             no summary on standard error";

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    pub dirs: Vec<PathBuf>,
    pub workers: usize,
    pub start_method: StartMethod,
    pub quiet: bool,
}

/// Reads the arguments that follow the program's name; `None` asks for help, an error says what is wrong.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Option<Args>, String> {
    let mut args = args.into_iter();
    let mut parsed =
        Args { dirs: Vec::new(), workers: cpu_count(), start_method: StartMethod::ForkServer, quiet: false };
    let mut options_over = false;
    while let Some(arg) = args.next() {
        // Only options must be text; a folder may have any name.
        let option = arg.to_str().filter(|a| !options_over && a.len() > 1 && a.starts_with('-'));
        let Some(option) = option else {
            parsed.dirs.push(arg.into());
            continue;
        };
        let (name, inline) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let mut value = || match inline.clone().or_else(|| args.next()?.into_string().ok()) {
            Some(value) => Ok(value),
            None => Err(format!("{name} needs a value")),
        };
        match name {
            "--workers" => parsed.workers = workers(&value()?)?,
            "--start-method" => parsed.start_method = start_method(&value()?)?,
            _ if inline.is_some() => return Err(format!("unknown option {option}")),
            "--quiet" => parsed.quiet = true,
            "--help" | "-h" => return Ok(None),
            "--" => options_over = true,
            _ => return Err(format!("unknown option {option}")),
        }
    }
    if parsed.dirs.is_empty() {
        return Err("no DIR given".to_owned());
    }
    Ok(Some(parsed))
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..) => Ok(n),
        _ => Err(format!("--workers takes a whole number of at least 1, not {text:?}")),
    }
}

fn start_method(text: &str) -> Result<StartMethod, String> {
    text.parse().map_err(|_| format!("--start-method is spawn, forkserver or fork, not {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn parsed(args: &[&str]) -> Result<Option<Args>, String> {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn options_may_stand_anywhere_and_carry_values_both_ways() {
        let want = Args {
            dirs: vec!["a".into(), "b".into()],
            workers: 3,
            start_method: StartMethod::Spawn,
            quiet: true,
        };
        assert_eq!(parsed(&["a", "--workers", "3", "--start-method=spawn", "b", "--quiet"]), Ok(Some(want)));
    }

    #[test]
    fn folders_need_not_be_text_and_may_look_like_options() {
        let odd = OsString::from_vec(b"\xff".to_vec());
        let args = parse([odd.clone(), "--".into(), "--quiet".into(), "-".into()]).unwrap().unwrap();
        assert_eq!(args.dirs, [PathBuf::from(odd), "--quiet".into(), "-".into()]);
        assert!(!args.quiet);
    }

    #[test]
    fn mistakes_are_named() {
        for (args, text) in [
            (&[][..], "no DIR"),
            (&["."; 0], "no DIR"),
            (&[".", "--workers"], "--workers needs a value"),
            (&[".", "--workers", "0"], "\"0\""),
            (&[".", "--workers=x"], "\"x\""),
            (&[".", "--start-method", "thread"], "\"thread\""),
            (&[".", "--wrokers", "2"], "--wrokers"),
            (&[".", "--quiet=yes"], "--quiet=yes"),
        ] {
            let error = parsed(args).unwrap_err();
            assert!(error.contains(text), "{args:?}: {error}");
        }
        assert_eq!(parsed(&["--help"]), Ok(None));
    }
}
