//! The table of attributes that an accept record has, by the kind of accept and the tier. The reference
//! (docs/fields.md) is generated from the table, and the test scenarios compare every record with it,
//! including absent attributes.

use std::fmt::Write as _;

use acceptd_otlp::names;

use crate::bpf::Tier;

/// The kinds of accepts that the table distinguishes. All attributes are enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Case {
    /// TCP, by accept or accept4.
    Tcp,
    /// Multipath TCP, by accept or accept4.
    Mptcp,
    /// A UNIX socket, by accept or accept4.
    Unix,
    /// TCP, by an io_uring request.
    Ring,
    /// TCP, by a multishot io_uring request.
    Multishot,
    /// TCP, by an io_uring request, into a slot of the ring's file table.
    Slot,
    /// A failed accept on a TCP socket.
    Failed,
    /// A failed accept on a UNIX socket.
    UnixFailed,
}

/// Whether a record has an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Present,
    /// Never.
    Absent,
    /// Depends on the connection; see the notes of the document.
    Depends,
}

/// The column heads, in the order of [`Case`].
const CASES: [&str; 8] =
    ["TCP", "MPTCP", "UNIX", "io_uring", "io_uring multishot", "io_uring slot", "failed", "failed UNIX"];

/// For each attribute one sign per case, in the order of [`Case`], for tier 1 and for tier 2: `+` present,
/// `-` absent, `?` depends.
const TABLE: [(&str, &str, &str); 36] = [
    (names::NETWORK_TRANSPORT, "++++++++", "++++++++"),
    (names::NETWORK_TYPE, "++-++++-", "++-++++-"),
    (names::NETWORK_LOCAL_ADDRESS, "++?+++--", "++?+++--"),
    (names::NETWORK_LOCAL_PORT, "++-+++--", "++-+++--"),
    (names::NETWORK_PEER_ADDRESS, "++?+++--", "++?+++--"),
    (names::NETWORK_PEER_PORT, "++-+++--", "++-+++--"),
    (names::ACCEPTD_PEER_PID, "??+???--", "??+???--"),
    (names::ACCEPTD_PEER_EXECUTABLE_NAME, "??????--", "??????--"),
    (names::ERROR_TYPE, "------++", "------++"),
    (names::LOG_RECORD_UID, "++++++++", "++++++++"),
    (names::ACCEPTD_SOCKET_COOKIE, "++++++--", "++-+++--"),
    (names::ACCEPTD_SOCKET_FD, "+++-----", "+++++---"),
    (names::ACCEPTD_SOCKET_INODE, "++++++--", "++++++--"),
    (names::ACCEPTD_SOCKET_MPTCP, "-+------", "-+------"),
    (names::ACCEPTD_SOCKET_V4_MAPPED, "??-???--", "??-???--"),
    (names::ACCEPTD_LISTENER_FD, "+++---++", "+++---++"),
    (names::ACCEPTD_LISTENER_ADDRESS, "+++++++?", "++++-++?"),
    (names::ACCEPTD_LISTENER_PORT, "++-++++-", "++-+-++-"),
    (names::ACCEPTD_LISTENER_COOKIE, "++++++++", "++-+-+?-"),
    (names::ACCEPTD_LISTENER_INODE, "++++++++", "++++-+++"),
    (names::ACCEPTD_LISTENER_BACKLOG_LENGTH, "++++++++", "++++-+++"),
    (names::ACCEPTD_LISTENER_BACKLOG_LIMIT, "++++++++", "++++-+++"),
    (names::ACCEPTD_ACCEPT_QUEUE_TIME_NS, "++++++--", "++-+++--"),
    (names::ACCEPTD_ACCEPT_BLOCKED_TIME_NS, "+++---++", "--------"),
    (names::ACCEPTD_ACCEPT_SYSCALL, "++++++++", "++++++++"),
    (names::ACCEPTD_ACCEPT_VERIFIED, "--------", "--+-----"),
    (names::ACCEPTD_TCP_HANDSHAKE_TIME_NS, "++-+++--", "++-+-+--"),
    (names::ACCEPTD_TCP_DEFERRED_TIME_NS, "--------", "--------"),
    (names::ACCEPTD_TCP_RTT_NS, "++-+++--", "++-+-+--"),
    (names::ACCEPTD_TCP_SYNACK_RETRANSMITS, "++-+++--", "++-+-+--"),
    (names::ACCEPTD_SELF, "--------", "--------"),
    (names::ACCEPTD_SAMPLING_ADJUSTED_COUNT, "--------", "--------"),
    (names::ACCEPTD_NETNS_INODE, "++++++++", "++++++++"),
    (names::ACCEPTD_THREAD_ID, "++++++++", "++++++++"),
    (names::ACCEPTD_THREAD_NAME, "++++++++", "++++++++"),
    (names::ACCEPTD_CAPTURE_TIER, "++++++++", "++++++++"),
];

