//! The words of a link and the steps on them: publish, claim, revoke, sleep and wake.
//!
//! Every step is one atomic operation, so a process that dies leaves the words before or after it, never between.
//! Nothing here knows about memory layout; loom explores exactly this file.

use crossbeam_utils::CachePadded;

use crate::deadline::Deadline;
use crate::futex::{AtomicU32, AtomicU64, Ordering::*, WaitResult, fence, wait, wake};

// Flags only ever change by exchange, on both sides, so that their changes have one order that everybody agrees on.
const NO: u32 = 0;
const YES: u32 = 1;

/// The tasks between `head` and `tail` wait for the worker. Numbers wrap around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub head: u32,
    pub tail: u32,
}

impl Claim {
    fn unpack(word: u64) -> Claim {
        Claim { head: word as u32, tail: (word >> 32) as u32 }
    }

    fn pack(self) -> u64 {
        u64::from(self.tail) << 32 | u64::from(self.head)
    }

    pub fn len(self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }
}

/// The words of the task side. All zero is a valid, empty state.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct TaskControl {
    claim: CachePadded<AtomicU64>,
    /// The worker sleeps on this word, or is about to.
    asleep: CachePadded<AtomicU32>,
}

impl TaskControl {
    /// Parent: makes the next `n` tasks visible. Their slots and bytes must be complete. True if the worker was
    /// asleep and has been woken.
    pub fn publish(&self, n: u32) -> bool {
        // The tail is in the upper half: an overflow falls off, and the head is left alone.
        self.claim.fetch_add(u64::from(n) << 32, Release);
        fence(SeqCst);
        self.wake()
    }

    fn wake(&self) -> bool {
        let asleep = self.asleep.load(Relaxed) == YES && self.asleep.swap(NO, Relaxed) == YES;
        if asleep {
            wake(&self.asleep, 1);
        }
        asleep
    }

    /// Worker: takes the oldest task; its number. From now on its slot and bytes belong to the worker.
    pub fn claim(&self) -> Option<u32> {
        let mut word = self.claim.load(Relaxed);
        loop {
            let claim = Claim::unpack(word);
            if claim.head == claim.tail {
                return None;
            }
            let next = Claim { head: claim.head.wrapping_add(1), ..claim };
            match self.claim.compare_exchange_weak(word, next.pack(), Acquire, Relaxed) {
                Ok(_) => return Some(claim.head),
                Err(now) => word = now,
            }
        }
    }

    /// Parent: takes all unclaimed tasks back; the state before. From now on their slots are the parent's again.
    pub fn revoke(&self) -> Claim {
        let mut word = self.claim.load(Relaxed);
        loop {
            let claim = Claim::unpack(word);
            let empty = Claim { tail: claim.head, ..claim };
            match self.claim.compare_exchange_weak(word, empty.pack(), Relaxed, Relaxed) {
                Ok(_) => return claim,
                Err(now) => word = now,
            }
        }
    }

    /// The state at this moment.
    pub fn peek(&self) -> Claim {
        Claim::unpack(self.claim.load(Relaxed))
    }

    /// Whether the worker sleeps, as far as can be seen.
    pub fn is_worker_asleep(&self) -> bool {
        self.asleep.load(Relaxed) == YES
    }

    /// Worker: sleeps until there may be a task. False if the deadline passed.
    pub fn sleep(&self, deadline: Option<Deadline>) -> bool {
        self.asleep.swap(YES, Relaxed);
        fence(SeqCst);
        let in_time = self.peek().len() != 0 || wait(&self.asleep, YES, deadline) != WaitResult::TimedOut;
        self.asleep.swap(NO, Relaxed);
        in_time
    }
}

/// The words of the result side. All zero is a valid, empty state.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct ResultControl {
    /// Results published, by the worker.
    tail: CachePadded<AtomicU32>,
    /// Results copied out, by the parent.
    head: CachePadded<AtomicU32>,
    /// The parent sleeps, or is about to, and wants the bell.
    parent_asleep: CachePadded<AtomicU32>,
    /// The worker sleeps on this word until there is room, or is about to.
    wants_room: CachePadded<AtomicU32>,
}

impl ResultControl {
    /// Worker: makes all results in front of `tail` visible. True if the caller has to ring the parent's bell.
    #[must_use]
    pub fn publish(&self, tail: u32) -> bool {
        self.tail.store(tail, Release);
        fence(SeqCst);
        self.parent_asleep.load(Relaxed) == YES && self.parent_asleep.swap(NO, Relaxed) == YES
    }

    /// Results published so far. The parent may then read them.
    pub fn tail(&self) -> u32 {
        self.tail.load(Acquire)
    }

    /// Results copied out so far. The worker may then overwrite them.
    pub fn head(&self) -> u32 {
        self.head.load(Acquire)
    }

    /// Parent: gives back the room of all results in front of `head`.
    ///
    /// It wakes the worker if it is seen waiting. It may be missed here, for the sake of a fence per result, but not by
    /// [`ResultControl::drained`], which is to be called whenever there are no more results.
    pub fn consume(&self, head: u32) {
        self.head.store(head, Release);
        self.wake_for_room();
    }

    /// Parent: there was no further result. A worker that waits for room is woken for sure.
    pub fn drained(&self) {
        fence(SeqCst);
        self.wake_for_room();
    }

    fn wake_for_room(&self) {
        if self.wants_room.load(Relaxed) == YES && self.wants_room.swap(NO, Relaxed) == YES {
            wake(&self.wants_room, 1);
        }
    }

    /// Worker: sleeps until the parent's `head` is no longer the one that was seen. False if the deadline passed.
    pub fn sleep_for_room(&self, seen: u32, deadline: Option<Deadline>) -> bool {
        self.wants_room.swap(YES, Relaxed);
        fence(SeqCst);
        let in_time =
            self.head.load(Relaxed) != seen || wait(&self.wants_room, YES, deadline) != WaitResult::TimedOut;
        self.wants_room.swap(NO, Relaxed);
        in_time
    }

    /// Parent: asks for the bell. True if it may sleep, as there is no result after `head`.
    #[must_use]
    pub fn prepare_sleep(&self, head: u32) -> bool {
        self.parent_asleep.swap(YES, Relaxed);
        fence(SeqCst);
        // Who comes here may have missed the worker's flag; the fence serves for both.
        self.wake_for_room();
        let may_sleep = self.tail.load(Relaxed) == head;
        if !may_sleep {
            self.cancel_sleep();
        }
        may_sleep
    }

    /// Parent: does not need the bell any more.
    pub fn cancel_sleep(&self) {
        self.parent_asleep.swap(NO, Relaxed);
    }
}
