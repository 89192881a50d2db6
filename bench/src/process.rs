//! Starting a process that does nothing, and joining it.

use crate::options::Options;
use crate::raw::{self, Itself};
use crate::record::{Label, Sink};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Instant;

/// The limit of `spawn`.
pub const SPAWN: &str = "posix_spawn of this program, waitpid";
/// The limit of `forkserver` and `fork`.
pub const FORK: &str = "fork of a small process, waitpid";

pub fn measure(options: &Options, sink: &mut Sink) -> Result<()> {
    let n = options.samples(200);
    let noop = Itself::new(raw::NOOP)?;
    let me = std::env::current_exe().context("cannot name this program")?;
    let mut contenders = vec![
        Contender::new("limit", Label::Via(SPAWN), || samples(n, || noop.spawn_and_wait())),
        Contender::new("limit", Label::Via(FORK), || raw::forks(n)),
        Contender::new("std::process", Label::None, || {
            samples(n, || {
                let status = Command::new(&me).arg(raw::NOOP).status()?;
                ensure!(status.success(), "{status}");
                Ok(())
            })
        }),
    ];
    ours::contend(&mut contenders, n);
    turns::take(options, sink, "process.start_join", "us", Reduce::Percentiles, contenders)
}

/// Microseconds of each of `n` calls.
fn samples(n: usize, mut call: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let one = |_| {
        let start = Instant::now();
        call()?;
        Ok(start.elapsed().as_nanos() as f64 / 1e3)
    };
    (0..n).map(one).collect()
}

mod ours {
    use super::*;
    use multiprocess::Context;

    fn answer(question: u64) -> u64 {
        question + 1
    }

    pub fn contend(contenders: &mut Vec<Contender<'_>>, n: usize) {
        for (name, context) in [("spawn", Context::spawn()), ("forkserver", Context::forkserver())] {
            contenders.push(Contender::new("ours", Label::Variant(name), move || {
                let mut question = 0;
                samples(n, || {
                    question += 1;
                    let process = context.process(answer, (question,)).start()?;
                    let got: u64 = process.join()?;
                    ensure!(got == question + 1, "{name} answered {got} to {question}");
                    Ok(())
                })
            }));
        }
    }
}