const HEAD: &str = "\
# Which attributes an accept record has

`acceptd events --fields` prints this page. The test scenarios compare every record with it, in both tiers.

The table holds for `attributes.profile = full`; the profile `standard` omits some attributes
([attributes.md](attributes.md)). A failed accept is one on a socket that does not listen (EINVAL). A cell has
two signs where the tiers differ: first tier 1 (fentry and fexit), then tier 2 (tracepoints).

";

const NOTES: &str = "
`+` always, `-` never, `?` depends on the connection:
- The local and the peer address of a UNIX connection are present if that socket has a name, which peers
  rarely have. So is the listener's address of a failed accept on a UNIX socket.
- `acceptd.peer.*` is present for TCP over the loopback, or from an address to itself, if the client connected
  while the agent ran. The executable of a UNIX peer is present if the peer's process still runs.
- `acceptd.socket.v4_mapped` is present, and true, if an IPv6 socket carries an IPv4 connection.
- `acceptd.accept.queue_time_ns` and `acceptd.tcp.*` are also absent for connections that were queued before
  the agent started, and for connections of TCP fast open that are accepted before they are established.
- `acceptd.tcp.*` is absent for connections with SYN cookies: the kernel keeps no state of them before the
  last packet of the handshake, and computes their round-trip time from time stamps that are not times. Only
  the handshake of tier 1 distinguishes such connections from others of the same listener. Where that
  handshake is missing, and with TCP fast open, `acceptd.tcp.*` is absent for all connections of the listener
  from the first cookie on, and always if the listener is unknown.
- If a SYN-ACK was retransmitted, `acceptd.tcp.rtt_ns` is absent, and in tier 2
  `acceptd.tcp.handshake_time_ns`, too.
- If the listener defers accepts (`TCP_DEFER_ACCEPT`), `acceptd.tcp.handshake_time_ns` and
  `acceptd.tcp.rtt_ns` are absent: the kernel establishes the connection when the client sends data, and its
  round-trip time is then the client's silence. `acceptd.tcp.deferred_time_ns` is present instead, and absent
  for all other listeners. Tier 1 knows the option at that moment, tier 2 only at the accept; in tier 2 the
  time is also absent if a SYN-ACK was retransmitted.
- Tier 1 does not know the new descriptor of an accept through io_uring, because the ring installs it later.
- `acceptd.listener.*`, `acceptd.socket.fd`, `acceptd.socket.inode` and `acceptd.accept.blocked_time_ns` are
  absent for accepts by the kernel itself. `acceptd.socket.fd` and the blocked time are also absent for the
  first accept of a thread that was blocked in accept before the agent started. Both hold for tier 1; tier 2
  does not see accepts by the kernel.
- `acceptd.self` is present, and true, for the agent's own accepts if `filter.self` is on.
- `acceptd.sampling.adjusted_count` is present under overload (`overload.max_records_per_second`).
- An accept on a VSOCK or SCTP socket has the attributes of TCP without `acceptd.tcp.*` and the queue time.
  VSOCK has the context id as the address, and no `network.type`. An SCTP listener has no
  `acceptd.listener.cookie` unless its owner asked for the cookie: Linux 7 would give the listener's cookie to
  each accepted socket.
- Accepts on sockets of other families, such as `AF_ALG`, `TIPC` and `SMC` without fallback to TCP, are no
  records. They are counted (`filtered.family` in the ledger).

In tier 2 only:
- `acceptd.listener.cookie` of a failed accept is present if the socket ever listened, or if its owner asked
  for the cookie.
- `acceptd.accept.verified` is present, and false, if it is not proven that the record's socket is the one
  that the call returned. That includes connections that were not seen to be established (TCP fast open, or
  more than 65,536 of them at once); those have no queue time.
- `acceptd.accept.blocked_time_ns` is present for system calls if `events.accept_attempt` is on.
- A call that a seccomp filter refuses never runs, but ends like one that failed. If a filter does not allow
  the call always, whatever its arguments are, a failed call gives no record. It is counted
  (`aggregated.seccomp` in the ledger).
