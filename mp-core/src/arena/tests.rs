//! Blocks under random use, in other processes, and in messages that lie.

use proptest::prelude::*;

use super::*;
use crate::liveness::ProcessId;
use crate::message::Message;
use crate::segment::Segment;

fn write(block: &Block, stamp: u64) {
    // SAFETY: blocks have 16 bytes at least; only this test knows this one.
    unsafe { block.as_ptr().cast::<u64>().write_volatile(stamp) }
}

fn read(block: &Block) -> u64 {
    // SAFETY: as in `write`.
    unsafe { block.as_ptr().cast::<u64>().read_volatile() }
}

fn is_zero(block: &Block) -> bool {
    // SAFETY: in bounds; nobody else knows the block.
    (0..block.len()).all(|at| unsafe { block.as_ptr().add(at).read_volatile() } == 0)
}

/// Held by who forks, and shared by who takes a lock that the child needs.
static FORKING: std::sync::RwLock<()> = std::sync::RwLock::new(());

/// Moves a handle to "another process": what it frees goes the way of foreign frees.
fn abroad(block: Block) -> Block {
    let (chunk, index) = block.parts();
    let foreign = chunk.foreign();
    foreign.retain(index);
    let _no_fork = FORKING.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    Block::adopt(foreign, index, ProcessId::current().pid())
}

#[test]
fn sizes_and_alignments() {
    let arena = Arena::new();
    for (size, align, length) in
        [(0, 1, 16), (1, 1, 16), (16, 16, 16), (17, 1, 32), (8, 64, 64), (100, 8, 128), (2048, 64, 2048)]
    {
        let block = arena.alloc(size, align).unwrap();
        assert_eq!(block.len(), length);
        assert_eq!(block.as_ptr().as_ptr() as usize % length.min(ALIGN), 0);
        assert!(is_zero(&block));
    }
    for (size, align) in [(2049, 1), (usize::MAX, 1), (1, 128), (1, 0), (1, 3)] {
        assert!(matches!(arena.alloc(size, align), Err(Error::Invalid { .. })));
    }
}

#[test]
fn counts_follow_the_handles() {
    let arena = Arena::new();
    let block = arena.alloc(8, 8).unwrap();
    let other = block.clone();
    assert_eq!(block.count(), 2);
    drop(other);
    let message = Message::encode(&(&block, &block)).unwrap();
    assert_eq!((block.count(), message.fds.len()), (3, 1));
    drop(message);
    assert_eq!(block.count(), 1, "a message that was never sent gives back what it carried");
    let (one, two) = Message::encode(&(&block, &block)).unwrap().decode::<(Block, Block)>().unwrap();
    assert!(one == block && two == block);
    assert_eq!(block.count(), 3);
    let (chunk, index) = (block.parts().0.clone(), block.parts().1);
    drop((block, one, two));
    assert!(!chunk.is_live(index));
}

#[test]
fn used_blocks_come_back_zeroed() {
    let arena = Arena::new();
    let block = arena.alloc(64, 8).unwrap();
    write(&block, 0xdead);
    let at = block.as_ptr();
    drop(block);
    let again = arena.alloc(64, 8).unwrap();
    assert_eq!(again.as_ptr(), at);
    assert!(is_zero(&again));
}

#[test]
fn many_rounds_leave_the_chunks_as_they_were() {
    let arena = Arena::new();
    for _ in 0..100_000 {
        drop(arena.alloc(8, 8).unwrap());
    }
    assert_eq!(arena.chunks(), 1);
    let blocks: Vec<_> = (0..10_000).map(|_| arena.alloc(2000, 8).unwrap()).collect();
    assert!(arena.chunks() > 4);
    drop(blocks);
    assert!(arena.chunks() <= 2, "the current one of each size is kept");
    arena.sweep();
    assert_eq!(arena.chunks(), 0);
    // Freed elsewhere: noticed before another chunk is made.
    for _ in 0..100 {
        drop((0..20).map(|_| abroad(arena.alloc(2048, 8).unwrap())).collect::<Vec<_>>());
    }
    assert_eq!(arena.chunks(), 1);
}

#[test]
fn blocks_outlive_their_arena() {
    let arena = Arena::new();
    let block = arena.alloc(16, 8).unwrap();
    drop(arena);
    write(&block, 7);
    assert_eq!(read(&block.clone()), 7);
}

