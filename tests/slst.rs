//! SLST: shareable lists between processes. What can be seen from one process is tested in `mp-shm/src/list/tests.rs`,
//! under the same ids.

mod common;

use std::time::Duration;

use mp_shm::{Item, ShareableList};
use multiprocess::{Context, ProcessError};

use common::{alone, for_each_method, wait_until};

/// SLST-05, NA-24: bit for bit, in both directions.
#[test]
fn slst_05_a_reference_in_another_process() {
    for_each_method(|context| {
        let nan = f64::from_bits(0xfff8_0000_dead_beef);
        let list = ShareableList::new([Item::from("ends with\0"), Item::from(b""), Item::from(nan)])
            .expect("a list");
        let child = |list: ShareableList| {
            let items = list.to_vec().expect("items");
            list.set(0, "\u{1f600}\0").expect("room");
            list.set(1, None::<bool>).expect("room");
            let bits = items[2].as_float().expect("a float").to_bits();
            (items[0].as_str().expect("a text").to_owned(), items[1].as_bytes().expect("bytes").len(), bits)
        };
        let child = context.process(child, (list.clone(),)).start().expect("a child");
        assert_eq!(child.join().expect("items"), ("ends with\0".to_owned(), 0, nan.to_bits()));
        assert_eq!(list.get(0).expect("an item"), "\u{1f600}\0".into());
        assert_eq!(list.get(1).expect("an item"), Item::None);
    });
}

const LENGTH: usize = 4000;

fn text(letter: char) -> String {
    letter.to_string().repeat(LENGTH)
}

fn writer(list: ShareableList) {
    let texts = ['a', 'b', 'c'].map(text);
    for round in 0.. {
        list.set(0, texts[round % 3].as_str()).expect("room");
        list.set(1, round as i64).expect("room");
    }
}

fn is_whole(list: &ShareableList) -> bool {
    let item = list.get(0).expect("an item, never garbage");
    let text = item.as_str().expect("a text");
    let first = text.chars().next();
    text.len() == LENGTH && text.chars().all(|letter| Some(letter) == first)
}

/// Writers are killed in the middle of setting an item, while another writes the same one.
#[test]
fn items_of_killed_writers_are_whole() {
    alone(|| {
        let list = ShareableList::new([Item::from(text('-')), Item::from(0)]).expect("a list");
        let start =
            || Context::fork().process(writer, (list.clone(),)).daemon(true).start().expect("a child");
        let mut children = [start(), start()];
        for round in 0..60_u64 {
            let begun = list.get(1).expect("an item");
            wait_until("a writer writes", || {
                assert!(is_whole(&list));
                list.get(1).expect("an item") != begun
            });
            std::thread::sleep(Duration::from_micros(131 * (round % 5)));
            let child = &mut children[round as usize % 2];
            child.kill().expect("a signal");
            let ended = std::mem::replace(child, start()).join();
            assert!(matches!(ended, Err(ProcessError::Killed { .. })), "{ended:?}");
            assert!(is_whole(&list));
        }
        for child in &children {
            child.kill().expect("a signal");
            assert!(matches!(child.join(), Err(ProcessError::Killed { .. })));
        }
        assert!(is_whole(&list));
        // Nobody is held up by what the dead were about to do.
        list.set(0, text('z')).expect("room");
        assert_eq!(list.get(0).expect("an item"), text('z').into());
    });
}
