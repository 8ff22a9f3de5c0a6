//! The kernel's own counters of connections, for one network namespace.

use anyhow::{Context, Result};

/// The counters that records are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    /// Connections that a handshake created for a listener.
    pub(super) passive_opens: u64,
    /// Packets of a handshake that were dropped because the accept queue was full.
    pub(super) listen_overflows: u64,
}

impl Counters {
    /// Reads `/proc/PID/net/snmp` and `/proc/PID/net/netstat`.
    pub(super) fn parse(snmp: &str, netstat: &str) -> Result<Self> {
        Ok(Self {
            passive_opens: value(snmp, "Tcp:", "PassiveOpens")?,
            listen_overflows: value(netstat, "TcpExt:", "ListenOverflows")?,
        })
    }
}

/// A value of a group of counters: one line has the names, the next one the values.
fn value(text: &str, group: &str, name: &str) -> Result<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group)).map(str::split_whitespace);
    let pair = lines.next().zip(lines.next()).and_then(|(names, values)| {
        names.zip(values).find(|(found, _)| *found == name).map(|(_, value)| value)
    });
    pair.with_context(|| format!("no {group} {name}"))?.parse().context("a counter")
}

#[cfg(test)]
mod tests {
    use super::Counters;

    #[test]
    fn names_and_values_are_on_two_lines() {
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: ActiveOpens PassiveOpens\nTcp: 3 4\n";
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 7 8\n";
        let counters = Counters::parse(snmp, netstat).unwrap();
        assert_eq!((counters.passive_opens, counters.listen_overflows), (4, 7));
        Counters::parse(netstat, snmp).unwrap_err();
    }
}
