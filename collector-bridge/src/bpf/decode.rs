//! Decodes the bytes of one ring-buffer entry into a sample. Every length is checked; no I/O, no copy.

use acceptd_common::{
    ABI_VERSION, ConnectionAbandoned, ConnectionClosed, Header, InetAccept, Kind, ListenerState, SocketCall,
    UnixAccept,
};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A decoded sample, borrowed from the ring buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sample<'a> {
    /// See [`InetAccept`].
    InetAccept(&'a InetAccept),
    /// See [`UnixAccept`].
    UnixAccept(&'a UnixAccept),
    /// See [`SocketCall`].
    SocketCall(&'a SocketCall),
    /// See [`Kind::ListenerClosed`].
    ListenerClosed(&'a ListenerState),
    /// See [`ConnectionAbandoned`].
    Abandoned(&'a ConnectionAbandoned),
    /// See [`ConnectionClosed`].
    Closed(&'a ConnectionClosed),
}

/// Why the bytes are no sample. The recorder counts and skips such an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum DecodeError {
    /// The entry is shorter than a header.
    #[error("a sample of {0} bytes is shorter than its header")]
    Truncated(usize),
    /// The entry was written by programs of another build.
    #[error("the sample has format version {0}, this agent reads {ABI_VERSION}")]
    Version(u16),
    /// The entry has a kind that this agent does not know.
    #[error("unknown kind of sample {0}")]
    UnknownKind(u16),
    /// The length in the header, or the number of bytes, does not match the kind.
    #[error("a sample of kind {kind} claims {claimed} bytes but has {actual}")]
    Length {
        /// Number of the kind in the header.
        kind: u16,
        /// Length in the header.
        claimed: u32,
        /// Number of bytes in the ring buffer.
        actual: usize,
    },
}

/// Decodes one ring-buffer entry without copying it.
///
/// # Errors
/// See [`DecodeError`].
pub(crate) fn decode(bytes: &[u8]) -> Result<Sample<'_>, DecodeError> {
    let truncated = DecodeError::Truncated(bytes.len());
    let (header, _) = Header::read_from_prefix(bytes).map_err(|_| truncated)?;
    if header.abi != ABI_VERSION {
        return Err(DecodeError::Version(header.abi));
    }
    let kind = Kind::from_number(header.kind).ok_or(DecodeError::UnknownKind(header.kind))?;
    let length = DecodeError::Length { kind: header.kind, claimed: header.length, actual: bytes.len() };
    if usize::try_from(header.length) != Ok(bytes.len()) {
        return Err(length);
    }
    match kind {
        Kind::InetAccept => exact(bytes).map(Sample::InetAccept),
        Kind::UnixAccept => exact(bytes).map(Sample::UnixAccept),
        Kind::SocketCall => exact(bytes).map(Sample::SocketCall),
        Kind::ListenerClosed => exact(bytes).map(Sample::ListenerClosed),
        Kind::ConnectionAbandoned => exact(bytes).map(Sample::Abandoned),
        Kind::ConnectionClosed => exact(bytes).map(Sample::Closed),
    }
    .ok_or(length)
}

/// The bytes as a `T`, if their length is exactly that of `T`.
fn exact<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Option<&T> {
    T::ref_from_bytes(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    const KINDS: [(Kind, usize); 6] = [
        (Kind::InetAccept, size_of::<InetAccept>()),
        (Kind::UnixAccept, size_of::<UnixAccept>()),
        (Kind::SocketCall, size_of::<SocketCall>()),
        (Kind::ListenerClosed, size_of::<ListenerState>()),
        (Kind::ConnectionAbandoned, size_of::<ConnectionAbandoned>()),
        (Kind::ConnectionClosed, size_of::<ConnectionClosed>()),
    ];

    fn header(kind: Kind, length: usize) -> Header {
        let mut header = Header::new_zeroed();
        header.abi = ABI_VERSION;
        header.kind = kind as u16;
        header.length = u32::try_from(length).expect("a small struct");
        header
    }

    fn with_header(kind: Kind, mut bytes: Vec<u8>) -> Vec<u8> {
        let header = header(kind, bytes.len());
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        bytes
    }

    /// Decodes and returns the sample's bytes again. Copies first, because an entry in the ring buffer is
    /// aligned to eight.
    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        aligned.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        decode(&aligned.as_bytes()[..bytes.len()]).map(|event| match event {
            Sample::InetAccept(sample) => sample.as_bytes().to_vec(),
            Sample::UnixAccept(sample) => sample.as_bytes().to_vec(),
            Sample::SocketCall(sample) => sample.as_bytes().to_vec(),
            Sample::ListenerClosed(sample) => sample.as_bytes().to_vec(),
            Sample::Abandoned(sample) => sample.as_bytes().to_vec(),
            Sample::Closed(sample) => sample.as_bytes().to_vec(),
        })
    }

    #[test]
    fn a_whole_sample_of_each_kind_is_read_back() {
        for (kind, length) in KINDS {
            let sample = with_header(kind, vec![7; length]);
            assert_eq!(decoded(&sample), Ok(sample.clone()), "{kind:?}");
            assert_eq!(Kind::from_number(kind as u16), Some(kind));
        }
    }

    #[test]
    fn each_defect_has_its_own_error() {
        let length = size_of::<InetAccept>();
        let whole = with_header(Kind::InetAccept, vec![0; length]);
        assert_eq!(decoded(&whole), Ok(whole.clone()));
        let too_short = size_of::<Header>() - 1;
        assert_eq!(decoded(&whole[..too_short]), Err(DecodeError::Truncated(too_short)));
        let mut other = whole.clone();
        other[0] = 9;
        assert_eq!(decoded(&other), Err(DecodeError::Version(9)));
        other = whole.clone();
        other[2] = 77;
        assert_eq!(decoded(&other), Err(DecodeError::UnknownKind(77)));
        let claimed = u32::try_from(length).expect("a small struct");
        let length_error = |kind: Kind, actual| DecodeError::Length { kind: kind as u16, claimed, actual };
        let cut = length - 8;
        assert_eq!(decoded(&whole[..cut]), Err(length_error(Kind::InetAccept, cut)));
        let long = [&whole[..], &[0; 8]].concat();
        assert_eq!(decoded(&long), Err(length_error(Kind::InetAccept, long.len())));
        let other_length = with_header(Kind::ConnectionAbandoned, vec![0; length]);
        assert_eq!(decoded(&other_length), Err(length_error(Kind::ConnectionAbandoned, length)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_sample_or_an_error(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            kind in proptest::option::of(0..KINDS.len()),
            has_its_length: bool,
        ) {
            if let Some((kind, length)) = kind.map(|index| KINDS[index]) {
                if has_its_length {
                    bytes.resize(length, 0xa5);
                }
                if bytes.len() >= size_of::<Header>() {
                    bytes = with_header(kind, bytes);
                }
            }
            match decoded(&bytes) {
                Ok(sample) => prop_assert_eq!(sample, bytes),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
