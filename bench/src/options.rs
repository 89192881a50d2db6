//! The command line.

use crate::area::{AREAS, Area};
use std::path::{Path, PathBuf};

pub const USAGE: &str = "\
usage: cargo xtask bench [AREA ..] [--quick] [--only TEXT] [--out DIR] [--pin same|split]

  AREA          process, sync, shm, queue, pipe, pool, fsqueue; all of them when none is given
  --quick       3 runs of fewer samples instead of 5: a smoke test, not a measurement
  --only TEXT   only the measures with this in their name, and no other programs
  --out DIR     where results.jsonl goes (default: target/bench)
  --pin same    every process on CPU 0
  --pin split   this process on CPU 0, the others on CPU 1";

/// Where processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Wherever the kernel puts them.
    None,
    /// All on CPU 0.
    Same,
    /// Ours on CPU 0, the others on CPU 1.
    Split,
}

impl Pin {
    /// What the option is called, here and in the other programs.
    pub fn name(self) -> &'static str {
        match self {
            Pin::None => "none",
            Pin::Same => "same",
            Pin::Split => "split",
        }
    }
}

/// What to measure, how often, and where to put it.
#[derive(Debug)]
pub struct Options {
    pub areas: Vec<&'static Area>,
    pub quick: bool,
    /// What the names of measures must have in them.
    pub only: String,
    pub out: PathBuf,
    pub pin: Pin,
}

impl Options {
    /// Runs of each measure; the median counts.
    pub fn runs(&self) -> usize {
        if self.quick { 3 } else { 5 }
    }

    /// How much of the full number of samples to take.
    pub fn scale(&self) -> f64 {
        if self.quick { 0.2 } else { 1.0 }
    }

    /// `full` samples, or fewer with `--quick`.
    pub fn samples(&self, full: usize) -> usize {
        if self.quick { (full / 5).max(4) } else { full }
    }
}

/// The folder of this package.
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The build folder of the workspace.
pub fn target_dir() -> PathBuf {
    home().join("..").join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Reads the arguments; `None` asks for help.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Option<Options>, String> {
    let mut args = args.into_iter();
    let mut options = Options {
        areas: Vec::new(),
        quick: false,
        only: String::new(),
        out: target_dir().join("bench"),
        pin: Pin::None,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--only" => options.only = value()?,
            "--out" => options.out = value()?.into(),
            "--pin" => {
                options.pin = match value()?.as_str() {
                    "same" => Pin::Same,
                    "split" => Pin::Split,
                    other => return Err(format!("--pin is same or split, not {other:?}")),
                }
            }
            "--help" | "-h" => return Ok(None),
            name => match AREAS.iter().find(|a| a.name == name) {
                Some(area) => options.areas.push(area),
                None => return Err(format!("no area or option is called {name:?}")),
            },
        }
    }
    if options.areas.is_empty() {
        options.areas = AREAS.iter().collect();
    }
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Option<Options>, String> {
        parse(args.iter().map(|&a| a.to_owned()))
    }

    #[test]
    fn without_areas_all_are_measured() {
        assert_eq!(parsed(&[]).unwrap().unwrap().areas.len(), AREAS.len());
        let options = parsed(&["pool", "--quick", "--pin", "split", "--out", "/x"]).unwrap().unwrap();
        assert_eq!(options.areas.iter().map(|a| a.name).collect::<Vec<_>>(), ["pool"]);
        assert_eq!((options.runs(), options.pin, options.out), (3, Pin::Split, "/x".into()));
    }

    #[test]
    fn mistakes_are_named() {
        for (args, text) in
            [(&["pol"][..], "\"pol\""), (&["--pin", "none"], "\"none\""), (&["--out"], "--out")]
        {
            assert!(parsed(args).unwrap_err().contains(text));
        }
    }
}
