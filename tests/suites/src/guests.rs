//! The judgement of virtual machines. xtask boots a guest and passes its log; the answers are JSON for xtask,
//! or the text of docs/kernels.md.

mod log;
mod table;
mod verdict;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use log::GuestLog;
use xtask_support::guests::{BootOutcome, Guest, GuestVerdict};

/// Prints how a boot went: xtask decides by that on a second boot.
pub(crate) fn print_outcome(log: &Path) -> Result<()> {
    let log = GuestLog::read(log)?;
    let outcome = BootOutcome { is_done: log.is_done, is_whole: log.is_whole(), failed: log.failed() };
    print_json(&outcome)
}

/// Prints the verdict on a guest.
pub(crate) fn print_verdict(guest: &Path) -> Result<()> {
    let guest: Guest = read_json(guest)?;
    let verdict: GuestVerdict = verdict::judge_guest(&guest, &GuestLog::read_for(&guest)?);
    print_json(&verdict)
}

/// Prints the text of docs/kernels.md.
pub(crate) fn print_table(guests: &Path) -> Result<()> {
    let guests: Vec<Guest> = read_json(guests)?;
    let logs = guests.iter().map(GuestLog::read_for).collect::<Result<Vec<_>>>()?;
    let columns: Vec<_> = guests.iter().zip(&logs).collect();
    print!("{}", table::render(&columns));
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what xtask writes", path.display()))
}

fn print_json(answer: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}
