//! What a run showed: on the terminal and, with `--full`, in docs/results/e2e.md.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::command::capture;
use crate::workspace::Workspace;

const FILE: &str = "docs/results/e2e.md";

/// The figures of a run in which everything was equal.
pub(crate) struct Figures {
    pub(crate) requests: usize,
    /// Workers that accepted something.
    pub(crate) workers: usize,
    /// Processes with hostile names that accepted.
    pub(crate) hostile: usize,
    /// Records in the Collector's file: those of nginx, and of the probes before.
    pub(crate) records: usize,
    /// How long sending took.
    pub(crate) load: Duration,
    /// Calls of accept that the hook saw, those on an empty queue among them.
    pub(crate) seen: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "e2e: {} requests in {:.1} s, {} workers of nginx",
            self.requests,
            self.load.as_secs_f64(),
            self.workers
        )?;
        writeln!(out, "e2e: (pid, tuple) of every record equals nginx's log: 0 missing, 0 extra")?;
        writeln!(out, "e2e: name, path, user, owner and creation time of every record equal /proc")?;
        writeln!(out, "e2e: {} executables with hostile names arrived, readable and harmless", self.hostile)?;
        write!(
            out,
            "e2e: the ledger balances: {} accepts seen, {} records at the Collector, 0 lost",
            self.seen, self.records
        )
    }
}

/// Writes the result file.
pub(crate) fn write(workspace: &Workspace, figures: &Figures) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(workspace.root());
    // A tree without a commit has no name yet; the figures are still worth keeping.
    let commit = capture(git).unwrap_or_else(|_| "uncommitted".to_owned());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let date = Timestamp::now().strftime("%Y-%m-%d");
    let mut nginx = Command::new("nginx");
    nginx.arg("-v");
    let nginx = nginx.output().context("nginx -v")?;
    let text = format!(
        "# End to end: nginx, acceptd, Collector

Written by `cargo xtask e2e --full`.

| | |
|---|---|
| commit | {commit} |
| kernel | {} |
| date | {date} |
| server | {} |
| Collector | 0.165.0 of tests/collector, file exporter |

```
{figures}
```
",
        kernel.trim(),
        String::from_utf8_lossy(&nginx.stderr).trim(),
    );
    std::fs::write(workspace.path(FILE), text).with_context(|| format!("writing {FILE}"))?;
    println!("wrote {FILE}");
    Ok(())
}
