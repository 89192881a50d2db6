//! The handshake without its socket: bytes in, bytes out. It trusts nothing that comes in.
//!
//! Plain memory of one process, gone with it.

use hmac::Mac;

use super::{AuthKey, code, fill_random};
use crate::Result;

/// Length of a challenge and of a code.
const BODY: usize = 32;
const HEADER: usize = 16;
/// The longest message, in bytes.
pub(crate) const MESSAGE: usize = HEADER + BODY;

/// What every message's header ends with; the last byte is the version.
const MAGIC: [u8; 4] = *b"mpA\x01";
/// What all codes of this version cover.
const TAG: &[u8] = b"multiprocess authentication 1\0";

const HELLO: u32 = 1;
const PROOF: u32 = 2;

/// Which side of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Listener,
    Client,
}

/// Why a listener refuses a client: the kind of the message that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Refusal {
    Key = 16,
    Protocol = 17,
    User = 18,
    Late = 19,
}

impl Refusal {
    const ALL: [Refusal; 4] = [Refusal::Key, Refusal::Protocol, Refusal::User, Refusal::Late];

    /// The message that says so.
    pub(crate) fn message(self) -> [u8; HEADER] {
        header(self as u32, 0)
    }

    fn reason(self) -> &'static str {
        match self {
            Refusal::Key => "the listener has another key",
            Refusal::Protocol => "the listener asks for a key and did not understand the answer",
            Refusal::User => "the listener does not serve this user",
            Refusal::Late => "the listener did not wait any longer for the proof",
        }
    }
}

/// What is to be done after some bytes came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait for more.
    More,
    /// Send this, then wait for more.
    Reply([u8; MESSAGE]),
    /// Send this, if there is something: the peer knows the key.
    Done(Option<[u8; MESSAGE]>),
}

/// Why a handshake failed, and what a listener says about it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) refusal: Refusal,
}

/// One side of one handshake.
pub(crate) struct Exchange {
    role: Role,
    key: AuthKey,
    ours: [u8; BODY],
    theirs: Option<[u8; BODY]>,
    buffer: [u8; MESSAGE],
    filled: usize,
    wanted: usize,
}

impl Exchange {
    /// A handshake with a fresh challenge. Errors: [`Error::Io`](crate::Error::Io) without random bytes.
    pub(crate) fn new(role: Role, key: AuthKey) -> Result<Exchange> {
        let mut ours = [0; BODY];
        fill_random(&mut ours)?;
        Ok(Exchange { role, key, ours, theirs: None, buffer: [0; MESSAGE], filled: 0, wanted: HEADER })
    }

    /// The first message.
    pub(crate) fn hello(&self) -> [u8; MESSAGE] {
        message(HELLO, &self.ours)
    }

    /// How many bytes may come next, at most; never 0.
    pub(crate) fn wants(&self) -> usize {
        self.wanted - self.filled
    }

    /// Whether the peer has said anything yet.
    pub(crate) fn has_begun(&self) -> bool {
        self.theirs.is_some() || self.filled > 0
    }

