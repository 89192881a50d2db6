//! The handshake without sockets: what it accepts, and all that it does not.

use proptest::prelude::*;

use super::exchange::{Failure, Step};
use super::*;

const HEADER: usize = 16;

fn key(text: &str) -> AuthKey {
    AuthKey::new(text.as_bytes())
}

fn sides(listener: &str, client: &str) -> (Exchange, Exchange) {
    (Exchange::new(Role::Listener, key(listener)).unwrap(), Exchange::new(Role::Client, key(client)).unwrap())
}

/// Feeds all of `bytes`, in parts of `part` at most.
fn feed(exchange: &mut Exchange, bytes: &[u8], part: usize) -> Result<Step, Failure> {
    let mut rest = bytes;
    loop {
        let (now, later) = rest.split_at(rest.len().min(part).min(exchange.wants()));
        rest = later;
        match exchange.feed(now)? {
            Step::More if !rest.is_empty() => {}
            step => {
                assert!(rest.is_empty(), "{} bytes were not wanted", rest.len());
                return Ok(step);
            }
        }
    }
}

/// The proof of the client, given the challenge of the listener.
fn proof_of(client: &mut Exchange, hello: &[u8]) -> [u8; MESSAGE] {
    match feed(client, hello, MESSAGE).unwrap() {
        Step::Reply(proof) => proof,
        step => panic!("{step:?}"),
    }
}

fn refused(result: Result<Step, Failure>, refusal: Refusal, reason: &str) {
    let failure = result.expect_err("it has to be refused");
    assert_eq!(failure.refusal, refusal, "{}", failure.reason);
    assert!(failure.reason.contains(reason), "{}", failure.reason);
}

proptest! {
    #[test]
    fn equal_keys_agree_however_the_bytes_come(secret in ".{0,80}", part in 1..60usize) {
        // AUTH-03: the empty key is one of them.
        let (mut listener, mut client) = sides(&secret, &secret);
        prop_assert_eq!(feed(&mut listener, &client.hello(), part).unwrap(), Step::More);
        let Step::Reply(proof) = feed(&mut client, &listener.hello(), part).unwrap() else { panic!("no proof") };
        let Step::Done(Some(proof)) = feed(&mut listener, &proof, part).unwrap() else { panic!("no proof") };
        prop_assert_eq!(feed(&mut client, &proof, part).unwrap(), Step::Done(None));
    }

    /// NA-25: whatever comes, it is neither believed nor a panic, and never more than a message is read.
    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), listens in any::<bool>()) {
        let role = if listens { Role::Listener } else { Role::Client };
        let mut exchange = Exchange::new(role, key("secret")).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let wants = exchange.wants();
            prop_assert!((1..=MESSAGE).contains(&wants));
            let (now, later) = rest.split_at(wants.min(rest.len()));
            rest = later;
            match exchange.feed(now) {
                Ok(Step::Done(_)) => panic!("a stranger is believed"),
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
    }

    /// AUTH-04, AUTH-05: the code covers every bit of both challenges and of itself; so does the rest of a message.
    #[test]
    fn one_wrong_bit_is_refused(bit in 0..MESSAGE * 8, in_hello in any::<bool>(), of_listener in any::<bool>()) {
        let flip = |message: [u8; MESSAGE], yes: bool| {
            let mut message = message;
            message[bit / 8] ^= u8::from(yes) << (bit % 8);
            message
        };
        let (mut listener, mut client) = sides("secret", "secret");
        let run = |listener: &mut Exchange, client: &mut Exchange| -> Result<(), Failure> {
            feed(listener, &flip(client.hello(), in_hello && !of_listener), MESSAGE)?;
            let hello = flip(listener.hello(), in_hello && of_listener);
            let Step::Reply(proof) = feed(client, &hello, MESSAGE)? else { panic!("no proof") };
            let step = feed(listener, &flip(proof, !in_hello && !of_listener), MESSAGE)?;
            let Step::Done(Some(proof)) = step else { panic!("no proof") };
            feed(client, &flip(proof, !in_hello && of_listener), MESSAGE)?;
            Ok(())
        };
        prop_assert!(run(&mut listener, &mut client).is_err());
    }

    #[test]
    fn notices_are_made_of_nothing_else(header in any::<[u8; HEADER]>()) {
        prop_assert_eq!(notice(&header).is_some(), header[12..15] == *b"mpA");
    }
}