#[test]
fn a_child_of_a_fork_borrows_and_may_free_what_it_was_sent() {
    let arena = Arena::new();
    let kept = arena.alloc(16, 8).unwrap();
    let sent = arena.alloc(16, 8).unwrap();
    let (chunk, index) = (sent.parts().0.clone(), sent.parts().1);
    chunk.retain(index);
    drop(sent);
    // SAFETY: the child touches only atomics and makes system calls, and leaves without running anything of the parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let borrowed = kept.clone();
        drop(kept);
        drop(borrowed);
        drop(Block::adopt(chunk, index, ProcessId::current().pid()));
        // SAFETY: no preconditions.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(kept.count(), 1, "the child's handle was borrowed");
    assert!(!chunk.is_live(index));
    drop(kept);
    drop(chunk);
    arena.sweep();
    assert_eq!(arena.chunks(), 0, "the owner got back what the child freed");
}

/// A forked child that does `work`, says so, and waits for its end.
fn forked(work: impl FnOnce()) -> (libc::pid_t, Box<dyn Fn()>) {
    let (said, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let alone = FORKING.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the child runs arena code, which allocates (the C library prepares its allocator for that) and takes one
    // lock, which no other test has now; it never returns.
    let child = unsafe { libc::fork() };
    if child != 0 {
        drop(alone);
    } else {
        work();
        let _ = rustix::io::write(&say, b"!");
        loop {
            // SAFETY: no preconditions.
            unsafe { libc::pause() };
        }
    }
    drop(say);
    (child, Box::new(move || assert_eq!(rustix::io::read(&said, &mut [0; 1]), Ok(1))))
}

fn kill(child: libc::pid_t) {
    let mut status = 0;
    // SAFETY: a child that nobody else waits for; `status` is a valid place.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
    }
    assert!(libc::WIFSIGNALED(status), "the child failed by itself: {status:x}");
}

#[test]
fn what_a_killed_process_held_comes_back() {
    let arena = Arena::new();
    // Several chunks and several pages of tallies.
    let blocks: Vec<_> = (0..20_000).map(|_| arena.alloc(16, 8).unwrap()).collect();
    let chunks = arena.chunks();
    assert!(chunks > 2);
    let (child, done) = forked(|| {
        // Two handles to some, so that a tally is more than one.
        let more: Vec<_> = blocks.iter().chain(blocks.iter().step_by(7)).cloned().collect();
        // Some are given back properly.
        more.into_iter().step_by(3).for_each(std::mem::forget);
    });
    done();
    let counts = blocks.iter().map(|block| block.count() as usize).sum::<usize>();
    assert_eq!(counts, 20_000 + (20_000 + 20_000usize.div_ceil(7)).div_ceil(3));
    let kept = blocks.iter().step_by(100).cloned().collect::<Vec<_>>();
    kept.iter().for_each(|block| write(block, 9));
    drop(blocks);
    arena.sweep();
    assert_eq!(arena.chunks(), chunks, "the child lives, and so do its handles");
    kill(child);
    arena.sweep();
    assert!(kept.iter().all(|block| read(block) == 9 && block.count() == 1));
    // Every other block is free: they fit where the first ones were.
    let again: Vec<_> = (0..20_000 - kept.len()).map(|_| arena.alloc(16, 8).unwrap()).collect();
    assert!(again.iter().all(is_zero));
    assert!(arena.chunks() <= chunks, "{} chunks instead of {chunks}", arena.chunks());
    drop((kept, again));
    arena.sweep();
    assert_eq!(arena.chunks(), 0);
}

#[test]
fn a_new_chunk_is_made_only_when_the_dead_have_given_back() {
    let arena = Arena::new();
    for _ in 0..100 {
        let blocks: Vec<_> = (0..20).map(|_| arena.alloc(2048, 8).unwrap()).collect();
        let (child, done) = forked(|| blocks.iter().cloned().for_each(std::mem::forget));
        done();
        kill(child);
    }
    assert!(arena.chunks() <= 2, "{} chunks", arena.chunks());
}

/// Wherever the process is killed: the block is never freed too early, and at most one of its counts is lost.
#[test]
fn a_process_killed_at_any_moment_loses_one_count_at_most() {
    let arena = Arena::new();
    let (mut lost, mut freed) = (0, 0);
    for round in 0..200u64 {
        let block = arena.alloc(16, 8).unwrap();
        write(&block, round);
        let (child, _) = forked(|| {
            let mut held = Vec::with_capacity(8);
            loop {
                held.push(block.clone());
                if held.len() == 8 {
                    held.truncate(1);
                }
            }
        });
        std::thread::sleep(std::time::Duration::from_micros(round * 13));
        kill(child);
        arena.sweep();
        assert!((1..=2).contains(&block.count()), "{} counts", block.count());
        assert_eq!(read(&block), round);
        lost += block.count() - 1;
        let (chunk, index) = (block.parts().0.clone(), block.parts().1);
        drop(block);
        freed += u32::from(!chunk.is_live(index));
    }
    assert_eq!(lost + freed, 200);
    assert!(freed > 0);
}

