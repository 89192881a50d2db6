//! The barrier itself, as it lies in shared memory: a word that decides, and a slot for each party that waits.
//!
//! When a party dies while it waits, the round breaks within 100 ms; where else a process may be killed, or stopped for as
//! long as one likes, the others notice nothing of it.
//!
//! # Design
//!
//! | state           | who writes                                                                                |
//! |-----------------|-------------------------------------------------------------------------------------------|
//! | `word`          | whoever arrives, breaks or begins a round, by one exchange                                  |
//! | `turn`          | counted up by whoever ended a round or freed a slot that is waited for, before it wakes all |
//! | slot: `holder`  | 0 to the taker; back to 0 by the taker, or by one who found it dead                         |
//! | slot: `ticket`  | the holder: its round; whoever begins a new round after a broken one: why that broke        |
//!
//! There is no lock, so nobody who is stopped or killed holds anybody up. The `word` has the round and the number of those
//! who arrived, or why the round broke; so arriving, passing and breaking compete for one exchange, and whoever wins has
//! decided for all. The last to arrive begins the next round in that very exchange; if there is an action, it leaves the
//! count full while the action runs, and then begins the next round.
//!
//! A party writes the round on its ticket before it is counted. While the `word` shows that round, the party waits or sees
//! why it broke. When the `word` shows another round, the party has passed, unless its ticket says otherwise: a broken round
//! gives way to a new one only after all tickets of it were marked. No ticket of a round that was passed is ever marked, so a
//! slow marker does no harm. Hence a party may sleep through any number of later rounds and still get the right answer.
//!
//! A reset breaks the round, marks, and begins the next one; if its process dies between, whoever comes next goes on with it.
//!
//! Slots may be had for about two rounds. One who finds none, or comes while the action runs, waits without being a party.
//!
//! Sleepers look around at the end of their slice, by turns: a dead holder of a slot whose ticket shows the current round
//! breaks it. Newcomers look, too, if nobody did for a while, so that one who died alone is not counted as a party later.
//! Whoever was killed between its exchange and its wake-up leaves sleepers behind, who see the `word` at the end of their
//! slice.

use std::time::Duration;

use mp_core::arena::InSharedMemory;
use mp_core::futex::{AtomicU32, AtomicU64, Ordering::*, WaitResult, fence, wait, wake_all};

use super::word::{State, Word};
use crate::error::BrokenReason;
use crate::holder::Holder;
use crate::patience::Patience;

/// As many as the system can have threads.
pub(super) const MOST_PARTIES: u32 = 1 << 22;

/// What all share; all zero is a barrier that nobody has come to.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Head {
    word: AtomicU64,
    /// When somebody should look who is alive, in nanoseconds of the monotonic clock.
    next_look: AtomicU64,
    turn: AtomicU32,
    /// Somebody waits for a slot.
    short: AtomicU32,
}

// SAFETY: atomics only.
unsafe impl InSharedMemory for Head {}

/// A party's place; all zero is free.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Slot {
    holder: AtomicU64,
    /// A [`Word`]: the round, without a count, or broken.
    ticket: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl InSharedMemory for Slot {}

#[cfg(test)]
impl Slot {
    pub(super) fn is_free(&self) -> bool {
        self.holder.load(Relaxed) == 0
    }

    #[cfg(not(loom))]
    pub(super) fn give_to(&self, holder: Holder) {
        self.holder.store(holder.bits(), Relaxed);
    }
}

/// A barrier at its place in this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    pub(super) head: &'a Head,
    pub(super) slots: &'a [Slot],
    pub(super) parties: u32,
}

