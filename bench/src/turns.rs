//! Contenders that take turns: A, B, A, B, .. set by set, each starting first as often as the others.

use crate::options::Options;
use crate::record::{Label, Sink, median, percentile};
use anyhow::{Context, Result};

/// One way of doing the work that is measured.
pub struct Contender<'a> {
    pub who: &'static str,
    pub label: Label,
    /// Takes one set of samples, in the unit of the measure, and checks what came out.
    pub set: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

impl<'a> Contender<'a> {
    pub fn new(who: &'static str, label: Label, set: impl FnMut() -> Result<Vec<f64>> + 'a) -> Self {
        Contender { who, label, set: Box::new(set) }
    }
}

/// What a set of samples is reduced to.
#[derive(Clone, Copy)]
pub enum Reduce {
    /// `MEASURE.p50` and `MEASURE.p99`.
    Percentiles,
    /// The median alone.
    Median,
}

/// Measures all contenders; one that fails is left out and does not stop the others.
pub fn take(
    options: &Options,
    sink: &mut Sink,
    measure: &str,
    unit: &str,
    reduce: Reduce,
    contenders: Vec<Contender<'_>>,
) -> Result<()> {
    take_turns(options, 1, sink, measure, unit, reduce, contenders)
}

/// As [`take`], in `times` as many turns: for what differs from moment to moment more than within a set.
pub fn take_turns(
    options: &Options,
    times: usize,
    sink: &mut Sink,
    measure: &str,
    unit: &str,
    reduce: Reduce,
    mut contenders: Vec<Contender<'_>>,
) -> Result<()> {
    if !measure.contains(&options.only) {
        return Ok(());
    }
    // One set of each warms caches and servers up and is not counted.
    let mut sets: Vec<Vec<Vec<f64>>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut failed: Vec<Option<anyhow::Error>> = contenders.iter().map(|_| None).collect();
    for run in 0..=options.runs() * times {
        for turn in 0..contenders.len() {
            let i = (run + turn) % contenders.len();
            if failed[i].is_some() {
                continue;
            }
            match (contenders[i].set)().and_then(|s| (!s.is_empty()).then_some(s).context("no samples")) {
                Ok(set) if run > 0 => sets[i].push(set),
                Ok(_) => {}
                Err(error) => failed[i] = Some(error),
            }
        }
    }
    for ((contender, sets), failed) in contenders.iter().zip(sets).zip(failed) {
        if let Some(error) = failed {
            sink.leave_out(format!("{measure} of {}: {error:#}", contender.who));
            continue;
        }
        let mut add = |name: &str, of: &dyn Fn(&[f64]) -> f64| {
            sink.add_runs(
                contender.who,
                contender.label,
                name,
                unit,
                sets.iter().map(|s| of(s)).collect(),
                true,
            )
        };
        match reduce {
            Reduce::Percentiles => {
                add(&format!("{measure}.p50"), &|s| percentile(s, 50))?;
                add(&format!("{measure}.p99"), &|s| percentile(s, 99))?;
            }
            Reduce::Median => add(measure, &median)?,
        }
    }
    Ok(())
}
