//! The bytes of a ring are hostile: whatever another process scribbles, an error at worst.

use super::*;

/// Any number, above all those at which something ends.
fn number() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![
        Just(0),
        Just(RECORD_HEAD),
        Just(1 << place::SHORTEST),
        (0u64..=RINGS as u64).prop_map(|ring| ring << 58),
        Just(Short::MOST as u64),
    ];
    prop_oneof![
        any::<u64>(),
        0u64..100_000,
        (0u64..40).prop_map(|off| u64::MAX - off),
        (edge, -600i64..600).prop_map(|(edge, off)| edge.wrapping_add_signed(off)),
    ]
}

#[derive(Clone, Debug)]
enum Act {
    /// A word of the header.
    Header(usize, u64),
    /// What stands before a record, if one begins there.
    Head(usize, u64, [u64; 2]),
    PutStraight(usize),
    Put(usize),
    GetStraight,
    Get,
}

fn act() -> impl Strategy<Value = Act> {
    let about = prop_oneof![Just(0), number()];
    let size = prop_oneof![4 => 0usize..200, 1 => 1000usize..3000, 1 => 60_000usize..80_000];
    prop_oneof![
        1 => (any::<usize>(), number()).prop_map(|(at, value)| Act::Header(at, value)),
        1 => (0usize..3, 0u64..15, number(), about).prop_map(|(ring, at, bytes, about)| Act::Head(ring, at * 16, [bytes, about])),
        1 => size.clone().prop_map(Act::PutStraight),
        1 => size.prop_map(Act::Put),
        2 => Just(Act::GetStraight),
        1 => Just(Act::Get),
    ]
}

/// Gets one record by the general way, as far as that goes.
fn get_hostile(ring: &Ring<Toy>) -> Result<()> {
    let held = hold(ring.get_lock());
    let mut reader = ring.reader(&held)?;
    let Some(next) = reader.peek()? else { return Ok(()) };
    let mut short = Short::new();
    let is_short = reader.record(&next)?.read_short(&mut short);
    assert_eq!(short.as_slice().len() as u64, if is_short { next.bytes } else { 0 });
    let read = reader.record(&next)?.read(0, &mut Vec::new());
    reader.pass(&next);
    let gives_back = reader.should_give_back();
    reader.publish();
    if gives_back {
        ring.give_back(&hold(ring.put_lock()), &held)?;
    }
    read
}

fn put_hostile(ring: &Ring<Toy>, size: usize) -> Result<()> {
    let held = hold(ring.put_lock());
    let mut writer = ring.writer(&held)?;
    let staged = writer.stage(&vec![7; size], &[], 0).map(drop);
    writer.publish();
    staged
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn scribbled_memory_is_an_error(acts in prop::collection::vec(act(), 1..40), long in any::<bool>()) {
        let ring = Ring::<Toy>::create("scribble", 100).unwrap();
        for size in [4, 50, 18, 100] {
            put_straight(&ring, &[&vec![1; size]]).unwrap();
        }
        if long {
            put(&ring, &[&[1; 70_000], &[1; 8]]).unwrap();
        }
        for act in acts {
            match act {
                Act::Header(at, value) => {
                    // SAFETY: within the header, whose fields are atomics.
                    unsafe { ring.memory.head().cast::<u64>().add(at % (size_of::<Header<Toy>>() / 8)).write_volatile(value) };
                    // The toy locks may be among what was scribbled.
                    ring.put_lock().0.store(false, Release);
                    ring.get_lock().0.store(false, Release);
                }
                Act::Head(at, offset, head) => ring.memory.ring(at).unwrap().write_head(offset, head),
                Act::PutStraight(size) => _ = ring.put_short(&hold(ring.put_lock()), &vec![3; size]),
                Act::Put(size) => drop(put_hostile(&ring, size)),
                Act::GetStraight => {
                    let (held, mut short) = (hold(ring.get_lock()), Short::new());
                    if let Some(taken) = ring.get_short(&held, &mut short, false) {
                        assert!(short.as_slice().len() <= Short::MOST);
                        taken.publish();
                    }
                }
                Act::Get => drop(get_hostile(&ring)),
            }
        }
    }
}
