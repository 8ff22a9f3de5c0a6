//! Which attributes an accept record has, by the way it was accepted: one table for the reference (docs/fields.md) and for
//! the scenarios, which hold every record against it, absence too.

use std::fmt::Write as _;

use acceptd_otlp::names;

use crate::bpf::Tier;

/// How a connection was accepted, or was not; with every attribute switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Case {
    /// TCP, by accept or accept4.
    Tcp,
    /// Multipath TCP, likewise.
    Mptcp,
    /// A UNIX socket, likewise.
    Unix,
    /// TCP, by a request of io_uring.
    Ring,
    /// TCP, by a multishot request of io_uring.
    Multishot,
    /// TCP, by a request of io_uring, into a slot of its table of files.
    Slot,
    /// An accept on a TCP socket that failed.
    Failed,
    /// One on a UNIX socket.
    UnixFailed,
}

/// Whether a record has an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Present,
    /// Never.
    Absent,
    /// It depends on the connection; see the notes.
    Depends,
}

const CASES: [&str; 8] =
    ["TCP", "MPTCP", "UNIX", "io_uring", "io_uring multishot", "io_uring slot", "failed", "failed UNIX"];

/// One letter a case, in their order, for tier 1 and for tier 2: `+` present, `-` absent, `?` depends.
const TABLE: [(&str, &str, &str); 35] = [
    (names::NETWORK_TRANSPORT, "++++++++", "++++++++"),
    (names::NETWORK_TYPE, "++-++++-", "++-++++-"),
    (names::NETWORK_LOCAL_ADDRESS, "++?+++--", "++?++---"),
    (names::NETWORK_LOCAL_PORT, "++-+++--", "++-++---"),
    (names::NETWORK_PEER_ADDRESS, "++?+++--", "++?++---"),
    (names::NETWORK_PEER_PORT, "++-+++--", "++-++---"),
    (names::ACCEPTD_PEER_PID, "??+???--", "??+??---"),
    (names::ACCEPTD_PEER_EXECUTABLE_NAME, "??????--", "?????---"),
    (names::ERROR_TYPE, "------++", "------++"),
    (names::LOG_RECORD_UID, "++++++++", "++++++++"),
    (names::ACCEPTD_SOCKET_COOKIE, "++++++--", "++-++---"),
    (names::ACCEPTD_SOCKET_FD, "+++-----", "+++++---"),
    (names::ACCEPTD_SOCKET_INODE, "++++++--", "+++++---"),
    (names::ACCEPTD_SOCKET_MPTCP, "-+------", "-+------"),
    (names::ACCEPTD_SOCKET_V4_MAPPED, "??-???--", "??-??---"),
    (names::ACCEPTD_LISTENER_FD, "+++---++", "+++---++"),
    (names::ACCEPTD_LISTENER_ADDRESS, "+++++++?", "++++-++?"),
    (names::ACCEPTD_LISTENER_PORT, "++-++++-", "++-+-++-"),
    (names::ACCEPTD_LISTENER_COOKIE, "++++++++", "++-+-+?-"),
    (names::ACCEPTD_LISTENER_INODE, "++++++++", "++++-+++"),
    (names::ACCEPTD_LISTENER_BACKLOG_LENGTH, "++++++++", "++++-+++"),
    (names::ACCEPTD_LISTENER_BACKLOG_LIMIT, "++++++++", "++++-+++"),
    (names::ACCEPTD_ACCEPT_QUEUE_TIME_NS, "++++++--", "++-++---"),
    (names::ACCEPTD_ACCEPT_BLOCKED_TIME_NS, "+++---++", "--------"),
    (names::ACCEPTD_ACCEPT_SYSCALL, "++++++++", "++++++++"),
    (names::ACCEPTD_ACCEPT_VERIFIED, "--------", "--+--+--"),
    (names::ACCEPTD_TCP_HANDSHAKE_TIME_NS, "++-+++--", "++-+----"),
    (names::ACCEPTD_TCP_RTT_NS, "++-+++--", "++-+----"),
    (names::ACCEPTD_TCP_SYNACK_RETRANSMITS, "++-+++--", "++-+----"),
    (names::ACCEPTD_SELF, "--------", "--------"),
    (names::ACCEPTD_SAMPLING_ADJUSTED_COUNT, "--------", "--------"),
    (names::ACCEPTD_NETNS_INODE, "++++++++", "++++++++"),
    (names::ACCEPTD_THREAD_ID, "++++++++", "++++++++"),
    (names::ACCEPTD_THREAD_NAME, "++++++++", "++++++++"),
    (names::ACCEPTD_CAPTURE_TIER, "++++++++", "++++++++"),
];

const HEAD: &str = "\
# Which attributes an accept record has

Printed by `acceptd events --fields`; the scenarios hold every record against it, in both tiers. With
`attributes.profile = full`; the profile `standard` leaves some out ([attributes.md](attributes.md)). Failed accepts are
those on a listener that is not one (EINVAL). A cell has two signs where the tiers differ: tier 1 (fentry and fexit), then
tier 2 (tracepoints).

";

const NOTES: &str = "
`+` always, `-` never, `?` it depends:
- The local and peer address of a UNIX connection, and the listener's of a failed one, are there when the socket has a
  name; that of the peer seldom is.
- `acceptd.peer.*` is there for TCP over the loopback, or from an address to itself, when the client connected while the agent
  ran; the executable of a UNIX peer when its process still runs.
- `acceptd.socket.v4_mapped` is there, and true, when an IPv6 socket carries an IPv4 connection.
- `acceptd.accept.queue_time_ns` and `acceptd.tcp.*` are absent too for connections that were queued before the agent
  started, and for those of TCP fast open that are accepted before they are established.