    /// What it waits for, for error messages.
    pub(crate) fn awaits(&self) -> &'static str {
        if self.theirs.is_none() { "challenge" } else { "proof" }
    }

    /// Takes the next bytes, as many as it [`wants`](Self::wants) or fewer.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Step, Failure> {
        let bytes = &bytes[..bytes.len().min(self.wants())];
        self.buffer[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        if self.filled < self.wanted {
            return Ok(Step::More);
        }
        if self.wanted == HEADER {
            self.check_header()?;
            self.wanted = MESSAGE;
            return Ok(Step::More);
        }
        let mut body = [0; BODY];
        body.copy_from_slice(&self.buffer[HEADER..]);
        (self.filled, self.wanted) = (0, HEADER);
        match (self.theirs, self.role) {
            (None, Role::Listener) => {
                self.theirs = Some(body);
                Ok(Step::More)
            }
            (None, Role::Client) => {
                self.theirs = Some(body);
                Ok(Step::Reply(self.proof(body)?))
            }
            (Some(theirs), role) => {
                let other = if role == Role::Client { Role::Listener } else { Role::Client };
                // Compares in constant time.
                if self.code(other, theirs)?.verify_slice(&body).is_err() {
                    return Err(failed(Refusal::Key, "the keys differ".into()));
                }
                Ok(Step::Done(if role == Role::Listener { Some(self.proof(theirs)?) } else { None }))
            }
        }
    }

    fn check_header(&self) -> Result<(), Failure> {
        let header = &self.buffer[..HEADER];
        let expected = if self.theirs.is_none() { HELLO } else { PROOF };
        if header == self::header(expected, BODY as u64) {
            return Ok(());
        }
        let protocol = |reason: String| Err(failed(Refusal::Protocol, reason));
        let (length, kind, magic) = fields(header);
        if magic == crate::connection::MAGIC {
            let who = if self.role == Role::Client { "listener" } else { "client" };
            return protocol(format!(
                "the {who} has no key, it sent a message instead of its {}",
                self.awaits()
            ));
        }
        if magic[..3] != MAGIC[..3] {
            return protocol(format!("the peer sent something else than its {}", self.awaits()));
        }
        if magic != MAGIC {
            return protocol(format!(
                "the peer speaks version {} of the handshake, not {}",
                magic[3], MAGIC[3]
            ));
        }
        if self.role == Role::Client
            && let Some(refusal) = refusal_of(kind)
        {
            return Err(failed(refusal, refusal.reason().into()));
        }
        protocol(format!(
            "the peer sent a message of kind {kind} and {length} bytes instead of its {}",
            self.awaits()
        ))
    }

    fn code(&self, of: Role, theirs: [u8; BODY]) -> Result<hmac::Hmac<sha2::Sha256>, Failure> {
        let (listener, client) = match self.role {
            Role::Listener => (self.ours, theirs),
            Role::Client => (theirs, self.ours),
        };
        let speaker = if of == Role::Listener { b"L" } else { b"C" };
        code(&self.key, &[TAG, speaker, &listener, &client])
            .map_err(|error| failed(Refusal::Key, error.to_string()))
    }

    fn proof(&self, theirs: [u8; BODY]) -> Result<[u8; MESSAGE], Failure> {
        Ok(message(PROOF, &self.code(self.role, theirs)?.finalize().into_bytes().into()))
    }
}

/// What it means that the header of a handshake message came where a message of a connection was expected; none if
/// it is not one.
pub(crate) fn notice(bytes: &[u8; HEADER]) -> Option<&'static str> {
    let (_, kind, magic) = fields(bytes);
    if magic[..3] != MAGIC[..3] {
        return None;
    }
    Some(
        refusal_of(kind)
            .map_or("the peer asks for a key, and this end was made without one", Refusal::reason),
    )
}

fn refusal_of(kind: u32) -> Option<Refusal> {
    Refusal::ALL.into_iter().find(|refusal| *refusal as u32 == kind)
}

fn failed(refusal: Refusal, reason: String) -> Failure {
    Failure { reason, refusal }
}

fn header(kind: u32, length: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&length.to_le_bytes());
    header[8..12].copy_from_slice(&kind.to_le_bytes());
    header[12..].copy_from_slice(&MAGIC);
    header
}

fn fields(header: &[u8]) -> (u64, u32, [u8; 4]) {
    let (mut length, mut kind, mut magic) = ([0; 8], [0; 4], [0; 4]);
    length.copy_from_slice(&header[..8]);
    kind.copy_from_slice(&header[8..12]);
    magic.copy_from_slice(&header[12..HEADER]);
    (u64::from_le_bytes(length), u32::from_le_bytes(kind), magic)
}

fn message(kind: u32, body: &[u8; BODY]) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[..HEADER].copy_from_slice(&header(kind, BODY as u64));
    message[HEADER..].copy_from_slice(body);
    message
}
