//! Rings under random use, against a queue of vectors, and with memory that lies.

mod deaths;
mod hostile;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::*};

use proptest::prelude::*;

use super::*;
use crate::message::Message;

/// A lock for one thread.
struct Toy(AtomicBool);
// SAFETY: an atomic; all other bytes than 0 and 1 never get here, as only these tests use it.
unsafe impl InSharedMemory for Toy {}

struct Hold<'a>(&'a Toy);
// SAFETY: `hold` refuses a second one.
unsafe impl Held for Hold<'_> {
    fn address(&self) -> *const () {
        (self.0 as *const Toy).cast()
    }
}
impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Release);
    }
}
fn hold(toy: &Toy) -> Hold<'_> {
    assert!(!toy.0.swap(true, Acquire));
    Hold(toy)
}

/// What is said about a record: something about every other one.
fn about(record: &[u8]) -> u64 {
    record.len() as u64 * (record.len() as u64 % 2)
}

fn put(ring: &Ring<Toy>, records: &[&[u8]]) -> Result<Vec<Staged>> {
    let held = hold(ring.put_lock());
    let mut writer = ring.writer(&held)?;
    let staged = records.iter().map(|record| writer.stage(record, &[], about(record))).collect::<Result<_>>();
    writer.publish();
    staged
}

/// As [`put`], straight where that is possible.
fn put_straight(ring: &Ring<Toy>, records: &[&[u8]]) -> Result<Vec<Staged>> {
    let each = records.iter().map(|record| {
        if about(record) == 0 && ring.put_short(&hold(ring.put_lock()), record) {
            return Ok(Staged::Yes);
        }
        Ok(put(ring, &[record])?[0])
    });
    each.collect()
}

/// As [`get`], straight where that is possible.
fn get_straight(ring: &Ring<Toy>) -> Result<Option<Vec<u8>>> {
    {
        let (held, mut short, read) = (hold(ring.get_lock()), Short::new(), ring.read());
        if let Some(taken) = ring.get_short(&held, &mut short, true) {
            assert_eq!((taken.number(), ring.read()), (read, read), "not taken before that is published");
            taken.publish();
            assert_eq!(ring.read(), read + 1);
            assert_eq!(about(short.as_slice()), 0, "what was said about it is lost");
            return Ok(Some(short.as_slice().to_vec()));
        }
    }
    get(ring)
}

fn get(ring: &Ring<Toy>) -> Result<Option<Vec<u8>>> {
    let held = hold(ring.get_lock());
    let mut reader = ring.reader(&held)?;
    let Some(next) = reader.peek()? else { return Ok(None) };
    let mut bytes = Vec::new();
    reader.record(&next)?.read(0, &mut bytes)?;
    assert_eq!(next.about, about(&bytes));
    let mut short = Short::new();
    assert_eq!(reader.record(&next)?.read_short(&mut short), bytes.len() <= Short::MOST);
    assert!(bytes.len() > Short::MOST || short.as_slice() == bytes, "a short record is another one");
    reader.pass(&next);
    if reader.should_give_back() {
        reader.publish();
        ring.give_back(&hold(ring.put_lock()), &held)?;
    } else {
        reader.publish();
    }
    Ok(Some(bytes))
}

fn pages(ring: &Ring<Toy>) -> i64 {
    rustix::fs::fstat(ring.memory.fd()).unwrap().st_blocks as i64 * 512
}

#[test]
fn keeps_the_order_and_counts() {
    let ring = Ring::<Toy>::create("order", 3).unwrap();
    assert_eq!(
        put(&ring, &[b"a", b"", b"c", b"d"]).unwrap(),
        [Staged::Yes, Staged::Yes, Staged::Yes, Staged::Full]
    );
    assert_eq!(ring.len(), 3);
    let other = Message::encode(&ring).unwrap().decode::<Ring<Toy>>().unwrap();
    assert_eq!(get(&other).unwrap().unwrap(), b"a");
    assert_eq!(put(&ring, &[b"e"]).unwrap(), [Staged::Yes]);
    let rest: Vec<_> = std::iter::from_fn(|| get(&other).unwrap()).collect();
    assert_eq!(rest, [&b""[..], b"c", b"e"]);
    assert!(ring.is_empty());
    ring.close();
    assert_eq!(put(&other, &[b"f"]).unwrap(), [Staged::Closed]);
}

