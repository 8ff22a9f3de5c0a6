//! The input of every record besides its sample.

use crate::{clock::Clock, config::PeerAddress, mapping::ids::Ids};

/// The part of a record's input that is the same for all samples of a burst.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordContext<'a> {
    /// Makes record, trace and span ids.
    pub(crate) ids: &'a Ids,
    /// Converts boot time to wall-clock time.
    pub(crate) clock: &'a Clock,
    /// When user space read the sample, nanoseconds since the Unix epoch.
    pub(crate) observed_unix_ns: u64,
    /// How much of a peer's address is recorded (`privacy.peer_address`).
    pub(crate) peers: PeerAddress,
}
