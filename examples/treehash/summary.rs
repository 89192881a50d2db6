//! The closing summary: how much, how fast, and who did it.

use std::collections::BTreeMap;
use std::time::Duration;

/// Counts files and bytes.
#[derive(Debug, Default)]
pub struct Summary {
    files: u64,
    bytes: u64,
    /// Bytes of each worker, by name.
    workers: BTreeMap<String, u64>,
}

impl Summary {
    /// Counts a file of `bytes` bytes that `worker` hashed.
    pub fn add(&mut self, bytes: u64, worker: String) {
        self.files += 1;
        self.bytes += bytes;
        *self.workers.entry(worker).or_default() += bytes;
    }

    /// The summary in words.
    pub fn text(&self, elapsed: Duration) -> String {
        let rate = self.bytes as f64 / 1e6 / elapsed.as_secs_f64().max(1e-9);
        let share = |bytes: u64| 100.0 * bytes as f64 / (self.bytes.max(1)) as f64;
        let shares: Vec<_> =
            self.workers.iter().map(|(name, bytes)| format!("{name} {:.0} %", share(*bytes))).collect();
        format!(
            "{} files, {} bytes in {:.2} s: {rate:.0} MB/s ({})",
            self.files,
            self.bytes,
            elapsed.as_secs_f64(),
            shares.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_rate() {
        let mut summary = Summary::default();
        summary.add(3_000_000, "a".into());
        summary.add(1_000_000, "b".into());
        let text = summary.text(Duration::from_secs(2));
        assert_eq!(text, "2 files, 4000000 bytes in 2.00 s: 2 MB/s (a 75 %, b 25 %)");
        assert!(Summary::default().text(Duration::ZERO).starts_with("0 files, 0 bytes"));
    }
}
