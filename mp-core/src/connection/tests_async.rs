//! Halves of connections, and connections in async code.

use std::io::ErrorKind;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use super::*;
use crate::listener::tests::block_on;

/// More than a socket takes at once.
const LARGE: usize = 4 << 20;

#[test]
fn halves_of_two_threads() {
    let (here, there) = pipe().unwrap();
    let (receiver, sender) = here.split().unwrap();
    assert!(receiver.readable() && !receiver.writable() && !sender.readable() && sender.writable());
    assert!(matches!(receiver.send(&1), Err(Error::Direction { .. })));
    assert!(matches!(sender.recv::<i32>(), Err(Error::Direction { .. })));
    assert!(matches!(sender.split(), Err(Error::Direction { .. })));
    drop((receiver, there));
    let (here, there) = pipe().unwrap();
    let (receiver, sender) = here.split().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (0..100).for_each(|_| there.send_bytes(&there.recv_bytes().unwrap()).unwrap()));
        // Both directions are full at times: one thread could not do it.
        scope.spawn(|| (0..100).for_each(|n| sender.send_bytes(&vec![n; 1 << 18]).unwrap()));
        (0..100).for_each(|n| assert!(receiver.recv_bytes().unwrap() == vec![n; 1 << 18]));
    });
    // One half by itself is not the end; both are.
    drop(sender);
    assert!(!there.poll(Duration::ZERO).unwrap());
    drop(receiver);
    assert!(matches!(there.recv_bytes(), Err(Error::EndOfFile { .. })));
}

#[test]
fn half_closed() {
    let (a, b) = pipe().unwrap();
    a.send(&1).unwrap();
    a.end_sending().unwrap();
    a.end_sending().unwrap();
    assert!(matches!(a.send(&2), Err(Error::Closed { what: "write side of this connection" })));
    assert_eq!(b.recv::<i32>().unwrap(), 1);
    assert!(matches!(b.recv::<i32>(), Err(Error::EndOfFile { .. })));
    b.send(&3).unwrap();
    assert_eq!(a.recv::<i32>().unwrap(), 3);
    let (receiver, sender) = simplex_pipe().unwrap();
    assert!(matches!(receiver.end_sending(), Err(Error::Direction { .. })));
    drop(receiver);
    sender.end_sending().unwrap();
    sender.close().unwrap();
    assert!(matches!(sender.end_sending(), Err(Error::Closed { .. })));
}

#[test]
fn large_messages_on_any_executor() {
    let (a, b) = pipe().unwrap();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            block_on(async {
                a.send_bytes_async(&vec![1; LARGE]).await.unwrap();
                let fds: Vec<_> = (0..600).map(|_| handle::Handle(a.socket.try_clone().unwrap())).collect();
                a.send_async(&(vec![2; LARGE], fds)).await.unwrap();
                a.send_async("last").await.unwrap();
            });
        });
        block_on(async {
            b.poll_async().await.unwrap();
            assert!(b.recv_bytes_async().await.unwrap() == vec![1; LARGE]);
            let (bytes, fds) = b.recv_async::<(Vec<i32>, Vec<handle::Handle<OwnedFd>>)>().await.unwrap();
            assert!(bytes == vec![2; LARGE] && fds.len() == 600);
            assert_eq!(b.recv_async::<String>().await.unwrap(), "last");
        });
        sending.join().unwrap();
    });
    drop(a);
    assert!(matches!(block_on(b.recv_async::<i32>()), Err(Error::EndOfFile { .. })));
    let error = block_on(b.send_async(&1)).unwrap_err();
    assert!(matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe));
    b.close().unwrap();
    assert!(matches!(block_on(b.recv_async::<i32>()), Err(Error::Closed { .. })));
    assert!(matches!(block_on(b.send_async(&1)), Err(Error::Closed { .. })));
}

/// Futures that are dropped in the middle: what was begun is finished by whoever comes next.
#[test]
fn dropped_futures_tear_nothing() {
    let (a, b) = pipe().unwrap();
    {
        let mut sending = pin!(a.send_bytes_async(&[7; LARGE]));
        let polled = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending));
        // It cannot travel like this.
        let (c, _d) = pipe().unwrap();
        let error = c.send(&a).unwrap_err();
        assert!(error.to_string().contains("being sent on it"), "{error}");
    }
    {
        // One that was never begun: the first is in its way.
        let mut sending = pin!(a.send_bytes_async(&[8; LARGE]));
        assert!(matches!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    {
        let mut receiving = pin!(b.recv_bytes_async());
        assert!(matches!(receiving.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            a.send("next").unwrap();
            a.end_sending().unwrap();
        });
        assert!(b.recv_bytes().unwrap() == vec![7; LARGE]);
        assert_eq!(b.recv::<String>().unwrap(), "next");
        assert!(matches!(b.recv_bytes(), Err(Error::EndOfFile { .. })));
    });
}

/// A message that was begun, and whose peer goes before the rest of it: its future learns that, whoever met it first.
#[test]
fn a_lost_message_is_no_success() {
    let (a, b) = pipe().unwrap();
    let mut sending = pin!(a.send_bytes_async(&[7; LARGE]));
    assert!(matches!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    drop(b);
    for result in [a.send("next"), block_on(sending)] {
        assert!(matches!(result, Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe));
    }
}
