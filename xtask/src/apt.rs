//! Debian packages that a suite needs.

use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask_support::{command, root};

/// Installs packages, separated by spaces, unless `program` is on the PATH.
pub(crate) fn require(program: &str, argument: &str, packages: &str) -> Result<()> {
    if command::exists(program, argument) {
        return Ok(());
    }
    if !command::exists("apt-get", "--version") || !root::is_root() {
        bail!("`{program}` is not on the PATH: install it (Debian: apt-get install {packages})");
    }
    install(packages)
}

/// Installs packages, separated by spaces, and says so first.
pub(crate) fn install(packages: &str) -> Result<()> {
    eprintln!("installing Debian's {packages} with apt-get, about half a minute");
    let mut update = Command::new("apt-get");
    update.args(["-qq", "update"]);
    command::run(update)?;
    let mut install = Command::new("apt-get");
    install.args(["-qq", "-y", "--no-install-recommends", "install"]).args(packages.split(' '));
    // RUNLEVEL=1 keeps invoke-rc.d from starting the server that a package contains, such as nginx on port
    // 80.
    install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command::run(install)
        .with_context(|| format!("apt-get could not install {packages}: see its message above"))
}
