//! Proving to a peer that one knows a secret, without telling it.
//!
//! Nothing here outlives the handshake: if either process dies in it, the other one sees the end of the stream
//! and gets [`Error::Authentication`].
//!
//! # Design
//!
//! Both sides begin with a challenge, 32 random bytes of their own. The client proves itself first, then the listener:
//!
//! ```text
//! listener                                     client
//!    ── hello: challenge L ──>     <── hello: challenge C ──
//!    <── proof: HMAC-SHA256(key, tag ‖ 'C' ‖ L ‖ C) ──
//!    ── proof: HMAC-SHA256(key, tag ‖ 'L' ‖ L ‖ C) ──>
//! ```
//!
//! Each code covers a tag with the version, who speaks, and both challenges, so that none of it can be reflected,
//! replayed, or used in another handshake. A listener gives no code to a client that has not proved itself; instead it
//! says why it refuses. What follows the handshake is neither encrypted nor signed: whoever can change bytes on a
//! network between the two can do so. Follows `multiprocessing.connection`'s challenges; Python's own processes frame their
//! messages in another way, so there is no old or weaker digest to fall back to, either.
//!
//! A message is a header of 16 bytes, little-endian, like that of any message of a connection (so that a peer without a
//! key, who takes it for one, can say what is wrong): length of the body (u64), kind (u32), a constant with the
//! version (u32). Each kind has one length, at most 32 bytes; of what a peer announces nothing is believed. At most 48 bytes are
//! read at a time, never beyond the current message, into memory that is there already.

mod exchange;
mod key;
mod socket;

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;

pub(crate) use self::exchange::{Exchange, MESSAGE, Refusal, Role, notice};
pub use self::key::AuthKey;
pub(crate) use self::socket::{advance, begin, refuse};
use crate::{Error, Result};

/// How long either side gives the other for its proof as a whole, if nothing else is said.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Fills `bytes` from the system's source of randomness.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("getting random bytes", errno)),
        }
    }
    Ok(())
}

/// The code under `key` over `parts`, in this order.
fn code(key: &AuthKey, parts: &[&[u8]]) -> Result<Hmac<Sha256>> {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes());
    // HMAC takes keys of any length.
    let mut mac = mac.map_err(|error| Error::Invalid { what: "key", reason: error.to_string() })?;
    parts.iter().for_each(|part| mac.update(part));
    Ok(mac)
}

#[cfg(test)]
mod tests;
