//! Builds Go programs, and keeps them in the user's cache.

use std::{
    collections::hash_map::DefaultHasher,
    fs::File,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use xtask_support::{
    Workspace,
    command::{self, capture},
};

/// A Go program.
pub(crate) struct GoProgram {
    /// The name in messages.
    pub(crate) title: &'static str,
    /// The name in the cache.
    pub(crate) name: &'static str,
    /// The folder of the module, in the checkout.
    pub(crate) folder: &'static str,
    /// The package to build.
    pub(crate) package: &'static str,
    /// The module file, if it is not go.mod: another set of versions in the same folder.
    pub(crate) modfile: Option<&'static str>,
    /// Build tags.
    pub(crate) tags: &'static str,
    /// How long the first build takes, for the message.
    pub(crate) takes: &'static str,
}

/// Builds a program unless the cache has one of the same sources, and returns its path. If another process
/// builds it at the same time, waits for that.
pub(crate) fn build(workspace: &Workspace, program: &GoProgram) -> Result<PathBuf> {
    make(workspace, program, Command::new("go"))
}

/// [`build`] at the lowest priority, for a program that is needed later.
pub(crate) fn build_ahead(workspace: &Workspace, program: &GoProgram) -> Result<()> {
    let mut go = Command::new("nice");
    go.args(["-n", "19", "go"]);
    make(workspace, program, go).map(drop)
}

fn make(workspace: &Workspace, program: &GoProgram, mut go: Command) -> Result<PathBuf> {
    let GoProgram { title, name, folder, package, modfile, tags, takes } = program;
    let sources = workspace.path(folder);
    let binary = cache()?.join(format!(
        "{name}-{:016x}",
        fingerprint(&sources, &[package, tags, modfile.unwrap_or_default()])?
    ));
    if binary.exists() {
        return Ok(binary);
    }
    if !command::exists("go", "version") {
        bail!("`go` is not on the PATH, and {title} is built with it: install Go 1.26 or newer from go.dev");
    }
    let lock = File::create(binary.with_extension("lock")).context("locking the cache")?;
    lock.lock().context("locking the cache")?;
    if binary.exists() {
        return Ok(binary);
    }
    eprintln!("building {title} of {folder} into {}, {takes}", binary.display());
    let started = Instant::now();
    let unfinished = binary.with_extension("tmp");
    go.args([
        "build",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags=-s -w",
        "-tags",
        tags,
        "-o",
    ]);
    go.arg(&unfinished)
        .args(modfile.map(|file| format!("-modfile={file}")))
        .arg(package)
        .current_dir(&sources)
        .env("GOPROXY", proxy()?)
        .env_remove("GOFLAGS");
    command::run(go)
        .with_context(|| format!("{title} did not build: the Go module proxy must be reachable"))?;
    std::fs::rename(&unfinished, &binary).with_context(|| format!("moving {title} into the cache"))?;
    eprintln!("built in {} s", started.elapsed().as_secs());
    Ok(binary)
}

/// The folder of the cache. It is outside of the checkout, so that `git clean` does not remove it.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no folder for the cache")?;
    let folder = base.join("acceptd");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// A hash of all source files and build arguments, which names the cached file. It does not protect against
/// manipulation.
fn fingerprint(sources: &Path, arguments: &[&str]) -> Result<u64> {
    let about = || format!("reading {}", sources.display());
    let entries = std::fs::read_dir(sources).with_context(about)?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().with_context(about)?;
    paths.retain(|path| path.is_file());
    paths.sort();
    let mut hasher = DefaultHasher::new();
    arguments.hash(&mut hasher);
    for path in paths {
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// The first proxy of GOPROXY only, so that a module that it lacks fails at once instead of being fetched
/// from its origin.
fn proxy() -> Result<String> {
    let mut ask = Command::new("go");
    ask.args(["env", "GOPROXY"]);
    let all = capture(ask)?;
    Ok(all.split([',', '|']).next().unwrap_or_default().to_owned())
}
