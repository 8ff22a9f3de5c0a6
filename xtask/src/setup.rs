//! `cargo xtask setup`: installs what a build needs beyond rustup, a C linker and the crates.

use std::{
    ffi::{OsStr, OsString},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use xtask_support::{
    Workspace,
    command::{self, capture},
};

/// The version of bpf-linker for the nightly of `ebpf/rust-toolchain.toml`: change both together.
const BPF_LINKER: &str = "0.13.0";

/// Checks the prerequisites, and installs what is missing. Prints what it installs.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    if !command::exists("rustup", "--version") {
        bail!("rustup is not on the PATH: install it from rustup.rs, then run this again");
    }
    if !command::exists("cc", "--version") {
        bail!("no C linker `cc` is on the PATH: install one (Debian: apt-get install gcc libc6-dev)");
    }
    let nightly = pinned_toolchain(workspace, "ebpf/rust-toolchain.toml")?;
    toolchain(&nightly, &["rust-src", "rustfmt", "clippy"])?;
    install_tool_with(
        workspace,
        &Tool {
            name: "bpf-linker",
            version: BPF_LINKER,
            toolchain: Some(&nightly),
            optimized: true,
            takes: "about a minute",
        },
        || {
            let prefix = llvm_prefix(workspace, &nightly)?;
            // The linker finds the library at run time beside itself, also outside of `rustup run`.
            let run_path = "-C link-arg=-Wl,-rpath,$ORIGIN/../llvm/lib";
            Ok(vec![("LLVM_PREFIX", prefix.into_os_string()), ("RUSTFLAGS", run_path.into())])
        },
    )
}

/// Makes a folder whose `lib/libLLVM.so` is the LLVM of the toolchain `nightly`, and returns the folder.
///
/// bpf-linker must link the same LLVM that `nightly` has, since it reads that compiler's bitcode. Its build
/// script looks for `lib/libLLVM.so` below `LLVM_PREFIX`; rustup installs the library under a name that
/// carries the version.
fn llvm_prefix(workspace: &Workspace, nightly: &str) -> Result<PathBuf> {
    let mut ask = Command::new("rustup");
    ask.args(["run", nightly, "rustc", "--print", "sysroot"]);
    let libraries = PathBuf::from(capture(ask)?.trim()).join("lib");
    let library = std::fs::read_dir(&libraries)
        .with_context(|| format!("reading {}", libraries.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| is_shared_llvm(path))
        .with_context(|| format!("{} has no libLLVM.so: reinstall {nightly}", libraries.display()))?;
    let prefix = workspace.tools().join("llvm");
    let folder = prefix.join("lib");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    // The first name is for the build, the second one, the library's own, for the run.
    for name in [Some(OsStr::new("libLLVM.so")), library.file_name()].into_iter().flatten() {
        let link = folder.join(name);
        symlink(&library, &link).with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(prefix)
}

/// Matches the library itself (`libLLVM.so.23.1-rust-…`), not the linker script beside it
/// (`libLLVM-23-rust-….so`).
fn is_shared_llvm(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libLLVM.so"))
}

/// A program from crates.io. It is installed under target/tools, so the version that a user has installed
/// does not matter.
pub(crate) struct Tool<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// The toolchain to build it with; `None` for that of the checkout.
    pub(crate) toolchain: Option<&'a str>,
    /// Whether to optimize it: a program that runs only briefly is not worth the longer build.
    pub(crate) optimized: bool,
    /// How long the installation takes on two cores, for the message.
    pub(crate) takes: &'a str,
}

/// Installs a tool, unless this version is installed.
pub(crate) fn install_tool(workspace: &Workspace, tool: &Tool<'_>) -> Result<()> {
    install_tool_with(workspace, tool, || Ok(Vec::new()))
}

/// [`install_tool`] with environment variables, which `environment` finds out only if the tool must be built.
fn install_tool_with(
    workspace: &Workspace,
    tool: &Tool<'_>,
    environment: impl FnOnce() -> Result<Vec<(&'static str, OsString)>>,
) -> Result<()> {
    let binary = workspace.tool(tool.name);
    let mut ask = Command::new(&binary);
    ask.arg("--version");
    // A binary that is missing or broken is installed again.
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
    install.arg(format!("{}@{}", tool.name, tool.version)).envs(environment()?);
    command::run(install).with_context(|| {
        format!(
            "{} could not be installed: see cargo's message above; crates.io must be reachable",
            tool.name
        )
    })?;
    eprintln!("installed {} in {} s", tool.name, started.elapsed().as_secs());
    Ok(())
}

/// Installs a toolchain with components, unless they are installed. rustup does not do it by itself if
/// `RUSTUP_AUTO_INSTALL=0` is set.
pub(crate) fn toolchain(name: &str, components: &[&str]) -> Result<()> {
    let mut ask = Command::new("rustup");
    ask.args(["component", "list", "--installed", "--toolchain", name]);
    let installed = capture(ask).unwrap_or_default();
    // A line may end in the target: `clippy-x86_64-unknown-linux-gnu`.
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

/// A cargo command of the pinned nightly in a folder of the checkout.
pub(crate) fn nightly_cargo(workspace: &Workspace, folder: &str, arguments: &[&str]) -> Result<Command> {
    let name = pinned_toolchain(workspace, "ebpf/rust-toolchain.toml")?;
    let mut cargo = Command::new("rustup");
    cargo.args(["run", &name, "cargo"]).args(arguments).current_dir(workspace.path(folder));
    // xtask runs under the stable cargo, which sets these for its children.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(variable);
    }
    Ok(cargo)
}
