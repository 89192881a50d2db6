//! Looking inside: counts, problems, and the items that wait. Nothing here changes a queue.

use crate::cursor::{Cursor, Fill};
use crate::error::{ItemId, Result};
use crate::failed;
use crate::record::{self, Parsed};
use crate::segment::{self, START};
use crate::side::{Side, Undecodable, item_id};
use crate::state::Span;
use crate::sys::{self, File};
use rustix::fs::OFlags;
use serde::Serialize;
use std::path::PathBuf;

/// Counts of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Items that wait.
    pub waiting: u64,
    /// Bytes that they take.
    pub waiting_bytes: u64,
    /// Items that are worked on.
    pub claimed: u64,
    /// Items in the quarantine.
    pub in_quarantine: u64,
    /// Items that `get` gave out, so far.
    pub taken: u64,
    /// Claims that were acknowledged, so far.
    pub acknowledged: u64,
    /// Items that were moved to the quarantine, so far.
    pub failed: u64,
    /// Items that were given back, so far, by their consumers or after their death.
    pub returned: u64,
    /// Bytes that writers left unfinished when they died, so far.
    pub torn_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Segment files whose writer lives.
    pub writers: u64,
    /// Consumers that work on items.
    pub consumers: u64,
    /// Entries of the journal that cannot be read.
    pub damaged_entries: u64,
    /// Segments that cannot be read, and why.
    pub unreadable: Vec<String>,
    /// Files that do not belong there.
    pub foreign: Vec<PathBuf>,
    /// Why items are in the quarantine: reasons with how many.
    pub reasons: Vec<(String, u64)>,
}

pub(crate) fn gather(side: &mut Side) -> Result<Stats> {
    let mut unreadable = Vec::new();
    let waiting = match side.waiting() {
        Ok(waiting) => waiting,
        Err(e) => {
            unreadable.push(e.to_string());
            Default::default()
        }
    };
    let failed = failed::list(&side.layout)?;
    let state = &side.ledger.state;
    let mut stats = Stats {
        waiting: waiting.items,
        waiting_bytes: waiting.bytes,
        claimed: state.segments.values().map(|s| s.claimed_items()).sum(),
        in_quarantine: failed.len() as u64,
        taken: state.totals.taken,
        acknowledged: state.totals.acknowledged,
        failed: state.totals.failed,
        returned: state.totals.returned,
        torn_bytes: state.totals.torn,
        segments: state.segments.len() as u64,
        consumers: state.consumers().len() as u64,
        damaged_entries: side.ledger.damaged,
        unreadable,
        foreign: foreign(side)?,
        ..Stats::default()
    };
    for id in state.segments.keys() {
        match File::find(&side.layout.segment(*id), OFlags::RDONLY) {
            Ok(Some(file)) => stats.writers += u64::from(file.is_locked()?),
            Ok(None) => stats.unreadable.push(format!("{} is missing", id.name())),
            Err(e) => stats.unreadable.push(e.to_string()),
        }
    }
    let mut reasons = std::collections::BTreeMap::<_, u64>::new();
    failed.into_iter().for_each(|(_, f)| *reasons.entry(f.reason).or_default() += 1);
    stats.reasons = reasons.into_iter().collect();
    Ok(stats)
}

/// Files that this crate would not have made.
fn foreign(side: &Side) -> Result<Vec<PathBuf>> {
    let layout = &side.layout;
    let known = ["lock", "journal", "journal.new", "segments", "consumers", "failed"];
    let mut found = Vec::new();
    for name in sys::list(&layout.root)? {
        if !name.to_str().is_some_and(|n| known.contains(&n)) {
            found.push(layout.root.join(name));
        }
    }
    for name in sys::list(&layout.segments())? {
        let path = layout.segments().join(&name);
        let ours = segment::id_of(&path).is_some_and(|id| side.ledger.state.segments.contains_key(&id));
        if !ours && name != "bell" {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Something that is wrong with a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

pub(crate) fn check(side: &mut Side) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let mut tell = |path: PathBuf, offset, what: String| problems.push(Problem { path, offset, what });
    for path in foreign(side)? {
        tell(path, 0, "does not belong here".to_owned());
    }
    if side.ledger.damaged > 0 {
        tell(side.layout.journal(), 0, format!("{} entries cannot be read", side.ledger.damaged));
    }
    for (&id, state) in &side.ledger.state.segments {
        let path = side.layout.segment(id);
        let bytes = match failed::read(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                tell(path, 0, "is missing".to_owned());
                continue;
            }
            Err(e) => {
                tell(path, 0, e.to_string());
                continue;
            }
        };
        let seed = record::seed(id.writer, id.number);
        if bytes.get(..START as usize).and_then(|h| segment::read_header(h, id)).is_none() {
            tell(path.clone(), 0, "the header is damaged".to_owned());
        }
        // What was given out is of no interest any more.
        let first = state.ready.values().map(|s| s.offset).min().unwrap_or(state.next_offset);
        let mut at = first.min(state.next_offset) as usize;
        while at < bytes.len() {
            let skip = match record::parse(&bytes[at..], seed) {
                Parsed::Whole(head) => {
                    at += head.total;
                    continue;
                }
                Parsed::Short(_) => {
                    tell(path.clone(), at as u64, "ends within a record".to_owned());
                    break;
                }
                Parsed::BadBody(head) => head.total,
                Parsed::Bad => record::find_next(&bytes[at..], seed, 0).map_or(bytes.len() - at, |f| f.0),
            };
            tell(path.clone(), at as u64, format!("{skip} bytes are damaged"));
            at += skip;
        }
    }
    Ok(problems)
}

/// Reads waiting items without taking them.
pub(crate) fn peek<T>(
    side: &mut Side,
    limit: usize,
    decode: &mut dyn FnMut(&[u8]) -> Result<T, Undecodable>,
) -> Result<Vec<(ItemId, T)>> {
    let mut found = Vec::new();
    for (&id, state) in &side.ledger.state.segments {
        let Some(file) = File::find(&side.layout.segment(id), OFlags::RDONLY)? else { continue };
        let mut spans = state.ready.values().copied().collect::<Vec<_>>();
        if !state.ended {
            let (first, offset) = (state.next, state.next_offset);
            spans.push(Span { first, end: u64::MAX, offset, end_offset: u64::MAX });
        }
        for span in spans {
            let mut cursor = Cursor::new(span, record::seed(id.writer, id.number), 64 << 10);
            while found.len() < limit && cursor.span().first < span.end {
                match cursor.fill(&file, true)? {
                    Fill::Item { .. } => {}
                    Fill::Nothing => break,
                    Fill::Damage(bad, _) => {
                        cursor.align(Span { first: bad.end, offset: bad.end_offset, ..span });
                        continue;
                    }
                }
                if let Some((at, body)) = cursor.item()
                    && let Ok(value) = decode(body)
                {
                    found.push((item_id(id, at.end - 1), value));
                }
                cursor.advance();
            }
        }
    }
    Ok(found)
}