- An accept request of io_uring that is cancelled, by its owner or because its owner exits, is counted with the
  interrupted calls (`aggregated.interrupted`). One with `IOSQE_CQE_SKIP_SUCCESS` completes without a trace.
- A UNIX multishot accept of io_uring gives no record, because its completion cannot be distinguished from
  that of another request. It is counted (`unverified.io_uring` in the ledger).

## Full accept queues

`acceptd.listener.overflow` and the metrics of overflows say how many connection attempts a listener refused
because its accept queue was full. Nothing is said where nothing is known:

| family | tier 1 | tier 2 |
|---|---|---|
| TCP, MPTCP | exact: what the kernel counts as `ListenOverflows` | what `ListenOverflows` of the network namespace proves, and no more than the listener's own drops (`sk_drops`) |
| UNIX | exact: `EAGAIN` of connect(2); also how long other calls waited | `EAGAIN` of connect(2) by system calls, if one listener has the name; not how long others waited |
| SCTP | exact since Linux 6.7: the connections that the kernel aborts for a full queue; before, at least so many | as tier 1 |
| VSOCK | with the transports of virtio, exact since Linux 6.7: the connection requests that the kernel resets for a full queue; before, at least so many. Nothing with those of VMware and Hyper-V | as tier 1 |

- In tier 2, if several listeners of one namespace dropped packets in one `listener.interval`, each gets the
  overflows that the others cannot have had; those whose queue was seen full get the rest. No overflow is
  reported of a namespace that no process is in any more, nor from before the agent knew its first listener.
  Overflows without a drop of a known listener count for none. But if a listener of the kernel, or another one
  that surveys do not show, refuses connections in the same or the previous interval in which a known one drops
  packets, the known one gets up to as many overflows as it dropped packets.
- Before Linux 6.7, the kernel skips the programs of SCTP and VSOCK on a CPU while a call of bpf(2) changes a
  map there, and does not count how often: what they count is then a lower bound.
- The kernel loads SCTP and the transports of VSOCK at their first use. Connections that they refuse before the next
  survey (`listener.interval`) are not counted. Nothing is known without kprobes, nor of SCTP without the BTF of
  modules: `acceptd check` says so once the module is loaded.
- The transports of virtio for VSOCK are those between a virtual machine and its host, and the loopback. While the
  agent runs, their common module `vmw_vsock_virtio_transport_common` cannot be unloaded.
- Attempts that count for no listener are in `forgotten.refusals` of the ledger.
- Half-open probes, the bare ACK of `TCP_DEFER_ACCEPT`, repeated SYNs and late resets are drops, but no overflows:
  `acceptd.listener.dropped_packets` counts them.
";

/// Whether a record of this case has the attribute; `None` for an attribute that is not in the table.
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

/// The differences between the keys of a record and the table, one line each.
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

/// The document docs/fields.md.
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

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/fields.md");
    const UPDATE: &str = "UPDATE_DOCS=1 cargo test -p acceptd --lib presence";

    #[test]
    fn the_document_is_the_table() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(PAGE, markdown()).expect("docs/fields.md is written");
        }
        let document = std::fs::read_to_string(PAGE).unwrap_or_default();
        assert_eq!(document, markdown(), "docs/fields.md differs from TABLE; write it anew: {UPDATE}");
    }

    #[test]
    fn every_attribute_of_an_accept_has_a_row_with_a_cell_for_every_case() {
        let accept = names::EVENTS.iter().find(|event| event.name == names::EVENT_ACCEPTD_SOCKET_ACCEPT);
        for attribute in accept.expect("the accept").attributes {
            // This attribute is sent only for backends that drop the event's name.
            let key = attribute.key;
            if key != names::OTEL_EVENT_NAME {
                assert!(
                    TABLE.iter().any(|(name, ..)| *name == key),
                    "{key} has no row in TABLE: add one, then write docs/fields.md: {UPDATE}"
                );
            }
        }
        let count = CASES.len();
        for (name, in_tier_1, in_tier_2) in TABLE {
            for signs in [in_tier_1, in_tier_2] {
                assert_eq!(
                    signs.len(),
                    count,
                    "{name}: `{signs}` needs one sign for each of the {count} cases"
                );
                let unknown = signs.trim_matches(['+', '-', '?']);
                assert!(unknown.is_empty(), "{name}: `{signs}` has a sign other than `+`, `-` and `?`");
            }
        }
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
