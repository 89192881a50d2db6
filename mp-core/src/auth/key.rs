//! The secret that the processes of one program share.
//!
//! It lives in the memory of those processes alone and is gone with the last of them.

use std::fmt;

use subtle::ConstantTimeEq;

/// The secret that a process and all its children share, with which they prove to each other that they belong
/// together. Follows Python's `Process.authkey`.
///
/// It cannot be serialised: it travels only while a process is being started. Printing it does not reveal it.
/// An empty key is a key.
///
/// ```
/// use mp_core::auth::AuthKey;
///
/// let key = AuthKey::new(b"a secret of both sides".as_slice());
/// assert_eq!(format!("{key:?}"), "AuthKey(22 bytes)");
/// assert_ne!(AuthKey::random(), AuthKey::random());
/// ```
#[derive(Clone)]
pub struct AuthKey(Vec<u8>);

impl AuthKey {
    /// A key of one's own, for peers that are not children of one program.
    ///
    /// Whoever sees a handshake can try out guesses: take random bytes, not a word.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        AuthKey(bytes.into())
    }

    /// 32 random bytes.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        if super::fill_random(&mut bytes).is_err() {
            use std::hash::{BuildHasher, RandomState};
            // Only systems without the call end here; a key that nobody knows still keeps strangers out.
            for word in bytes.chunks_exact_mut(8) {
                word.copy_from_slice(&RandomState::new().hash_one(std::process::id()).to_ne_bytes());
            }
        }
        AuthKey(bytes.to_vec())
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for AuthKey {
    /// Takes the same time wherever the keys differ.
    fn eq(&self, other: &AuthKey) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for AuthKey {}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthKey({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_a_key_does_not_reveal_it() {
        // AUTH-06
        let key = AuthKey::new(b"secret".as_slice());
        assert_eq!(format!("{key:?}"), "AuthKey(6 bytes)");
        assert_ne!(AuthKey::random(), AuthKey::random());
        assert_eq!(AuthKey::random().as_bytes().len(), 32);
    }

    #[test]
    fn keys_are_equal_if_all_their_bytes_are() {
        assert_eq!(AuthKey::new(b"ab".as_slice()), AuthKey::new(b"ab".as_slice()));
        assert_ne!(AuthKey::new(b"ab".as_slice()), AuthKey::new(b"ac".as_slice()));
        assert_ne!(AuthKey::new(b"ab".as_slice()), AuthKey::new(b"abc".as_slice()));
        assert_eq!(AuthKey::new(Vec::new()), AuthKey::new(Vec::new()));
    }
}
