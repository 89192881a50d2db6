//! XFER: descriptors, sockets and connections that travel between processes, and what becomes of them when one of the
//! processes dies. Between threads: `mp-core/src/connection/tests.rs`, under the same ids.

mod common;

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use multiprocess::core::connection::{Connection, pipe, simplex_pipe};
use multiprocess::core::handle::{Handle, inside};
use multiprocess::core::message::Message;
use multiprocess::core::{Error, codec};
use multiprocess::{Context, Pool, Queue, SimpleQueue, StartMethod};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde::{Deserialize, Serialize};

use common::{Belongings, SOON, Scratch, alone, for_each_method, for_methods, watchdog};

#[test]
fn xfer_01_both_ends_of_a_pipe_through_a_connection() {
    for_each_method(|context| {
        let child = |there: Connection| {
            let writer: Connection = there.recv().expect("a connection");
            assert!(writer.writable() && !writer.readable());
            writer.send("all is well").expect("sent");
            drop(writer);
            let reader: Connection = there.recv().expect("a connection");
            assert!(reader.readable() && !reader.writable());
            let text: String = reader.recv().expect("a text");
            there.send(&text.repeat(2)).expect("sent");
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");

        let (reader, writer) = simplex_pipe().expect("a pipe");
        here.send(&writer).expect("sent");
        drop(writer);
        assert_eq!(reader.recv::<String>().expect("a text"), "all is well");
        assert!(matches!(reader.recv::<String>(), Err(Error::EndOfFile { .. })));

        let (reader, writer) = simplex_pipe().expect("a pipe");
        here.send(&reader).expect("sent");
        drop(reader);
        writer.send("foobar").expect("sent");
        assert_eq!(here.recv::<String>().expect("a text"), "foobarfoobar");
        child.join().expect("an orderly end");
        match writer.send("gone") {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::BrokenPipe),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn xfer_02_socket_as_an_argument() {
    for_each_method(|context| {
        let echo = |socket: Handle<UnixStream>| {
            let mut socket = socket.into_inner();
            let mut bytes = [0; 2];
            socket.read_exact(&mut bytes).expect("two bytes");
            socket.write_all(&bytes).expect("written");
        };
        let (mut here, there) = UnixStream::pair().expect("a socket pair");
        let child = context.process(echo, (Handle(there),)).start().expect("a child");
        here.write_all(b"42").expect("written");
        let mut answer = String::new();
        here.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer, "42");
        child.join().expect("an orderly end");
        assert_eq!(child.exit_code(), Some(0));
    });
}

#[test]
fn xfer_03_connection_through_a_queue() {
    for_each_method(|context| {
        let child = |items: SimpleQueue<Connection>| {
            let item = items.get().expect("a connection");
            let text: String = item.recv().expect("a text");
            item.send(&text).expect("sent");
        };
        let items = SimpleQueue::new().expect("a queue");
        let child = context.process(child, (items.clone(),)).start().expect("a child");
        let (near, far) = pipe().expect("a pipe");
        items.put(far).expect("put");
        near.send("42").expect("sent");
        assert_eq!(near.recv::<String>().expect("a text"), "42");
        child.join().expect("an orderly end");
        assert_eq!(child.exit_code(), Some(0));
    });
}

#[test]
fn xfer_04_raw_descriptor() {
    for_each_method(|context| {
        let scratch = Scratch::new();
        let path = scratch.file("text");
        let child = |there: Connection| {
            let file: Handle<OwnedFd> = there.recv().expect("a descriptor");
            assert!(is_closed_on_exec(&file));
            File::from(file.into_inner()).write_all(b"foo").expect("written");
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        let file = OwnedFd::from(File::create(&path).expect("a file"));
        here.send(&Handle(file)).expect("sent");
        child.join().expect("an orderly end");
        assert_eq!(std::fs::read(&path).expect("the file"), b"foo");
    });
}

fn is_closed_on_exec(fd: &impl AsFd) -> bool {
    rustix::io::fcntl_getfd(fd).expect("its flags").contains(rustix::io::FdFlags::CLOEXEC)
}

#[test]
fn xfer_05_data_without_a_descriptor() {
    for_each_method(|context| {
        let child = |raw: Handle<UnixStream>| {
            let mut raw = raw.into_inner();
            let (mut tap, end) = UnixStream::pair().expect("a socket pair");
            let end = Connection::from_fd(end.into()).expect("a connection");
            end.send(&Handle(File::open("/dev/null").expect("a file"))).expect("sent");
            end.send("next").expect("sent");
            drop(end);
            // The bytes of both messages, and not what came with them.
            let mut bytes = Vec::new();
            tap.read_to_end(&mut bytes).expect("bytes");
            raw.write_all(&bytes).expect("written");
            raw.write_all(&[0]).expect("written");
        };
        let (near, far) = UnixStream::pair().expect("a socket pair");
        let child = context.process(child, (Handle(far),)).start().expect("a child");
        let here = Connection::from_fd(near.into()).expect("a connection");
        let error = here.recv::<Handle<File>>().expect_err("no descriptor came");
        assert!(matches!(error, Error::Decode { .. }), "{error}");
        assert!(error.to_string().contains("announced 1 descriptors, 0 came"), "{error}");
        assert_eq!(here.recv::<String>().expect("the next message"), "next");
        child.join().expect("an orderly end");
        // One byte is no message.
        assert!(matches!(here.recv::<Handle<File>>(), Err(Error::Truncated { .. })));
    });
}

#[test]
fn xfer_06_descriptors_that_nobody_collects() {
    for_each_method(|context| {
        let child = |there: Connection| {
            let before = Belongings::now();
            // As what it is not: the handle goes with the message.
            assert!(matches!(there.recv::<String>(), Err(Error::Decode { .. })));
            assert!(matches!(there.recv_bytes(), Ok(bytes) if !bytes.is_empty()));
            drop(there.recv_message().expect("a message"));
            assert!(matches!(there.recv::<(Handle<File>, String)>(), Err(Error::Decode { .. })));
            assert_eq!(Belongings::now().fds(), before.fds());
            there.send(&()).expect("sent");
            there.poll_forever().expect("a message that stays");
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        let (reader, writer) = simplex_pipe().expect("a pipe");
        (0..3).for_each(|_| here.send(&writer).expect("sent"));
        let files = [File::open("/dev/null"), File::open("/dev/zero")];
        here.send(&files.map(|file| Handle(file.expect("a file")))).expect("sent");
        here.recv::<()>().expect("a word of the child");
        // This one is never received; it is gone with the child, and so all writers are.
        here.send(&vec![&writer; 200]).expect("sent");
        drop(writer);
        child.join().expect("an orderly end");
        assert!(matches!(reader.recv_bytes(), Err(Error::EndOfFile { .. })));
    });
}

#[test]
fn xfer_06_an_item_that_nobody_gets() {
    for_each_method(|context| {
        let before = Belongings::now();
        let queue = Queue::unbounded().expect("a queue");
        let (reader, writer) = simplex_pipe().expect("a pipe");
        let child = |queue: Queue<Connection>, writer: Connection| queue.put(writer).expect("put");
        let child = context.process(child, (queue.clone(), writer)).start().expect("a child");
        child.join().expect("an orderly end");
        assert!(!reader.poll(Duration::ZERO).expect("a poll"), "it waits in the queue");
        drop(queue);
        assert!(matches!(reader.recv_timeout::<()>(SOON), Err(Error::EndOfFile { .. })));
        drop((reader, child));
        before.assert_same();
    });
}

/// Not with fork, whose child has a copy of both ends for as long as it lives.
#[test]
fn xfer_06_a_message_left_behind_in_a_connection_that_is_closed() {
    for_methods(&[StartMethod::Spawn, StartMethod::ForkServer], |context| {
        let child = |there: Connection, leave: Connection| {
            there.poll_forever().expect("a message");
            there.close().expect("closed");
            leave.recv::<()>().expect("leave to go");
        };
        let (here, there) = pipe().expect("a pipe");
        let (leave, wait) = pipe().expect("a pipe");
        let child = context.process(child, (there, wait)).start().expect("a child");
        let (reader, writer) = simplex_pipe().expect("a pipe");
        here.send(&writer).expect("sent");
        drop(writer);
        assert!(matches!(reader.recv_bytes(), Err(Error::EndOfFile { .. })));
        assert!(child.is_alive());
        leave.send(&()).expect("sent");
        child.join().expect("an orderly end");
    });
}

#[test]
fn xfer_07_handles_outside_a_message_are_an_error_with_a_name() {
    alone(|| {
        let before = Belongings::now();
        let (near, _far) = pipe().expect("a pipe");
        let error = codec::encode_value(&Some(&near), &mut Vec::new()).expect_err("no message");
        assert!(error.to_string().contains("Connection travels only inside a message"), "{error}");
        let file = Handle(File::open("/dev/null").expect("a file"));
        let error = codec::encode_value(&vec![&file], &mut Vec::new()).expect_err("no message");
        assert!(error.to_string().contains("std::fs::File travels only inside a message"), "{error}");
        // Nor can it be decoded outside.
        let message = Message::encode(&file).expect("a message");
        let error = codec::decode_value::<Handle<File>>(&message.bytes).expect_err("no message");
        assert!(error.to_string().contains("File travels only inside a message"), "{error}");
        // A connection over a network carries bytes only.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let network = Connection::from_fd(stream.into()).expect("a connection");
        let error = network.send(&file).expect_err("no descriptors over a network");
        assert!(matches!(error, Error::Encode { .. }), "{error}");
        // A closed one travels nowhere.
        near.close().expect("closed");
        let error = Message::encode(&near).expect_err("it is closed");
        assert!(error.to_string().contains("closed"), "{error}");
        drop((near, _far, file, message, listener, network));
        before.assert_same();
    });
}

/// Handles in every kind of place, each with its number.
#[derive(Serialize, Deserialize)]
struct Everything {
    files: Vec<Handle<File>>,
    sockets: HashMap<String, Handle<UnixStream>>,
    perhaps: Option<Connection>,
    never: Option<Handle<File>>,
    kinds: Vec<Kind>,
    #[serde(with = "inside")]
    plain: File,
}

#[allow(clippy::large_enum_variant, reason = "a value as users may have it")]
#[derive(Serialize, Deserialize)]
enum Kind {
    Nothing,
    Network(Handle<TcpStream>),
    Named { name: String, connection: Box<Connection> },
    Both(Connection, (u8, Handle<File>)),
}

/// The other ends of what stands in [`Everything`].
struct Peers {
    sockets: HashMap<String, UnixStream>,
    connections: Vec<Connection>,
    network: TcpStream,
}

fn numbered_file(number: usize) -> File {
    let file = rustix::fs::memfd_create("numbered", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
    let file = File::from(file);
    file.write_all_at(&number.to_le_bytes(), 0).expect("written");
    file
}

fn number_of(file: &File) -> usize {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0).expect("a number");
    usize::from_le_bytes(bytes)
}

fn everything() -> (Everything, Peers) {
    let names = ["left", "right"].map(str::to_owned);
    let sockets = names.map(|name| (name, UnixStream::pair().expect("a socket pair")));
    let (mut near, mut far) = (HashMap::new(), HashMap::new());
    for (name, (one, other)) in sockets {
        near.insert(name.clone(), one);
        far.insert(name, Handle(other));
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let network = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let other = listener.accept().expect("a client").0;
    let pipes = [(); 3].map(|()| pipe().expect("a pipe"));
    let [(a, one), (b, two), (c, three)] = pipes;
    let kinds = vec![
        Kind::Nothing,
        Kind::Network(Handle(other)),
        Kind::Named { name: "two".into(), connection: Box::new(two) },
        Kind::Both(three, (3, Handle(numbered_file(3)))),
    ];
    let everything = Everything {
        files: (0..3).map(|number| Handle(numbered_file(number))).collect(),
        sockets: far,
        perhaps: Some(one),
        never: None,
        kinds,
        plain: numbered_file(4),
    };
    (everything, Peers { sockets: near, connections: vec![a, b, c], network })
}

/// Uses each handle, so that the peers can see it.
fn greet(everything: &Everything) {
    for (number, file) in everything.files.iter().enumerate() {
        assert_eq!(number_of(file), number);
    }
    for (name, socket) in &everything.sockets {
        (&socket.0).write_all(format!("{name}\n").as_bytes()).expect("written");
    }
    everything.perhaps.as_ref().expect("a connection").send("one").expect("sent");
    assert!(everything.never.is_none());
    let [
        Kind::Nothing,
        Kind::Network(network),
        Kind::Named { name, connection },
        Kind::Both(third, (3, file)),
    ] = &everything.kinds[..]
    else {
        panic!("other kinds came than were sent")
    };
    (&network.0).write_all(b"network\n").expect("written");
    connection.send(name).expect("sent");
    third.send("three").expect("sent");
    assert_eq!((number_of(file), number_of(&everything.plain)), (3, 4));
}

impl Peers {
    /// Waits for one greeting.
    fn expect_greeting(&self) {
        for (name, socket) in &self.sockets {
            assert_eq!(&line(socket), name);
        }
        let texts = self.connections.iter().map(|connection| connection.recv::<String>().expect("a text"));
        assert_eq!(texts.collect::<Vec<_>>(), ["one", "two", "three"]);
        assert_eq!(line(&self.network), "network");
    }

    /// Nobody else holds the other ends any more.
    fn expect_end(self) {
        for connection in self.connections {
            assert!(matches!(connection.recv_timeout::<String>(SOON), Err(Error::EndOfFile { .. })));
        }
    }
}

fn line(mut from: impl Read) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        from.read_exact(&mut byte).expect("a byte");
        line.extend(byte);
    }
    String::from_utf8(line).expect("text").trim_end().to_owned()
}

#[test]
fn handles_travel_in_arguments_and_results() {
    for_each_method(|context| {
        let child = |everything: Everything| {
            greet(&everything);
            everything
        };
        let (value, peers) = everything();
        let child = context.process(child, (value,)).start().expect("a child");
        peers.expect_greeting();
        let back = child.join().expect("a result");
        greet(&back);
        peers.expect_greeting();
        // A result may be asked for again, and has handles of its own each time.
        greet(&child.join().expect("a result"));
        peers.expect_greeting();
        drop((back, child));
        peers.expect_end();
    });
}

#[test]
fn handles_travel_in_messages() {
    for_each_method(|context| {
        let child = |there: Connection| {
            for _ in 0..20 {
                let value: Everything = there.recv().expect("a value");
                greet(&value);
                there.send(&value).expect("sent");
            }
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        let (mut value, peers) = everything();
        for _ in 0..20 {
            here.send(&value).expect("sent");
            peers.expect_greeting();
            value = here.recv().expect("a value");
            greet(&value);
            peers.expect_greeting();
        }
        child.join().expect("an orderly end");
        drop(value);
        peers.expect_end();
    });
}

#[test]
fn handles_travel_in_items_and_results_of_pools() {
    for_each_method(|context| {
        let pool = Pool::builder().processes(2).context(context).build().expect("a pool");
        let give_back = |value: Everything| {
            greet(&value);
            value
        };
        for chunk in [1, 2, 7] {
            let (values, peers): (Vec<_>, Vec<_>) = (0..5).map(|_| everything()).unzip();
            let values = pool.chunksize(chunk).map(give_back, values).expect("results");
            peers.iter().for_each(Peers::expect_greeting);
            values.iter().for_each(greet);
            peers.iter().for_each(Peers::expect_greeting);
            drop(values);
            peers.into_iter().for_each(Peers::expect_end);
        }
        // As captured values.
        let (value, peers) = everything();
        let sums = pool.with(value).map(|value, number: usize| number + number_of(&value.files[2]), 0..10);
        assert_eq!(sums.expect("results"), (2..12).collect::<Vec<_>>());
        drop(pool);
        peers.expect_end();
    });
}

fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(10_000).min(10_000);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).expect("a limit");
}

#[test]
fn xfer_04_a_thousand_descriptors_in_one_message() {
    for_each_method(|context| {
        allow_many_files();
        let child = |there: Connection| {
            allow_many_files();
            let before = Belongings::now();
            let files: Vec<Handle<File>> = there.recv().expect("files");
            assert!(files.iter().all(is_closed_on_exec));
            let numbers: Vec<usize> = files.iter().map(|file| number_of(file)).collect();
            there.send(&(numbers, &files)).expect("sent");
            drop(files);
            assert_eq!(Belongings::now().fds(), before.fds());
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        let files: Vec<Handle<File>> = (0..1000).map(|number| Handle(numbered_file(number))).collect();
        here.send(&files).expect("sent");
        drop(files);
        let (numbers, files): (Vec<usize>, Vec<Handle<File>>) = here.recv().expect("what was sent");
        assert!(numbers.into_iter().eq(0..1000));
        assert!(files.iter().map(|file| number_of(file)).eq(0..1000));
        drop(files);
        child.join().expect("an orderly end");
    });
}

/// Who cannot open as many gets an error, and nothing else is lost.
#[test]
fn more_descriptors_than_a_process_may_have() {
    for_each_method(|context| {
        let child = |there: Connection| {
            let before = Belongings::now();
            let limit = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(100), ..limit }).expect("a limit");
            let error = there.recv::<Vec<Handle<File>>>().expect_err("too many");
            assert!(error.to_string().contains("this process has too many open"), "{error}");
            assert_eq!(there.recv::<String>().expect("the next"), "next");
            assert_eq!(Belongings::now().fds(), before.fds());
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        let files: Vec<Handle<File>> = (0..200).map(|number| Handle(numbered_file(number))).collect();
        here.send(&files).expect("sent");
        here.send("next").expect("sent");
        child.join().expect("an orderly end");
    });
}

/// A message whose parts all tell its number, of a length that depends on it.
fn telling(number: usize) -> (usize, Vec<u8>, Vec<Handle<File>>) {
    let length = (number * 7919) % (3 << 20);
    let files = (0..number % 4).map(|_| Handle(numbered_file(number))).collect();
    (number, vec![number as u8; length], files)
}

fn check_telling(number: usize, (told, bytes, files): (usize, Vec<u8>, Vec<Handle<File>>)) {
    assert_eq!((told, files.len()), (number, number % 4));
    assert!(bytes == vec![number as u8; (number * 7919) % (3 << 20)], "message {number} is garbled");
    assert!(files.iter().all(|file| number_of(file) == number));
}

/// Kills a process after a while of which nobody knows when it ends.
fn kill_at_random(pid: u32, round: u64) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        // From the first byte to some hundreds of messages.
        std::thread::sleep(Duration::from_micros(round * round * 2 % 20_011));
        kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::KILL).expect("a signal sent");
    })
}

