//! Programs in Go that the suites run, built once and kept in the user's cache.

use std::{
    collections::hash_map::DefaultHasher,
    fs::File,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{
        capture, {self},
    },
    workspace::Workspace,
};

/// A program.
pub(crate) struct Program<'a> {
    /// What messages call it.
    pub(crate) title: &'a str,
    /// Its name in the cache.
    pub(crate) name: &'a str,
    /// The folder of its module, in the workspace.
    pub(crate) folder: &'a str,
    /// Its package.
    pub(crate) package: &'a str,
    /// The module file of another set of versions in the same folder than go.mod's.
    pub(crate) modfile: Option<&'a str>,
    /// What is left out or taken in, as build constraints.
    pub(crate) tags: &'a str,
    /// How long it takes the first time.
    pub(crate) takes: &'a str,
}

/// Builds it unless the cache holds one of these very sources; returns its path. Who comes while another builds it waits.
pub(crate) fn build(workspace: &Workspace, program: &Program<'_>) -> Result<PathBuf> {
    make(workspace, program, Command::new("go"))
}

/// [`build`] at the lowest priority: what only waits to be needed takes what nobody else does.
pub(crate) fn build_ahead(workspace: &Workspace, program: &Program<'_>) -> Result<()> {
    let mut go = Command::new("nice");
    go.args(["-n", "19", "go"]);
    make(workspace, program, go).map(drop)
}

fn make(workspace: &Workspace, program: &Program<'_>, mut go: Command) -> Result<PathBuf> {
    let Program { title, name, folder, package, modfile, tags, takes } = program;
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

/// Outside the checkout, so that `git clean` does not cost minutes.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: there is nowhere to keep what is built")?;
    let folder = base.join("acceptd");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Changes with every source file, and with what is asked for; it names a cached file, it protects nothing.
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

/// The first proxy only: a module that it does not have must fail at once, not be looked for at its origin.
fn proxy() -> Result<String> {
    let mut ask = Command::new("go");
    ask.args(["env", "GOPROXY"]);
    let all = capture(ask)?;
    Ok(all.split([',', '|']).next().unwrap_or_default().to_owned())
}
