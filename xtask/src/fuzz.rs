//! `cargo xtask fuzz`: libFuzzer on every parser of what comes from outside. With --full, inputs that reach
//! something new are kept in fuzz/corpus; those that break something are in fuzz/artifacts.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{Extent, apt, command, setup, workspace::Workspace};

/// Each target with the seconds that it runs for, with --quick and with --full; those of one row run beside each other.
const TARGETS: [&[(&str, u32, u32)]; 3] = [
    &[("samples", 10, 120), ("config", 10, 120)],
    &[("btf", 10, 120)],
    &[("spool", 20, 600), ("answers", 20, 600)],
];

/// What cargo-fuzz sets, without a sanitizer: the code is safe Rust, and what is looked for are panics.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Builds the targets and lets each run for a while.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    apt::require("c++", "--version", "g++")?;
    let nightly = setup::pinned_toolchain(workspace, "ebpf/rust-toolchain.toml")?;
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = workspace.path("fuzz");
    let target = workspace.path("target/fuzz");
    let mut build = Command::new("rustup");
    // The triple is named so that the flags are not those of build scripts, too.
    build.args(["run", &nightly, "cargo", "build", "--release", "--locked", "--target", &triple]);
    build.current_dir(&folder).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", COVERAGE);
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        build.env_remove(variable);
    }
    eprintln!("building the fuzz targets, one to two minutes");
    command::run(build)?;

    for row in TARGETS {
        std::thread::scope(|scope| -> Result<()> {
            let run = |&(name, quick, full): &(&'static str, u32, u32)| {
                let fuzzed = Fuzzed {
                    program: target.join(&triple).join("release").join(name),
                    kept: folder.join("corpus").join(name),
                    // What a run finds is not the checkout's business until it is merged.
                    found: target.join("corpus").join(name),
                    artifacts: folder.join("artifacts").join(name),
                    log: target.join(format!("{name}.log")),
                };
                scope.spawn(move || fuzzed.fuzz(name, if extent.full { full } else { quick }, extent.full))
            };
            let running: Vec<_> = row.iter().map(run).collect();
            for thread in running {
                thread.join().map_err(|_| anyhow!("a thread died"))??;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// One target, and where its things are.
struct Fuzzed {
    program: PathBuf,
    kept: PathBuf,
    found: PathBuf,
    artifacts: PathBuf,
    log: PathBuf,
}

impl Fuzzed {
    fn fuzz(&self, name: &str, seconds: u32, keeps: bool) -> Result<()> {
        self.run(seconds)?;
        println!("fuzz: {name}: {seconds} s, nothing broke");
        if keeps { self.merge() } else { Ok(()) }
    }

    fn run(&self, seconds: u32) -> Result<()> {
        for folder in [&self.found, &self.artifacts] {
            std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let mut fuzz = Command::new(&self.program);
        fuzz.arg(&self.found).arg(&self.kept).arg(format!("-max_total_time={seconds}"));
        fuzz.arg(format!("-artifact_prefix={}/", self.artifacts.display())).arg("-max_len=4096");
        self.logged(fuzz)
    }

    /// Keeps of what was found the inputs that reach something which the kept ones do not.
    fn merge(&self) -> Result<()> {
        let mut merge = Command::new(&self.program);
        merge.arg("-set_cover_merge=1").arg(&self.kept).arg(&self.found);
        self.logged(merge)
    }

    fn logged(&self, mut command: Command) -> Result<()> {
        let log = File::create(&self.log).with_context(|| format!("creating {}", self.log.display()))?;
        let status =
            command.stdout(Stdio::null()).stderr(log).status().context("the target did not start")?;
        if status.success() {
            return Ok(());
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let words: Vec<_> = log.lines().rev().take(40).collect();
        let words: Vec<_> = words.into_iter().rev().collect();
        bail!("{status}; what broke it is in {}\n{}", self.artifacts.display(), words.join("\n"))
    }
}
