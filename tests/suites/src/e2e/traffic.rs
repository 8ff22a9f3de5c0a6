//! Traffic of other projects: real servers as they are installed, and other people's test suites. A
//! difference ends no run early: each row of both tables says what differs.

mod table;

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use xtask_support::{Extent, results};

use super::{defaults, foreign};
use crate::suite::Suite;

const CONNECTIONS_QUICK: usize = 100;
const CONNECTIONS_FULL: usize = 1_000;

/// Runs both. With `--full`, writes the tables into docs/results/e2e.md.
pub(super) fn measure(suite: &Suite, extent: Extent) -> Result<()> {
    let connections = if extent.full { CONNECTIONS_FULL } else { CONNECTIONS_QUICK };
    let folder = folder()?;
    let servers = defaults::measure(suite, folder.path(), connections)?;
    let folder = self::folder()?;
    let suites = foreign::measure(suite, folder.path(), extent)?;
    let text = format!("{}\n\n{}\n", table::of_servers(&servers), table::of_suites(&suites));
    println!("{text}");
    if extent.full {
        results::write_section(&suite.workspace, "e2e", "Servers and suites of other projects", &text)?;
    }
    let faults = servers.iter().map(|row| (row.name, &row.faults));
    let faults: Vec<String> = faults
        .chain(suites.iter().map(|row| (row.name, &row.faults)))
        .flat_map(|(name, faults)| faults.iter().map(move |fault| format!("{name}: {fault}")))
        .collect();
    if !faults.is_empty() {
        bail!("{} differences from what servers and kernel say\n{}", faults.len(), faults.join("\n"));
    }
    Ok(())
}

/// A folder that servers enter as other users.
fn folder() -> Result<TempDir> {
    let others = Permissions::from_mode(0o755);
    tempfile::Builder::new().permissions(others).tempdir().context("no temporary folder")
}
