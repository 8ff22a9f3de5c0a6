//! Saves and restores the host's firewall. A Docker engine with networks adds rules, and does not remove them
//! when it stops.
//!
//! Rules that match the state of a connection make the kernel track every connection of the host (conntrack),
//! in a table that a minute of a benchmark fills. Rules left behind would slow down all later measurements.
//! The engine also switches IP forwarding on.
//!
//! The saved rules replace all others: rules that another program adds meanwhile are lost.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use xtask_support::command::capture;

/// The tables that an engine changes, without rules and user-defined chains.
const EMPTY: &str = "\
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
COMMIT
*filter
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
COMMIT
";

/// Whether the host forwards packets for other hosts.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The firewall as it was. Dropping the value restores it.
pub(super) struct SavedFirewall {
    /// The output of `iptables-save`.
    rules: String,
    forwarding: String,
    restored: bool,
}

impl SavedFirewall {
    /// Saves the rules and the forwarding.
    pub(super) fn save() -> Result<Self> {
        let forwarding = fs::read_to_string(FORWARDING).with_context(|| format!("reading {FORWARDING}"))?;
        Ok(Self { rules: current_rules()?, forwarding, restored: false })
    }

    /// Restores both, and checks that the rules are as before.
    pub(super) fn restore(mut self) -> Result<()> {
        self.restored = true;
        self.put_back()
    }

    fn put_back(&self) -> Result<()> {
        fs::write(FORWARDING, &self.forwarding).with_context(|| format!("writing {FORWARDING}"))?;
        restore(&self.rules)
    }
}

impl Drop for SavedFirewall {
    fn drop(&mut self) {
        if !self.restored
            && let Err(error) = self.put_back()
        {
            eprintln!("the engine's rules are still in the firewall: {error:#}");
        }
    }
}

fn restore(before: &str) -> Result<()> {
    let mut command = Command::new("iptables-restore");
    let mut child = command.stdin(Stdio::piped()).spawn().context("iptables-restore did not start")?;
    let text = format!("{EMPTY}{before}\n");
    child.stdin.take().context("no standard input")?.write_all(text.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "iptables-restore: {status}");
    let after = current_rules()?;
    ensure!(rules(&after).eq(rules(before)), "the firewall's rules are not what they were: {after}");
    Ok(())
}

fn current_rules() -> Result<String> {
    capture(Command::new("iptables-save"))
}

/// The rules and chains of `iptables-save`, without counters. Built-in chains with the policy ACCEPT are
/// skipped: every table has them.
fn rules(saved: &str) -> impl Iterator<Item = &str> {
    saved.lines().filter_map(|line| match line.strip_prefix(':') {
        Some(chain) => chain.split(" [").next().filter(|chain| !chain.ends_with(" ACCEPT")),
        None => line.starts_with("-A ").then_some(line),
    })
}

#[cfg(test)]
mod tests {
    use super::rules;

    #[test]
    fn an_engines_rules_and_chains_are_seen_and_empty_tables_are_not() {
        let saved = "# Generated\n*nat\n:OUTPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n\
                     -A OUTPUT ! -d 127.0.0.0/8 -j DOCKER\nCOMMIT\n";
        let found: Vec<_> = rules(saved).collect();
        assert_eq!(found, ["FORWARD DROP", "DOCKER -", "-A OUTPUT ! -d 127.0.0.0/8 -j DOCKER"]);
        assert_eq!(rules("*nat\n:OUTPUT ACCEPT [3:4]\nCOMMIT\n").count(), 0);
    }
}
