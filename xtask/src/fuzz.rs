//! `cargo xtask fuzz`: libFuzzer on five parsers of input from outside (CONTRIBUTING.md lists them).
//!
//! Each target starts from the named inputs in `fuzz/seeds/TARGET` and from the grown corpus in
//! `fuzz/corpus/TARGET.tar.gz`. With `--full`, inputs that reach new code go into that archive. An input that
//! makes a target fail is written to `fuzz/artifacts`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};
use xtask_support::{Extent, Workspace, command};

use crate::{apt, setup};

/// Each target with its run time in seconds, with `--quick` and with `--full`. The targets of one row run in
/// parallel.
const TARGETS: [&[(&str, u32, u32)]; 3] = [
    &[("samples", 10, 120), ("config", 10, 120)],
    &[("btf", 10, 120)],
    &[("spool", 20, 600), ("answers", 20, 600)],
];

/// The flags that cargo-fuzz sets, without a sanitizer: the targets are safe Rust, and a panic is the only
/// failure.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Builds the targets and runs each for its time.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    apt::require("c++", "--version", "g++")?;
    let programs = build(workspace)?;
    for row in TARGETS {
        std::thread::scope(|scope| -> Result<()> {
            let start = |&(name, quick, full): &(&'static str, u32, u32)| {
                let target = Target::new(workspace, &programs, name);
                scope.spawn(move || target.fuzz(if extent.full { full } else { quick }, extent.full))
            };
            let running: Vec<_> = row.iter().map(start).collect();
            for thread in running {
                thread.join().map_err(|_| anyhow!("the thread of a fuzz target panicked"))??;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Builds the targets with the nightly of the eBPF programs, and returns the folder of the executables.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let target = workspace.path("target/fuzz");
    // With `--target`, cargo does not apply RUSTFLAGS to build scripts.
    let mut build =
        setup::nightly_cargo(workspace, "fuzz", &["build", "--release", "--locked", "--target", &triple])?;
    build.env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", COVERAGE);
    eprintln!("building the fuzz targets, one to two minutes");
    command::run(build)?;
    Ok(target.join(triple).join("release"))
}

/// One fuzz target and its folders.
struct Target {
    name: &'static str,
    program: PathBuf,
    /// Named inputs, in the checkout.
    seeds: PathBuf,
    /// The grown corpus, in the checkout.
    archive: PathBuf,
    /// The unpacked archive, and what this run adds.
    corpus: PathBuf,
    artifacts: PathBuf,
    log: PathBuf,
}

impl Target {
    fn new(workspace: &Workspace, programs: &Path, name: &'static str) -> Self {
        let fuzz = workspace.path("fuzz");
        let target = workspace.path("target/fuzz");
        Self {
            name,
            program: programs.join(name),
            seeds: fuzz.join("seeds").join(name),
            archive: fuzz.join("corpus").join(format!("{name}.tar.gz")),
            corpus: target.join("corpus").join(name),
            artifacts: fuzz.join("artifacts").join(name),
            log: target.join(format!("{name}.log")),
        }
    }

    fn fuzz(&self, seconds: u32, keep: bool) -> Result<()> {
        empty(&self.corpus)?;
        fs::create_dir_all(&self.artifacts)
            .with_context(|| format!("creating {}", self.artifacts.display()))?;
        self.unpack()?;
        let mut fuzz = Command::new(&self.program);
        fuzz.arg(&self.corpus).arg(&self.seeds).arg(format!("-max_total_time={seconds}"));
        fuzz.arg(format!("-artifact_prefix={}/", self.artifacts.display())).arg("-max_len=4096");
        self.run(fuzz)?;
        println!("fuzz: {}: {seconds} s, no input failed", self.name);
        if keep { self.pack() } else { Ok(()) }
    }

    fn unpack(&self) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&self.archive).arg("-C").arg(&self.corpus);
        command::capture(tar).map(drop)
    }

    /// Replaces the archive by the inputs of the corpus that reach code which the seeds do not reach.
    fn pack(&self) -> Result<()> {
        let kept = self.corpus.with_extension("kept");
        empty(&kept)?;
        let mut merge = Command::new(&self.program);
        merge.arg("-set_cover_merge=1").arg(&kept).arg(&self.seeds).arg(&self.corpus);
        self.run(merge)?;
        // The same inputs make the same archive: neither times nor owners go in.
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.args(["--use-compress-program=gzip -9n", "-cf"]).arg(&self.archive).arg("-C").arg(&kept).arg(".");
        command::capture(tar).map(drop)
    }

    /// Runs the target with its output in the log, whose last lines an error shows.
    fn run(&self, mut command: Command) -> Result<()> {
        let log = File::create(&self.log).with_context(|| format!("creating {}", self.log.display()))?;
        let status = command
            .stdout(Stdio::null())
            .stderr(log)
            .status()
            .with_context(|| format!("{} did not start", self.program.display()))?;
        if status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(40)..];
        let artifacts = self.artifacts.display();
        bail!("{}: {status}; the failed input is in {artifacts}\n{}", self.name, last.join("\n"))
    }
}

/// Makes an empty folder, in place of one that an earlier run left.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))
}
