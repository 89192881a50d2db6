//! The table: ours beside the limit, Python and the best Rust peer, with ratios.

use crate::area::{Goal, Row};
use crate::options::{Options, Pin};
use crate::record::{Record, Sink};

const HEAD: [&str; 11] =
    ["measure", "unit", "ours", "limit", "x limit", "python", "x python", "peer", "x peer", "goal", "met"];

pub fn print(options: &Options, sink: &Sink) {
    let rows = options.areas.iter().flat_map(|a| a.rows);
    let lines: Vec<[String; 11]> = rows.clone().map(|row| line(row, options.pin, &sink.records)).collect();
    let width =
        |i: usize| lines.iter().map(|l| l[i].chars().count()).chain([HEAD[i].len()]).max().unwrap_or(0);
    let widths: [usize; 11] = std::array::from_fn(width);
    println!();
    print_line(&HEAD.map(str::to_owned), &widths);
    lines.iter().for_each(|l| print_line(l, &widths));
    println!(
        "\nx: ours takes so many times as long; below 1 ours is faster. Medians of {} runs or more; where runs stood side by side, \
         x is the median of their ratios.",
        options.runs()
    );
    for row in rows {
        for (what, record) in [("limit", limit(row, &sink.records)), ("python", python(row, &sink.records))] {
            if let Some(record) = record {
                println!("{what} of {}: {}", title(row), source(record));
            }
        }
    }
    for row in options.areas.iter().flat_map(|a| a.rows) {
        let peers = peers(row, &sink.records);
        if !peers.is_empty() {
            println!("peers of {}: {}", title(row), peers.join("; "));
        }
    }
    sink.left_out.iter().for_each(|what| println!("left out: {what}"));
    println!("results: {}", options.out.join("results.jsonl").display());
}

fn print_line(cells: &[String; 11], widths: &[usize; 11]) {
    let mut line = format!("{:<1$}", cells[0], widths[0]);
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        line += &format!("  {cell:>width$}");
    }
    println!("{}", line.trim_end());
}

fn title(row: &Row) -> String {
    match row.variant {
        Some(variant) => format!("{} {variant}", row.measure),
        None => row.measure.to_owned(),
    }
}

fn line(row: &Row, pin: Pin, records: &[Record]) -> [String; 11] {
    let ours = records.iter().find(|r| r.who == "ours" && row.is_ours(r));
    let (limit, python) = (limit(row, records), python(row, records));
    let peer = peer(row, records);
    let value = |r: Option<&Record>| r.map_or("-".to_owned(), |r| number(r.value));
    let ratio = |other: Option<&Record>| match (ours, other) {
        (Some(ours), Some(other)) => format!("{:.2}", ours.slower_than(other)),
        _ => "-".to_owned(),
    };
    let (goal, met) = match row.goal.with(pin) {
        Goal::None | Goal::Placed { .. } => (String::new(), None),
        Goal::Limit(x) => {
            (format!("<= {}x limit", short(x)), ours.zip(limit).map(|(o, l)| o.slower_than(l) <= x))
        }
        Goal::Value(v) => (format!("<= {v}"), ours.map(|o| o.value <= v)),
        Goal::Rate(v) => (format!(">= {v}"), ours.map(|o| o.value >= v)),
        Goal::Python(x) => {
            (format!("<= {x:.3}x python"), ours.zip(python).map(|(o, p)| o.slower_than(p) <= x))
        }
        Goal::RateAndLimit(v, x) => (
            format!(">= {v}, <= {}x limit", short(x)),
            ours.zip(limit).map(|(o, l)| o.value >= v && o.slower_than(l) <= x),
        ),
        Goal::LimitAndPython(x, y) => (
            format!("<= {x:.3}x limit, {y:.3}x python"),
            ours.zip(limit).zip(python).map(|((o, l), p)| o.slower_than(l) <= x && o.slower_than(p) <= y),
        ),
    };
    let unit = [ours, limit, python].into_iter().flatten().map(|r| r.unit.clone()).next().unwrap_or_default();
    [
        title(row),
        unit,
        value(ours),
        value(limit),
        ratio(limit),
        value(python),
        ratio(python),
        peer.map_or("-".to_owned(), |p| format!("{} {}", number(p.value), p.who)),
        ratio(peer),
        goal,
        met.map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
    ]
}

fn peer<'a>(row: &Row, records: &'a [Record]) -> Option<&'a Record> {
    best(records.iter().filter(|r| r.measure == row.measure && !is_ground(r)))
}

