//! The counts of blocks in messages that arrive: given back once each, whatever becomes of the message.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;
use crate::handle::{self, Handle};
use crate::message::{Fds, Message, decode_from, discard, encode_into};

type Null = Handle<std::fs::File>;

fn null() -> Null {
    Handle(std::fs::File::open("/dev/null").unwrap())
}

fn block() -> Block {
    Arena::global().alloc(16, 8).unwrap()
}

/// A message that has been sent.
fn arrived(value: &impl Serialize) -> Message {
    let mut message = Message::encode(value).unwrap();
    message.fds.delivered();
    message
}

/// A value that needs no handles to be refused.
#[derive(Debug, Serialize, Deserialize)]
enum Other {
    One,
    Two(String),
}

/// Whose `Deserialize` panics, at once or after it was read.
#[derive(Debug)]
struct Bomb<const AFTER: bool>;

impl<'de, const AFTER: bool> Deserialize<'de> for Bomb<AFTER> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bomb<AFTER>, D::Error> {
        if AFTER {
            IgnoredAny::deserialize(deserializer)?;
        }
        panic!("a bomb")
    }
}

/// What encodes as a block does, but panics when it is adopted.
#[derive(Debug)]
struct Unlucky;

impl<'de> Deserialize<'de> for Unlucky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unlucky, D::Error> {
        handle::deserialize(deserializer, "unlucky", |fds, (fd, _): (u32, u32)| {
            fds.chunk(fd, "unlucky")?;
            panic!("unlucky")
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Wrong(Block, Other),
    Right(Block, u32),
}

/// `value` holds the block: whether it is a `T` or not, all that its message owned comes back.
fn comes_back<T: DeserializeOwned + Debug>(block: &Block, value: &impl Serialize) -> bool {
    let before = block.count();
    let message = arrived(value);
    assert!(block.count() > before);
    let decoded = catch_unwind(AssertUnwindSafe(|| message.decode::<T>()));
    let is_well = matches!(decoded, Ok(Ok(_)));
    if !is_well {
        assert_eq!(block.count(), before, "{}: {decoded:?}", std::any::type_name::<T>());
    }
    drop(decoded);
    assert_eq!(block.count(), before, "{}", std::any::type_name::<T>());
    // A message that was never sent is as good.
    let message = Message::encode(value).unwrap();
    drop(catch_unwind(AssertUnwindSafe(|| message.decode::<T>())));
    assert_eq!(block.count(), before, "{}, unsent", std::any::type_name::<T>());
    // The next message is not concerned.
    assert!(Message::encode(block).unwrap().decode::<Block>().unwrap() == *block);
    is_well
}

#[test]
fn a_value_that_is_not_decoded_gives_back_what_it_carried() {
    let one = &block();
    // An error after a handle, before one, between two.
    assert!(comes_back::<(Block, u8)>(one, &(one, 7)));
    assert!(!comes_back::<(Block, String)>(one, &(one, 7)));
    assert!(!comes_back::<(String, Block)>(one, &(7, one)));
    assert!(!comes_back::<(Block, String, Block)>(one, &(one, 7, one)));
    assert!(!comes_back::<(Block, u8)>(one, &(one, 7, one)));
    assert!(!comes_back::<(Block, u8, Block)>(one, &(one, 1 << 20, one)));
    // Another type, of all kinds.
    assert!(!comes_back::<u32>(one, one));
    assert!(!comes_back::<String>(one, &Some(one)));
    assert!(!comes_back::<Other>(one, &(one, one)));
    assert!(!comes_back::<Null>(one, one));
    assert!(!comes_back::<crate::segment::Segment>(one, one));
    assert!(!comes_back::<(Block, Block)>(one, &(null(), one)));
    assert!(!comes_back::<(Null, Block)>(one, &(one, null())));
    assert!(!comes_back::<Block>(one, &("text", one)));
    assert!(!comes_back::<(Block, Block)>(one, &("text", one)));
    assert!(!comes_back::<(Other, Block)>(one, &(vec!["text"; 20], one)));
    assert!(!comes_back::<(Other, Block)>(one, &(vec![1_u16; 20], one)));
    // Blocks that nobody wants.
    assert!(comes_back::<IgnoredAny>(one, &[one, one]));
    assert!(comes_back::<(Block, IgnoredAny, Block)>(one, &(one, one, one)));
    assert!(comes_back::<HashMap<String, Option<IgnoredAny>>>(one, &HashMap::from([("x", one)])));
}

#[test]
fn a_panic_gives_back_what_was_carried() {
    let one = &block();
    assert!(!comes_back::<Bomb<false>>(one, one));
    assert!(!comes_back::<Bomb<true>>(one, &[one, one]));
    assert!(!comes_back::<(Block, Bomb<false>, Block)>(one, &(one, one, one)));
    assert!(!comes_back::<(Block, Bomb<true>, Block)>(one, &(one, 1, one)));
    assert!(!comes_back::<(Block, Unlucky, Block)>(one, &(one, one, one)));
    assert!(!comes_back::<Unlucky>(one, one));
}

#[test]
fn blocks_deep_inside_are_found() {
    #[derive(Serialize)]
    enum Deep<'a> {
        New(Option<Option<&'a Block>>),
        Tuple(u8, &'a Block),
        Fields { name: &'static str, map: BTreeMap<(u8, bool), Result<&'a Block, ()>> },
    }
    let one = &block();
    let map = BTreeMap::from([((1, true), Ok(one)), ((2, false), Err(())), ((3, false), Ok(one))]);
    let value = (
        // All that the walk has to pass.
        (vec![0xd4_u8; 300], [1.5_f32; 3], "x".repeat(40), "y".repeat(300), "z".repeat(70_000)),
        (-1, -200, -40_000, i64::MIN, 200, 40_000, 1 << 20, u64::MAX, i128::MIN, 0.5, 0.5_f32),
        (Some(None::<()>), (true, false), 'c', vec![(1, 2); 20], vec![None::<u8>; 70_000]),
        (serde_bytes(&[0xd4; 20]), serde_bytes(&[0xd4; 300]), serde_bytes(&[0xd4; 70_000])),
        (0..40).map(|key| (key, "value")).collect::<BTreeMap<_, _>>(),
        [
            Deep::New(Some(None)),
            Deep::New(Some(Some(one))),
            Deep::Tuple(1, one),
            Deep::Fields { name: "n", map },
        ],
    );
    assert!(!comes_back::<u8>(one, &value));
    assert!(!comes_back::<Bomb<false>>(one, &value));
    assert!(!comes_back::<(IgnoredAny, (u8, u8))>(one, &value));
    assert!(comes_back::<IgnoredAny>(one, &value));
    let before = one.count();
    arrived(&value).discard();
    assert_eq!(one.count(), before);
}

/// Bytes as such, not as numbers.
fn serde_bytes(bytes: &[u8]) -> impl Serialize {
    struct Bytes<'a>(&'a [u8]);
    impl Serialize for Bytes<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
    Bytes(bytes)
}

/// A second attempt at the same bytes gets a handle of its own.
#[test]
fn untagged_enums_try_again() {
    let one = block();
    let decoded = arrived(&(&one, 7)).decode::<Untagged>().unwrap();
    assert!(matches!(&decoded, Untagged::Right(same, 7) if *same == one));
    assert_eq!(one.count(), 2);
    drop(decoded);
    assert!(comes_back::<Untagged>(&one, &(&one, 7)));
    assert!(!comes_back::<Untagged>(&one, &(&one, "x")));
}

#[test]
fn values_that_share_a_table_are_given_back_one_by_one() {
    let one = block();
    let (mut bytes, mut fds, mut ends) = (Vec::new(), Fds::new(), vec![0]);
    for number in 0..4 {
        encode_into(&(&one, number), &mut bytes, &mut fds).unwrap();
        ends.push(bytes.len());
    }
    fds.delivered();
    assert_eq!(one.count(), 5);
    let part = |at: usize| &bytes[ends[at]..ends[at + 1]];
    let value = decode_from::<(Block, u8)>(part(0), &mut fds).unwrap();
    assert_eq!(one.count(), 5);
    decode_from::<(Block, String)>(part(1), &mut fds).unwrap_err();
    assert_eq!(one.count(), 4);
    discard(part(2), &mut fds);
    assert_eq!(one.count(), 3);
    drop(value);
    assert_eq!(one.count(), 2);
    decode_from::<Block>(part(3), &mut fds).unwrap_err();
    assert_eq!(one.count(), 1);
}

#[test]
fn copies_leave_the_counts_to_who_keeps_them() {
    let one = block();
    let kept = Message::encode(&[&one, &one]).unwrap();
    let copy = || {
        let mut fds = Fds::new();
        kept.fds.iter().for_each(|fd| _ = fds.attach(fd.clone()));
        Message { bytes: kept.bytes.clone(), fds: fds.into_copy() }
    };
    for _ in 0..3 {
        let two: [Block; 2] = copy().decode().unwrap();
        assert_eq!(one.count(), 5);
        drop(two);
        assert!(copy().decode::<(Block, u8)>().is_err());
        copy().discard();
        assert_eq!(one.count(), 3);
    }
    drop(kept);
    assert_eq!(one.count(), 1);
}

#[test]
fn a_connection_that_receives_another_type_gives_back() {
    let one = block();
    let (here, there) = crate::connection::Connection::pair().unwrap();
    for _ in 0..2 {
        here.send(&(&one, 1)).unwrap();
    }
    assert_eq!(one.count(), 3);
    there.recv::<(Block, String)>().unwrap_err();
    assert_eq!(one.count(), 2);
    there.recv::<u8>().unwrap_err();
    assert_eq!(one.count(), 1);
}

/// A count is given back for each place in the bytes where a block stands, and for nothing else.
#[test]
fn bytes_that_look_like_blocks_are_none() {
    let one = block();
    let message = arrived(&one);
    let marker = message.bytes.clone();
    let mut inner = Vec::new();
    for _ in 0..3 {
        inner.extend_from_slice(&marker);
    }
    discard(&[&[0xc4, inner.len() as u8], &inner[..]].concat(), &mut { message.fds });
    let message = arrived(&(&inner, serde_bytes(&inner), String::from_utf8_lossy(&inner), &one));
    assert_eq!(one.count(), 3);
    message.discard();
    assert_eq!(one.count(), 2);
    discard(&marker, &mut arrived(&one).fds);
    discard(&marker, &mut arrived(&one).fds);
    assert_eq!(one.count(), 2);
}

/// What is kept in a thread may end after the slots through which tables are lent.
#[test]
fn messages_are_discarded_at_the_end_of_a_thread() {
    struct Kept(Cell<Option<Message>>);
    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(Message::discard);
        }
    }
    thread_local! {
        static KEPT: Kept = const { Kept(Cell::new(None)) };
    }
    let one = block();
    let message = arrived(&one);
    assert_eq!(one.count(), 2);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            KEPT.with(|kept| kept.0.set(Some(message)));
            // The slots are made after it, and so are gone before it.
            assert!(Message::encode(&one).unwrap().decode::<Block>().unwrap() == one);
        });
        // Otherwise the scope does not wait for what the thread keeps.
        thread.join().unwrap();
    });
    assert_eq!(one.count(), 1);
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    Block(u8, u8),
    Byte(u8),
    Marker(u8),
}

