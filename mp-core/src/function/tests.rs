//! Calls through `Remote`, and what hostile bytes make of it.

use super::*;
use crate::message::{decode_from, encode_into};

fn add(a: u8, b: u64) -> u64 {
    u64::from(a) + b
}

fn run_once<A: Arguments>(remote: &Remote<Once>, arguments: &A) -> Result<Vec<u8>> {
    let (mut bytes, mut result) = (Vec::new(), Vec::new());
    arguments.encode(&mut bytes, &mut Fds::default())?;
    remote.resolve()?(&bytes, &mut Fds::default())?(&mut result, &mut Fds::default())?;
    Ok(result)
}

#[test]
fn functions_of_any_number_of_arguments() {
    let sum = run_once(&Remote::call(add), &(1u8, 41u64)).expect("a call");
    assert_eq!(decode_from::<u64>(&sum, &mut Fds::default()).expect("a value"), 42);
    run_once(&Remote::call(|| ()), &()).expect("no argument");
    let eight = |a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8| vec![a, b, c, d, e, f, g, h];
    let list = run_once(&Remote::call(eight), &(1u8, 2u8, 3u8, 4u8, 5u8, 6u8, 7u8, 8u8)).expect("a call");
    assert_eq!(
        decode_from::<Vec<u8>>(&list, &mut Fds::default()).expect("a value"),
        [1, 2, 3, 4, 5, 6, 7, 8]
    );
}

#[test]
fn arguments_of_other_types_are_an_error() {
    let remote = Remote::call(add);
    for wrong in [
        run_once(&remote, &(1u8,)),
        run_once(&remote, &("one".to_owned(), 2u64)),
        run_once(&remote, &(1u8, 2u64, 3u8)),
    ] {
        assert!(matches!(wrong, Err(Error::Decode { .. })), "{wrong:?}");
    }
}

#[test]
fn captured_values_are_decoded_once() {
    let mut captures = Vec::new();
    encode_into(&10i64, &mut captures, &mut Fds::default()).expect("a value");
    let remote = Remote::each_with(|k: &i64, x: i64| k * x);
    let mut function = remote.resolve().expect("here")(&captures, &mut Fds::default()).expect("captures");
    for x in [1i64, 2, 3] {
        let (mut item, mut result) = (Vec::new(), Vec::new());
        encode_into(&x, &mut item, &mut Fds::default()).expect("a value");
        function(&item, &mut Fds::default(), &mut result, &mut Fds::default()).expect("a call");
        assert_eq!(decode_from::<i64>(&result, &mut Fds::default()).expect("a value"), 10 * x);
    }
}

#[test]
fn a_wrong_build_or_place_is_an_error_with_the_name() {
    let good = Remote::call(add);
    let mut bad = vec![Remote { build: BuildId::parse(&"00".repeat(20)).expect("an id"), ..good.clone() }];
    for distance in [0, 1, 8, i64::MAX, i64::MIN, good.distance + 8, good.distance + 16, good.distance - 8] {
        bad.push(Remote { distance, ..good.clone() });
    }
    // The wrapper's own code, and the entry of another kind of function.
    let code = good.resolve().expect("good") as usize;
    bad.push(Remote {
        distance: code.wrapping_sub(std::ptr::from_ref(&ANCHOR).addr()) as i64,
        ..good.clone()
    });
    bad.push(Remote { distance: Remote::each(|x: u8| x).distance, ..good.clone() });
    for remote in bad {
        let error = remote.resolve().expect_err("refused").to_string();
        assert!(error.contains("tests::add"), "{error}");
    }
}

fn distance_to<T>(target: &T) -> i64 {
    std::ptr::from_ref(target).addr().wrapping_sub(std::ptr::from_ref(&ANCHOR).addr()) as i64
}

#[test]
fn an_entry_that_somebody_has_written_is_refused() {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static FORGED: [AtomicU64; 3] = [const { AtomicU64::new(1) }; 3];
    let good = Remote::call(add);
    let code = good.resolve().expect("good") as usize as u64;
    for (word, value) in FORGED.iter().zip([MARK, Once::KIND, code]) {
        word.store(value, Relaxed);
    }
    let on_heap = Box::new([MARK, Once::KIND, code]);
    for distance in [distance_to(&FORGED), distance_to(&*on_heap)] {
        let forged = Remote { distance, ..good.clone() };
        assert!(matches!(forged.resolve(), Err(Error::Function { .. })));
    }
}

#[test]
fn any_distance_leads_to_a_function_of_its_kind_or_to_an_error() {
    let good = Remote::call(add);
    let mut found = 0;
    // All around the anchor, all around an entry, and nowhere.
    let around = |middle: i64| (middle - (2 << 20)..middle + (2 << 20)).step_by(8);
    let nowhere = [i64::MIN, i64::MIN + 8, i64::MAX - 7];
    for distance in around(0).chain(around(good.distance)).chain(nowhere) {
        match (Remote::<Once> { distance, ..good.clone() }).resolve() {
            Ok(_) => found += 1,
            Err(error) => assert!(matches!(error, Error::Function { .. }), "{error}"),
        }
    }
    assert!(found > 1, "the functions of these tests, at least");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_function_or_an_error(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
        place in 0..200usize,
        bit in 0..8,
    ) {
        let resolve = |bytes: &[u8]| {
            decode_from::<Remote<Many>>(bytes, &mut Fds::default()).and_then(|remote| remote.resolve().map(|_| ()))
        };
        proptest::prop_assert!(resolve(&bytes).is_err());
        // One that is nearly right: only its name may have changed.
        let mut bytes = Vec::new();
        encode_into(&Remote::each(|x: u8| x), &mut bytes, &mut Fds::default()).expect("a value");
        let place = place % bytes.len();
        bytes[place] ^= 1u8 << bit;
        let ordered = matches!(resolve(&bytes), Ok(()) | Err(Error::Function { .. } | Error::Decode { .. }));
        proptest::prop_assert!(ordered);
    }
}