/// What became of an attempt to arrive.
#[derive(Debug)]
pub(super) enum Arrival<'a> {
    /// As the last one: everybody passes. The index.
    Passed(u32),
    /// The others are still to come.
    Waiting(Party<'a>),
    /// As the last one: the action is due, then [`Party::pass`].
    Acting(Party<'a>),
    /// No party can be taken in at present: try again when [`Table::turn`] is not this any more.
    Full(u32),
    /// The barrier is broken.
    Broken(BrokenReason),
}

impl<'a> Table<'a> {
    /// How many slots a barrier has.
    pub(super) fn slots_for(parties: u32) -> usize {
        2 * parties as usize + 4
    }

    /// Becomes a party as soon as that is possible; [`Arrival::Full`] only when the time is over.
    pub(super) fn arrive(self, with_action: bool, patience: &mut Patience) -> Arrival<'a> {
        loop {
            match self.try_arrive(with_action) {
                Arrival::Full(turn) if !patience.is_over() => self.sleep(turn, patience),
                arrival => return arrival,
            }
        }
    }

    /// Becomes a party of the current round, if that is possible at once.
    pub(super) fn try_arrive(self, with_action: bool) -> Arrival<'a> {
        let mut kept = None;
        loop {
            // Before the word: a change that we do not see there must be seen here.
            let turn = self.head.turn.load(Acquire);
            let seen = self.load();
            let count = match seen.state() {
                State::Filling(count) => count,
                State::Broken(BrokenReason::Reset) => {
                    self.begin_anew(seen);
                    continue;
                }
                State::Broken(reason) => return Arrival::Broken(reason),
            };
            if count >= self.parties {
                return Arrival::Full(turn);
            }
            let is_last = count + 1 == self.parties;
            if is_last && !with_action {
                if self.exchange(seen, seen.next_round()) {
                    self.wake();
                    return Arrival::Passed(count);
                }
                continue;
            }
            let Some(place) = kept.take().or_else(|| self.place(seen, count)) else {
                if self.load() == seen {
                    return Arrival::Full(turn);
                }
                continue;
            };
            let party =
                Party { place, round: seen.with(0), index: count, if_dropped: BrokenReason::TimedOut };
            // An exchange, as a slow marker of an earlier round may be at it.
            party.place.slot().ticket.swap(party.round.0, AcqRel);
            if self.exchange(seen, seen.with(count + 1)) {
                if count + 2 == self.parties {
                    // The next one is the last, and so may not need a slot.
                    self.tell_the_short();
                }
                return if is_last { Arrival::Acting(party) } else { Arrival::Waiting(party) };
            }
            kept = Some(party.not_counted());
        }
    }

    /// A slot for the party that would be number `count` of this round.
    fn place(self, round: Word, count: u32) -> Option<Place<'a>> {
        let first = count as usize + if round.is_odd() { self.parties as usize } else { 0 };
        let me = Holder::current().bits();
        let take = |index: usize| {
            let holder = &self.slots[index].holder;
            let is_free = holder.load(Relaxed) == 0;
            // Acquire: whoever had it before has read its ticket.
            (is_free && holder.compare_exchange(0, me, Acquire, Relaxed).is_ok())
                .then(|| Place { table: self, index })
        };
        let search = || (0..self.slots.len()).find_map(|step| take((first + step) % self.slots.len()));
        search().or_else(|| {
            self.head.short.store(1, Relaxed);
            // Whoever frees one from now on sees that, or it is found; so does the last but one to arrive.
            fence(SeqCst);
            search()
        })
    }

    /// Ends the round of `round` without anybody passing, unless it has ended already.
    pub(super) fn break_round(self, round: Word, reason: BrokenReason) {
        loop {
            let seen = self.load();
            if !seen.is_same_round(round) || matches!(seen.state(), State::Broken(_)) {
                return;
            }
            if self.exchange(seen, seen.broken(reason)) {
                return self.wake();
            }
        }
    }

    /// Breaks the barrier, whoever is there or not, until a reset; it may be broken already.
    pub(super) fn abort(self) {
        loop {
            let seen = self.load();
            match seen.state() {
                State::Filling(_) if self.exchange(seen, seen.broken(BrokenReason::Aborted)) => {
                    return self.wake();
                }
                State::Filling(_) => {}
                State::Broken(BrokenReason::Reset) => self.begin_anew(seen),
                State::Broken(_) => return,
            }
        }
    }

    /// Whole and empty; whoever is there is sent away.
    pub(super) fn reset(self) {
        let start = self.load();
        loop {
            let seen = self.load();
            match seen.state() {
                // Somebody else has ended this round meanwhile, and nobody came since the call began to be sent away.
                _ if !seen.is_same_round(start) => return,
                State::Filling(0) => return,
                State::Filling(_) => self.break_round(seen, BrokenReason::Reset),
                State::Broken(_) => return self.begin_anew(seen),
            }
        }
    }

    /// From the broken round `seen` to the next one; others may be doing the same.
    fn begin_anew(self, seen: Word) {
        for slot in self.slots {
            // All of its parties are here: they wrote their tickets before they were counted.
            let ticket = seen.with(0).0;
            if slot.ticket.load(Relaxed) == ticket {
                // Not if the slot has changed hands since: then the ticket is of another round.
                let _ = slot.ticket.compare_exchange(ticket, seen.0, Relaxed, Relaxed);
            }
        }
        if self.exchange(seen, seen.next_round()) {
            self.wake();
        }
    }

    /// Why the barrier is broken, if it is.
    pub(super) fn broken(self) -> Option<BrokenReason> {
        match self.load().state() {
            State::Filling(_) | State::Broken(BrokenReason::Reset) => None,
            State::Broken(reason) => Some(reason),
        }
    }

    /// Parties that wait for others; none while the action runs.
    pub(super) fn waiting(self) -> u32 {
        match self.load().state() {
            State::Filling(count) if count < self.parties => count,
            _ => 0,
        }
    }

    /// Looks for the dead among the parties, unless somebody did so a moment ago.
    pub(super) fn look_around(self) {
        if !self.is_look_due() {
            return;
        }
        for slot in self.slots {
            let holder = slot.holder.load(Acquire);
            if !Holder::in_word(holder).has_died() {
                continue;
            }
            let ticket = Word(slot.ticket.load(Acquire));
            // A dead one does not come back: if the slot is still its own, so was the ticket.
            if slot.holder.load(Relaxed) != holder {
                continue;
            }
            let pid = Holder::in_word(holder).process().map_or(0, |process| process.pid());
            self.break_round(ticket, BrokenReason::PartyDied { pid });
            if slot.holder.compare_exchange(holder, 0, Release, Relaxed).is_ok() {
                self.tell_the_short();
            }
        }
    }

    /// Each look costs some microseconds a slot, so it must not be everybody's business all the time.
    #[cfg(not(loom))]
    fn is_look_due(self) -> bool {
        const EVERY: Duration = Duration::from_millis(20);
        const EVERY_MORE: Duration = Duration::from_micros(20);
        let now = mp_core::deadline::Deadline::now();
        let due = self.head.next_look.load(Relaxed);
        let next = now.saturating_add(EVERY.saturating_add(EVERY_MORE * self.parties)).as_nanos();
        // One that lies further ahead than ever set is not from this clock.
        (now.as_nanos() >= due || due > next)
            && self.head.next_look.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
    }

    #[cfg(loom)]
    fn is_look_due(self) -> bool {
        let _ = (&self.head.next_look, Duration::ZERO);
        true
    }

    /// The word that changes whenever a round ends or a slot that is waited for gets free.
    pub(super) fn turn(self) -> &'a AtomicU32 {
        &self.head.turn
    }

    /// Sleeps until [`turn`](Self::turn) is not `seen` any more, for a slice at most, and then looks around.
    pub(super) fn sleep(self, seen: u32, patience: &mut Patience) {
        if wait(self.turn(), seen, patience.next()) == WaitResult::TimedOut {
            self.look_around();
        }
    }

    fn load(self) -> Word {
        Word(self.head.word.load(Acquire))
    }

    fn exchange(self, from: Word, to: Word) -> bool {
        self.head.word.compare_exchange(from.0, to.0, AcqRel, Relaxed).is_ok()
    }

    fn wake(self) {
        self.head.turn.fetch_add(1, Release);
        wake_all(&self.head.turn);
    }

    /// Wakes those who wait for a slot, if there are any.
    fn tell_the_short(self) {
        fence(SeqCst);
        if self.head.short.load(Relaxed) != 0 {
            self.head.short.store(0, Relaxed);
            self.wake();
        }
    }
}

