//! The secret that the processes of one program share.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};

/// The secret that a process and all its children share, with which they prove to each other that they belong
/// together. Follows Python's `Process.authkey`.
///
/// It cannot be serialised: it travels only while a process is being started. Printing it does not reveal it.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey(Vec<u8>);

impl AuthKey {
    /// A key of one's own, for peers that are not children of one program.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        AuthKey(bytes.into())
    }

    /// 32 random bytes.
    pub(crate) fn random() -> Self {
        let mut bytes = vec![0; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                // Only systems without the call end here; a key that nobody knows still keeps strangers out.
                Err(_) => {
                    use std::hash::{BuildHasher, RandomState};
                    let words = std::iter::repeat_with(|| RandomState::new().hash_one(std::process::id()));
                    bytes = words.take(4).flat_map(u64::to_ne_bytes).collect();
                    break;
                }
            }
        }
        AuthKey(bytes)
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

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
}