const ROUNDS: u64 = 100;

/// Started by the fork server, as the other end is to die while a thread of this process kills it.
#[test]
fn a_sender_killed_at_random_leaves_whole_messages_and_an_error() {
    let _watchdog = watchdog();
    let (mut between, mut within) = (0, 0);
    for round in 0..ROUNDS {
        let (here, there) = pipe().expect("a pipe");
        let child = |there: Connection| {
            for number in 99.. {
                there.send(&telling(number * 13)).expect("sent");
            }
        };
        let child = Context::forkserver().process(child, (there,)).start().expect("a child");
        let killer = kill_at_random(child.pid(), round);
        let end = (99..).find_map(|number| match here.recv() {
            Ok(message) => {
                check_telling(number * 13, message);
                None
            }
            Err(error) => Some(error),
        });
        match end.expect("an end") {
            Error::EndOfFile { .. } => between += 1,
            Error::Truncated { .. } => within += 1,
            other => panic!("round {round}: {other}"),
        }
        assert!(matches!(here.recv_message(), Err(Error::EndOfFile { .. })));
        killer.join().expect("a signal sent");
        child.join().expect_err("it was killed");
        assert_eq!(child.exit_code(), Some(-9));
    }
    assert!(within > 0, "{between} deaths between messages and none within one: the rounds are too short");
}

#[test]
fn a_receiver_killed_at_random_is_a_broken_pipe() {
    let _watchdog = watchdog();
    for round in 0..ROUNDS {
        let (here, there) = pipe().expect("a pipe");
        let child = |there: Connection| {
            for number in 99.. {
                check_telling(number * 13, there.recv().expect("a message"));
            }
        };
        let child = Context::forkserver().process(child, (there,)).start().expect("a child");
        let killer = kill_at_random(child.pid(), round);
        let end = (99..).find_map(|number| here.send(&telling(number * 13)).err()).expect("an end");
        match end {
            Error::Io { source, .. } => assert_eq!(source.kind(), ErrorKind::BrokenPipe),
            other => panic!("round {round}: {other}"),
        }
        killer.join().expect("a signal sent");
        child.join().expect_err("it was killed");
        assert_eq!(child.exit_code(), Some(-9));
    }
}
