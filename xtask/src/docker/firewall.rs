//! The host's firewall, which an engine with a network writes its rules to and leaves them there when it ends.
//!
//! Rules that ask for the state of a connection make the kernel track every connection of the host, in a table that
//! a minute of a benchmark fills: what is left behind slows down whatever is measured afterwards.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::command::capture;

/// All of an engine's are in these; without rules and chains of users, they do nothing.
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

/// What it was. Dropped, it is that again.
pub(super) struct Kept {
    /// As `iptables-save` writes it.
    before: String,
    restored: bool,
}

impl Kept {
    /// To be put back.
    pub(super) fn read() -> Result<Self> {
        Ok(Self { before: saved()?, restored: false })
    }

    /// Puts it back, and looks whether it is.
    pub(super) fn restore(mut self) -> Result<()> {
        self.restored = true;
        restore(&self.before)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.restored
            && let Err(error) = restore(&self.before)
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
    let after = saved()?;
    ensure!(rules(&after).eq(rules(before)), "the firewall's rules are not what they were: {after}");
    Ok(())
}

fn saved() -> Result<String> {
    capture(Command::new("iptables-save"))
}

/// Rules and chains of users, without their counters.
fn rules(saved: &str) -> impl Iterator<Item = &str> {
    saved.lines().filter_map(|line| match line.strip_prefix(':') {
        Some(chain) => chain.split_once(" - ").map(|(name, _)| name),
        None => line.starts_with("-A ").then_some(line),
    })
}

#[cfg(test)]
mod tests {
    use super::rules;

    #[test]
    fn an_engines_rules_and_chains_are_seen_and_empty_tables_are_not() {
        let saved = "# Generated\n*nat\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n\
                     -A OUTPUT ! -d 127.0.0.0/8 -j DOCKER\nCOMMIT\n";
        let found: Vec<_> = rules(saved).collect();
        assert_eq!(found, ["DOCKER", "-A OUTPUT ! -d 127.0.0.0/8 -j DOCKER"]);
        assert_eq!(rules("*nat\n:OUTPUT ACCEPT [3:4]\nCOMMIT\n").count(), 0);
    }
}
