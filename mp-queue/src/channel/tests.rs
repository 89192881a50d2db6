//! Items with descriptors whose putter or getter is killed between two steps, by doing the steps by hand; and memory that lies.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::slice::from_ref;
use std::time::Duration;

use proptest::prelude::*;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::pipe::pipe;

use super::*;

/// A descriptor by which we know it again, and its mark.
fn marked() -> (u64, SharedFd) {
    let (fd, _) = pipe().expect("a pipe");
    (mark(fd.try_clone().expect("a descriptor")), Arc::new(fd))
}

fn mark(fd: OwnedFd) -> u64 {
    File::from(fd).metadata().expect("a pipe").ino()
}

fn fds(all: &[SharedFd]) -> Fds {
    let mut fds = Fds::new();
    all.iter().for_each(|fd| {
        fds.attach(fd.clone());
    });
    fds
}

fn put(channel: &Channel, bytes: &[u8], all: &[SharedFd]) -> Result<()> {
    channel.put(&mut [Parcel { bytes, fds: fds(all) }], Wait::Not).1
}

/// The bytes and the marks of the next item.
fn get(channel: &Channel) -> Result<(Vec<u8>, Vec<u64>)> {
    let (mut bytes, mut received) = (Vec::new(), Ok(Fds::new()));
    channel.get(1, Wait::Not, &(), |found| {
        found.read(&mut bytes)?;
        received = found.handles();
        Ok(Fate::Last)
    })?;
    let marks =
        received?.iter().map(|fd| mark(fd.as_fd().try_clone_to_owned().expect("a descriptor"))).collect();
    Ok((bytes, marks))
}

fn channel() -> Channel {
    Channel::new(u64::MAX).expect("memory")
}

/// All that a putter does before it publishes.
fn putter_dies(channel: &Channel, all: &[SharedFd], stages: bool) {
    let held = channel.ring.put_lock().try_guard().expect("the lock");
    let mut writer = channel.ring.writer(&held).expect("a ring");
    let Ok(Sent::As(attempt)) = channel.side.send(writer.number(), &fds(all)) else { panic!("not sent") };
    if stages {
        assert_eq!(writer.stage(b"never", &[], attempt).expect("memory"), Staged::Yes);
    }
}

/// All that a getter does before it publishes.
fn getter_dies(channel: &Channel) {
    let held = channel.ring.get_lock().try_guard().expect("the lock");
    let mut reader = channel.ring.reader(&held).expect("a ring");
    let next = reader.peek().expect("a ring").expect("an item");
    channel.side.receive(next.number, next.about).expect("descriptors");
}

#[test]
fn what_dead_putters_sent_belongs_to_nobody() {
    let channel = channel();
    let ((one, first), (other, second), (_, lost)) = (marked(), marked(), marked());
    put(&channel, b"one", &[first]).expect("put");
    putter_dies(&channel, from_ref(&lost), false);
    putter_dies(&channel, &vec![lost.clone(); 300], true);
    put(&channel, b"none", &[]).expect("put");
    putter_dies(&channel, &[lost], true);
    put(&channel, b"other", &[second.clone(), second]).expect("put");
    assert_eq!(get(&channel).expect("an item"), (b"one".to_vec(), vec![one]));
    assert_eq!(get(&channel).expect("an item"), (b"none".to_vec(), vec![]));
    assert_eq!(get(&channel).expect("an item"), (b"other".to_vec(), vec![other, other]));
    assert!(matches!(get(&channel), Err(Error::Empty)));
}

#[test]
fn what_dead_getters_received_is_lost_and_nothing_else() {
    let channel = channel();
    let ((_, lost), (mark, fd)) = (marked(), marked());
    put(&channel, b"lost", from_ref(&lost)).expect("put");
    getter_dies(&channel);
    assert!(matches!(get(&channel), Err(Error::HandlesLost)));
    assert!(matches!(get(&channel), Err(Error::Empty)));
    for several in [false, true] {
        put(&channel, b"lost", from_ref(&lost)).expect("put");
        getter_dies(&channel);
        put(&channel, b"next", from_ref(&fd)).expect("put");
        put(&channel, b"last", &[]).expect("put");
        if several {
            // Those behind it are for the next call.
            let mut seen = Vec::new();
            let look = |found: Found<'_>| {
                let (fate, handles) = found.gather(&mut Vec::new(), seen.is_empty())?;
                seen.extend(handles.map(|handles| handles.is_ok()));
                Ok(fate)
            };
            channel.get(3, Wait::Not, &(), look).expect("one item");
            assert_eq!(seen, [false]);
        } else {
            assert!(matches!(get(&channel), Err(Error::HandlesLost)));
        }
        assert_eq!(get(&channel).expect("an item"), (b"next".to_vec(), vec![mark]));
        assert_eq!(get(&channel).expect("an item"), (b"last".to_vec(), vec![]));
    }
}