/// Steps that a process may be killed between.
#[cfg(all(test, loom))]
impl<'a> Table<'a> {
    pub(super) fn round(self) -> Word {
        self.load()
    }

    /// Takes a slot, without being counted.
    pub(super) fn take_place(self) -> impl Sized + use<'a> {
        self.place(self.load(), 0)
    }

    /// Passes as the last one, if that is what it is.
    pub(super) fn release_without_wake(self) -> bool {
        let seen = self.load();
        seen.state() == State::Filling(self.parties - 1) && self.exchange(seen, seen.next_round())
    }

    /// A reset that does nothing to a round that is whole.
    pub(super) fn reset_broken(self) {
        let seen = self.load();
        if let State::Broken(_) = seen.state() {
            self.begin_anew(seen);
        }
    }
}

/// A slot that this process has; free again when dropped.
#[derive(Debug)]
struct Place<'a> {
    table: Table<'a>,
    index: usize,
}

impl<'a> Place<'a> {
    fn slot(&self) -> &'a Slot {
        &self.table.slots[self.index]
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.slot().holder.store(0, Release);
        self.table.tell_the_short();
    }
}

/// One who has arrived. Dropped before its round is over, it breaks it.
///
/// A future keeps this, looks at [`outcome`](Self::outcome) each time it is polled, and has [`Table::turn`] watched.
#[derive(Debug)]
pub(super) struct Party<'a> {
    place: Place<'a>,
    round: Word,
    pub(super) index: u32,
    /// What the others are told if this one leaves early.
    pub(super) if_dropped: BrokenReason,
}

