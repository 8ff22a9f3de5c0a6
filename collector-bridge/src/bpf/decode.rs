//! From ring-buffer bytes to an event: checked, never trusted. No I/O.

use acceptd_common::{
    ABI_VERSION, Abandoned, Closed, Header, InetAccept, Kind, ListenerState, SocketCall, UnixAccept,
};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A decoded sample, borrowed from the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// See [`InetAccept`].
    InetAccept(&'a InetAccept),
    /// See [`UnixAccept`].
    UnixAccept(&'a UnixAccept),
    /// See [`SocketCall`].
    SocketCall(&'a SocketCall),
    /// See [`Kind::ListenerClosed`].
    ListenerClosed(&'a ListenerState),
    /// See [`Abandoned`].
    Abandoned(&'a Abandoned),
    /// See [`Closed`].
    Closed(&'a Closed),
}

/// Why a sample is not an event. Such a sample is counted and skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Shorter than a header.
    #[error("a sample of {0} bytes is shorter than its header")]
    Truncated(usize),
    /// From programs of another build.
    #[error("the sample has format version {0}, this agent reads {ABI_VERSION}")]
    Version(u16),
    /// A kind that this agent does not know.
    #[error("unknown kind of sample {0}")]
    UnknownKind(u16),
    /// The length in the header, or the bytes themselves, do not fit the kind.
    #[error("a sample of kind {kind} says {claimed} bytes and has {actual}")]
    Length {
        /// Number of the kind.
        kind: u16,
        /// Length in the header.
        claimed: u32,
        /// Bytes in the ring.
        actual: usize,
    },
}

/// Decodes one sample without copying it.
///
/// # Errors
/// See [`Malformed`].
pub fn decode(sample: &[u8]) -> Result<Event<'_>, Malformed> {
    let truncated = Malformed::Truncated(sample.len());
    let (header, _) = Header::read_from_prefix(sample).map_err(|_| truncated)?;
    if header.abi != ABI_VERSION {
        return Err(Malformed::Version(header.abi));
    }
    let kind = Kind::from_number(header.kind).ok_or(Malformed::UnknownKind(header.kind))?;
    let length = Malformed::Length { kind: header.kind, claimed: header.length, actual: sample.len() };
    if usize::try_from(header.length) != Ok(sample.len()) {
        return Err(length);
    }
    match kind {
        Kind::InetAccept => whole(sample).map(Event::InetAccept),
        Kind::UnixAccept => whole(sample).map(Event::UnixAccept),
        Kind::SocketCall => whole(sample).map(Event::SocketCall),
        Kind::ListenerClosed => whole(sample).map(Event::ListenerClosed),
        Kind::Abandoned => whole(sample).map(Event::Abandoned),
        Kind::Closed => whole(sample).map(Event::Closed),
    }
    .ok_or(length)
}

fn whole<T: FromBytes + KnownLayout + Immutable>(sample: &[u8]) -> Option<&T> {
    T::ref_from_bytes(sample).ok()
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
        (Kind::Abandoned, size_of::<Abandoned>()),
        (Kind::Closed, size_of::<Closed>()),
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

    /// The bytes of what was decoded. A sample in the ring is aligned to eight.
    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        aligned.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        decode(&aligned.as_bytes()[..bytes.len()]).map(|event| match event {
            Event::InetAccept(sample) => sample.as_bytes().to_vec(),
            Event::UnixAccept(sample) => sample.as_bytes().to_vec(),
            Event::SocketCall(sample) => sample.as_bytes().to_vec(),
            Event::ListenerClosed(sample) => sample.as_bytes().to_vec(),
            Event::Abandoned(sample) => sample.as_bytes().to_vec(),
            Event::Closed(sample) => sample.as_bytes().to_vec(),
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
    fn each_defect_has_its_own_word() {
        let whole = with_header(Kind::InetAccept, vec![0; 328]);
        assert_eq!(decoded(&whole[..31]), Err(Malformed::Truncated(31)));
        let mut other = whole.clone();
        other[0] = 9;
        assert_eq!(decoded(&other), Err(Malformed::Version(9)));
        other = whole.clone();
        other[2] = 77;
        assert_eq!(decoded(&other), Err(Malformed::UnknownKind(77)));
        assert_eq!(decoded(&whole[..320]), Err(Malformed::Length { kind: 1, claimed: 328, actual: 320 }));
        let long = [&whole[..], &[0; 8]].concat();
        assert_eq!(decoded(&long), Err(Malformed::Length { kind: 1, claimed: 328, actual: 336 }));
        let other_length = with_header(Kind::Abandoned, vec![0; 328]);
        assert_eq!(decoded(&other_length), Err(Malformed::Length { kind: 5, claimed: 328, actual: 328 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            kind in proptest::option::of(0..KINDS.len()),
            of_its_length: bool,
        ) {
            if let Some((kind, length)) = kind.map(|index| KINDS[index]) {
                if of_its_length {
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
