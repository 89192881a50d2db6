//! AUTH, NA-25: keys, and peers that do not have them, speak nonsense or say nothing. The machine behind it is tested in
//! `mp-core/src/auth/tests.rs`, under the same ids.

mod common;

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use multiprocess::core::Error;
use multiprocess::{
    Address, AuthKey, Connection, Listener, ListenerBuilder, connect, connect_timeout, current_process, pipe,
};
use sha2::{Digest, Sha256};

use common::{SOON, alone, for_each_method, watchdog};

const HELLO: u32 = 1;
const PROOF: u32 = 2;

fn key() -> AuthKey {
    AuthKey::new(b"secret".as_slice())
}

fn keyed() -> ListenerBuilder {
    Listener::builder().authkey(key())
}

/// A message of the handshake, as its format is documented.
fn message(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64).to_le_bytes();
    [&length[..], &kind.to_le_bytes(), b"mpA\x01", body].concat()
}

/// What a peer should answer, computed by other means than its own.
fn proof(key: &[u8], who: u8, listener: &[u8], client: &[u8]) -> Vec<u8> {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block
    };
    let tag = b"multiprocess authentication 1\0";
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(tag).chain_update([who]);
    let inner = inner.chain_update(listener).chain_update(client).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// A fake client of a listener with a key, and what the listener says about it in `accept`.
fn fake_client(play: impl FnOnce(&mut TcpStream) + Send) -> Result<Connection, Error> {
    let listener = keyed().bind("127.0.0.1:0").expect("a listener");
    let Address::Tcp(address) = *listener.address().expect("an address") else { panic!("not TCP") };
    let result = std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            play(&mut stream);
            stream
        });
        let result = listener.accept_timeout(SOON);
        drop(client.join().expect("the client plays to its end"));
        result
    });
    // It stays usable.
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            connect(listener.address().expect("an address"), Some(&key())).expect("a connection").send(&1729)
        });
        let accepted = listener.accept_timeout(SOON).expect("a client");
        assert_eq!(accepted.recv::<i32>().expect("a number"), 1729);
        client.join().expect("no panic").expect("sent");
    });
    result
}

/// A fake listener, and what `connect` says about it.
fn fake_listener(play: impl FnOnce(&mut TcpStream) + Send) -> Result<(), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address: SocketAddr = listener.local_addr().expect("an address");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = listener.accept().expect("a client").0;
            play(&mut stream);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        connect_timeout(address, Some(&key()), SOON).map(drop)
    })
}

/// Takes a message of a challenge or proof from the peer, and returns its body.
fn take(stream: &mut TcpStream, kind: u32) -> Vec<u8> {
    let mut bytes = [0; 48];
    stream.read_exact(&mut bytes).expect("a message");
    assert_eq!(bytes[..16], message(kind, &[0; 32])[..16]);
    bytes[16..].to_vec()
}

