//! Debian packages that a suite needs.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, host};

/// Installs packages, separated by spaces, unless the program of the first is there; says so first.
pub(crate) fn require(program: &str, argument: &str, packages: &str) -> Result<()> {
    if command::exists(program, argument) {
        return Ok(());
    }
    if !command::exists("apt-get", "--version") || !host::is_root() {
        bail!("`{program}` is not on the PATH: install it (Debian: apt-get install {packages})");
    }
    eprintln!("installing Debian's {packages} with apt-get, about half a minute");
    let mut update = Command::new("apt-get");
    update.args(["-qq", "update"]);
    command::run(update)?;
    let mut install = Command::new("apt-get");
    // Keeps invoke-rc.d from starting a server that nobody asked to run on port 80.
    install.args(["-qq", "-y", "--no-install-recommends", "install"]).args(packages.split(' '));
    install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command::run(install)
        .with_context(|| format!("apt-get could not install {packages}: see its message above"))
}
