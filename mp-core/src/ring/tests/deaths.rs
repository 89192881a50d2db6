//! What a death between two steps leaves is as good as what no step would have left.

use super::*;

/// Puts or gets so many records of 16 bytes, which say their numbers.
fn put_numbers(ring: &Ring<Toy>, numbers: std::ops::Range<u128>) {
    numbers
        .for_each(|number| assert_eq!(put_straight(ring, &[&number.to_ne_bytes()]).unwrap(), [Staged::Yes]));
}

fn get_numbers(ring: &Ring<Toy>, numbers: std::ops::Range<u128>) {
    numbers.for_each(|number| assert_eq!(get_straight(ring).unwrap().unwrap(), number.to_ne_bytes()));
}

/// NA-2: a getter that is killed while it gives memory back, after so many steps.
fn dies_giving_back(steps: usize) {
    let ring = Ring::<Toy>::create("death", u64::MAX).unwrap();
    put_numbers(&ring, 0..1000);
    get_numbers(&ring, 0..1000);
    // The writer notes where the readers are, and goes to a long ring.
    put(&ring, &[&vec![1; 20_000_000]]).unwrap();
    {
        let (get_held, _put_held) = (hold(ring.get_lock()), hold(ring.put_lock()));
        let mut reader = ring.reader(&get_held).unwrap();
        let next = reader.peek().unwrap().unwrap();
        reader.pass(&next);
        assert!(reader.should_give_back());
        reader.publish();
        let items = ring.header().got.read_own().items;
        if steps > 0 {
            Writer::new(&ring).unwrap().go_home().unwrap();
        }
        if steps > 1 {
            ring.header().got.publish(Progress { items, place: Place::start(0).word() }, 1, || ());
        }
    }
    // Almost as many as go into the first ring, and then one that needs another.
    put_numbers(&ring, 0..2040);
    put(&ring, &[&[9; 10_000]]).unwrap();
    get_numbers(&ring, 0..2040);
    assert_eq!(get(&ring).unwrap().unwrap(), [9; 10_000]);
    assert!(ring.is_empty());
}

#[test]
fn na_02_one_who_dies_giving_memory_back_leaves_a_whole_ring() {
    (0..=2).for_each(dies_giving_back);
}

/// NA-2: a writer that is killed in another ring than the last record.
#[test]
fn na_02_one_who_dies_in_another_ring_was_never_there() {
    let ring = Ring::<Toy>::create("death", u64::MAX).unwrap();
    for round in 0..50 {
        put_numbers(&ring, 0..1000 + round);
        {
            let held = hold(ring.put_lock());
            let mut writer = ring.writer(&held).unwrap();
            for _ in 0..round {
                writer.stage(&[7; 50_000], &[], 0).unwrap();
            }
        }
        put_numbers(&ring, 1000 + round..2000);
        get_numbers(&ring, 0..2000);
    }
}

/// NA-2: on the straight way, one that is killed before its exchange has put, or taken, nothing.
#[test]
fn na_02_one_who_dies_before_the_exchange_has_done_nothing() {
    let ring = Ring::<Toy>::create("death", 1000).unwrap();
    for round in 0..3000 {
        put_numbers(&ring, round..round + 2);
        {
            let held = hold(ring.put_lock());
            let place = ring.header().put.read_own().place;
            let piece = ring.memory.mapped(Place::ring_of(place)).unwrap();
            // At the end of the ring it would have gone the general way.
            let _ = piece.write_record(place, record_size(100), &[0xee; 100]);
            drop(held);
            let held = hold(ring.get_lock());
            drop(ring.get_short(&held, &mut Short::new(), true).expect("a record"));
        }
        assert_eq!(ring.len(), 2);
        get_numbers(&ring, round..round + 2);
        assert_eq!(get_straight(&ring).unwrap(), None);
    }
}
