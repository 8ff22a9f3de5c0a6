//! The committed results of a suite: docs/results/SUITE.md.

use std::process::Command;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::{Workspace, command::capture};

/// Writes a suite's figures below a table with the commit, the kernel and the date of the run, and with
/// `facts`.
///
/// # Errors
/// When the kernel's release cannot be read, or the file cannot be written.
pub fn write(
    workspace: &Workspace,
    suite: &str,
    title: &str,
    facts: &[(&str, String)],
    figures: &str,
) -> Result<()> {
    // A repository without a commit has no name for it; the figures are still worth keeping.
    let commit = commit(workspace).unwrap_or_else(|_| "uncommitted".to_owned());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let date = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let all = [("commit", commit), ("kernel", kernel.trim().to_owned()), ("date", date)];
    let rows: Vec<String> =
        all.iter().chain(facts).map(|(name, value)| format!("| {name} | {value} |")).collect();
    let rows = rows.join("\n");
    let figures = figures.trim_end();
    let text = format!(
        "# {title}\n\nWritten by `cargo xtask {suite} --full`.\n\n| | |\n|---|---|\n{rows}\n\n```\n{figures}\n```\n"
    );
    let file = format!("docs/results/{suite}.md");
    std::fs::write(workspace.path(&file), text).with_context(|| format!("writing {file}"))?;
    println!("wrote {file}");
    Ok(())
}

/// The commit that was run, with `-dirty` if tracked files differ from it. Files under docs/results do not
/// count: the suites themselves write them.
fn commit(workspace: &Workspace) -> Result<String> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(workspace.root());
        capture(git)
    };
    let commit = git(&["describe", "--always", "--abbrev=12"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/results"])?;
    Ok(if changed.is_empty() { commit } else { commit + "-dirty" })
}
