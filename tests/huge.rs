//! NA-16: messages that no 32-bit length can tell, and that no one should split for their size: 4 GiB and one byte more,
//! by every way there is between two processes. One test, alone in its program, as it needs up to 16 GiB of memory.

mod common;

use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::Queue;
use multiprocess::core::connection::{Connection, pipe};
use serde::{Deserialize, Serialize};

use common::watchdog_of;

const LENGTH: usize = (4 << 30) + 1;

/// Where marks stand: at both ends, around what 31 and 32 bits can count, and in between.
const MARKS: [usize; 9] =
    [0, 1, 4095, (2 << 30) - 1, 2 << 30, 3 << 30, (4 << 30) - 2, (4 << 30) - 1, 4 << 30];

#[derive(Serialize, Deserialize)]
struct Parcel {
    before: String,
    content: Vec<u8>,
    after: (u8, Option<f64>),
}

fn content() -> Vec<u8> {
    let mut content = vec![0; LENGTH];
    MARKS.iter().zip(1..).for_each(|(mark, number)| content[*mark] = number);
    content
}

/// Whether it is [`content`]: the marks, and nothing else.
fn is_content(bytes: &[u8]) -> bool {
    const BLOCK: usize = 1 << 20;
    let zeros = vec![0; BLOCK];
    let mut rest = bytes.len() == LENGTH;
    let mut expected = Vec::with_capacity(BLOCK);
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        let range = number * BLOCK..number * BLOCK + block.len();
        expected.clear();
        expected.extend_from_slice(&zeros[..block.len()]);
        let marks = MARKS.iter().zip(1..).filter(|(mark, _)| range.contains(mark));
        marks.for_each(|(mark, number)| expected[mark - range.start] = number);
        rest &= block == expected;
    }
    rest
}

fn parcel() -> Parcel {
    Parcel { before: "before".into(), content: content(), after: (7, Some(0.5)) }
}

fn is_parcel(parcel: &Parcel) -> bool {
    parcel.before == "before" && parcel.after == (7, Some(0.5)) && is_content(&parcel.content)
}

#[test]
fn na_16_more_than_4_gib() {
    let _watchdog = watchdog_of(Duration::from_secs(240));
    let mut start = Instant::now();
    let mut tell = |what: &str| {
        println!("{what}: {:?}", start.elapsed());
        start = Instant::now();
    };

    let (here, there) = pipe().expect("a pipe");
    let child = |there: Connection| {
        assert!(is_content(&there.recv_bytes().expect("bytes")));
        there.send(&()).expect("sent");
        there.send(&parcel()).expect("sent");
    };
    let child = mp::process(child, (there,)).start().expect("a child");
    here.send_bytes(&content()).expect("sent");
    here.recv::<()>().expect("a word of the child");
    tell("bytes through a connection");
    assert!(is_parcel(&here.recv().expect("a parcel")));
    tell("a value through a connection");
    child.join().expect("an orderly end");

    let child = |parcel: Parcel| is_parcel(&parcel);
    let child = mp::process(child, (parcel(),)).start().expect("a child");
    assert!(child.join().expect("a result"));
    tell("an argument");

    let child = mp::process(parcel, ()).start().expect("a child");
    assert!(is_parcel(&child.join().expect("a result")));
    drop(child);
    tell("a result");

    let queue = Queue::<Parcel>::bounded(1).expect("a queue");
    queue.put(parcel()).expect("put");
    let child = |queue: Queue<Parcel>| is_parcel(&queue.get().expect("a parcel"));
    let child = mp::process(child, (queue.clone(),)).start().expect("a child");
    assert!(child.join().expect("a result"));
    assert!(queue.is_empty());
    tell("a queue");
}
