use std::sync::atomic::Ordering::Relaxed;

use mp_core::message::Message;
use proptest::prelude::*;

use super::*;

fn mixed() -> ShareableList {
    ShareableList::new([
        Item::from("howdy"),
        Item::from(b"HoWdY"),
        Item::from(-273.154),
        Item::from(100),
        Item::None,
        Item::from(true),
        Item::from(42),
    ])
    .unwrap()
}

#[test]
fn slst_01_mixed_list() {
    let list = mixed();
    assert_eq!((list.len(), list.get(0).unwrap(), list.get(5).unwrap()), (7, "howdy".into(), true.into()));
    let printed = format!(
        "ShareableList(['howdy', b'HoWdY', -273.154, 100, None, True, 42], name='{}')",
        list.shm().name()
    );
    assert_eq!(format!("{list:?}"), printed);
    assert!(matches!(list.get(7), Err(Error::OutOfBounds { index: 7, length: 7, .. })));
    assert!(matches!(list.set(7, 1), Err(Error::OutOfBounds { index: 7, length: 7, .. })));
}

#[test]
fn slst_02_search_and_count() {
    let list = mixed();
    assert_eq!(list.index(&"100".into()).unwrap(), None);
    assert_eq!(list.index(&100.into()).unwrap(), Some(3));
    list.set(3, 42).unwrap();
    let count = |item: Item| list.count(&item).unwrap();
    assert_eq!((count(42.into()), count(b"HoWdY".into()), count("adios".into())), (2, 1, 0));
}

#[test]
fn slst_03_copies_and_second_handles() {
    let list = mixed();
    list.set(0, "short").unwrap();
    let copy = list.copy_as("mp_test_list_copy").unwrap();
    let capacities =
        |list: &ShareableList| (0..7).map(|index| list.capacity(index).unwrap()).collect::<Vec<_>>();
    assert_eq!((copy.to_vec().unwrap(), capacities(&copy)), (list.to_vec().unwrap(), capacities(&list)));
    assert_eq!(copy.shm().name(), "mp_test_list_copy");
    copy.set(2, -1.5).unwrap();
    assert_eq!(list.get(2).unwrap(), (-273.154).into());
    let same = ShareableList::open(list.shm().name()).unwrap();
    same.set(2, b"changed").unwrap();
    assert_eq!(list.get(2).unwrap(), b"changed".into());
    assert_ne!(list.copy().unwrap().shm().name(), list.shm().name());
}

#[test]
fn slst_04_empty_list() {
    let list = ShareableList::new([(); 0]).unwrap();
    let same = ShareableList::open(list.shm().name()).unwrap();
    assert!(list.is_empty() && same.is_empty() && same.to_vec().unwrap().is_empty());
    assert_eq!((list.count(&Item::None).unwrap(), list.index(&0.into()).unwrap()), (0, None));
    assert_eq!(format!("{list:?}"), format!("ShareableList([], name='{}')", list.shm().name()));
}

#[test]
fn slst_05_serialised_is_a_reference() {
    let small = ShareableList::new(0..10).unwrap();
    let large = ShareableList::new(0..400).unwrap();
    let [small_message, large_message] = [&small, &large].map(|list| Message::encode(list).unwrap());
    assert_eq!(small_message.bytes.len(), large_message.bytes.len());
    let other: ShareableList = small_message.decode().unwrap();
    small.set(0, "here").unwrap();
    other.set(9, "there").unwrap();
    assert_eq!((other.get(0).unwrap(), small.get(9).unwrap()), ("here".into(), "there".into()));
    drop(large);
    let error = large_message.decode::<ShareableList>().unwrap_err().to_string();
    assert!(error.contains("not found"), "{error}");
}

