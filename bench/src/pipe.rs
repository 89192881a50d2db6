//! Pipes: messages a second between two processes, and round trips; what arrives is checked.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::crew;
use crate::options::Options;
use crate::queue;
use crate::record::{Label, Sink};
use crate::turns::{self, Contender, Reduce};
use anyhow::{Result, ensure};
use multiprocess::core::connection::{Connection, pipe};
use multiprocess::core::handle::Handle;

/// The limit: what a pipe is made of, without frames.
pub const STREAM: &str = "unix stream";

/// The sizes of messages: name, bytes, how many in a run.
const SIZES: [(&str, usize, usize); 4] =
    [("16B", 16, 200_000), ("1KiB", 1 << 10, 200_000), ("64KiB", 64 << 10, 10_000), ("1MiB", 1 << 20, 500)];

pub fn measure(options: &Options, sink: &mut Sink) -> Result<()> {
    for (label, size, full) in SIZES {
        let n = options.samples(full) as u64;
        let ours = Contender::new("ours", Label::None, move || {
            let (here, there) = pipe()?;
            let job = move |(end, puts, n, size): (Connection, bool, u64, usize)| {
                let mut message = vec![0; size];
                for i in 0..n {
                    if puts {
                        message[size - 1] = i as u8;
                        end.send_bytes(&message).expect("the other end");
                    } else {
                        let message = end.recv_bytes().expect("a message");
                        assert!(
                            message.len() == size && message[size - 1] == i as u8,
                            "message {i} is another one"
                        );
                    }
                }
            };
            let crew = vec![(here, false, n, size), (there, true, n, size)];
            Ok(vec![crew::rate_of(options, n, crew, job)?])
        });
        let limit = Contender::new("limit", Label::Via(STREAM), move || {
            let (here, there) = UnixStream::pair()?;
            let job = move |(end, puts, n, size): (Handle<OwnedFd>, bool, u64, usize)| {
                let (mut end, mut message) = (UnixStream::from(end.0), vec![0; size]);
                (0..n).for_each(|_| match puts {
                    true => end.write_all(&message).expect("the other end"),
                    false => end.read_exact(&mut message).expect("a message"),
                });
            };
            let ends = [(here, false), (there, true)];
            let crew = ends.map(|(end, puts)| (Handle(OwnedFd::from(end)), puts, n, size)).into();
            Ok(vec![crew::rate_of(options, n, crew, job)?])
        });
        let measure = format!("pipe_bytes.1to1.{label}");
        // What other programs have for bytes between two processes; other peers are in the area of queues.
        let peer = queue::ipc_bytes(options, (n as usize / 10).max(4), size);
        turns::take(options, sink, &measure, "msg/s", Reduce::Median, vec![ours, limit, peer])?;
    }
    let n = options.samples(10_000);
    let ours = Contender::new("ours", Label::None, move || {
        let (here, there) = pipe()?;
        let echo = |end: &Connection| {
            let message = end.recv_bytes().expect("a question");
            end.send_bytes(&message).expect("the other end");
        };
        crew::round_trips(options, n, false, there, echo, |i| {
            here.send_bytes(&[i as u8; 64])?;
            ensure!(here.recv_bytes()? == [i as u8; 64], "another answer");
            Ok(())
        })
    });
    let limit = Contender::new("limit", Label::Via(STREAM), move || {
        let (mut here, there) = UnixStream::pair()?;
        let echo = |end: &Handle<OwnedFd>| {
            let mut message = [0; 64];
            let mut done = 0;
            while done < message.len() {
                done += rustix::io::read(&end.0, &mut message[done..]).expect("a question");
            }
            rustix::io::write(&end.0, &message).expect("the other end");
        };
        crew::round_trips(options, n, false, Handle(OwnedFd::from(there)), echo, |i| {
            let mut message = [0; 64];
            here.write_all(&[i as u8; 64])?;
            here.read_exact(&mut message)?;
            ensure!(message == [i as u8; 64], "another answer");
            Ok(())
        })
    });
    turns::take(options, sink, "pipe_bytes.pingpong.64B", "us", Reduce::Percentiles, vec![ours, limit])
}
