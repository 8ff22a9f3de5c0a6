//! tests/kernels.toml: the kernels to boot, and the scenarios that do not apply to them.

use std::fmt;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;
use xtask_support::Workspace;

/// An architecture of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Arch {
    /// `x86_64`
    #[value(name = "x86_64")]
    #[serde(rename = "x86_64")]
    X86_64,
    /// arm64
    Arm64,
}

impl Arch {
    /// The name in ids and in docs/kernels.md.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }

    /// Debian's name.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Matrix {
    #[serde(rename = "kernel")]
    pub(super) kernels: Vec<Kernel>,
    #[serde(default)]
    pub(super) not_applicable: Vec<NotApplicable>,
    pub(super) quick: Quick,
}

/// The scenarios that `--quick` runs in each tier, by parts of their names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quick {
    pub(super) tier_1: Vec<String>,
    pub(super) tier_2: Vec<String>,
}

/// A kernel to boot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    pub(super) arch: Arch,
    /// `6.1`, or `newest`.
    pub(super) series: String,
    /// For `newest`: an older version means that package lists are missing.
    pub(super) at_least: Option<String>,
    /// Part of `--quick`.
    #[serde(default)]
    pub(super) quick: bool,
    /// The tiers of which `--full` runs every scenario. Of the other tiers it runs those of `--quick`.
    #[serde(default)]
    pub(super) whole: Vec<u8>,
    /// The words with which acceptd refuses to run on this kernel.
    pub(super) refused: Option<String>,
    /// A name for a special boot of this kernel.
    pub(super) machine: Option<String>,
    /// The kernel parameters of a special boot.
    pub(super) cmdline: Option<String>,
    /// The scenarios of a special boot, by parts of their names.
    #[serde(default)]
    pub(super) only: Vec<String>,
}

impl Kernel {
    /// The name of its log and of its column in docs/kernels.md.
    pub(super) fn id(&self) -> String {
        let id = format!("{}-{}", self.arch.name(), self.series);
        self.machine.as_ref().map_or(id.clone(), |machine| format!("{id}-{machine}"))
    }
}

/// A scenario that cannot run on some kernels, and why.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NotApplicable {
    pub(super) scenario: String,
    pub(super) tiers: Vec<u8>,
    /// The series to which it applies; if empty, all.
    #[serde(default)]
    pub(super) kernels: Vec<String>,
    /// The architectures to which it applies; if empty, all.
    #[serde(default)]
    pub(super) archs: Vec<Arch>,
    pub(super) because: Because,
}

impl NotApplicable {
    /// Whether it applies to this kernel and tier.
    pub(super) fn covers(&self, kernel: &Kernel, tier: u8) -> bool {
        self.tiers.contains(&tier)
            && (self.kernels.is_empty() || self.kernels.contains(&kernel.series))
            && (self.archs.is_empty() || self.archs.contains(&kernel.arch))
    }
}

/// A reason, which `claims` checks against the kernel's package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Because {
    /// This option is off.
    Config(String),
    /// This module is neither in the package nor built in.
    Module(String),
    /// The kernel is older than this version.
    OlderThan(String),
    /// The scenario exists on this architecture only.
    Arch(Arch),
}

impl fmt::Display for Because {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(option) => write!(out, "the kernel is built without {option}"),
            Self::Module(module) => write!(out, "the package has no module {module}"),
            Self::OlderThan(version) => write!(out, "the kernel has it since {version}"),
            Self::Arch(arch) => write!(out, "exists on {} only", arch.name()),
        }
    }
}

/// Reads tests/kernels.toml.
pub(super) fn read(workspace: &Workspace) -> Result<Matrix> {
    const FILE: &str = "tests/kernels.toml";
    let text = std::fs::read_to_string(workspace.path(FILE)).with_context(|| format!("reading {FILE}"))?;
    toml::from_str(&text).with_context(|| FILE.to_owned())
}

/// Selects kernels. An empty filter selects all.
pub(super) fn select(
    kernels: &[Kernel],
    quick: bool,
    series: &[String],
    archs: &[Arch],
) -> Result<Vec<Kernel>> {
    let selected: Vec<Kernel> = kernels
        .iter()
        .filter(|kernel| !quick || kernel.quick)
        .filter(|kernel| series.is_empty() || series.contains(&kernel.series))
        .filter(|kernel| archs.is_empty() || archs.contains(&kernel.arch))
        .cloned()
        .collect();
    if selected.is_empty() {
        let all: Vec<String> = kernels.iter().map(Kernel::id).collect();
        bail!("no kernel of tests/kernels.toml is selected: it has {}", all.join(", "));
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::{Arch, Because, Matrix, select};

    const TEXT: &str = r#"
        [quick]
        tier_1 = ["sockets::"]
        tier_2 = []
        [[kernel]]
        arch = "x86_64"
        series = "5.10"
        refused = "Linux 5.15"
        [[kernel]]
        arch = "x86_64"
        series = "newest"
        quick = true
        [[kernel]]
        arch = "arm64"
        series = "newest"
        quick = true
        [[not_applicable]]
        scenario = "sockets::i386"
        tiers = [1, 2]
        archs = ["arm64"]
        because = { arch = "x86_64" }
        [[not_applicable]]
        scenario = "families::sctp"
        tiers = [2]
        kernels = ["newest"]
        because = { module = "sctp" }
    "#;

    #[test]
    fn selects_by_each_filter() {
        let matrix: Matrix = toml::from_str(TEXT).unwrap();
        let ids = |quick, series: &[&str], archs: &[Arch]| {
            let series: Vec<String> = series.iter().map(|series| (*series).to_owned()).collect();
            select(&matrix.kernels, quick, &series, archs)
                .map(|kernels| kernels.iter().map(super::Kernel::id).collect::<Vec<_>>())
                .unwrap_or_default()
        };
        assert_eq!(ids(false, &[], &[]), ["x86_64-5.10", "x86_64-newest", "arm64-newest"]);
        assert_eq!(ids(true, &[], &[]), ["x86_64-newest", "arm64-newest"]);
        assert_eq!(ids(false, &["newest"], &[Arch::Arm64]), ["arm64-newest"]);
        assert_eq!(ids(true, &["5.10"], &[]), Vec::<String>::new());
    }

    #[test]
    fn an_exception_covers_what_it_names() {
        let matrix: Matrix = toml::from_str(TEXT).unwrap();
        let [i386, sctp] = &matrix.not_applicable[..] else { panic!("two") };
        let [old, x86, arm] = &matrix.kernels[..] else { panic!("three") };
        assert_eq!(i386.because, Because::Arch(Arch::X86_64));
        assert!(i386.covers(arm, 1) && i386.covers(arm, 2) && !i386.covers(x86, 2));
        assert!(sctp.covers(x86, 2) && sctp.covers(arm, 2) && !sctp.covers(x86, 1) && !sctp.covers(old, 2));
    }
}
