//! Asks the suites' program to judge guests (tests/suites/src/guests.rs).

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};
use xtask_support::{
    command,
    guests::{BootOutcome, Guest, GuestVerdict},
};

use super::place::Place;

/// How a boot went, by its log.
pub(super) fn outcome(place: &Place<'_>, log: &Path) -> Result<BootOutcome> {
    parse(&ask(place, "guest-outcome", log)?)
}

/// The verdict on a guest.
pub(super) fn verdict(place: &Place<'_>, guest: &Guest) -> Result<GuestVerdict> {
    let file = write(place, &guest.id, guest)?;
    parse(&ask(place, "guest-verdict", &file)?)
}

/// The text of docs/kernels.md.
pub(super) fn table(place: &Place<'_>, guests: &[Guest]) -> Result<String> {
    let file = write(place, "all", guests)?;
    // `ask` returns the text without the last newline.
    Ok(ask(place, "guest-table", &file)? + "\n")
}

fn write(place: &Place<'_>, name: &str, value: &(impl Serialize + ?Sized)) -> Result<PathBuf> {
    let file = place.folder.join("guests").join(format!("{name}.json"));
    let text = serde_json::to_string(value).context("a guest as JSON")?;
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

fn ask(place: &Place<'_>, question: &str, file: &Path) -> Result<String> {
    let mut suites = Command::new(&place.suites);
    suites.args([OsStr::new(question), file.as_os_str()]);
    command::capture(suites)
}

fn parse<T: DeserializeOwned>(answer: &str) -> Result<T> {
    serde_json::from_str(answer).with_context(|| format!("the suites' program answered {answer:?}"))
}
