//! From ring-buffer bytes to an event: checked, never trusted. No I/O.

use acceptd_common::{ABI_VERSION, Header, InetAccept, Kind};
use thiserror::Error;
use zerocopy::FromBytes as _;

/// A decoded sample, borrowed from the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// See [`InetAccept`].
    InetAccept(&'a InetAccept),
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
        Kind::InetAccept => InetAccept::ref_from_bytes(sample).map(Event::InetAccept).map_err(|_| length),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::*;

    fn sample() -> InetAccept {
        let mut accept = InetAccept::new_zeroed();
        accept.header.abi = ABI_VERSION;
        accept.header.kind = Kind::InetAccept as u16;
        accept.header.length = u32::try_from(size_of::<InetAccept>()).expect("a small struct");
        accept
    }

    /// Bytes at an address that a sample may have: the ring aligns them to eight.
    fn decoded(bytes: &[u8]) -> Result<InetAccept, Malformed> {
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        aligned.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        decode(&aligned.as_bytes()[..bytes.len()]).map(|Event::InetAccept(accept)| *accept)
    }

    #[test]
    fn a_whole_sample_is_read_back() {
        let mut accept = sample();
        accept.cookie = 42;
        assert_eq!(decoded(accept.as_bytes()), Ok(accept));
    }

    #[test]
    fn each_defect_has_its_own_word() {
        let accept = sample();
        assert_eq!(decoded(&accept.as_bytes()[..31]), Err(Malformed::Truncated(31)));
        let mut other = accept;
        other.header.abi = 9;
        assert_eq!(decoded(other.as_bytes()), Err(Malformed::Version(9)));
        other = accept;
        other.header.kind = 77;
        assert_eq!(decoded(other.as_bytes()), Err(Malformed::UnknownKind(77)));
        let cut = &accept.as_bytes()[..296];
        assert_eq!(decoded(cut), Err(Malformed::Length { kind: 1, claimed: 304, actual: 296 }));
        let long = [accept.as_bytes(), &[0; 8]].concat();
        assert_eq!(decoded(&long), Err(Malformed::Length { kind: 1, claimed: 304, actual: 312 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), valid_header: bool) {
            if valid_header && bytes.len() >= size_of::<Header>() {
                let mut header = sample().header;
                header.length = u32::try_from(bytes.len()).expect("short");
                bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
            }
            match decoded(&bytes) {
                Ok(accept) => prop_assert_eq!(accept.as_bytes(), &bytes[..]),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
