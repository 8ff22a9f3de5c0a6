//! The host's firewall, which an engine with a network writes its rules to and leaves them there when it ends.
//!
//! Rules that ask for the state of a connection make the kernel track every connection of the host, in a table that
//! a minute of a benchmark fills: what is left behind slows down whatever is measured afterwards. It makes the host a router, too.
//!
//! What was there before is put back as a whole: rules that somebody else adds meanwhile are gone then.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

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

/// Whether the host forwards what is not for itself.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// What it was. Dropped, it is that again.
pub(super) struct Kept {
    /// As `iptables-save` writes it.
    rules: String,
    forwarding: String,
    restored: bool,
}

impl Kept {
    /// To be put back.
    pub(super) fn read() -> Result<Self> {
        let forwarding = fs::read_to_string(FORWARDING).with_context(|| format!("reading {FORWARDING}"))?;
        Ok(Self { rules: saved()?, forwarding, restored: false })
    }

    /// Puts it back, and looks whether it is.
    pub(super) fn restore(mut self) -> Result<()> {
        self.restored = true;
        self.put_back()
    }

    fn put_back(&self) -> Result<()> {
        fs::write(FORWARDING, &self.forwarding).with_context(|| format!("writing {FORWARDING}"))?;
        restore(&self.rules)
    }
}

impl Drop for Kept {
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
    let after = saved()?;
    ensure!(rules(&after).eq(rules(before)), "the firewall's rules are not what they were: {after}");
    Ok(())
}

fn saved() -> Result<String> {
    capture(Command::new("iptables-save"))
}

/// Rules, and chains but for those that only accept, which a table has anyway; without their counters.
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