#[test]
fn what_is_not_published_never_was() {
    let ring = Ring::<Toy>::create("aborted", 10).unwrap();
    for _ in 0..3 {
        let held = hold(ring.put_lock());
        let mut writer = ring.writer(&held).unwrap();
        // Long enough to change the ring.
        for _ in 0..5 {
            writer.stage(&[7; 100_000], &[], 0).unwrap();
        }
    }
    assert_eq!(get(&ring).unwrap(), None);
    put(&ring, &[b"x"]).unwrap();
    {
        let held = hold(ring.get_lock());
        let mut reader = ring.reader(&held).unwrap();
        let next = reader.peek().unwrap().unwrap();
        reader.pass(&next);
    }
    assert_eq!(get(&ring).unwrap().unwrap(), b"x");
}

fn memory_comes_and_goes(
    put: impl Fn(&Ring<Toy>, &[&[u8]]) -> Result<Vec<Staged>>,
    get: impl Fn(&Ring<Toy>) -> Result<Option<Vec<u8>>>,
) {
    let ring = Ring::<Toy>::create("memory", u64::MAX).unwrap();
    let put = || put(&ring, &[&[5; 100]]).unwrap();
    let get = || get(&ring).unwrap();
    for _ in 0..1_000_000 {
        put();
    }
    assert!(pages(&ring) > 100_000_000);
    for _ in 0..1_000_000 {
        assert_eq!(get().unwrap(), [5; 100]);
    }
    assert_eq!(get(), None);
    assert!(pages(&ring) < 8 << 20, "{} bytes are left", pages(&ring));
    // Never quite empty: the long ring is left all the same.
    for _ in 0..1_000_000 {
        put();
    }
    for _ in 0..999_990 {
        get();
    }
    for _ in 0..1000 {
        put();
        get();
    }
    assert!(pages(&ring) < 8 << 20, "{} bytes are left", pages(&ring));
    assert_eq!(ring.len(), 10);
}

#[test]
fn memory_comes_and_goes_the_general_way() {
    memory_comes_and_goes(put, get);
}

#[test]
fn memory_comes_and_goes_straight() {
    memory_comes_and_goes(put_straight, get_straight);
}

#[test]
fn what_is_published_after_the_end_never_was() {
    let ring = Ring::<Toy>::create("closed", u64::MAX).unwrap();
    put(&ring, &[b"a"]).unwrap();
    {
        let held = hold(ring.put_lock());
        let mut writer = ring.writer(&held).unwrap();
        assert_eq!(writer.stage(&[1; 1_000_000], &[], 0).unwrap(), Staged::Yes);
        // Nobody has to wait for that writer.
        ring.close();
        assert!(!writer.publish());
    }
    assert_eq!((get(&ring).unwrap().unwrap(), get(&ring).unwrap()), (b"a".to_vec(), None));
}

#[test]
fn memory_goes_back_after_the_end_too() {
    let ring = Ring::<Toy>::create("closed", u64::MAX).unwrap();
    let record = vec![1; 50_000_000];
    put(&ring, &[&record]).unwrap();
    ring.close();
    assert!(get(&ring).unwrap().unwrap() == record);
    assert!(pages(&ring) < 8 << 20, "{} bytes are left", pages(&ring));
    assert!(ring.is_closed() && get(&ring).unwrap().is_none());
    assert_eq!(put(&ring, &[b"x"]).unwrap(), [Staged::Closed]);
}

#[test]
fn a_guard_of_another_lock_is_refused() {
    let ring = Ring::<Toy>::create("guards", 10).unwrap();
    let held = hold(ring.get_lock());
    assert!(matches!(ring.writer(&held), Err(Error::Invalid { .. })));
}

#[test]
fn na_14_too_much_is_an_error_to_the_writer() {
    let ring = Ring::<Toy>::create("giant", 10).unwrap();
    let held = hold(ring.put_lock());
    let mut writer = ring.writer(&held).unwrap();
    assert!(writer.room(1 << 37).is_err(), "more than this machine has");
    assert!(matches!(writer.room(1 << 50), Err(Error::TooLong { .. })));
    assert_eq!(writer.stage(b"small", &[], 5).unwrap(), Staged::Yes);
    writer.publish();
    drop(held);
    assert_eq!(get(&ring).unwrap().unwrap(), b"small");
}