impl<'a> Party<'a> {
    /// How the round ended, once it has.
    pub(super) fn outcome(&self) -> Option<Result<(), BrokenReason>> {
        let seen = self.place.table.load();
        if seen.is_same_round(self.round) {
            return match seen.state() {
                State::Filling(_) => None,
                State::Broken(reason) => Some(Err(reason)),
            };
        }
        match Word(self.place.slot().ticket.load(Relaxed)).state() {
            State::Filling(_) => Some(Ok(())),
            State::Broken(reason) => Some(Err(reason)),
        }
    }

    /// Waits for the end of the round; breaks it when the time is over.
    pub(super) fn wait(self, mut patience: Patience) -> Result<u32, BrokenReason> {
        loop {
            let turn = self.place.table.turn().load(Acquire);
            if let Some(outcome) = self.outcome() {
                return outcome.map(|()| self.index);
            }
            if patience.is_over() {
                self.leave(BrokenReason::TimedOut);
            } else {
                self.place.table.sleep(turn, &mut patience);
            }
        }
    }

    /// Breaks the round, unless it is over.
    pub(super) fn leave(&self, reason: BrokenReason) {
        self.place.table.break_round(self.round, reason);
    }

    /// After the action: lets all pass, unless the round has been broken meanwhile.
    pub(super) fn pass(self) -> Result<u32, BrokenReason> {
        let table = self.place.table;
        loop {
            if let Some(outcome) = self.outcome() {
                return outcome.map(|()| self.index);
            }
            if table.exchange(self.round.with(table.parties), self.round.next_round()) {
                table.wake();
            }
        }
    }

    /// Keeps the slot of one whom the round went on without.
    fn not_counted(self) -> Place<'a> {
        let party = std::mem::ManuallyDrop::new(self);
        Place { table: party.place.table, index: party.place.index }
    }
}

impl Drop for Party<'_> {
    fn drop(&mut self) {
        if self.outcome().is_none() {
            self.leave(self.if_dropped);
        }
    }
}
