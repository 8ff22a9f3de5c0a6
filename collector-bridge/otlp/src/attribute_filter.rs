//! The attributes that a record may carry, and the filter that selects those that are sent.

use thiserror::Error;

use crate::names;

macro_rules! attributes {
    ($($(#[$meta:meta])* $variant:ident = $name:ident, $standard:literal;)*) => {
        /// An attribute of a log record or a span.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each is documented under its name in `names`")]
        pub enum Attribute { $($(#[$meta])* $variant),* }

        impl Attribute {
            const ALL: &[Self] = &[$(Self::$variant),*];

            /// The key of the attribute.
            pub(crate) const fn key(self) -> &'static str {
                match self { $(Self::$variant => names::$name),* }
            }

            /// Whether the standard attribute profile (`attributes.profile`) has the attribute.
            const fn in_standard(self) -> bool {
                match self { $(Self::$variant => $standard),* }
            }
        }
    };
}

attributes! {
    Transport = NETWORK_TRANSPORT, true;
    NetworkType = NETWORK_TYPE, true;
    LocalAddress = NETWORK_LOCAL_ADDRESS, true;
    LocalPort = NETWORK_LOCAL_PORT, true;
    PeerAddress = NETWORK_PEER_ADDRESS, true;
    PeerPort = NETWORK_PEER_PORT, true;
    ErrorType = ERROR_TYPE, true;
    Uid = LOG_RECORD_UID, true;
    SocketCookie = ACCEPTD_SOCKET_COOKIE, true;
    SocketFd = ACCEPTD_SOCKET_FD, true;
    ListenerFd = ACCEPTD_LISTENER_FD, true;
    BacklogLength = ACCEPTD_LISTENER_BACKLOG_LENGTH, true;
    BacklogLimit = ACCEPTD_LISTENER_BACKLOG_LIMIT, true;
    QueueTime = ACCEPTD_ACCEPT_QUEUE_TIME_NS, true;
    Syscall = ACCEPTD_ACCEPT_SYSCALL, true;
    Verified = ACCEPTD_ACCEPT_VERIFIED, true;
    Mptcp = ACCEPTD_SOCKET_MPTCP, true;
    V4Mapped = ACCEPTD_SOCKET_V4_MAPPED, true;
    SelfAccept = ACCEPTD_SELF, true;
    AdjustedCount = ACCEPTD_SAMPLING_ADJUSTED_COUNT, true;
    ListenerAddress = ACCEPTD_LISTENER_ADDRESS, false;
    ListenerPort = ACCEPTD_LISTENER_PORT, false;
    ListenerCookie = ACCEPTD_LISTENER_COOKIE, false;
    ListenerInode = ACCEPTD_LISTENER_INODE, false;
    SocketInode = ACCEPTD_SOCKET_INODE, false;
    NetnsInode = ACCEPTD_NETNS_INODE, false;
    ThreadId = ACCEPTD_THREAD_ID, false;
    ThreadName = ACCEPTD_THREAD_NAME, false;
    BlockedTime = ACCEPTD_ACCEPT_BLOCKED_TIME_NS, false;
    CaptureTier = ACCEPTD_CAPTURE_TIER, false;
    HandshakeTime = ACCEPTD_TCP_HANDSHAKE_TIME_NS, false;
    RoundTripTime = ACCEPTD_TCP_RTT_NS, false;
    SynackRetransmits = ACCEPTD_TCP_SYNACK_RETRANSMITS, false;
    SocketType = ACCEPTD_SOCKET_TYPE, true;
    BacklogRequested = ACCEPTD_LISTENER_BACKLOG_REQUESTED, true;
    OldestWait = ACCEPTD_LISTENER_OLDEST_WAIT_NS, true;
    OwnerUnknown = ACCEPTD_LISTENER_OWNER_UNKNOWN, true;
    StallState = ACCEPTD_LISTENER_STALL_STATE, true;
    StallDuration = ACCEPTD_LISTENER_STALL_DURATION_NS, true;
    FailureCount = ACCEPTD_FAILURE_COUNT, true;
    OverflowCount = ACCEPTD_OVERFLOW_COUNT, true;
    Interval = ACCEPTD_INTERVAL_DURATION_NS, true;
    /// The tier of the agent in events about the agent itself, where it is not context but the subject.
    AgentTier = ACCEPTD_CAPTURE_TIER, true;
    Missing = ACCEPTD_CAPTURE_MISSING, true;
    LossReason = ACCEPTD_LOSS_REASON, true;
    LossCount = ACCEPTD_LOSS_COUNT, true;
    Destination = ACCEPTD_DESTINATION_NAME, true;
    ClientAddress = CLIENT_ADDRESS, true;
    ClientPort = CLIENT_PORT, true;
    ServerAddress = SERVER_ADDRESS, true;
    ServerPort = SERVER_PORT, true;
    BytesReceived = ACCEPTD_CONNECTION_BYTES_RECEIVED, true;
    BytesSent = ACCEPTD_CONNECTION_BYTES_SENT, true;
    Retransmits = ACCEPTD_CONNECTION_RETRANSMITS, true;
    ClosedBy = ACCEPTD_CONNECTION_CLOSED_BY, true;
    Preexisting = ACCEPTD_CONNECTION_PREEXISTING, true;
    SamplingReason = ACCEPTD_SAMPLING_REASON, true;
    PeerPid = ACCEPTD_PEER_PID, true;
    PeerExecutable = ACCEPTD_PEER_EXECUTABLE_NAME, true;
    DeferredTime = ACCEPTD_TCP_DEFERRED_TIME_NS, false;
}

impl Attribute {
    /// Whether the attribute is context: where and how an event was captured, not what happened.
    pub(crate) const fn is_context(self) -> bool {
        matches!(self, Self::NetnsInode | Self::ThreadId | Self::ThreadName | Self::CaptureTier)
    }
}

/// A name in `attributes.include` or `attributes.exclude` that is not the name of an attribute.
#[derive(Debug, Error)]
#[error("no record has an attribute `{0}`")]
pub struct UnknownAttribute(String);

/// Selects the attributes that are sent, and bounds the length of their texts.
#[derive(Debug, Clone)]
pub struct AttributeFilter {
    /// One bit for each attribute that is sent.
    included: u64,
    /// One bit for each attribute that is excluded by name.
    excluded: u64,
    pub(crate) event_name_attribute: bool,
    pub(crate) value_length: usize,
}

impl AttributeFilter {
    /// A filter with the full or the standard attribute profile, plus the names in `include`, without the
    /// names in `exclude`. `event_name_attribute` also sends the event name as the attribute
    /// `otel.event.name`. Texts are cut at `value_length` bytes.
    ///
    /// # Errors
    /// A name in `include` or `exclude` is not the name of an attribute.
    pub fn new(
        full: bool,
        include: &[String],
        exclude: &[String],
        event_name_attribute: bool,
        value_length: usize,
    ) -> Result<Self, UnknownAttribute> {
        let (mut included, mut excluded) = (0, 0);
        for &attribute in Attribute::ALL {
            if full || attribute.in_standard() {
                included |= bit(attribute);
            }
        }
        for name in include {
            included |= bits_of_key(name)?;
        }
        for name in exclude {
            excluded |= bits_of_key(name)?;
        }
        Ok(Self { included: included & !excluded, excluded, event_name_attribute, value_length })
    }

    /// Whether the attribute is sent.
    pub(crate) fn includes(&self, attribute: Attribute) -> bool {
        self.included & bit(attribute) != 0
    }

    /// Whether the attribute is excluded by name.
    pub(crate) fn excludes(&self, attribute: Attribute) -> bool {
        self.excluded & bit(attribute) != 0
    }
}

const _: () = assert!(Attribute::ALL.len() <= 64, "an AttributeFilter has one bit for each attribute");

fn bit(attribute: Attribute) -> u64 {
    1 << attribute as u8
}

/// The bits of the attributes with this key. Two attributes may share a key.
fn bits_of_key(name: &str) -> Result<u64, UnknownAttribute> {
    let found = Attribute::ALL.iter().filter(|attribute| attribute.key() == name);
    match found.fold(0, |bits, attribute| bits | bit(*attribute)) {
        0 => Err(UnknownAttribute(name.to_owned())),
        bits => Ok(bits),
    }
}