#[test]
fn an_item_without_its_handles_ends_a_batch() {
    let channel = channel();
    let (mark, fd) = marked();
    put(&channel, b"first", from_ref(&fd)).expect("put");
    put(&channel, b"lost", from_ref(&fd)).expect("put");
    put(&channel, b"last", &[fd]).expect("put");
    // One that gets both is killed.
    {
        let held = channel.ring.get_lock().try_guard().expect("the lock");
        let mut reader = channel.ring.reader(&held).expect("a ring");
        for _ in 0..2 {
            let next = reader.peek().expect("a ring").expect("an item");
            channel.side.receive(next.number, next.about).expect("descriptors");
            reader.pass(&next);
        }
    }
    assert!(matches!(get(&channel), Err(Error::HandlesLost)));
    assert!(matches!(get(&channel), Err(Error::HandlesLost)));
    assert_eq!(get(&channel).expect("an item"), (b"last".to_vec(), vec![mark]));
}

#[test]
fn too_much_for_the_sockets() {
    let channel = channel();
    set_socket_send_buffer_size(channel.side.socket(), 1).expect("a size");
    let (mark, fd) = marked();
    // What dead putters left there is cleared away, and an item that fits by no means is an error.
    let many = vec![fd.clone(); 10_000];
    for _ in 0..3 {
        let error = put(&channel, b"many", &many).expect_err("not put");
        assert!(matches!(error, Error::TooManyHandles { count: 10_000 }), "{error}");
        put(&channel, b"one", from_ref(&fd)).expect("put");
        assert_eq!(get(&channel).expect("an item"), (b"one".to_vec(), vec![mark]));
    }
    // While others wait to be got, it is full.
    let mut count = 0_usize;
    while put(&channel, &[count as u8], from_ref(&fd)).is_ok() {
        count += 1;
    }
    assert!(count > 0 && matches!(put(&channel, b"x", from_ref(&fd)), Err(Error::Full)));
    put(&channel, b"without", &[]).expect("put");
    for number in 0..count {
        assert_eq!(get(&channel).expect("an item"), (vec![number as u8], vec![mark]));
    }
    assert_eq!(get(&channel).expect("an item").0, b"without");
    put(&channel, b"x", &[fd]).expect("put");
}

/// The forms that wait do so for room in the sockets, too, and go on as soon as there is some.
#[test]
fn waiting_for_room_in_the_sockets() {
    let queue = crate::Queue::<(u32, crate::Queue<u8>)>::unbounded().expect("memory");
    set_socket_send_buffer_size(queue.channel().side.socket(), 1).expect("a size");
    let inner = crate::Queue::unbounded().expect("memory");
    let mut count = 0;
    while queue.try_put((count, inner.clone())).is_ok() {
        count += 1;
    }
    assert!(count > 0);
    let late = queue.put_timeout((count, inner.clone()), Duration::from_millis(50));
    assert!(matches!(late, Err(Error::Full)), "{late:?}");
    {
        let mut future = std::pin::pin!(queue.put_async((u32::MAX, inner.clone())));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(future.as_mut().poll(&mut context).is_pending());
        // Dropped, it has put nothing.
    }
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| queue.put((count, inner.clone())).expect("put"));
        scope
            .spawn(|| queue.put_many([(count + 1, inner.clone()), (count + 2, inner.clone())]).expect("put"));
        while got.len() < count as usize + 3 {
            got.push(queue.get().expect("an item").0);
        }
    });
    got.sort();
    assert_eq!(got, (0..count + 3).collect::<Vec<_>>());
    assert!(queue.is_empty());
}

#[test]
fn a_put_that_comes_after_the_close_leaves_nothing() {
    let channel = channel();
    let (reader, writer) = pipe().expect("a pipe");
    {
        let held = channel.ring.put_lock().try_guard().expect("the lock");
        let number = channel.ring.writer(&held).expect("a ring").number();
        assert!(matches!(channel.side.send(number, &fds(&[Arc::new(writer)])), Ok(Sent::As(_))));
        // It holds nobody up.
        channel.close();
    }
    assert!(matches!(get(&channel), Err(Error::Closed)));
    // The end of the pipe that was on its way is closed.
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
}

proptest! {
    /// Whatever another process says in the ring and sends, it is an error at worst, and never a wait.
    #[test]
    fn hostile_neighbours(abouts in prop::collection::vec(any::<u64>(), 1..20), numbers in prop::collection::vec(0_u64..30, 0..20)) {
        let channel = channel();
        let (_, fd) = marked();
        for number in numbers {
            let _ = channel.side.send(number, &fds(from_ref(&fd)));
        }
        {
            let held = channel.ring.put_lock().try_guard().expect("the lock");
            let mut writer = channel.ring.writer(&held).expect("a ring");
            for about in &abouts {
                prop_assert_eq!(writer.stage(b"item", &[], *about).expect("memory"), Staged::Yes);
            }
            prop_assert!(writer.publish());
        }
        for about in abouts {
            let item = get(&channel);
            prop_assert_eq!(item.is_ok(), about == 0, "{:?}", item);
        }
        prop_assert!(matches!(get(&channel), Err(Error::Empty)));
        // One that was sent ahead of its number is in the way of others, but nobody gets it.
        put(&channel, b"x", &[fd]).expect("put");
        prop_assert!(matches!(get(&channel), Ok(_) | Err(Error::HandlesLost)));
    }
}