#[test]
fn na_24_bit_exact() {
    let nan = f64::from_bits(0x7ff8_dead_beef_0001);
    let items = [
        Item::from(b"\0"),
        Item::from("0\u{1f600}\u{1f601}"),
        Item::from(""),
        Item::from(b""),
        Item::from("ends with\0\0"),
        Item::from(i64::MIN),
        Item::from(-0.0),
        Item::from("neighbour"),
    ];
    let list = ShareableList::new(items.clone()).unwrap();
    assert_eq!(list.to_vec().unwrap(), items);
    list.set(5, nan).unwrap();
    assert_eq!(list.get(5).unwrap().as_float().unwrap().to_bits(), nan.to_bits());
    assert!(list.get(6).unwrap().as_float().unwrap().is_sign_negative());
    // As many bytes as there is room for, not as many characters.
    list.set(1, "\u{1f600}\u{1f601}\u{1f602}12345").unwrap_err();
    list.set(1, "\u{1f600}\u{1f601}\u{1f602}1234").unwrap();
    assert_eq!(
        (list.get(1).unwrap().to_string(), list.get(7).unwrap()),
        ("'😀😁😂1234'".into(), "neighbour".into())
    );
    match list.set(0, "nine bytes") {
        Err(Error::TooLong { index: 0, needed: 10, capacity: 8, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(list.get(0).unwrap(), b"\0".into());
}

#[test]
fn writers_and_readers_at_once_see_whole_items() {
    let list = ShareableList::new(["a".repeat(100)]).unwrap();
    std::thread::scope(|scope| {
        for letter in ["b", "c"] {
            let list = &list;
            scope.spawn(move || {
                for length in 0..2000 {
                    list.set(0, letter.repeat(length % 100)).unwrap();
                }
            });
        }
        for _ in 0..2000 {
            let item = list.get(0).unwrap();
            let text = item.as_str().unwrap();
            let first = text.chars().next();
            assert!(text.chars().all(|letter| Some(letter) == first), "{text}");
        }
    });
}

#[test]
fn a_dead_writer_holds_up_nobody_and_a_living_one_for_a_time() {
    let list = ShareableList::new(["old"]).unwrap();
    // What a writer leaves that was killed in the middle: its claim, and half of the other copy.
    let words = list.shm().words().words();
    let copy = words[HEAD + 2].load(Relaxed) as usize;
    assert_eq!(words[HEAD].load(Relaxed), 1, "the first setting");
    words[HEAD + 1].store(u64::from(u32::MAX) << 32 | 1, Relaxed);
    words[copy].store(u64::MAX, Relaxed);
    assert_eq!(list.get(0).unwrap(), "old".into());
    list.set(0, "new").unwrap();
    assert_eq!(list.get(0).unwrap(), "new".into());
    let me = mp_core::liveness::ProcessId::current();
    words[HEAD + 1].store(u64::from(me.pid()) << 32 | me.start_time() & 0xffff_ffff, Relaxed);
    assert!(matches!(list.set(0, "x"), Err(Error::Busy { holder, .. }) if holder == me.pid()));
    assert_eq!(list.get(0).unwrap(), "new".into());
}

#[test]
fn other_blocks_are_not_lists() {
    let block = SharedMemory::create_unnamed(8).unwrap();
    assert!(matches!(ShareableList::open(block.name()), Err(Error::Damaged { .. })));
    block.as_atomic(0).unwrap().store(MAGIC, Relaxed);
    assert_eq!(ShareableList::open(block.name()).unwrap().len(), 0);
    let block = SharedMemory::create_unnamed(64).unwrap();
    block.as_atomic(0).unwrap().store(MAGIC, Relaxed);
    block.as_atomic(8).unwrap().store(2, Relaxed);
    assert!(matches!(ShareableList::open(block.name()), Err(Error::Damaged { .. })));
}

fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        Just(Item::None),
        any::<bool>().prop_map(Item::Bool),
        any::<i64>().prop_map(Item::Int),
        any::<u64>().prop_map(|bits| Item::Float(f64::from_bits(bits))),
        ".{0,20}".prop_map(Item::Str),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Item::Bytes),
    ]
}

fn same(a: &Item, b: &Item) -> bool {
    match (a, b) {
        (Item::Float(a), Item::Float(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

proptest! {
    #[test]
    fn as_a_vector(
        mut model in prop::collection::vec(any_item(), 0..12),
        steps in prop::collection::vec((0..14_usize, any_item()), 0..30),
    ) {
        let list = ShareableList::new(model.clone()).unwrap();
        let same_list = ShareableList::open(list.shm().name()).unwrap();
        for (index, item) in steps {
            let room = list.capacity(index).unwrap_or(0);
            let length = item.as_bytes().or(item.as_str().map(str::as_bytes)).map_or(8, <[u8]>::len);
            match list.set(index, item.clone()) {
                Ok(()) => model[index] = item,
                Err(Error::OutOfBounds { .. }) => prop_assert!(index >= model.len()),
                Err(Error::TooLong { .. }) => prop_assert!(length > room),
                Err(error) => prop_assert!(false, "{error}"),
            }
            let items = same_list.to_vec().unwrap();
            prop_assert!(items.len() == model.len() && items.iter().zip(&model).all(|(a, b)| same(a, b)));
        }
    }

    #[test]
    fn scribbled_lists_are_errors(
        items in prop::collection::vec(any_item(), 0..6),
        scribbles in prop::collection::vec((0..80_usize, prop_oneof![any::<u64>(), 0..100_u64, (0..8_u64, 0..50_u64).prop_map(|(kind, length)| kind << 56 | length)]), 0..20),
    ) {
        let list = ShareableList::new(items).unwrap();
        let words = list.shm().words().words();
        for (index, value) in scribbles {
            // All but the claims, which would take seconds.
            if index < HEAD || (index - HEAD) % SLOT != 1 {
                words.iter().skip(index).take(1).for_each(|word| word.store(value, Relaxed));
            }
        }
        for list in [Ok(list.clone()), ShareableList::open(list.shm().name())].into_iter().flatten().filter(|list| list.len() < 100) {
            let _ = format!("{list:?}");
            for index in 0..list.len() {
                let _ = (list.get(index), list.set(index, "text"), list.get(index), list.capacity(index));
            }
            let _ = list.copy();
        }
    }
}
