//! Time limits of calls that wait for a peer which does nothing.

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};

use super::*;

const LIMIT: Duration = Duration::from_millis(50);

fn is_late<T: fmt::Debug>(began: Instant, result: Result<T>) {
    assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
    assert!(began.elapsed() >= LIMIT);
}

/// NA-30
#[test]
fn na_30_sending_to_one_who_does_not_read() {
    let large = vec![7_u8; 4 << 20];
    let (a, _b) = pipe().unwrap();
    a.send_timeout(&"fits", LIMIT).unwrap();
    a.send_bytes_timeout(b"fits", LIMIT).unwrap();
    is_late(Instant::now(), a.send_timeout(&large, LIMIT));
    // Half of it is out, so nothing else may follow.
    assert!(matches!(a.send_bytes_timeout(b"x", LIMIT), Err(Error::Closed { .. })));
    let (a, _b) = pipe().unwrap();
    is_late(Instant::now(), a.send_bytes_timeout(&large, LIMIT));

    // While another thread is at it.
    let (a, b) = pipe().unwrap();
    thread::scope(|scope| {
        let sending = scope.spawn(|| a.send_bytes(&large));
        assert!(b.poll(Duration::from_secs(20)).unwrap());
        is_late(Instant::now(), a.send_bytes_timeout(b"x", LIMIT));
        is_late(Instant::now(), a.end_sending_timeout(LIMIT));
        assert_eq!(b.recv_bytes().unwrap().len(), large.len());
        sending.join().unwrap().unwrap();
    });
    a.end_sending_timeout(LIMIT).unwrap();
    assert!(matches!(b.recv_bytes(), Err(Error::EndOfFile { .. })));
}

/// NA-30: half a message is there for the next call, of whatever form.
#[test]
fn na_30_receiving_half_a_message() {
    let (a, b) = pipe().unwrap();
    let mut buffer = [1; 4];
    is_late(Instant::now(), a.recv_bytes_into_timeout(&mut buffer, LIMIT));
    let mut frame = Vec::new();
    frame.extend(3_u64.to_le_bytes());
    frame.extend(0_u32.to_le_bytes());
    frame.extend(MAGIC);
    frame.extend(b"abc");
    send(b.as_fd(), &frame[..18], SendFlags::NOSIGNAL).unwrap();
    is_late(Instant::now(), a.recv_bytes_into_timeout(&mut buffer, LIMIT));
    is_late(Instant::now(), a.recv_bytes_max_timeout(9, LIMIT));
    assert_eq!(buffer, [1; 4]);
    send(b.as_fd(), &frame[18..], SendFlags::NOSIGNAL).unwrap();
    assert_eq!(a.recv_bytes_into_timeout(&mut buffer, LIMIT).unwrap(), 3);
    assert_eq!(&buffer, b"abc\x01");

    b.send_bytes(b"abcde").unwrap();
    match a.recv_bytes_into_timeout(&mut buffer, LIMIT) {
        Err(Error::BufferTooShort { message, room: 4 }) => assert_eq!(message, b"abcde"),
        other => panic!("{other:?}"),
    }
    b.send_bytes(b"abcde").unwrap();
    assert_eq!(a.recv_bytes_max_timeout(5, LIMIT).unwrap(), b"abcde");
    b.send_bytes(b"abcde").unwrap();
    assert!(matches!(a.recv_bytes_max_timeout(4, LIMIT), Err(Error::TooLong { length: 5, .. })));
}
