//! The records of a segment file. A record is there when it is whole: header, body and end agree with their checksums.
//! Whatever a killed writer or a broken disk leaves is not whole, and the next whole record can be found behind it.
//!
//! Checksums start from the segment's identity, so that a copy of a segment inside an item is never taken for records.

use crc32fast::Hasher;

/// Bytes before the body.
pub const HEADER: usize = 32;
/// Bytes after the body and its padding.
pub const FOOTER: usize = 8;
/// The largest body.
pub const MAX_BODY: usize = 1 << 30;
/// Records start at multiples of this.
pub const ALIGN: usize = 8;

const MAGIC: [u8; 4] = *b"FQr1";
const END: [u8; 4] = *b"FQe1";

/// What checksums of a segment start from.
pub fn seed(writer: u64, number: u32) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&writer.to_le_bytes());
    crc.update(&number.to_le_bytes());
    crc.finalize()
}

/// A checksum of `bytes` from `seed` on.
pub fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = Hasher::new_with_initial(seed);
    crc.update(bytes);
    crc.finalize()
}

/// The size of a record with a body of `body` bytes.
pub const fn total(body: usize) -> usize {
    HEADER + body.next_multiple_of(ALIGN) + FOOTER
}

/// Leaves room for a header at the end of `buffer`; the body is to be appended to it next.
pub fn begin(buffer: &mut Vec<u8>) -> usize {
    let start = buffer.len();
    buffer.resize(start + HEADER, 0);
    start
}

/// Makes a record of what stands in `buffer` from `start` on.
pub fn finish(buffer: &mut Vec<u8>, start: usize, seed: u32, sequence: u64, time: u64) {
    let body = buffer.len() - start - HEADER;
    let total = total(body);
    let crc = checksum(seed, &buffer[start + HEADER..]);
    buffer.resize(start + total - FOOTER, 0);
    buffer.extend_from_slice(&(total as u32).to_le_bytes());
    buffer.extend_from_slice(&END);
    let header = &mut buffer[start..start + HEADER];
    header[0..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&(body as u32).to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&time.to_le_bytes());
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    let crc = checksum(seed, &header[..28]);
    header[28..32].copy_from_slice(&crc.to_le_bytes());
}

/// A record's header, and so its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub sequence: u64,
    /// When it was put: nanoseconds, comparable within a host.
    pub time: u64,
    /// Bytes of the body.
    pub body: usize,
    pub total: usize,
}

/// What stands at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole record.
    Whole(Head),
    /// The bytes end before the record does; so many are needed to go on.
    Short(usize),
    /// The header is whole, but body or end are not.
    BadBody(Head),
    /// No header.
    Bad,
}

/// Reads the header alone.
pub fn parse_head(bytes: &[u8], seed: u32) -> Parsed {
    let Some(header) = bytes.get(..HEADER) else { return Parsed::Short(HEADER) };
    let body = u32_at(header, 4) as usize;
    if header[..4] != MAGIC || body > MAX_BODY || u32_at(header, 28) != checksum(seed, &header[..28]) {
        return Parsed::Bad;
    }
    Parsed::Whole(Head { sequence: u64_at(header, 8), time: u64_at(header, 16), body, total: total(body) })
}

/// Reads a record, and checks all of it.
pub fn parse(bytes: &[u8], seed: u32) -> Parsed {
    let head = match parse_head(bytes, seed) {
        Parsed::Whole(head) => head,
        other => return other,
    };
    let Some(record) = bytes.get(..head.total) else { return Parsed::Short(head.total) };
    let end = &record[head.total - FOOTER..];
    let body = &record[HEADER..HEADER + head.body];
    let padding = &record[HEADER + head.body..head.total - FOOTER];
    let whole = u32_at(end, 0) as usize == head.total
        && end[4..8] == END
        && padding.iter().all(|b| *b == 0)
        && u32_at(record, 24) == checksum(seed, body);
    if whole { Parsed::Whole(head) } else { Parsed::BadBody(head) }
}

/// The size of the record that ends where `bytes` end, if one does.
pub fn last_total(bytes: &[u8]) -> Option<usize> {
    let end = bytes.get(bytes.len().checked_sub(FOOTER)?..)?;
    let total = u32_at(end, 0) as usize;
    (end[4..8] == END && total >= HEADER + FOOTER && total.is_multiple_of(ALIGN)).then_some(total)
}

/// The first whole record behind the start of `bytes` with at least this sequence.
pub fn find_next(bytes: &[u8], seed: u32, sequence: u64) -> Option<(usize, Head)> {
    (ALIGN..bytes.len()).step_by(ALIGN).find_map(|at| match parse(&bytes[at..], seed) {
        Parsed::Whole(head) if head.sequence >= sequence => Some((at, head)),
        _ => None,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(body: &[u8], sequence: u64) -> Vec<u8> {
        let mut buffer = Vec::new();
        let start = begin(&mut buffer);
        buffer.extend_from_slice(body);
        finish(&mut buffer, start, 7, sequence, 99);
        buffer
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(body in proptest::collection::vec(any::<u8>(), 0..300), sequence: u64) {
            let bytes = one(&body, sequence);
            let Parsed::Whole(head) = parse(&bytes, 7) else { panic!() };
            prop_assert_eq!((head.sequence, head.time, head.body, head.total), (sequence, 99, body.len(), bytes.len()));
            prop_assert_eq!(last_total(&bytes), Some(bytes.len()));
            prop_assert_eq!(&bytes[HEADER..HEADER + body.len()], &body[..]);
        }

        #[test]
        fn every_prefix_is_short_and_every_flip_is_noticed(body in proptest::collection::vec(any::<u8>(), 0..60), bit: u16) {
            let bytes = one(&body, 3);
            for cut in 0..bytes.len() {
                prop_assert!(matches!(parse(&bytes[..cut], 7), Parsed::Short(n) if n > cut && n <= bytes.len()));
            }
            let mut flipped = bytes.clone();
            let bit = usize::from(bit) % (bytes.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(parse(&flipped, 7), Parsed::Whole(_)));
            prop_assert!(!matches!(parse(&bytes, 8), Parsed::Whole(_)), "another segment's checksum");
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), seed: u32) {
            parse(&bytes, seed);
            last_total(&bytes);
            prop_assert_eq!(find_next(&bytes, seed, 0), None);
        }

        #[test]
        fn the_next_record_is_found(noise in 1..20usize, body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut bytes = vec![0xa5; noise * ALIGN];
            bytes.extend(one(&body, 3));
            prop_assert_eq!(find_next(&bytes, 7, 0).map(|f| f.0), Some(noise * ALIGN));
            prop_assert_eq!(find_next(&bytes, 7, 4), None);
        }
    }
}
