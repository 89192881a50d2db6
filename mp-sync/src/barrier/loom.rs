//! The steps of a barrier in all their interleavings, with processes that die between any two.

use std::mem::forget;
use std::sync::Arc;

use mp_core::deadline::Deadline;

use super::table::{Arrival, Head, Slot, Table};
use crate::error::BrokenReason::{self, *};
use crate::holder::Holder;
use crate::loom::{explore, process};
use crate::patience::{Patience, model::expect_deaths};

type Outcome = Result<u32, BrokenReason>;

/// What would be shared memory.
struct Memory {
    head: Head,
    slots: Vec<Slot>,
    parties: u32,
}

impl Memory {
    fn new(parties: u32, slots: usize) -> Arc<Memory> {
        let slots = (0..slots).map(|_| Slot::default()).collect();
        Arc::new(Memory { head: Head::default(), slots, parties })
    }

    fn table(&self) -> Table<'_> {
        Table { head: &self.head, slots: &self.slots, parties: self.parties }
    }

    fn wait(&self, deadline: Option<Deadline>) -> Outcome {
        let mut patience = Patience::new(deadline);
        match self.table().arrive(false, &mut patience) {
            Arrival::Passed(index) => Ok(index),
            Arrival::Waiting(party) => party.wait(patience),
            Arrival::Broken(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn wait_acting(&self, deadline: Option<Deadline>) -> Outcome {
        let mut patience = Patience::new(deadline);
        match self.table().arrive(true, &mut patience) {
            Arrival::Acting(party) => party.pass(),
            Arrival::Waiting(party) => party.wait(patience),
            Arrival::Broken(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    /// Until it passes, however often the barrier is reset meanwhile.
    fn wait_through_resets(&self) -> u32 {
        loop {
            match self.wait(None) {
                Ok(index) => return index,
                Err(reason) => assert_eq!(reason, Reset),
            }
        }
    }

    fn assert_idle(&self) {
        assert_eq!((self.table().waiting(), self.table().broken()), (0, None));
        assert!(self.slots.iter().all(Slot::is_free), "a slot was lost");
    }
}

fn start<R: 'static>(
    pid: u32,
    memory: &Arc<Memory>,
    life: impl FnOnce(&Memory) -> R + 'static,
) -> loom::thread::JoinHandle<R> {
    let memory = memory.clone();
    process(pid, move || life(&memory))
}

#[test]
fn two_parties_pass_two_rounds() {
    explore(3, || {
        let memory = Memory::new(2, 4);
        let rounds = |memory: &Memory| [memory.wait(None).unwrap(), memory.wait(None).unwrap()];
        let other = start(2, &memory, rounds);
        let mine = rounds(&memory);
        let others = other.join().unwrap();
        assert_eq!([mine[0] + others[0], mine[1] + others[1]], [1, 1]);
        memory.assert_idle();
    });
}

#[test]
fn two_parties_pass_two_rounds_with_an_action() {
    explore(3, || {
        let memory = Memory::new(2, 4);
        let rounds = |memory: &Memory| [memory.wait_acting(None).unwrap(), memory.wait_acting(None).unwrap()];
        let other = start(2, &memory, rounds);
        let mine = rounds(&memory);
        let others = other.join().unwrap();
        assert_eq!([mine[0] + others[0], mine[1] + others[1]], [1, 1]);
        memory.assert_idle();
    });
}

#[test]
fn one_who_finds_no_slot_gets_it_when_it_is_free() {
    explore(2, || {
        let memory = Memory::new(2, 1);
        let rounds = |memory: &Memory| (0..3).for_each(|_| _ = memory.wait(None).unwrap());
        let other = start(2, &memory, rounds);
        rounds(&memory);
        other.join().unwrap();
        memory.assert_idle();
    });
}

#[test]
fn whoever_comes_while_the_action_runs_is_in_the_next_round() {
    explore(3, || {
        let memory = Memory::new(1, 2);
        let others = [2, 3].map(|pid| start(pid, &memory, |memory| memory.wait_acting(None)));
        for other in others {
            assert_eq!(other.join().unwrap(), Ok(0));
        }
        memory.assert_idle();
    });
}

#[test]
fn a_reset_sends_all_away_or_none() {
    explore(2, || {
        let memory = Memory::new(2, 4);
        let parties = [2, 3].map(|pid| start(pid, &memory, Memory::wait_through_resets));
        memory.table().reset();
        let indices = parties.map(|party| party.join().unwrap());
        assert_eq!(indices[0] + indices[1], 1);
        memory.assert_idle();
    });
}

#[test]
fn a_slow_reset_does_not_disturb_the_next_round() {
    explore(3, || {
        // One slot, so that the party of the next round has the one that is being marked.
        let memory = Memory::new(2, 1);
        let Arrival::Waiting(party) = memory.table().try_arrive(false) else { panic!("not waiting") };
        memory.table().abort();
        let resetter = start(2, &memory, |memory| memory.table().reset_broken());
        memory.table().reset_broken();
        assert_eq!(party.outcome(), Some(Err(Aborted)));
        drop(party);
        let Arrival::Waiting(party) = memory.table().try_arrive(false) else { panic!("not waiting") };
        assert_eq!(memory.wait(None), Ok(1));
        assert_eq!(party.outcome(), Some(Ok(())));
        resetter.join().unwrap();
        assert_eq!(party.outcome(), Some(Ok(())));
        drop(party);
        memory.assert_idle();
    });
}

#[test]
fn an_abort_is_told_to_all_and_stays() {
    explore(3, || {
        let memory = Memory::new(2, 4);
        let parties = [2, 3].map(|pid| start(pid, &memory, |memory| memory.wait(None)));
        memory.table().abort();
        let outcomes = parties.map(|party| party.join().unwrap());
        match outcomes {
            [Ok(one), Ok(other)] => assert_eq!(one + other, 1),
            both => assert_eq!(both, [Err(Aborted); 2]),
        }
        assert_eq!((memory.table().broken(), memory.wait(None)), (Some(Aborted), Err(Aborted)));
        memory.table().reset();
        memory.assert_idle();
    });
}

#[test]
fn a_time_limit_breaks_the_round_or_comes_too_late() {
    explore(3, || {
        let memory = Memory::new(2, 4);
        let other = start(2, &memory, |memory| memory.wait(None));
        let mine = memory.wait(Some(Deadline::now()));
        let others = other.join().unwrap();
        match (mine, others) {
            (Ok(mine), Ok(others)) => assert_eq!(mine + others, 1),
            both => assert_eq!(both, (Err(TimedOut), Err(TimedOut))),
        }
        assert_eq!(memory.table().broken().is_some(), mine.is_err());
    });
}

#[test]
fn a_time_limit_during_the_action_breaks_the_round_or_comes_too_late() {
    explore(3, || {
        let memory = Memory::new(2, 4);
        let other = start(2, &memory, |memory| memory.wait_acting(None));
        let mine = memory.wait_acting(Some(Deadline::now()));
        let others = other.join().unwrap();
        match (mine, others) {
            (Ok(mine), Ok(others)) => assert_eq!(mine + others, 1),
            both => assert_eq!(both, (Err(TimedOut), Err(TimedOut))),
        }
        assert_eq!(memory.table().broken().is_some(), mine.is_err());
    });
}

#[test]
fn a_party_that_dies_while_it_waits_breaks_the_round() {
    explore(3, || {
        expect_deaths();
        let memory = Memory::new(2, 4);
        let victim = start(2, &memory, |memory| {
            let arrival = memory.table().try_arrive(false);
            let passed = matches!(arrival, Arrival::Passed(_));
            forget(arrival);
            Holder::die();
            passed
        });
        let mine = memory.wait(None);
        if victim.join().unwrap() {
            assert_eq!(mine, Ok(0));
        } else {
            // As the last one, it may come before anybody looks.
            assert!(mine == Err(PartyDied { pid: 2 }) || mine == Ok(1), "{mine:?}");
        }
        memory.table().look_around();
        memory.table().reset();
        memory.assert_idle();
    });
}

#[test]
fn one_who_dies_before_it_is_counted_loses_no_slot() {
    explore(2, || {
        expect_deaths();
        let memory = Memory::new(2, 1);
        let victim = start(2, &memory, |memory| {
            forget(memory.table().take_place());
            Holder::die();
        });
        let other = start(3, &memory, |memory| memory.wait(None));
        let mine = memory.wait(None);
        let others = other.join().unwrap();
        victim.join().unwrap();
        match (mine, others) {
            (Ok(mine), Ok(others)) => assert_eq!(mine + others, 1),
            both => assert_eq!(both, (Err(PartyDied { pid: 2 }), Err(PartyDied { pid: 2 }))),
        }
        memory.table().look_around();
        memory.table().reset();
        memory.assert_idle();
    });
}

#[test]
fn a_releaser_that_dies_before_it_wakes_anybody_is_not_missed() {
    explore(3, || {
        expect_deaths();
        let memory = Memory::new(2, 4);
        let other = start(2, &memory, |memory| memory.wait(None));
        let victim = start(3, &memory, |memory| {
            let passed = memory.table().release_without_wake();
            Holder::die();
            passed
        });
        let passed = victim.join().unwrap();
        if !passed {
            memory.table().abort();
        }
        assert_eq!(other.join().unwrap(), if passed { Ok(0) } else { Err(Aborted) });
    });
}

#[test]
fn one_who_dies_in_the_action_breaks_the_round() {
    explore(3, || {
        expect_deaths();
        let memory = Memory::new(2, 4);
        let victim = start(2, &memory, |memory| {
            let arrival = memory.table().try_arrive(true);
            let acts = matches!(arrival, Arrival::Acting(_));
            forget(arrival);
            Holder::die();
            acts
        });
        let mine = memory.wait_acting(None);
        let acted = victim.join().unwrap();
        assert!(mine == Err(PartyDied { pid: 2 }) || !acted && mine == Ok(1), "{acted} {mine:?}");
        memory.table().look_around();
        memory.table().reset();
        memory.assert_idle();
    });
}

#[test]
fn whoever_comes_goes_on_with_the_reset_of_a_dead_one() {
    explore(2, || {
        expect_deaths();
        let memory = Memory::new(2, 2);
        let victim = start(2, &memory, |memory| {
            let table = memory.table();
            let round = table.round();
            if table.waiting() > 0 {
                table.break_round(round, Reset);
            }
            Holder::die();
        });
        let other = start(3, &memory, Memory::wait_through_resets);
        assert_eq!(memory.wait_through_resets() + other.join().unwrap(), 1);
        victim.join().unwrap();
        memory.assert_idle();
    });
}
