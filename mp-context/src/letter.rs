//! All that a child of the fork server is told, as one message that comes with the request for it.
//!
//! # Design
//!
//! The server opens the letter before it copies itself: what the copy does first costs it page faults, code and memory
//! alike, and what the server did costs it none. The arguments are the child's to decode, since code of the program does
//! that. A request must go out as a whole or not at all, as one that is cut off makes the server useless, so a long
//! letter is none: it goes through the child's own socket, as for the other start methods.

use mp_core::Result;
use mp_core::message::{Message, decode_from, encode_into};

use crate::child::split_head;
use crate::preparation::{Call, Preparation};

/// Longest letter in bytes. A socket takes as much in one piece even if its buffer was made as small as can be.
const LONGEST: usize = 2 << 10;
/// Most descriptors in a letter; many more travel in several pieces.
const MOST_FDS: usize = 64;

/// An opened letter.
#[derive(Debug)]
pub(crate) struct Letter {
    pub preparation: Box<Preparation>,
    call: Call,
    arguments: Message,
}

/// Whether `preparation` and `call`, which are the messages of a child, go in a letter.
pub(crate) fn fits(preparation: &Message, call: &Message) -> bool {
    let len = preparation.bytes.len() + call.bytes.len();
    len <= LONGEST && preparation.fds.len() + call.fds.len() <= MOST_FDS
}

/// The letter; `call` is the arguments behind a [`Call`].
pub(crate) fn write(preparation: &Preparation, call: Message) -> Result<Message> {
    let Message { mut bytes, mut fds } = call;
    let start = bytes.len() as u64;
    encode_into(preparation, &mut bytes, &mut fds)?;
    bytes.extend_from_slice(&start.to_le_bytes());
    Ok(Message { bytes, fds })
}

impl Letter {
    /// Reads what [`write`] wrote; says in words why it cannot.
    pub fn open(mut letter: Message) -> std::result::Result<Letter, String> {
        let cut_off = || "the letter to the child is cut off".to_owned();
        let (rest, start) = letter.bytes.split_last_chunk::<8>().ok_or_else(cut_off)?;
        let start = usize::try_from(u64::from_le_bytes(*start)).map_err(|_| cut_off())?;
        let preparation = rest.get(start..).ok_or_else(cut_off)?;
        let preparation =
            decode_from::<Preparation>(preparation, &mut letter.fds).map_err(|error| error.to_string())?;
        letter.bytes.truncate(start);
        let call = split_head(&mut letter).map_err(|error| error.to_string())?;
        Ok(Letter { preparation: Box::new(preparation), call, arguments: letter })
    }

    /// What it asks for besides: the call, whose arguments are not decoded yet.
    pub fn split(self) -> (Box<Preparation>, Call, Message) {
        (self.preparation, self.call, self.arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_are_an_error() {
        let with_len = |len: u64| [&[0xc0; 4][..], &len.to_le_bytes()].concat();
        for bytes in
            [vec![], vec![0; 7], vec![0; 8], with_len(0), with_len(4), with_len(5), with_len(u64::MAX)]
        {
            assert!(Letter::open(Message { bytes, ..Message::default() }).is_err());
        }
    }

    #[test]
    fn what_is_long_goes_another_way() {
        let bytes = |len: usize| Message { bytes: vec![0; len], ..Message::default() };
        assert!(fits(&bytes(100), &bytes(LONGEST - 100)));
        assert!(!fits(&bytes(100), &bytes(LONGEST - 99)));
        let mut many = Message::default();
        let null = std::sync::Arc::new(crate::stdio::open_null().expect("/dev/null"));
        for _ in 0..MOST_FDS {
            many.fds.attach(null.clone());
        }
        assert!(fits(&bytes(0), &many));
        many.fds.attach(null);
        assert!(!fits(&bytes(0), &many));
    }
}
