//! Debian packages that a suite needs.

use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask_support::{command, root};

/// How to see that packages are installed: program, argument, and the packages, separated by spaces.
pub(crate) type Package = (&'static str, &'static str, &'static str);

/// Installs packages, separated by spaces, unless `program` is on the PATH.
pub(crate) fn require(program: &'static str, argument: &'static str, packages: &'static str) -> Result<()> {
    require_all(&[(program, argument, packages)])
}

/// Installs the packages whose programs are not on the PATH, all at once.
pub(crate) fn require_all(packages: &[Package]) -> Result<()> {
    let is_missing = |(program, argument, _): &&Package| !command::exists(program, argument);
    let missing: Vec<&Package> = packages.iter().filter(is_missing).collect();
    let Some((program, ..)) = missing.first() else { return Ok(()) };
    let packages: Vec<&str> = missing.iter().map(|(.., packages)| *packages).collect();
    let packages = packages.join(" ");
    if !command::exists("apt-get", "--version") || !root::is_root() {
        bail!("`{program}` is not on the PATH: install it (Debian: apt-get install {packages})");
    }
    install(&packages)
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
