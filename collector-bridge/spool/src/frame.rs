//! The encoding of one frame on disk. Pure functions.
//!
//! | bytes | content, little-endian |
//! |---|---|
//! | 0..4 | marker, by which the next frame is found after a damaged one |
//! | 4..8 | CRC32C of bytes 8..40 |
//! | 8..12 | CRC32C of the body |
//! | 12..16 | length of the body in bytes |
//! | 16..20 | records in the frame |
//! | 20 | kind of the frame |
//! | 21..24 | zero |
//! | 24..32 | records of the segment before this frame |
//! | 32..40 | time of writing, milliseconds since the Unix epoch |
//! | 40.. | the body |

use bytes::Bytes;

/// Length of a frame's header in bytes.
pub(crate) const HEADER_BYTES: usize = 40;
/// The first four bytes of every frame.
pub(crate) const MARKER: [u8; 4] = *b"ACPF";
/// Upper bound of the records of a segment before a frame. A header with more is treated as damaged.
const MAX_RECORDS_BEFORE: u64 = 1 << 40;
/// Upper bound of a frame's body in bytes. A longer body cannot be appended; a header with a longer one is
/// treated as damaged.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// A frame: the unit that is appended, read and released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// A number by which the caller knows the type of the body.
    pub kind: u8,
    /// The number of records in the frame. [`crate::Losses`] counts records, not frames.
    pub records: u32,
    /// The payload: any bytes, at most [`MAX_BODY_BYTES`].
    pub body: Bytes,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: u8,
    pub(crate) records: u32,
    /// Length of the body in bytes.
    pub(crate) length: usize,
    /// Records of the segment before this frame.
    pub(crate) before: u64,
    pub(crate) written_ms: u64,
    body_crc: u32,
}

impl FrameHeader {
    /// The header of `frame`. `None` if the body is longer than [`MAX_BODY_BYTES`], or the segment has too
    /// many records.
    pub(crate) fn for_frame(frame: &Frame, before: u64, written_ms: u64) -> Option<Self> {
        let Frame { kind, records, ref body } = *frame;
        let length = Some(body.len()).filter(|length| *length <= MAX_BODY_BYTES)?;
        let before = Some(before).filter(|before| *before <= MAX_RECORDS_BEFORE)?;
        Some(Self { kind, records, length, before, written_ms, body_crc: crc32c::crc32c(body) })
    }

    /// The bytes of the header on disk.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MARKER);
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

    /// Decodes a header. `None` if the bytes are not a valid header.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..4] != MARKER || !checksum_matches(u32_at(4), &bytes[8..]) {
            return None;
        }
        Some(Self {
            kind: bytes[20],
            records: u32_at(16),
            length: usize::try_from(u32_at(12)).ok().filter(|length| *length <= MAX_BODY_BYTES)?,
            before: Some(u64_at(24)).filter(|before| *before <= MAX_RECORDS_BEFORE)?,
            written_ms: u64_at(32),
            body_crc: u32_at(8),
        })
    }

    /// Whether `body` is the body that was written with this header.
    pub(crate) fn matches_body(&self, body: &[u8]) -> bool {
        body.len() == self.length && checksum_matches(self.body_crc, body)
    }
}

/// Whether `sum` is the CRC32C of `bytes`. Always true under a fuzzer: it cannot find a checksum, but the
/// code behind the check has to survive any bytes, too.
fn checksum_matches(sum: u32, bytes: &[u8]) -> bool {
    cfg!(fuzzing) || sum == crc32c::crc32c(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_is_read_back(kind: u8, records: u32, before in 0..=MAX_RECORDS_BEFORE, written_ms: u64, body: Vec<u8>) {
            let frame = Frame { kind, records, body: body.into() };
            let header = FrameHeader::for_frame(&frame, before, written_ms).unwrap();
            prop_assert_eq!(FrameHeader::decode(&header.encode()), Some(header));
            prop_assert!(header.matches_body(&frame.body));
        }

        #[test]
        fn any_flipped_bit_is_detected(body in prop::collection::vec(any::<u8>(), 1..50), bit in 0_usize..90 * 8) {
            let frame = Frame { kind: 1, records: 7, body: body.into() };
            let header = FrameHeader::for_frame(&frame, 3, 9).unwrap().encode();
            let mut whole = [&header[..], &frame.body].concat();
            let bit = bit % (whole.len() * 8);
            whole[bit / 8] ^= 1 << (bit % 8);
            let (header, body) = whole.split_at(HEADER_BYTES);
            let header: [u8; HEADER_BYTES] = header.try_into().unwrap();
            prop_assert!(FrameHeader::decode(&header).is_none_or(|decoded| !decoded.matches_body(body)));
        }

        #[test]
        fn no_bytes_panic(bytes: [u8; HEADER_BYTES]) {
            let _ = FrameHeader::decode(&bytes);
        }
    }

    #[test]
    fn a_body_that_is_too_long_has_no_header() {
        let frame = Frame { kind: 1, records: 1, body: vec![0; MAX_BODY_BYTES + 1].into() };
        assert_eq!(FrameHeader::for_frame(&frame, 0, 0), None);
    }
}