#[track_caller]
fn failed<T: Debug>(result: Result<T, Error>, why: &str) {
    match result {
        Err(Error::Authentication { reason, .. }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn auth_01_a_bogus_answer_to_a_challenge() {
    let _watchdog = watchdog();
    let result = fake_client(|stream| {
        take(stream, HELLO);
        stream.write_all(&message(HELLO, &[7; 32])).expect("written");
        stream.write_all(&message(PROOF, b"something bogus is no proof at a")).expect("written");
        // It is told, gets no proof, and is hung up on.
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("an answer");
        assert_eq!(said, message(16, &[]));
    });
    failed(result, "the keys differ");
}

#[test]
fn auth_02_a_bogus_verdict_after_answering() {
    let _watchdog = watchdog();
    for bogus in [&b"something bogus and no verdict"[..], &message(PROOF, &[0; 32]), b"#WELCOME#", b""] {
        let result = fake_listener(|stream| {
            stream.write_all(&message(HELLO, &[7; 32])).expect("written");
            let challenge = take(stream, HELLO);
            // It answers a proper challenge properly, and then wants to see the same.
            assert_eq!(take(stream, PROOF), proof(b"secret", b'C', &[7; 32], &challenge));
            stream.write_all(bogus).expect("written");
        });
        failed(result, "");
    }
    // A listener that sends back what it got knows no more than before.
    let result = fake_listener(|stream| {
        let challenge = take(stream, HELLO);
        stream.write_all(&message(HELLO, &challenge)).expect("written");
        let reflected = take(stream, PROOF);
        stream.write_all(&message(PROOF, &reflected)).expect("written");
    });
    failed(result, "the keys differ");
}

#[test]
fn auth_03_an_empty_key_is_a_key() {
    for_each_method(|context| {
        let listener = Listener::builder().authkey(AuthKey::new([])).bind_fresh().expect("a listener");
        let child = |address: Address| {
            failed(connect(&address, Some(&AuthKey::new([1]))), "another key");
            connect(&address, Some(&AuthKey::new([]))).expect("a connection").send(&1729).expect("sent");
        };
        let address = listener.address().expect("an address").clone();
        let child = context.process(child, (address,)).start().expect("a child");
        failed(listener.accept(), "the keys differ");
        assert_eq!(listener.accept().expect("a client").recv::<i32>().expect("a number"), 1729);
        child.join().expect("an orderly end");
        listener.close();
        assert!(matches!(listener.accept(), Err(Error::Closed { .. })));
    });
}

/// AUTH-04: one digest with a version tag. A peer that follows the documented format by its own means is understood.
#[test]
fn auth_04_the_format_is_as_documented() {
    let _watchdog = watchdog();
    fake_client(|stream| {
        let challenge = take(stream, HELLO);
        stream.write_all(&message(HELLO, &[7; 32])).expect("written");
        let ours = proof(b"secret", b'C', &challenge, &[7; 32]);
        stream.write_all(&message(PROOF, &ours)).expect("written");
        assert_eq!(take(stream, PROOF), proof(b"secret", b'L', &challenge, &[7; 32]));
    })
    .expect("an authenticated client");
    fake_listener(|stream| {
        stream.write_all(&message(HELLO, &[8; 32])).expect("written");
        let challenge = take(stream, HELLO);
        take(stream, PROOF);
        let ours = proof(b"secret", b'L', &[8; 32], &challenge);
        stream.write_all(&message(PROOF, &ours)).expect("written");
    })
    .expect("an authenticated listener");
}

/// AUTH-05, NA-25
#[test]
fn auth_05_malformed_messages() {
    let _watchdog = watchdog();
    let hello = message(HELLO, &[7; 32]);
    let mut other_version = hello.clone();
    other_version[15] = 0;
    let mut huge = hello.clone();
    huge[..8].copy_from_slice(&(1_u64 << 62).to_le_bytes());
    let cases: [(&[u8], &str); 9] = [
        (&message(HELLO, &[7; 19]), "19 bytes instead of its challenge"),
        (&message(HELLO, &[7; 300]), "300 bytes instead of its challenge"),
        (&huge, "4611686018427387904 bytes"),
        (&other_version, "version 0"),
        (b"#CHALLENGE#{md5}12345678901234567890", "something else than its challenge"),
        (&message(PROOF, &[7; 32]), "kind 2"),
        (&[hello.clone(), message(PROOF, &[7; 16])].concat(), "16 bytes instead of its proof"),
        (&[hello.clone(), hello.clone()].concat(), "kind 1"),
        (&[0; 4096], "something else"),
    ];
    for (bytes, why) in cases {
        // What follows may be cut off: nobody reads it.
        failed(fake_client(|stream| drop(stream.write_all(bytes))), why);
        failed(fake_listener(|stream| drop(stream.write_all(bytes))), if why == "kind 1" { "" } else { why });
    }
    // Somebody who goes on and on is not read any further, on either side.
    let endless = |stream: &mut TcpStream| {
        let sent = stream.write_all(&vec![0; 64 << 20]);
        assert!(sent.is_err(), "it read 64 MiB of nonsense");
    };
    failed(fake_client(endless), "something else");
    failed(fake_listener(endless), "something else");
    failed(
        fake_client(|stream| drop(stream.shutdown(Shutdown::Write))),
        "the peer left before its challenge",
    );
    failed(fake_listener(|_| {}), "the peer left before its challenge");
}

/// AUTH-06: a key passes from parent to child, and in no other way (it has no `Serialize`).
#[test]
fn auth_06_the_key_of_the_family() {
    for_each_method(|context| {
        let key = current_process().authkey().clone();
        let listener = Listener::builder().authkey(key.clone()).bind_fresh().expect("a listener");
        let address = listener.address().expect("an address").clone();
        let child = |address: Address| {
            let me = current_process();
            connect(address, Some(me.authkey()))
                .expect("a connection")
                .send(&format!("{:?}", me.authkey()))
                .expect("sent");
        };
        let child = context.process(child, (address,)).start().expect("a child");
        let shown: String = listener.accept().expect("a client").recv().expect("a text");
        assert_eq!(shown, format!("AuthKey({} bytes)", key.as_bytes().len()));
        assert!(!format!("{listener:?}").contains(&format!("{:?}", key.as_bytes())));
        child.join().expect("an orderly end");
    });
}

#[test]
fn wrong_keys_fail_on_both_sides() {
    for_each_method(|context| {
        for address in ["127.0.0.1:0".to_owned(), format!("@mp-test-{}", common::Mark::new().value())] {
            let listener = keyed().bind(address).expect("a listener");
            let child = |address: Address| {
                failed(connect(&address, Some(&AuthKey::new(b"guess".as_slice()))), "another key");
                connect(&address, Some(&key())).expect("a connection").send("served").expect("sent");
            };
            let address = listener.address().expect("an address").clone();
            let child = context.process(child, (address,)).start().expect("a child");
            failed(listener.accept(), "the keys differ");
            assert_eq!(listener.accept().expect("a client").recv::<String>().expect("a word"), "served");
            child.join().expect("an orderly end");
        }
    });
}

/// NA-25: while some processes keep silent or die within their handshakes, others are served, by one thread, at once.
#[test]
fn na_25_silent_and_dying_clients() {
    for_each_method(|context| {
        let listener =
            keyed().handshake_timeout(Duration::from_secs(3600)).bind("127.0.0.1:0").expect("a listener");
        let Address::Tcp(endpoint) = *listener.address().expect("an address") else { panic!("not TCP") };
        let silent = |endpoint: SocketAddr, there: Connection| {
            let mut stream = TcpStream::connect(endpoint).expect("a connection");
            stream
                .write_all(&message(HELLO, &[7; 32])[..there.recv::<usize>().expect("a length")])
                .expect("written");
            there.send(&()).expect("sent");
            common::sleep_for_ever();
        };
        let lengths = [0, 1, 15, 16, 47, 48];
        let children = lengths.map(|length| {
            let (here, there) = pipe().expect("a pipe");
            let child = context.process(silent, (endpoint, there)).start().expect("a child");
            here.send(&length).expect("sent");
            here.recv::<()>().expect("a word of the child");
            child
        });
        let honest = |endpoint: SocketAddr| {
            connect(endpoint, Some(&key())).expect("a connection").send("served").expect("sent");
        };
        let child = context.process(honest, (endpoint,)).start().expect("a child");
        let served = listener.accept_timeout(SOON).expect("the one that proves itself");
        assert_eq!(served.recv::<String>().expect("a word"), "served");
        child.join().expect("an orderly end");
        for child in children {
            child.kill().expect("killed");
            child.join().expect_err("it was killed");
            failed(listener.accept_timeout(SOON), "the peer left before its");
        }
        assert!(listener.try_accept().expect("no error").is_none());
    });
}

/// A listener that dies, or keeps silent: the client learns the one, and has a time limit for the other.
#[test]
fn na_25_silent_and_dying_listeners() {
    for_each_method(|context| {
        let child = |there: Connection| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            there.send(&listener.local_addr().expect("an address")).expect("sent");
            let _streams = [listener.accept().expect("a client"), listener.accept().expect("a client")];
            there.send(&()).expect("sent");
            common::sleep_for_ever();
        };
        let (here, there) = pipe().expect("a pipe");
        let child = context.process(child, (there,)).start().expect("a child");
        let address: SocketAddr = here.recv().expect("an address");
        let late = connect_timeout(address, Some(&key()), Duration::from_millis(50));
        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
        let client = std::thread::spawn(move || connect(address, Some(&key())));
        here.recv::<()>().expect("a word of the child");
        child.kill().expect("killed");
        child.join().expect_err("it was killed");
        failed(client.join().expect("no panic"), "the peer left before its challenge");
    });
}

/// Another user is refused unless allowed; with the right key, too. (Only root can become another user.)
#[test]
fn na_25_other_users() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    alone(|| {
        let connect_as = |address: &Address, user: u32| {
            let child = |address: Address, user: u32| {
                let user = rustix::process::Uid::from_raw(user);
                rustix::thread::set_thread_res_uid(user, user, user).expect("another user");
                let client = connect(&address, Some(&key()))?;
                client.recv::<i32>()
            };
            let child =
                move |address: Address, user: u32| child(address, user).map_err(|error| error.to_string());
            multiprocess::process(child, (address.clone(), user)).start().expect("a child")
        };
        let name = || format!("@mp-test-{}", common::Mark::new().value());
        // Root serves itself alone.
        let listener = keyed().bind(name()).expect("a listener");
        let address = listener.address().expect("an address");
        let child = connect_as(address, 12345);
        match listener.accept() {
            Err(Error::Authentication { peer, reason }) => {
                assert_eq!(peer, format!("process {} of user 12345", child.pid()));
                assert!(reason.contains("not served"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        let told = child.join().expect("an orderly end").expect_err("it was refused");
        assert!(told.contains("does not serve this user"), "{told}");

        for builder in [keyed().allow_uid(12345), keyed().allow_any_uid()] {
            let listener = builder.bind(name()).expect("a listener");
            let child = connect_as(listener.address().expect("an address"), 12345);
            listener.accept().expect("a client").send(&1729).expect("sent");
            assert_eq!(child.join().expect("an orderly end").expect("a number"), 1729);
        }
    });
}