#[test]
fn what_is_simple_goes_straight() {
    let ring = Ring::<Toy>::create("straight", 1000).unwrap();
    let put_short = |record: &[u8]| ring.put_short(&hold(ring.put_lock()), record);
    assert!(!put_short(b"no page is there yet"));
    put(&ring, &[b"ab"]).unwrap();
    let long = [7; Short::MOST + 2];
    assert!(put_short(b"") && put_short(b"cd") && put_short(&long));
    assert_eq!(put(&ring, &[b"said"]).unwrap(), [Staged::Yes]);
    let get_short = || {
        let mut short = Short::new();
        let held = hold(ring.get_lock());
        let taken = ring.get_short(&held, &mut short, true).map(|taken| taken.publish());
        taken.map(|()| short.as_slice().to_vec())
    };
    assert_eq!([get_short(), get_short(), get_short()].map(Option::unwrap), [&b"ab"[..], b"", b"cd"]);
    assert_eq!(get_short(), None, "too long");
    assert_eq!(get(&ring).unwrap().unwrap(), long);
    assert_eq!(get_short().unwrap(), b"said");
    assert_eq!(get_short(), None, "nothing is there");
    // The others come to the end of what is known, or of the ring.
    let mut others = 0;
    for _ in 0..10_000 {
        if !put_short(&[1; 16]) {
            others += 1;
            put(&ring, &[&[1; 16]]).unwrap();
        }
        others += u64::from(get_short().is_none() && get(&ring).unwrap().is_some());
    }
    assert!(others < 100, "{others} of 20,000");
    assert!(ring.is_empty());
    ring.close();
    assert!(!put_short(b"ef"));
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<usize>, bool),
    Get(usize, bool),
    Abort(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![10 => 0usize..100, 3 => 1000usize..70_000, 1 => 100_000usize..3_000_000];
    prop_oneof![
        4 => (prop::collection::vec(size.clone(), 1..4), any::<bool>()).prop_map(|(sizes, straight)| Step::Put(sizes, straight)),
        4 => (1usize..6, any::<bool>()).prop_map(|(count, straight)| Step::Get(count, straight)),
        1 => size.prop_map(Step::Abort),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_queue_of_vectors(steps in prop::collection::vec(step(), 1..150), limit in 1u64..60) {
        let ring = Ring::<Toy>::create("model", limit).unwrap();
        let mut model = VecDeque::new();
        let mut stamp = 0_u64;
        for step in steps {
            match step {
                Step::Put(sizes, straight) => {
                    let records: Vec<Vec<u8>> = sizes.iter().map(|&size| {
                        stamp += 1;
                        (0..size).map(|at| (at as u64 ^ stamp) as u8).collect()
                    }).collect();
                    let put = if straight { put_straight } else { put };
                    let staged = put(&ring, &records.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
                    for (record, staged) in records.into_iter().zip(staged) {
                        prop_assert_eq!(staged == Staged::Full, model.len() as u64 == limit);
                        if staged == Staged::Yes {
                            model.push_back(record);
                        }
                    }
                }
                Step::Get(count, straight) => for _ in 0..count {
                    let get = if straight { get_straight } else { get };
                    prop_assert_eq!(get(&ring).unwrap(), model.pop_front());
                },
                Step::Abort(size) => {
                    let held = hold(ring.put_lock());
                    let mut writer = ring.writer(&held).unwrap();
                    writer.stage(&vec![0xee; size], &[], 0).unwrap();
                }
            }
            prop_assert_eq!(ring.len(), model.len() as u64);
            let at = Place::from_word(ring.header().put.read_own().place).unwrap();
            let reserved = ring.notes(at.ring).reserved.load(Relaxed);
            prop_assert!(at.offset.min(place::length(at.ring)) <= reserved, "there may be no memory for {:?}", at);
        }
        while let Some(record) = model.pop_front() {
            prop_assert_eq!(get(&ring).unwrap(), Some(record));
        }
        prop_assert_eq!(get(&ring).unwrap(), None);
    }
}
