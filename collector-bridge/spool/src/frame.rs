//! One frame on disk. Pure.
//!
//! | bytes | what, little-endian |
//! |---|---|
//! | 0..4 | the word by which a frame is found again behind a broken one |
//! | 4..8 | CRC32C of bytes 8..40 |
//! | 8..12 | CRC32C of the body |
//! | 12..16 | bytes of the body |
//! | 16..20 | records in it |
//! | 20 | its kind |
//! | 21..24 | zero |
//! | 24..32 | records of the segment before it |
//! | 32..40 | when it was written, milliseconds since 1970 |
//! | 40.. | the body |

use bytes::Bytes;

/// Bytes before the body.
pub(crate) const HEAD: usize = 40;
/// The first four bytes.
pub(crate) const WORD: [u8; 4] = *b"ACPF";
/// More records before a frame are not believed.
const MOST_RECORDS: u64 = 1 << 40;
/// Longest body, in bytes: longer ones are not written, and not believed.
pub const LONGEST: usize = 64 << 20;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The owner's own number for what the body is.
    pub kind: u8,
    /// Records in it, which [`crate::Losses`] counts.
    pub records: u32,
    /// Anything.
    pub body: Bytes,
}

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    pub(crate) records: u32,
    /// Bytes of the body.
    pub(crate) length: usize,
    /// Records of the segment before this frame.
    pub(crate) before: u64,
    pub(crate) written_ms: u64,
    body_crc: u32,
}

impl Head {
    /// The head of `frame`; `None` when its body is too long, or its segment has too many records.
    pub(crate) fn of(frame: &Frame, before: u64, written_ms: u64) -> Option<Self> {
        let Frame { kind, records, ref body } = *frame;
        let length = Some(body.len()).filter(|length| *length <= LONGEST)?;
        let before = Some(before).filter(|before| *before <= MOST_RECORDS)?;
        Some(Self { kind, records, length, before, written_ms, body_crc: crc32c::crc32c(body) })
    }

    /// As it is written.
    pub(crate) fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&WORD);
        bytes[8..12].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::try_from(self.length).unwrap_or(u32::MAX).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.records.to_le_bytes());
        bytes[20] = self.kind;
        bytes[24..32].copy_from_slice(&self.before.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.written_ms.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a head; `None` of what is none.
    pub(crate) fn decode(bytes: &[u8; HEAD]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if bytes[..4] != WORD || !is_sum(word(4), &bytes[8..]) {
            return None;
        }
        Some(Self {
            kind: bytes[20],
            records: word(16),
            length: usize::try_from(word(12)).ok().filter(|length| *length <= LONGEST)?,
            before: Some(long(24)).filter(|before| *before <= MOST_RECORDS)?,
            written_ms: long(32),
            body_crc: word(8),
        })
    }

    /// Whether `body` is what was written behind this head.
    pub(crate) fn is_of(&self, body: &[u8]) -> bool {
        body.len() == self.length && is_sum(self.body_crc, body)
    }
}

/// A fuzzer finds no checksum; what is behind them has to bear anything, too.
fn is_sum(sum: u32, bytes: &[u8]) -> bool {
    cfg!(fuzzing) || sum == crc32c::crc32c(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(kind: u8, records: u32, before in 0..=MOST_RECORDS, written_ms: u64, body: Vec<u8>) {
            let frame = Frame { kind, records, body: body.into() };
            let head = Head::of(&frame, before, written_ms).unwrap();
            prop_assert_eq!(Head::decode(&head.encode()), Some(head));
            prop_assert!(head.is_of(&frame.body));
        }

        #[test]
        fn no_flipped_bit_is_believed(body in prop::collection::vec(any::<u8>(), 1..50), bit in 0_usize..90 * 8) {
            let frame = Frame { kind: 1, records: 7, body: body.into() };
            let head = Head::of(&frame, 3, 9).unwrap().encode();
            let mut whole = [&head[..], &frame.body].concat();
            let bit = bit % (whole.len() * 8);
            whole[bit / 8] ^= 1 << (bit % 8);
            let (head, body) = whole.split_at(HEAD);
            let head: [u8; HEAD] = head.try_into().unwrap();
            prop_assert!(Head::decode(&head).is_none_or(|decoded| !decoded.is_of(body)));
        }

        #[test]
        fn no_bytes_panic(bytes: [u8; HEAD]) {
            let _ = Head::decode(&bytes);
        }
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let frame = Frame { kind: 1, records: 1, body: vec![0; LONGEST + 1].into() };
        assert_eq!(Head::of(&frame, 0, 0), None);
    }
}
