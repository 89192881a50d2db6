//! Who holds how many handles: so that the counts of a process that died are given back.
//!
//! # Design
//!
//! A chunk has a slot for each of a number of processes other than its owner, and for each slot a tally of every block:
//! how much of the block's count belongs to that process. A process takes a slot with the first handle that it gets to the
//! chunk, and keeps it for life. If all slots are in use it goes without, and what it holds when it dies is lost.
//!
//! | state             | who writes                  | when                                               |
//! |-------------------|-----------------------------|----------------------------------------------------|
//! | slot 0 to process | that process                | its first handle                                   |
//! | tally             | that process                | after a count went up, before a count goes down    |
//! | slot, process dead| who takes it over           | the owner, to give back; a process that needs one  |
//! | tally, taken over | who took it over            | to 0, then the count goes down by as much          |
//! | slot to 0         | the owner                   | when all tallies are given back                    |
//!
//! A tally is never more than what is in the count for its process: a kill between the two writes loses one count, and
//! never gives back what somebody still needs. One compare-and-swap makes a dead process's slot somebody else's, so that
//! it is given back once; if that one dies halfway, what is left in the tallies is still owed, and is given back with its
//! own. A count that travels in a message is in nobody's tally.
//!
//! The tallies are sparse: a process reserves each page of them before it first writes there, and nobody reads a page
//! without asking the kernel which pages there are, so no access can fail for want of memory.

use std::ops::Range;

use rustix::fs::{SeekFrom, seek};

use super::chunk::IMMORTAL;
use crate::futex::{AtomicU32, AtomicU64, Ordering::*};
use crate::liveness::ProcessId;
use crate::segment::Segment;

/// How many processes besides the owner are accounted for.
pub(super) const SLOTS: usize = 64;

/// Bits of a pid; the kernel gives no longer ones.
const PID_BITS: u32 = 22;

/// A process in one word, so that it is there or not; never 0.
pub(super) fn word(process: ProcessId) -> u64 {
    process.start_time() << PID_BITS | u64::from(process.pid())
}

/// Whether the process of a word is still there.
pub(super) fn is_alive(word: u64) -> bool {
    ProcessId::from_parts(word as u32 & ((1 << PID_BITS) - 1), word >> PID_BITS).is_alive()
}

/// The slot of the process `me`: the one that it has, or a free one, or one whose process is dead, in which case what
/// that one held is given back first by `settle`.
pub(super) fn claim(
    slots: &[AtomicU64],
    me: u64,
    mut is_alive: impl FnMut(u64) -> bool,
    settle: impl FnOnce(usize),
) -> Option<usize> {
    let taken = |slot: &AtomicU64, from| slot.compare_exchange(from, me, AcqRel, Relaxed).is_ok();
    let own = slots.iter().position(|slot| slot.load(Relaxed) == me);
    if let Some(slot) =
        own.or_else(|| slots.iter().position(|slot| slot.load(Relaxed) == 0 && taken(slot, 0)))
    {
        return Some(slot);
    }
    let slot = slots.iter().position(|slot| {
        let other = slot.load(Acquire);
        !is_alive(other) && taken(slot, other)
    })?;
    settle(slot);
    Some(slot)
}

/// Owner `me`: gives back what dead processes held, by `settle`, and frees their slots.
pub(super) fn bury(
    slots: &[AtomicU64],
    me: u64,
    mut is_alive: impl FnMut(u64) -> bool,
    mut settle: impl FnMut(usize),
) {
    for (position, slot) in slots.iter().enumerate() {
        let other = slot.load(Acquire);
        if other == 0 || is_alive(other) || slot.compare_exchange(other, me, AcqRel, Relaxed).is_err() {
            continue;
        }
        settle(position);
        slot.store(0, Release);
    }
}

/// Notes one more handle, whose count was taken before.
pub(super) fn note(tally: &AtomicU32) {
    tally.fetch_add(1, Release);
}

/// Notes one handle less, whose count is given back afterwards. Some may never have been noted.
pub(super) fn strike(tally: &AtomicU32) {
    let _ = tally.fetch_update(Relaxed, Relaxed, |handles| handles.checked_sub(1));
}

/// Gives a tally of a dead process back; whether the block is free now.
pub(super) fn give_back(tally: &AtomicU32, count: &AtomicU32) -> bool {
    if tally.load(Relaxed) == 0 {
        return false;
    }
    let handles = tally.swap(0, Acquire);
    // A tally that claims more than there is was not written by this library.
    let plausible = |count| (handles..IMMORTAL).contains(&count);
    let before = count.fetch_update(AcqRel, Relaxed, |count| plausible(count).then(|| count - handles));
    handles != 0 && before == Ok(handles)
}

/// The parts of `range`, in bytes, that have memory behind them; `None` if the kernel does not tell.
pub(super) fn pages(segment: &Segment, range: Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut parts = Vec::new();
    let mut at = range.start as u64;
    while at < range.end as u64 {
        let start = match seek(segment, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(segment, SeekFrom::Hole(start)).ok()?;
        let part = start as usize..(end as usize).min(range.end);
        if part.is_empty() {
            break;
        }
        at = end;
        parts.push(part);
    }
    Some(parts)
}