/// All of them, the fastest first, each with how many times as long ours takes.
fn peers(row: &Row, records: &[Record]) -> Vec<String> {
    let ours = records.iter().find(|r| r.who == "ours" && row.is_ours(r));
    let mut peers: Vec<&Record> =
        records.iter().filter(|r| r.measure == row.measure && !is_ground(r)).collect();
    peers.sort_by(|a, b| if a.is_rate() { b.value.total_cmp(&a.value) } else { a.value.total_cmp(&b.value) });
    let show = |peer: &&Record| {
        let ratio = ours.map_or(String::new(), |ours| format!(" (x {:.2})", ours.slower_than(peer)));
        format!("{} {}{ratio}", source(peer), number(peer.value))
    };
    peers.iter().map(show).collect()
}

fn is_ground(record: &Record) -> bool {
    matches!(record.who.as_str(), "ours" | "limit" | "python")
}

fn limit<'a>(row: &Row, records: &'a [Record]) -> Option<&'a Record> {
    best(records.iter().filter(|r| {
        r.who == "limit" && r.measure == row.measure && row.limit.is_none_or(|v| r.via.as_deref() == Some(v))
    }))
}

fn python<'a>(row: &Row, records: &'a [Record]) -> Option<&'a Record> {
    best(records.iter().filter(|r| {
        r.who == "python"
            && r.measure == row.measure
            && row.python.is_none_or(|m| r.start_method.as_deref() == Some(m))
    }))
}

/// The fastest.
fn best<'a>(records: impl Iterator<Item = &'a Record>) -> Option<&'a Record> {
    records.min_by(|a, b| if a.is_rate() { b.value.total_cmp(&a.value) } else { a.value.total_cmp(&b.value) })
}

fn source(record: &Record) -> String {
    let who = (!is_ground(record)).then(|| record.who.clone());
    let parts = [&who, &record.via, &record.module, &record.start_method];
    parts.into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
}

/// Three decimals at most.
fn short(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}

/// Four significant digits or so.
fn number(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(who: &str, via: Option<&str>, value: f64) -> Record {
        let via = via.map(str::to_owned);
        Record { who: who.into(), measure: "m".into(), unit: "us".into(), value, via, ..Record::default() }
    }

    #[test]
    fn a_row_compares_with_the_named_limit_or_the_best() {
        let records = [
            record("limit", Some("slow"), 4.0),
            record("limit", Some("fast"), 1.0),
            record("ours", None, 2.0),
            record("peer", None, 8.0),
        ];
        let mut row = Row { measure: "m", variant: None, limit: None, python: None, goal: Goal::Limit(1.3) };
        assert_eq!(
            line(&row, Pin::None, &records)[2..].join(" "),
            "2.000 1.000 2.00 - - 8.000 peer 0.25 <= 1.3x limit NO"
        );
        row.limit = Some("slow");
        assert_eq!(line(&row, Pin::None, &records)[4], "0.50");
        assert_eq!(line(&row, Pin::None, &records)[10], "yes");
    }

    #[test]
    fn goals_depend_on_the_placement() {
        let records = [record("limit", None, 1.0), record("ours", None, 1.4)];
        let goal =
            Goal::Placed { free: &Goal::None, same: &Goal::Limit(1.3), split: &Goal::RateAndLimit(1.0, 1.5) };
        let row = Row { measure: "m", variant: None, limit: None, python: None, goal };
        let shown = |pin| line(&row, pin, &records)[9..].join("; ");
        assert_eq!(
            [Pin::None, Pin::Same, Pin::Split].map(shown),
            ["; ", "<= 1.3x limit; NO", ">= 1, <= 1.5x limit; yes"]
        );
    }

    #[test]
    fn all_peers_are_listed() {
        let mut records =
            [record("ours", None, 2.0), record("slow", None, 8.0), record("fast", Some("way"), 1.0)];
        let row = Row { measure: "m", variant: None, limit: None, python: None, goal: Goal::None };
        assert_eq!(peers(&row, &records), ["fast, way 1.000 (x 2.00)", "slow 8.000 (x 0.25)"]);
        records.iter_mut().for_each(|record| record.unit = "msg/s".into());
        assert_eq!(peers(&row, &records), ["slow 8.000 (x 4.00)", "fast, way 1.000 (x 0.50)"]);
    }

    #[test]
    fn what_was_not_measured_shows_as_a_dash() {
        let row = Row { measure: "m", variant: None, limit: None, python: None, goal: Goal::Value(1.0) };
        assert_eq!(line(&row, Pin::None, &[])[1..].join(" "), " - - - - - - - <= 1 ");
    }
}
