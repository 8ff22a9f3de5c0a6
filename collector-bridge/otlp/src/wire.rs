//! Writes protobuf fields by hand, for the hot path of records and batches: tags, varints and nested
//! messages, appended to a byte vector. Everything else goes through prost.
//!
//! The encoding is specified in <https://protobuf.dev/programming-guides/encoding/>.

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// Bytes that are reserved for the length of a nested message whose size is not known yet. A padded varint is
/// as valid as a short one. Three bytes hold lengths below 2 MiB, and no nested message of a record comes
/// near that.
const LENGTH_BYTES: usize = 3;

const fn tag(field: u8, wire_type: u8) -> u8 {
    assert!(field < 16, "a tag of one byte");
    field << 3 | wire_type
}

/// Appends `value` as a varint of minimal length.
pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// The number of bytes that [`varint`] writes.
pub(crate) const fn varint_len(value: u64) -> usize {
    match value {
        0 => 1,
        _ => (70 - value.leading_zeros() as usize) / 7,
    }
}

/// Appends an integer field. A value above `i64::MAX` takes ten bytes.
pub(crate) fn uint<const FIELD: u8>(out: &mut Vec<u8>, value: u64) {
    out.push(const { tag(FIELD, VARINT) });
    varint(out, value);
}

/// Appends a fixed64 field.
pub(crate) fn fixed64<const FIELD: u8>(out: &mut Vec<u8>, value: u64) {
    out.push(const { tag(FIELD, FIXED64) });
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a fixed32 field. Its tag may take two bytes.
pub(crate) fn fixed32<const FIELD: u64>(out: &mut Vec<u8>, value: u32) {
    varint(out, FIELD << 3 | u64::from(FIXED32));
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a bytes or string field. The bytes of a string must be UTF-8.
pub(crate) fn bytes<const FIELD: u8>(out: &mut Vec<u8>, value: &[u8]) {
    header::<FIELD>(out, value.len());
    out.extend_from_slice(value);
}

/// Appends the tag and the length of a field. The caller appends its `length` bytes.
pub(crate) fn header<const FIELD: u8>(out: &mut Vec<u8>, length: usize) {
    out.push(const { tag(FIELD, LENGTH_DELIMITED) });
    varint(out, length as u64);
}

/// Appends a nested message or string that `content` writes, and whose length is only known afterwards.
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
            let (mut written, mut expected) = (Vec::new(), Vec::new());
            varint(&mut written, value);
            prost::encoding::encode_varint(value, &mut expected);
            prop_assert_eq!(&written, &expected);
            prop_assert_eq!(varint_len(value), expected.len());
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