fn piece() -> impl Strategy<Value = Piece> {
    let marker = prop::sample::select(&[0x92_u8, 0x81, 0xd4, 0x40, 1, 0xc7, 0xd7, 0xdc, 0xc0, 0xc1][..]);
    prop_oneof![
        3 => (0..4_u8, 0..12_u8).prop_map(|(fd, index)| Piece::Block(fd, index)),
        1 => any::<u8>().prop_map(Piece::Byte),
        2 => marker.prop_map(Piece::Marker),
    ]
}

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Takes whatever comes, and panics in the middle of it.
#[derive(Debug)]
struct Fuse(#[expect(dead_code, reason = "held until the panic")] Vec<Block>);

impl<'de> Deserialize<'de> for Fuse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fuse, D::Error> {
        DEPTH.set(DEPTH.get() + 1);
        assert!(DEPTH.get() < 3, "burnt down");
        Vec::deserialize(deserializer).map(Fuse)
    }
}

proptest! {
    /// Hostile bytes: no panic, no access elsewhere, and at most one count for each place that looks like a block.
    #[test]
    fn hostile_bytes_give_back_no_more_than_they_name(pieces in prop::collection::vec(piece(), 0..60), how in 0..6) {
        let arena = Arena::new();
        let blocks: Vec<Block> = (0..8).map(|_| arena.alloc(16, 8).unwrap()).collect();
        let (chunk, _) = blocks[0].parts();
        let (chunk, others) = (chunk.clone(), 1 << 20);
        for _ in 0..100 {
            blocks.iter().for_each(|block| std::mem::forget(block.clone()));
        }
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Block(fd, index) => bytes.extend([0xd4, 0x40, 1, 0x92, fd, index]),
                Piece::Byte(byte) | Piece::Marker(byte) => bytes.push(byte),
            }
        }
        let named = bytes.windows(3).filter(|window| *window == [0xd4, 0x40, 1]).count();
        let mut fds = Fds::new();
        fds.attach(chunk.segment().shared_fd().clone());
        fds.attach(std::sync::Arc::new(std::fs::File::open("/dev/null").unwrap().into()));
        fds.attach_segment(&crate::segment::Segment::create("no chunk", others).unwrap());
        let message = Message { bytes, fds };
        match how {
            0 => message.discard(),
            1 => drop(message.decode::<Vec<Block>>()),
            2 => drop(message.decode::<(Block, Null, Other)>()),
            3 => drop(message.decode::<Vec<Untagged>>()),
            4 => drop(message.decode::<Vec<BTreeMap<u8, IgnoredAny>>>()),
            _ => {
                DEPTH.set(0);
                let _ = catch_unwind(AssertUnwindSafe(|| message.decode::<Vec<Fuse>>()));
            }
        }
        let counts: Vec<usize> = blocks.iter().map(|block| block.count() as usize).collect();
        prop_assert!(counts.iter().all(|count| *count <= 101), "{counts:?}");
        prop_assert!(counts.iter().sum::<usize>() + named >= 8 * 101, "{counts:?} after {named}");
        prop_assert!((8..12).all(|index| !chunk.is_live(index)));
    }
}