#[test]
fn processes_beyond_the_slots_take_over_those_of_the_dead() {
    let arena = Arena::new();
    let block = arena.alloc(16, 8).unwrap();
    // One after the other, and nobody sweeps.
    for _ in 0..ledger::SLOTS * 2 + 3 {
        let (child, done) = forked(|| std::mem::forget(block.clone()));
        done();
        kill(child);
    }
    assert!(block.count() as usize <= 1 + ledger::SLOTS, "{}", block.count());
    arena.sweep();
    assert_eq!(block.count(), 1);
    // All at once: the last go without, and what they held is lost.
    let children: Vec<_> =
        (0..ledger::SLOTS + 2).map(|_| forked(|| std::mem::forget(block.clone()))).collect();
    children.iter().for_each(|(_, done)| done());
    children.iter().for_each(|(child, _)| kill(*child));
    arena.sweep();
    assert_eq!(block.count(), 3);
}

#[test]
fn a_message_that_lies_is_an_error() {
    let arena = Arena::new();
    let block = arena.alloc(16, 8).unwrap();
    let (chunk, index) = block.parts();
    let refused = |segment: &Segment, index: u32| {
        // What a block encodes, with another index or segment.
        struct Lie<'a>(&'a Segment, u32);
        impl serde::Serialize for Lie<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                crate::handle::serialize(serializer, "lie", |fds| {
                    Ok((fds.attach_shared(self.0.shared_fd()), self.1))
                })
            }
        }
        Message::encode(&Lie(segment, index)).unwrap().decode::<Block>()
    };
    for index in [index + 1, chunk.capacity(), u32::MAX] {
        assert!(matches!(refused(chunk.segment(), index), Err(Error::Decode { .. })));
    }
    for length in [1, 4096, 65536] {
        let other = Segment::create("no chunk", length).unwrap();
        assert!(matches!(refused(&other, 0), Err(Error::Decode { .. })));
    }
    assert_eq!(block.count(), 1);
}

#[test]
fn a_stack_gone_wild_hands_out_nothing_twice() {
    let arena = Arena::new();
    let blocks: Vec<_> = (0..8).map(|_| arena.alloc(2048, 8).unwrap()).collect();
    let (chunk, _) = blocks[0].parts();
    // Another process frees a block that was never out, and one of them twice.
    let foreign = chunk.foreign();
    for index in [20, 3, 3] {
        foreign.bear(index, true);
        foreign.release(index);
    }
    arena.sweep();
    let more: Vec<_> = (0..100).map(|_| arena.alloc(2048, 8).unwrap()).collect();
    let mut places: Vec<_> = more.iter().map(|block| block.as_ptr()).collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), more.len());
}

#[test]
fn a_handle_is_small() {
    assert_eq!(size_of::<Block>(), 16);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc(usize),
    Clone(usize),
    Drop(usize),
    DropAbroad(usize),
    Send(usize),
    Lose(usize),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![Just(2048), Just(1000), 0usize..40].prop_map(Step::Alloc),
        2 => any::<usize>().prop_map(Step::Clone),
        4 => any::<usize>().prop_map(Step::Drop),
        3 => any::<usize>().prop_map(Step::DropAbroad),
        2 => any::<usize>().prop_map(Step::Send),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_counted_boxes(steps in prop::collection::vec(step(), 1..500)) {
        let arena = Arena::new();
        // Each handle with the stamp that its block must bear.
        let mut handles: Vec<(Block, u64)> = Vec::new();
        for (stamp, step) in (1..).zip(steps) {
            match step {
                Step::Alloc(size) => {
                    let block = arena.alloc(size, 8).unwrap();
                    prop_assert!(is_zero(&block) && block.count() == 1);
                    write(&block, stamp);
                    handles.push((block, stamp));
                }
                Step::Sweep => arena.sweep(),
                _ if handles.is_empty() => {}
                Step::Clone(at) => {
                    let copy = handles[at % handles.len()].clone();
                    handles.push(copy);
                }
                Step::Drop(at) => drop(handles.swap_remove(at % handles.len())),
                Step::DropAbroad(at) => drop(abroad(handles.swap_remove(at % handles.len()).0)),
                Step::Send(at) => {
                    let at = at % handles.len();
                    let copy = Message::encode(&handles[at].0).unwrap().decode::<Block>().unwrap();
                    prop_assert_eq!(&copy, &handles[at].0);
                    handles.push((copy, handles[at].1));
                }
                Step::Lose(at) => drop(Message::encode(&handles[at % handles.len()].0).unwrap()),
            }
            for (block, stamp) in &handles {
                prop_assert_eq!(read(block), *stamp);
            }
        }
        for (block, stamp) in &handles {
            let same = handles.iter().filter(|(_, other)| other == stamp).count();
            prop_assert_eq!(block.count() as usize, same);
        }
        drop(handles);
        arena.sweep();
        prop_assert_eq!(arena.chunks(), 0);
    }
}
