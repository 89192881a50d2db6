//! Results: one JSON object a line, in the form that the Python scripts and the limits probe print too.

use crate::options::{Options, Pin};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;

/// One measure of one contender.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// `ours`, `python`, `limit`, or the name of a Rust peer.
    #[serde(rename = "impl")]
    pub who: String,
    pub measure: String,
    #[serde(default)]
    pub unit: String,
    /// The median of the runs.
    #[serde(default)]
    pub value: f64,
    #[serde(default)]
    pub min: f64,
    #[serde(default)]
    pub max: f64,
    #[serde(default)]
    pub runs: Vec<f64>,
    /// Each run stood beside the same run of the other contenders.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_turns: bool,
    /// Ours: which way of doing it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Limits: which means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Python: which module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Python: how its processes start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_method: Option<String>,
    /// Where processes ran, unless the kernel was free to choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// The measure failed, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Record {
    /// Whether larger values are better.
    pub fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }

    /// How many times slower this is than `other`; rates count by their inverse. Of runs that stood side by side, the median
    /// of their ratios: a machine that is slower for some seconds is so for both.
    pub fn slower_than(&self, other: &Record) -> f64 {
        let ratio = |mine: f64, other: f64| if self.is_rate() { other / mine } else { mine / other };
        if self.in_turns && other.in_turns && self.runs.len() == other.runs.len() {
            let pairs = self.runs.iter().zip(&other.runs);
            return median(&pairs.map(|(mine, other)| ratio(*mine, *other)).collect::<Vec<_>>());
        }
        ratio(self.value, other.value)
    }
}

/// The median; of an even number, the mean of the two in the middle.
pub fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, half) if n % 2 == 1 => sorted[half],
        (_, half) => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

/// The `percent`-th percentile: the smallest sample that so many percent do not exceed.
pub fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Where results go: the file, and memory for the table.
pub struct Sink {
    file: File,
    pin: Pin,
    pub records: Vec<Record>,
    /// What could not be measured, and why.
    pub left_out: Vec<String>,
}

impl Sink {
    pub fn create(options: &Options) -> Result<Sink> {
        let path = options.out.join("results.jsonl");
        std::fs::create_dir_all(&options.out)
            .with_context(|| format!("cannot create {}", options.out.display()))?;
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Sink { file, pin: options.pin, records: Vec::new(), left_out: Vec::new() })
    }

    /// Keeps a result of this program.
    pub fn add(&mut self, who: &str, label: Label, measure: &str, unit: &str, runs: Vec<f64>) -> Result<()> {
        self.add_runs(who, label, measure, unit, runs, false)
    }

    /// As [`add`](Self::add); with `in_turns`, each run stood beside the same run of the other contenders.
    pub fn add_runs(
        &mut self,
        who: &str,
        label: Label,
        measure: &str,
        unit: &str,
        runs: Vec<f64>,
        in_turns: bool,
    ) -> Result<()> {
        let mut record = Record {
            who: who.to_owned(),
            measure: measure.to_owned(),
            unit: unit.to_owned(),
            value: median(&runs),
            min: runs.iter().copied().fold(f64::INFINITY, f64::min),
            max: runs.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs,
            in_turns,
            pin: (self.pin != Pin::None).then(|| self.pin.name().to_owned()),
            ..Record::default()
        };
        match label {
            Label::None => {}
            Label::Variant(v) => record.variant = Some(v.to_owned()),
            Label::Via(v) => record.via = Some(v.to_owned()),
        }
        writeln!(self.file, "{}", serde_json::to_string(&record)?).context("cannot write the results")?;
        self.keep(record);
        Ok(())
    }

    /// Keeps a line that another program printed, as it is.
    pub fn add_line(&mut self, line: &str) -> Result<()> {
        let record = serde_json::from_str(line).with_context(|| format!("not a result: {line}"))?;
        writeln!(self.file, "{line}").context("cannot write the results")?;
        self.keep(record);
        Ok(())
    }

    pub fn leave_out(&mut self, what: String) {
        eprintln!("left out: {what}");
        self.left_out.push(what);
    }

    fn keep(&mut self, record: Record) {
        match &record.error {
            Some(error) => {
                let module = record.module.as_deref().unwrap_or(&record.who);
                self.leave_out(format!("{} of {module}: {error}", record.measure));
            }
            None => self.records.push(record),
        }
    }
}

/// What tells two records of the same contender and measure apart.
#[derive(Clone, Copy)]
pub enum Label {
    None,
    Variant(&'static str),
    Via(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (50.0, 99.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
    }

    #[test]
    fn lines_of_all_programs_can_be_read() {
        let python = r#"{"impl": "python", "module": "multiprocessing", "version": "3.11", "start_method": "fork",
            "measure": "m", "unit": "us", "value": 1.5, "min": 1, "max": 2, "runs": [1, 1.5, 2], "samples": 3}"#;
        let limit = r#"{"impl": "limit", "via": "fork", "measure": "m", "unit": "us", "value": 1.0, "min": 1.000,
            "max": 1.000, "runs": [1.000]}"#;
        let failed = r#"{"impl": "python", "module": "x", "measure": "m", "error": "E: no"}"#;
        let [python, limit, failed] =
            [python, limit, failed].map(|l| serde_json::from_str::<Record>(l).unwrap());
        assert_eq!(python.slower_than(&limit), 1.5);
        assert_eq!(failed.error.as_deref(), Some("E: no"));
    }

    #[test]
    fn ratios_of_rates_are_turned_round() {
        let of = |value| Record { unit: "msg/s".to_owned(), value, ..Record::default() };
        assert_eq!(of(50.0).slower_than(&of(100.0)), 2.0);
    }

    #[test]
    fn runs_side_by_side_are_compared_with_each_other() {
        let of = |runs: [f64; 3], in_turns| Record {
            unit: "us".to_owned(),
            value: median(&runs),
            runs: runs.to_vec(),
            in_turns,
            ..Record::default()
        };
        // The machine was slow in one run of both: 1.5, 1.2 and 1.1 times as long.
        let (mine, other) = ([9.0, 12.0, 6.6], [6.0, 10.0, 6.0]);
        assert_eq!(of(mine, true).slower_than(&of(other, true)), 1.2);
        assert_eq!(of(mine, true).slower_than(&of(other, false)), 1.5);
    }
}
