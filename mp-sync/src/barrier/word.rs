//! The word that says everything about a barrier at one moment: which round it is, and how far that is or why it broke.
//!
//! It is changed by one exchange at a time, so a death lies before a change or after it.

use crate::error::BrokenReason;

/// Pids have 22 bits, and 3 say what happened. A count of parties has as much room.
const PID_BITS: u32 = 22;
const BROKEN: u64 = 1 << 25;
const ROUND: u32 = 26;

/// See the module. Rounds are counted in 38 bits: the same word comes again after days without a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

/// How far a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// So many parties have arrived; all of them while the action runs.
    Filling(u32),
    /// The round ended without anybody passing.
    Broken(BrokenReason),
}

impl Word {
    pub(super) fn state(self) -> State {
        let rest = self.0 & (BROKEN - 1);
        if self.0 & BROKEN == 0 {
            return State::Filling(rest as u32);
        }
        State::Broken(match rest >> PID_BITS {
            1 => BrokenReason::Reset,
            2 => BrokenReason::TimedOut,
            3 => BrokenReason::ActionFailed,
            4 => BrokenReason::PartyDied { pid: (rest & ((1 << PID_BITS) - 1)) as u32 },
            _ => BrokenReason::Aborted,
        })
    }

    /// This round with so many parties.
    pub(super) fn with(self, count: u32) -> Word {
        Word(self.0 >> ROUND << ROUND | u64::from(count))
    }

    /// This round, broken.
    pub(super) fn broken(self, reason: BrokenReason) -> Word {
        let (what, pid) = match reason {
            BrokenReason::Aborted => (0, 0),
            BrokenReason::Reset => (1, 0),
            BrokenReason::TimedOut => (2, 0),
            BrokenReason::ActionFailed => (3, 0),
            BrokenReason::PartyDied { pid } => (4, pid),
        };
        Word(self.with(0).0 | BROKEN | what << PID_BITS | u64::from(pid))
    }

    /// The next round, with nobody there yet.
    pub(super) fn next_round(self) -> Word {
        Word((self.0 >> ROUND).wrapping_add(1) << ROUND)
    }

    pub(super) fn is_same_round(self, other: Word) -> bool {
        self.0 >> ROUND == other.0 >> ROUND
    }

    /// Which half of the slots the parties of this round try first.
    pub(super) fn is_odd(self) -> bool {
        self.0 >> ROUND & 1 == 1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_was_told() {
        let highest = (1 << PID_BITS) - 1;
        let reasons = [
            BrokenReason::Aborted,
            BrokenReason::Reset,
            BrokenReason::TimedOut,
            BrokenReason::ActionFailed,
            BrokenReason::PartyDied { pid: 1 },
            BrokenReason::PartyDied { pid: highest },
        ];
        // The first round, a later one, and the last before they begin anew.
        for round in [Word(0), Word(0).next_round(), Word(u64::MAX).with(0)] {
            for count in [0, 1, 1 << PID_BITS] {
                assert_eq!(round.with(count).state(), State::Filling(count));
                assert!(round.with(count).is_same_round(round));
                assert!(!round.with(count).next_round().is_same_round(round));
                for reason in reasons {
                    let broken = round.with(count).broken(reason);
                    assert_eq!(broken.state(), State::Broken(reason));
                    assert!(broken.is_same_round(round) && broken.next_round() == round.next_round());
                }
            }
            assert_eq!(round.next_round().state(), State::Filling(0));
            assert_ne!(round.is_odd(), round.next_round().is_odd());
        }
        assert_eq!(Word(u64::MAX).next_round(), Word(0));
    }
}
