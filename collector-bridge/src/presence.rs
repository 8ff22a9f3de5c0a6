//! Which attributes an accept record has, by the way it was accepted: one table for the reference (docs/fields.md) and for
//! the scenarios, which hold every record against it, absence too.

use std::fmt::Write as _;

use acceptd_otlp::names;

/// How a connection was accepted, or was not. All in tier 2 and with every attribute switched on.
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

/// One letter a case, in their order: `+` present, `-` absent, `?` depends.
const TABLE: [(&str, &str); 29] = [
    (names::NETWORK_TRANSPORT, "++++++++"),
    (names::NETWORK_TYPE, "++-++++-"),
    (names::NETWORK_LOCAL_ADDRESS, "++?++---"),
    (names::NETWORK_LOCAL_PORT, "++-++---"),
    (names::NETWORK_PEER_ADDRESS, "++?++---"),
    (names::NETWORK_PEER_PORT, "++-++---"),
    (names::ERROR_TYPE, "------++"),
    (names::LOG_RECORD_UID, "++++++++"),
    (names::ACCEPTD_SOCKET_COOKIE, "++-++---"),
    (names::ACCEPTD_SOCKET_FD, "+++++---"),
    (names::ACCEPTD_SOCKET_INODE, "+++++---"),
    (names::ACCEPTD_SOCKET_MPTCP, "-+------"),
    (names::ACCEPTD_SOCKET_V4_MAPPED, "??-??---"),
    (names::ACCEPTD_LISTENER_FD, "+++---++"),
    (names::ACCEPTD_LISTENER_ADDRESS, "++++-++?"),
    (names::ACCEPTD_LISTENER_PORT, "++-+-++-"),
    (names::ACCEPTD_LISTENER_COOKIE, "++-+-+?-"),
    (names::ACCEPTD_LISTENER_INODE, "++++-+++"),
    (names::ACCEPTD_LISTENER_BACKLOG_LENGTH, "++++-+++"),
    (names::ACCEPTD_LISTENER_BACKLOG_LIMIT, "++++-+++"),
    (names::ACCEPTD_ACCEPT_QUEUE_TIME_NS, "++-++---"),
    (names::ACCEPTD_ACCEPT_BLOCKED_TIME_NS, "--------"),
    (names::ACCEPTD_ACCEPT_SYSCALL, "++++++++"),
    (names::ACCEPTD_ACCEPT_VERIFIED, "--+--+--"),
    (names::ACCEPTD_SELF, "--------"),
    (names::ACCEPTD_NETNS_INODE, "++++++++"),
    (names::ACCEPTD_THREAD_ID, "++++++++"),
    (names::ACCEPTD_THREAD_NAME, "++++++++"),
    (names::ACCEPTD_CAPTURE_TIER, "++++++++"),
];

const HEAD: &str = "\
# Which attributes an accept record has

Printed by `acceptd events --fields`; the scenarios hold every record against it. Capture with tracepoints (tier 2),
`attributes.profile = full`; the profile `standard` leaves some out ([attributes.md](attributes.md)). Failed accepts are
those on a listener that is not one (EINVAL).

";

const NOTES: &str = "
`+` always, `-` never, `?` it depends:
- The local and peer address of a UNIX connection, and the listener's of a failed one, are there when the socket has a
  name; that of the peer seldom is.
- `acceptd.socket.v4_mapped` is there, and true, when an IPv6 socket carries an IPv4 connection.
- `acceptd.listener.cookie` of a failed accept is there when the listener ever listened, or its owner asked for it.
- `acceptd.accept.verified` is there, and false, where nothing proves that the record's socket is the one that the call
  returned. It is also there for a connection that was not seen to be established (TCP fast open, or there were more than
  65,536 at once); such a one has no queue time.
- `acceptd.accept.queue_time_ns` is absent too for connections that were queued before the agent started.
- `acceptd.accept.blocked_time_ns` is there for system calls when `events.accept_attempt` is on.
- `acceptd.self` is there, and true, on the agent's own when `filter.self` is on.
- A UNIX multishot accept of io_uring is no record: nothing tells its completion from another request's. It is counted
  (`unverified.io_uring` in the ledger).
- An accept on a VSOCK socket has the context id as the address; the table has no such column because the kernels that
  the scenarios run on natively have no VSOCK transport that leads back to the host.
";

/// Whether a record of this case has the attribute; nothing for an attribute that accepts do not have.
#[must_use]
pub fn presence(attribute: &str, case: Case) -> Option<Presence> {
    let (_, row) = TABLE.iter().find(|(name, _)| *name == attribute)?;
    match row.as_bytes().get(case as usize)? {
        b'+' => Some(Presence::Present),
        b'-' => Some(Presence::Absent),
        _ => Some(Presence::Depends),
    }
}

/// What differs between the keys of a record and the table: nothing, or a line for each.
pub fn differences<'a>(keys: impl Iterator<Item = &'a str> + Clone, case: Case) -> Vec<String> {
    let mut found = Vec::new();
    for (name, _) in TABLE {
        let is_there = keys.clone().any(|key| key == name);
        match (presence(name, case), is_there) {
            (Some(Presence::Present), false) => found.push(format!("{name} is absent")),
            (Some(Presence::Absent), true) => found.push(format!("{name} is there")),
            _ => {}
        }
    }
    found.extend(
        keys.filter(|key| presence(key, case).is_none())
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
    for (name, row) in TABLE {
        let cells: Vec<String> = row.chars().map(|cell| cell.to_string()).collect();
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
            if *attribute != names::OTEL_EVENT_NAME {
                assert!(TABLE.iter().any(|(name, _)| name == attribute), "{attribute}");
            }
        }
        assert!(TABLE.iter().all(|(_, row)| row.len() == CASES.len()));
    }

    #[test]
    fn differences_are_named() {
        let all = TABLE.iter().map(|(name, _)| *name);
        let tcp = || all.clone().filter(|name| presence(name, Case::Tcp) == Some(Presence::Present));
        assert_eq!(differences(tcp(), Case::Tcp), Vec::<String>::new());
        assert_eq!(differences(tcp().skip(1), Case::Tcp), ["network.transport is absent"]);
        assert_eq!(differences(tcp().chain(["error.type"]), Case::Tcp), ["error.type is there"]);
        assert_eq!(differences(tcp().chain(["x"]), Case::Tcp), ["x is in no row of the table"]);
    }
}
