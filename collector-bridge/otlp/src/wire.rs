//! Writing protobuf: tags, varints and nested messages, appended to a byte vector.
//!
//! Only what the accept record's hot path needs; everything else goes through prost. Encoding per
//! <https://protobuf.dev/programming-guides/encoding/>.

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// Bytes kept free for the length of a nested message whose size is not known yet. A padded varint is as valid as
/// a short one; three bytes hold 2 MiB, and no nested message of a record comes near.
const LENGTH_BYTES: usize = 3;

const fn tag(field: u8, wire_type: u8) -> u8 {
    assert!(field < 16, "a tag of one byte");
    field << 3 | wire_type
}

/// Appends `value` in as few bytes as it takes.
pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Bytes that [`varint`] takes.
pub(crate) const fn varint_len(value: u64) -> usize {
    match value {
        0 => 1,
        _ => (70 - value.leading_zeros() as usize) / 7,
    }
}

/// An integer field. Negative numbers take ten bytes.
pub(crate) fn uint<const FIELD: u8>(out: &mut Vec<u8>, value: u64) {
    out.push(const { tag(FIELD, VARINT) });
    varint(out, value);
}

/// A fixed64 field.
pub(crate) fn fixed64<const FIELD: u8>(out: &mut Vec<u8>, value: u64) {
    out.push(const { tag(FIELD, FIXED64) });
    out.extend_from_slice(&value.to_le_bytes());
}

/// A fixed32 field, also one whose number takes two bytes.
pub(crate) fn fixed32<const FIELD: u64>(out: &mut Vec<u8>, value: u32) {
    varint(out, FIELD << 3 | u64::from(FIXED32));
    out.extend_from_slice(&value.to_le_bytes());
}

/// A bytes or string field. A string's bytes must be UTF-8.
pub(crate) fn bytes<const FIELD: u8>(out: &mut Vec<u8>, value: &[u8]) {
    header::<FIELD>(out, value.len());
    out.extend_from_slice(value);
}

/// Tag and length of a field whose `length` bytes the caller appends.
pub(crate) fn header<const FIELD: u8>(out: &mut Vec<u8>, length: usize) {
    out.push(const { tag(FIELD, LENGTH_DELIMITED) });
    varint(out, length as u64);
}

/// A nested message or string, written by `content`, of a length that is only known afterwards.
pub(crate) fn nested<const FIELD: u8>(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    out.push(const { tag(FIELD, LENGTH_DELIMITED) });
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    content(out);
    let length = out.len() - start - LENGTH_BYTES;
    debug_assert!(length < 1 << (7 * LENGTH_BYTES), "a nested message of {length} bytes");
    let padded = [length & 0x7f | 0x80, length >> 7 & 0x7f | 0x80, length >> 14 & 0x7f];
    for (byte, part) in out[start..].iter_mut().zip(padded) {
        *byte = part.to_le_bytes()[0];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_are_what_prost_writes(value: u64) {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            varint(&mut ours, value);
            prost::encoding::encode_varint(value, &mut theirs);
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(varint_len(value), theirs.len());
        }

        #[test]
        fn padded_lengths_are_read_back(content in proptest::collection::vec(any::<u8>(), 0..40_000)) {
            let mut out = Vec::new();
            nested::<1>(&mut out, |out| out.extend_from_slice(&content));
            prop_assert_eq!(out.remove(0), 0x0a);
            let mut rest = &out[..];
            let length = prost::encoding::decode_varint(&mut rest).expect("a varint");
            prop_assert_eq!(length, content.len() as u64);
            prop_assert_eq!(rest, &content[..]);
        }
    }
}
