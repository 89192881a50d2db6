//! Round trips of everything serde has, and bytes that nobody encoded.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::handle::Handle;
use crate::message::Message;

fn bytes_of<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_value(value, &mut bytes).unwrap();
    bytes
}

fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
    assert_eq!(decode_value::<T>(&bytes_of(&value)).unwrap(), value);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wrapped(Vec<u16>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Rich {
    Nothing,
    Nested(Box<Rich>),
    Pair(i8, String),
    Fields { flag: bool, letter: char, big: i128, huge: u128, small: f32 },
    Many(Vec<Rich>),
    Map(BTreeMap<String, Rich>),
    Maybe(Option<Option<Option<Box<Rich>>>>),
    Odd(Option<()>, Option<Unit>, Result<Option<()>, Unit>, ()),
    Bytes(Vec<u8>, VecDeque<u8>, BTreeSet<u8>, [u8; 5], Option<Vec<u8>>),
    Numbers(Vec<f64>, Box<[i64]>, Vec<usize>, Wrapped, Vec<u128>, Vec<bool>, Vec<i8>),
    Keys(BTreeMap<(u32, Option<bool>), Vec<i32>>),
    Empty {},
}

fn rich() -> impl Strategy<Value = Rich> {
    let float = any::<f64>().prop_filter("comparable", |float| !float.is_nan());
    let bytes = || vec(any::<u8>(), 0..300);
    let leaf = prop_oneof![
        Just(Rich::Nothing),
        Just(Rich::Empty {}),
        (any::<i8>(), ".*").prop_map(|(number, text)| Rich::Pair(number, text)),
        (any::<bool>(), any::<char>(), any::<i128>(), any::<u128>(), -1e30_f32..1e30)
            .prop_map(|(flag, letter, big, huge, small)| Rich::Fields { flag, letter, big, huge, small }),
        (any::<Option<()>>(), any::<bool>(), any::<Option<()>>()).prop_map(|(a, b, c)| Rich::Odd(
            a,
            b.then_some(Unit),
            if b { Ok(c) } else { Err(Unit) },
            ()
        )),
        (bytes(), bytes(), bytes(), any::<[u8; 5]>(), proptest::option::of(bytes()))
            .prop_map(|(a, b, c, d, e)| Rich::Bytes(a, b.into(), c.into_iter().collect(), d, e)),
        (
            vec(float, 0..40),
            vec(any::<i64>(), 0..40),
            vec(any::<usize>(), 0..40),
            vec(any::<u16>(), 0..40),
            vec(any::<u128>(), 0..5),
            vec(any::<bool>(), 0..20),
            vec(any::<i8>(), 0..20)
        )
            .prop_map(|(a, b, c, d, e, f, g)| Rich::Numbers(a, b.into(), c, Wrapped(d), e, f, g)),
        btree_map(any::<(u32, Option<bool>)>(), vec(any::<i32>(), 0..5), 0..5).prop_map(Rich::Keys),
    ];
    leaf.prop_recursive(6, 60, 20, |inner| {
        prop_oneof![
            inner.clone().prop_map(|value| Rich::Nested(value.into())),
            vec(inner.clone(), 0..20).prop_map(Rich::Many),
            btree_map(".*", inner.clone(), 0..20).prop_map(Rich::Map),
            proptest::option::of(proptest::option::of(proptest::option::of(inner.prop_map(Box::new))))
                .prop_map(Rich::Maybe),
        ]
    })
}

/// A type that takes whatever comes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Anything {
    Nothing(()),
    Flag(bool),
    Number(i64),
    Float(f64),
    Text(String),
    Sequence(Vec<Anything>),
    Map(BTreeMap<String, Anything>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Plain,
    Data { bytes: Vec<u8>, floats: Option<Vec<f32>> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value")]
enum Adjacent {
    Plain,
    Data(Vec<u8>, Option<()>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Bytes(Vec<u8>),
    Floats { floats: Vec<f64>, name: Option<Vec<u8>> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Named(#[serde(with = "crate::codec::named")] Vec<Untagged>);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    first: Vec<u8>,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    rest: BTreeMap<String, Vec<i16>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    data: Vec<u8>,
    array: [u8; 3],
    maybe: Option<Vec<u64>>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Sparse {
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<u32>,
    b: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    c: Vec<u32>,
    d: u32,
}

#[test]
fn every_shape_of_serde_survives() {
    same(Tagged::Plain);
    same(Tagged::Data { bytes: vec![0, 200, 3], floats: Some(vec![1.5]) });
    same(Adjacent::Plain);
    same(Adjacent::Data(vec![1, 200], Some(())));
    same(Named(vec![
        Untagged::Bytes(vec![0; 300]),
        Untagged::Floats { floats: vec![1.0, -2.0], name: Some(vec![255]) },
        Untagged::Floats { floats: vec![], name: None },
    ]));
    same(Untagged::Bytes(vec![]));
    let inner = Inner { data: vec![9; 20], array: [1, 2, 3], maybe: Some(vec![1 << 60]) };
    let rest = BTreeMap::from([("x".into(), vec![-1, 2]), ("y".into(), vec![])]);
    same(Flat { first: vec![1, 2, 3], inner, rest });
    for a in [None, Some(1)] {
        for c in [vec![], vec![3]] {
            same((Sparse { a, b: 2, c, d: 4 }, 5));
        }
    }
    same((
        HashSet::from([1_u8, 2, 255]),
        VecDeque::from([1_u8, 2]),
        Cow::Borrowed(&[1_u8, 2][..]).into_owned(),
    ));
    same::<Arc<[f32]>>(Arc::from([1.0, 2.0]));
    same((
        std::net::Ipv6Addr::LOCALHOST,
        std::time::Duration::from_nanos(1 << 40),
        std::path::PathBuf::from("/a b"),
    ));
    same((1..5_u64, std::num::NonZeroU8::new(3), std::ops::Bound::Included('x'), "\u{1f980}".to_string()));
    same([Some(Some(())), Some(None), None]);
    same((i128::MIN, u128::MAX, -1_i128, i64::MIN, u64::MAX, f32::MIN_POSITIVE));
}

#[test]
fn lanes_cost_one_header() {
    let bytes = vec![7_u8; 16 << 20];
    assert_eq!(bytes_of(&bytes).len(), bytes.len() + 6);
    let numbers = vec![u64::MAX; 1 << 20];
    assert_eq!(bytes_of(&("name", &numbers)).len(), 8 * numbers.len() + 6 + 6);
    assert_eq!(bytes_of(&"x".repeat(1 << 20)).len(), (1 << 20) + 5);
    assert_eq!(decode_value::<Vec<u8>>(&bytes_of(&bytes)).unwrap(), bytes);
}

#[test]
fn lanes_convert_or_refuse() {
    let bytes = bytes_of(&vec![1_u32, 2, 300]);
    assert_eq!(decode_value::<Vec<u64>>(&bytes).unwrap(), [1, 2, 300]);
    assert_eq!(decode_value::<VecDeque<Option<i16>>>(&bytes).unwrap(), [Some(1), Some(2), Some(300)]);
    assert_eq!(decode_value::<[u128; 3]>(&bytes).unwrap(), [1, 2, 300]);
    assert_eq!(decode_value::<(u8, u8, u16)>(&bytes).unwrap(), (1, 2, 300));
    assert_eq!(
        decode_value::<Anything>(&bytes).unwrap(),
        Anything::Sequence([1, 2, 300].map(Anything::Number).into())
    );
    assert!(matches!(decode_value::<Vec<u8>>(&bytes), Err(Error::Decode { .. })));
    assert!(matches!(decode_value::<Vec<String>>(&bytes), Err(Error::Decode { .. })));
    assert!(matches!(decode_value::<[u32; 2]>(&bytes), Err(Error::Decode { .. })));
    assert!(matches!(decode_value::<Vec<u8>>(&bytes_of(&vec![1.0_f64])), Err(Error::Decode { .. })));
    assert!(matches!(decode_value::<String>(&bytes_of(&vec![65_u8])), Err(Error::Decode { .. })));
}

/// A visitor whose value is a `Vec<u8>` but which is not that of `Vec`: it must be asked.
#[test]
fn lanes_leave_other_visitors_alone() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sorted(#[serde(deserialize_with = "sorted")] Vec<u8>);

    fn sorted<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Sort;
        impl<'de> serde::de::Visitor<'de> for Sort {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u8>, A::Error> {
                let mut sorted = BTreeSet::new();
                while let Some(item) = items.next_element()? {
                    sorted.insert(item);
                }
                Ok(sorted.into_iter().collect())
            }
        }
        deserializer.deserialize_seq(Sort)
    }

    assert_eq!(decode_value::<Sorted>(&bytes_of(&Sorted(vec![3, 1, 2]))).unwrap(), Sorted(vec![1, 2, 3]));
}

#[test]
fn bulk_of_plain_data() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Mesh {
        #[serde(with = "crate::codec::bulk")]
        points: Vec<[f32; 3]>,
        #[serde(with = "crate::codec::bulk")]
        matrix: [[f64; 40]; 40],
        #[serde(with = "crate::codec::bulk")]
        tail: Box<[u16]>,
    }
    let mesh = Mesh { points: vec![[1.0, 2.0, 3.0]; 1000], matrix: [[0.5; 40]; 40], tail: [1, 2].into() };
    assert!(bytes_of(&mesh).len() < 12_000 + 12_800 + 4 + 16);
    same(mesh);
    let bytes = bytes_of(&Bulk(vec![0_u8; 7]));
    assert!(matches!(decode_value::<Bulk<Vec<u16>>>(&bytes), Err(Error::Decode { .. })));
    assert!(matches!(decode_value::<Bulk<[u8; 8]>>(&bytes), Err(Error::Decode { .. })));
    assert_eq!(decode_value::<Bulk<[u8; 7]>>(&bytes).unwrap().0, [0; 7]);
}

#[test]
fn nesting_is_limited_on_both_sides() {
    let chain = |depth| (1..depth).fold(Rich::Nothing, |inner, _| Rich::Nested(inner.into()));
    same(chain(if cfg!(debug_assertions) { 100 } else { DEPTH }));
    let error = encode_value(&chain(DEPTH + 2), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("depth limit"), "{error}");
    for marker in [0x91, SOME, 0xd4] {
        let unit: &[u8] = if marker == 0xd4 { &[0xd4, HANDLE, 0] } else { &[marker] };
        let bytes = unit.repeat(1 << 20);
        assert!(decode_value::<serde::de::IgnoredAny>(&bytes).is_err());
        assert!(decode_value::<Anything>(&bytes).is_err());
    }
    let maps = b"\x81\xa1x".repeat(1 << 20);
    assert!(decode_value::<Anything>(&maps).is_err());
}

#[test]
fn values_that_need_much_stack_may_nest_less() {
    #[derive(Serialize, Deserialize)]
    struct Node {
        #[serde(with = "crate::codec::bulk")]
        matrix: [[f64; 64]; 64],
        next: Option<Box<Node>>,
    }
    let chain = (0..100).fold(None, |next, _| Some(Box::new(Node { matrix: [[0.5; 64]; 64], next })));
    let error = decode_value::<Option<Box<Node>>>(&bytes_of(&chain)).err().expect("more than a stack holds");
    assert!(error.to_string().contains("depth limit"), "{error}");
}

#[test]
fn huge_lengths_are_refused() {
    for kind in [WIDE_STR, WIDE_BYTES, WIDE_SEQ, WIDE_MAP, WIDE | 1, WIDE | 12] {
        for length in [1_u64 << 62, u64::MAX, 1 << 33, 8] {
            let mut bytes = vec![0xd7, kind];
            bytes.extend(length.to_le_bytes());
            bytes.extend([0; 7]);
            assert!(decode_value::<Vec<u8>>(&bytes).is_err());
            assert!(decode_value::<String>(&bytes).is_err());
            assert!(decode_value::<Anything>(&bytes).is_err());
            assert!(decode_value::<BTreeMap<u8, u8>>(&bytes).is_err());
        }
    }
    for bytes in
        [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]
    {
        assert!(decode_value::<Vec<[u64; 8]>>(bytes).is_err());
        assert!(decode_value::<Vec<()>>(bytes).is_err());
        assert!(decode_value::<Anything>(bytes).is_err());
    }
}

#[test]
fn wide_headers_are_read() {
    let wide = |kind, length: u64, rest: &[u8]| {
        let mut bytes = vec![0xd7, kind];
        bytes.extend(length.to_le_bytes());
        bytes.extend(rest);
        bytes
    };
    assert_eq!(decode_value::<String>(&wide(WIDE_STR, 2, b"hi")).unwrap(), "hi");
    assert_eq!(decode_value::<Vec<u8>>(&wide(WIDE_BYTES, 2, b"hi")).unwrap(), b"hi");
    assert_eq!(decode_value::<Vec<u8>>(&wide(WIDE | 1, 2, b"hi")).unwrap(), b"hi");
    assert_eq!(decode_value::<Vec<u16>>(&wide(WIDE | 2, 2, &[1, 2])).unwrap(), [0x201]);
    assert_eq!(decode_value::<Vec<u8>>(&wide(WIDE_SEQ, 2, &[1, 2])).unwrap(), [1, 2]);
    assert_eq!(
        decode_value::<BTreeMap<u8, u8>>(&wide(WIDE_MAP, 1, &[1, 2])).unwrap(),
        BTreeMap::from([(1, 2)])
    );
    assert_eq!(decode_value::<Anything>(&wide(WIDE_SEQ, 0, &[])).unwrap(), Anything::Sequence(vec![]));
}

#[test]
fn unknown_lengths_are_counted() {
    struct Unknown;
    impl Serialize for Unknown {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..100).filter(|number| number % 3 == 0))
        }
    }
    let expected: Vec<i32> = (0..100).step_by(3).collect();
    assert_eq!(decode_value::<(u8, Vec<i32>)>(&bytes_of(&(1, Unknown))).unwrap(), (1, expected));
}

#[test]
fn errors_leave_the_buffer_as_it_was() {
    #[derive(Serialize)]
    struct Bad(Vec<u8>, #[serde(serialize_with = "refuse")] ());
    fn refuse<S: serde::Serializer>(_: &(), _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it refuses"))
    }
    let mut bytes = b"before".to_vec();
    let error = encode_value(&Bad(vec![1; 100], ()), &mut bytes).unwrap_err().to_string();
    assert!(error.contains("Bad") && error.contains("it refuses"), "{error}");
    assert_eq!(bytes, b"before");
}

#[test]
fn handles_need_a_message() {
    let file = Handle(std::fs::File::open("/dev/null").unwrap());
    let error = encode_value(&file, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("std::fs::File travels only inside a message"), "{error}");
    let message = Message::encode(&file).unwrap();
    let error = decode_value::<Handle<std::fs::File>>(&message.bytes).unwrap_err().to_string();
    assert!(error.contains("std::fs::File travels only inside a message"), "{error}");
}

/// A `Deserialize` that panics costs its own message and no other: descriptors are closed, and the table is nobody's.
#[test]
fn a_panic_while_decoding_leaves_nothing_behind() {
    #[derive(Debug, Serialize)]
    struct Bomb;
    impl<'de> Deserialize<'de> for Bomb {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Bomb, D::Error> {
            panic!("a bomb")
        }
    }
    let (mut read, write) = std::io::pipe().unwrap();
    let spare = write.try_clone().unwrap();
    let message = Message::encode(&(Handle(write), Bomb, Handle(spare))).unwrap();
    let bytes = message.bytes.clone();
    type Three = (Handle<std::fs::File>, Bomb, Handle<std::fs::File>);
    let decode = std::panic::AssertUnwindSafe(|| message.decode::<Three>());
    assert!(std::panic::catch_unwind(decode).is_err());
    assert_eq!(std::io::Read::read(&mut read, &mut [0]).unwrap(), 0, "all writing ends are closed");

    let error = decode_value::<(Handle<std::fs::File>, (), ())>(&bytes).unwrap_err().to_string();
    assert!(error.contains("travels only inside a message"), "{error}");
    let message = Message::encode(&Handle(read)).unwrap();
    message.decode::<Handle<std::fs::File>>().unwrap();
}

proptest! {
    #[test]
    fn everything_survives(value in rich()) {
        let bytes = bytes_of(&value);
        prop_assert_eq!(&decode_value::<Rich>(&bytes).unwrap(), &value);
        let mut longer = bytes;
        longer.push(0xc0);
        prop_assert!(decode_value::<Rich>(&longer).is_err());
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_value::<Rich>(&bytes);
        let _ = decode_value::<Anything>(&bytes);
        let _ = decode_value::<Vec<u64>>(&bytes);
        let _ = Message { bytes, fds: Fds::new() }.decode::<Handle<std::fs::File>>();
    }

    #[test]
    fn damaged_values_never_panic(value in rich(), at in any::<prop::sample::Index>(), bit in 0..8, cut in any::<bool>()) {
        let mut bytes = bytes_of(&value);
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
            prop_assert!(decode_value::<Rich>(&bytes).is_err());
        } else {
            bytes[at] ^= 1_u8 << bit;
            let _ = decode_value::<Rich>(&bytes);
        }
        let _ = decode_value::<Anything>(&bytes);
    }

    #[test]
    fn rmp_serde_is_understood(value in rich().prop_filter("has no Some(None)", |value| {
        rmp_serde::from_slice::<Rich>(&rmp_serde::to_vec(value).unwrap()).ok().as_ref() == Some(value)
    })) {
        prop_assert_eq!(decode_value::<Rich>(&rmp_serde::to_vec(&value).unwrap()).unwrap(), value);
    }
}
