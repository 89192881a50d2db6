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

/// Moves a handle to "another process": what it frees goes the way of foreign frees.
fn abroad(block: Block) -> Block {
    let (chunk, index) = block.parts();
    let foreign = chunk.foreign();
    foreign.retain(index);
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