#[test]
fn wrong_keys_are_refused() {
    for other in ["", "secre", "secret ", "Secret"] {
        let (mut listener, mut client) = sides("secret", other);
        feed(&mut listener, &client.hello(), MESSAGE).unwrap();
        let proof = proof_of(&mut client, &listener.hello());
        refused(feed(&mut listener, &proof, MESSAGE), Refusal::Key, "the keys differ");
        refused(client.feed(&Refusal::Key.message()), Refusal::Key, "the listener has another key");
    }
}

/// A peer without the key that sends back what it gets, in this handshake or in another one, is not believed.
#[test]
fn nothing_can_be_reflected() {
    // As a listener: its challenge is the client's own, and its proof too.
    let mut client = Exchange::new(Role::Client, key("secret")).unwrap();
    let hello = client.hello();
    let proof = proof_of(&mut client, &hello);
    refused(feed(&mut client, &proof, MESSAGE), Refusal::Key, "the keys differ");

    // As a client: what it can get out of real clients with the challenge of a listener covers their challenges.
    let mut listener = Exchange::new(Role::Listener, key("secret")).unwrap();
    let mut victim = Exchange::new(Role::Client, key("secret")).unwrap();
    let hello = listener.hello();
    feed(&mut listener, &hello, MESSAGE).unwrap();
    let proof = proof_of(&mut victim, &listener.hello());
    refused(feed(&mut listener, &proof, MESSAGE), Refusal::Key, "the keys differ");

    // A handshake that was overheard cannot be played again.
    let (mut listener, mut client) = sides("secret", "secret");
    let (hello, proof) = (client.hello(), proof_of(&mut client, &listener.hello()));
    let mut again = Exchange::new(Role::Listener, key("secret")).unwrap();
    feed(&mut listener, &hello, MESSAGE).unwrap();
    assert!(matches!(feed(&mut listener, &proof, MESSAGE), Ok(Step::Done(Some(_)))));
    feed(&mut again, &hello, MESSAGE).unwrap();
    refused(feed(&mut again, &proof, MESSAGE), Refusal::Key, "the keys differ");
}

/// AUTH-05: each malformed message is refused at its header, before anything else is read.
#[test]
fn auth_05_malformed_messages() {
    let hello = Exchange::new(Role::Client, key("secret")).unwrap().hello();
    let with = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut header = hello[..HEADER].to_vec();
        header[range].copy_from_slice(bytes);
        header
    };
    let cases = [
        (with(0..8, &(1_u64 << 62).to_le_bytes()), "4611686018427387904 bytes instead of its challenge"),
        (with(0..8, &19_u64.to_le_bytes()), "19 bytes instead"),
        (with(0..8, &0_u64.to_le_bytes()), "0 bytes instead"),
        (with(0..8, &257_u64.to_le_bytes()), "257 bytes instead"),
        (with(8..12, &2_u32.to_le_bytes()), "kind 2"),
        (with(8..12, &16_u32.to_le_bytes()), "kind 16"),
        (with(15..16, &[0]), "version 0 of the handshake"),
        (with(15..16, &[2]), "version 2 of the handshake"),
        (with(12..16, b"mp\x01\n"), "the client has no key"),
        (b"#CHALLENGE#{md5}".to_vec(), "something else"),
        (b"GET / HTTP/1.1\r\n".to_vec(), "something else"),
    ];
    for (header, reason) in cases {
        let mut listener = Exchange::new(Role::Listener, key("secret")).unwrap();
        assert_eq!(listener.wants(), HEADER);
        refused(listener.feed(&header), Refusal::Protocol, reason);
    }
}

#[test]
fn refusals_are_told_apart_and_never_by_a_client() {
    for refusal in [Refusal::Key, Refusal::Protocol, Refusal::User, Refusal::Late] {
        let mut client = Exchange::new(Role::Client, key("secret")).unwrap();
        refused(client.feed(&refusal.message()), refusal, "the listener");
        assert!(notice(&refusal.message()).is_some_and(|reason| reason.starts_with("the listener")));
        let mut listener = Exchange::new(Role::Listener, key("secret")).unwrap();
        refused(listener.feed(&refusal.message()), Refusal::Protocol, "of kind");
    }
}

/// AUTH-04: the code is HMAC-SHA256 with the version in what it covers. (Vector of RFC 4231, test case 2.)
#[test]
fn auth_04_the_code_is_hmac_sha256() {
    let bytes = code(&key("Jefe"), &[b"what do ya want ", b"for nothing?"]).unwrap().finalize().into_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}