- `acceptd.tcp.*` is absent with SYN cookies: the kernel keeps nothing of such a connection before its last packet, and takes
  a round-trip time from time stamps that are no times. Without the handshake of tier 1 nothing tells such a connection
  from another of the same listener, so there, and with TCP fast open, it is absent from the first cookie on, and always
  where the listener is not known.
- When a SYN-ACK was sent again, there is no `acceptd.tcp.rtt_ns`, and in tier 2 no `acceptd.tcp.handshake_time_ns`.
- Tier 1 does not know the new descriptor of an accept through io_uring: the ring installs it later.
- `acceptd.listener.*`, `acceptd.socket.fd`, `acceptd.socket.inode` and `acceptd.accept.blocked_time_ns` are absent for
  accepts by the kernel itself, `acceptd.socket.fd` and the blocked time also for a thread that waited in accept since before the agent's start. Both are tier 1's; tier 2 does
  not see the kernel's own accepts.
- `acceptd.self` is there, and true, on the agent's own when `filter.self` is on.
- `acceptd.sampling.adjusted_count` is there under overload (`overload.max_records_per_second`).
- An accept on a VSOCK or SCTP socket has what TCP has, but for `acceptd.tcp.*` and the queue time; VSOCK has the context id
  as the address, and no `network.type`.

Of tier 2 only:
- `acceptd.listener.cookie` of a failed accept is there when the listener ever listened, or its owner asked for it.
- `acceptd.accept.verified` is there, and false, where nothing proves that the record's socket is the one that the call
  returned. It is also there for a connection that was not seen to be established (TCP fast open, or there were more than
  65,536 at once); such a one has no queue time.
- `acceptd.accept.blocked_time_ns` is there for system calls when `events.accept_attempt` is on.
- A UNIX multishot accept of io_uring is no record: nothing tells its completion from another request's. It is counted
  (`unverified.io_uring` in the ledger).
";

/// Whether a record of this case has the attribute; nothing for an attribute that accepts do not have.
#[must_use]
pub fn presence(attribute: &str, case: Case, tier: Tier) -> Option<Presence> {
    let (_, in_tier_1, in_tier_2) = TABLE.iter().find(|(name, ..)| *name == attribute)?;
    let row = match tier {
        Tier::One => in_tier_1,
        Tier::Two => in_tier_2,
    };
    match row.as_bytes().get(case as usize)? {
        b'+' => Some(Presence::Present),
        b'-' => Some(Presence::Absent),
        _ => Some(Presence::Depends),
    }
}

/// What differs between the keys of a record and the table: nothing, or a line for each.
pub fn differences<'a>(keys: impl Iterator<Item = &'a str> + Clone, case: Case, tier: Tier) -> Vec<String> {
    let mut found = Vec::new();
    for (name, ..) in TABLE {
        let is_there = keys.clone().any(|key| key == name);
        match (presence(name, case, tier), is_there) {
            (Some(Presence::Present), false) => found.push(format!("{name} is absent")),
            (Some(Presence::Absent), true) => found.push(format!("{name} is there")),
            _ => {}
        }
    }
    found.extend(
        keys.filter(|key| presence(key, case, tier).is_none())
            .map(|key| format!("{key} is in no row of the table")),
    );
    found
}

/// The table as a document.
#[must_use]
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    // Writing to a string cannot fail.
    _ = writeln!(text, "| attribute | {} |", CASES.join(" | "));
    _ = writeln!(text, "|---|{}", "---|".repeat(CASES.len()));
    for (name, in_tier_1, in_tier_2) in TABLE {
        let cell =
            |(one, two): (char, char)| if one == two { one.to_string() } else { format!("{one} {two}") };
        let cells: Vec<String> = in_tier_1.chars().zip(in_tier_2.chars()).map(cell).collect();
        _ = writeln!(text, "| `{name}` | {} |", cells.join(" | "));
    }
    text + NOTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_the_table() {
        let path = format!("{}/../docs/fields.md", env!("CARGO_MANIFEST_DIR"));
        let document = std::fs::read_to_string(path).expect("docs/fields.md");
        assert_eq!(document, markdown(), "write it anew: acceptd events --fields > docs/fields.md");
    }

    #[test]
    fn every_attribute_of_an_accept_has_a_row_with_a_cell_for_every_case() {
        let accept = names::EVENTS.iter().find(|event| event.name == names::EVENT_ACCEPTD_SOCKET_ACCEPT);
        for attribute in accept.expect("the accept").attributes {
            // Only sent for backends that lose the event's name.
            let key = attribute.key;
            if key != names::OTEL_EVENT_NAME {
                assert!(TABLE.iter().any(|(name, ..)| *name == key), "{key}");
            }
        }
        let length = CASES.len();
        assert!(TABLE.iter().all(|(_, one, two)| one.len() == length && two.len() == length));
    }

    #[test]
    fn differences_are_named() {
        let all = TABLE.iter().map(|(name, ..)| *name);
        let is_there = |name: &&str| presence(name, Case::Tcp, Tier::Two) == Some(Presence::Present);
        let tcp = || all.clone().filter(is_there);
        assert_eq!(differences(tcp(), Case::Tcp, Tier::Two), Vec::<String>::new());
        assert_eq!(differences(tcp().skip(1), Case::Tcp, Tier::Two), ["network.transport is absent"]);
        assert_eq!(differences(tcp().chain(["error.type"]), Case::Tcp, Tier::Two), ["error.type is there"]);
        assert_eq!(differences(tcp().chain(["x"]), Case::Tcp, Tier::Two), ["x is in no row of the table"]);
        let blocked = ["acceptd.accept.blocked_time_ns is absent"];
        assert_eq!(differences(tcp(), Case::Tcp, Tier::One), blocked);
    }
}
