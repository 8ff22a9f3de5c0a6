//! `cargo xtask setup`: what a build needs beyond rustup, a C linker and the crates.

use std::{process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    command::{
        capture, {self},
    },
    workspace::Workspace,
};

/// The version that fits the nightly of `ebpf/rust-toolchain.toml`: both change together.
const BPF_LINKER: &str = "0.10.3";

/// Checks the prerequisites and installs what is missing. Says what it installs before it does.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    if !command::exists("rustup", "--version") {
        bail!("rustup is not on the PATH: install it from rustup.rs, then run this again");
    }
    if !command::exists("cc", "--version") {
        bail!("no C linker `cc` is on the PATH: install one (Debian: apt-get install gcc libc6-dev)");
    }
    let nightly = pinned_toolchain(workspace, "ebpf/rust-toolchain.toml")?;
    toolchain(&nightly, &["rust-src"])?;
    install_tool(
        workspace,
        &Tool {
            name: "bpf-linker",
            version: BPF_LINKER,
            toolchain: Some(&nightly),
            optimized: true,
            takes: "about a minute",
        },
    )
}

/// A program from crates.io that is installed under target/tools, so that nobody's own version matters.
pub(crate) struct Tool<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// The toolchain to build it with; the checkout's own without one.
    pub(crate) toolchain: Option<&'a str>,
    /// Whether it works long enough to be worth the time that optimizing it takes.
    pub(crate) optimized: bool,
    /// How long that takes on two cores, for the message.
    pub(crate) takes: &'a str,
}

/// Installs a tool unless this very version is there.
pub(crate) fn install_tool(workspace: &Workspace, tool: &Tool<'_>) -> Result<()> {
    let binary = workspace.tool(tool.name);
    let mut ask = Command::new(&binary);
    ask.arg("--version");
    // A missing binary and a broken one are the same to us: it is installed anew.
    if capture(ask).is_ok_and(|answer| answer.split_whitespace().any(|word| word == tool.version)) {
        return Ok(());
    }
    eprintln!("installing {} {} into target/tools, {}", tool.name, tool.version, tool.takes);
    let started = Instant::now();
    let mut install = Command::new("cargo");
    install.args(tool.toolchain.map(|name| format!("+{name}")));
    install.args(["install", "--quiet", "--locked", "--force", "--root"]).arg(workspace.tools());
    if !tool.optimized {
        install.arg("--debug");
    }
    install.arg(format!("{}@{}", tool.name, tool.version));
    command::run(install).with_context(|| {
        format!(
            "{} could not be installed: see cargo's message above; crates.io must be reachable",
            tool.name
        )
    })?;
    eprintln!("installed {} in {} s", tool.name, started.elapsed().as_secs());
    Ok(())
}

/// Installs a toolchain or its components unless they are there. Explicit, because `RUSTUP_AUTO_INSTALL=0` may be set.
pub(crate) fn toolchain(name: &str, components: &[&str]) -> Result<()> {
    let mut ask = Command::new("rustup");
    ask.args(["component", "list", "--installed", "--toolchain", name]);
    let installed = capture(ask).unwrap_or_default();
    // A component's line carries its target where it has one: `clippy-x86_64-unknown-linux-gnu`.
    let has = |wanted: &&str| installed.lines().any(|line| line.starts_with(*wanted));
    if !installed.is_empty() && components.iter().all(has) {
        return Ok(());
    }
    eprintln!("installing the toolchain {name} with {}, about half a minute", components.join(", "));
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", name, "--profile", "minimal", "--no-self-update"]);
    install.args(components.iter().flat_map(|component| ["--component", component]));
    command::run(install).with_context(|| {
        format!("rustup could not install {name}: see its message above; its server must be reachable")
    })
}

/// The toolchain that a `rust-toolchain.toml` of the checkout pins.
pub(crate) fn pinned_toolchain(workspace: &Workspace, file: &str) -> Result<String> {
    let path = workspace.path(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .with_context(|| format!("{} names no channel", path.display()))
}
