//! The JSON that xtask and the suites exchange about a virtual machine: xtask boots it and passes on what was
//! expected, the suites read its log and judge it.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A guest that was booted, and what tests/kernels.toml expects of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guest {
    /// The name of its log and of its column: `x86_64-6.1`.
    pub id: String,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// The version of the Debian package.
    pub package_version: String,
    /// `cloud` or `generic`.
    pub flavour: String,
    /// The words with which acceptd must refuse this kernel. Without them, scenarios were run.
    pub refused: Option<String>,
    /// The kernel parameters, if the guest is booted in a special way and has a table of its own.
    pub special_cmdline: Option<String>,
    /// The tiers that were run.
    pub tiers: Vec<GuestTier>,
    /// The log of the boot.
    pub log: PathBuf,
    /// The log of a second boot, which ran the failed scenarios again, one at a time.
    pub second_log: Option<PathBuf>,
}

/// One tier of a guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestTier {
    /// 1 or 2.
    pub number: u8,
    /// Parts of the names of the scenarios to run. If empty, all scenarios were run.
    pub only: Vec<String>,
    /// Whether `--full` runs every scenario of this tier here.
    pub is_whole: bool,
    /// The scenarios that do not apply.
    pub exceptions: Vec<Exception>,
}

/// A scenario that does not apply to a tier of a guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exception {
    /// The scenario's full name.
    pub scenario: String,
    /// Why it does not apply, for docs/kernels.md.
    pub reason: String,
    /// Whether the reason is the architecture: the scenario is not even compiled then.
    pub is_of_other_architecture: bool,
    /// Why the reason is wrong, if the kernel's package contradicts it.
    pub refuted: Option<String>,
}

/// How a boot went, as xtask needs it to decide on a second boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOutcome {
    /// Whether the guest came to its end.
    pub is_done: bool,
    /// Whether the guest came to its end with no more failures than chance explains.
    pub is_whole: bool,
    /// The names of the failed scenarios, by tier.
    pub failed: BTreeMap<u8, Vec<String>>,
}

/// The judgement of one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestVerdict {
    /// Scenarios that passed.
    pub passed: usize,
    /// Differences from what was expected.
    pub failed: usize,
    /// Lines for the terminal.
    pub lines: Vec<String>,
}

impl GuestVerdict {
    /// Counts one result, and adds its line and a line for each difference.
    pub fn add(&mut self, line: &str, differences: &[String], passed: usize) {
        self.passed += passed;
        self.failed += differences.len();
        self.lines.push(line.to_owned());
        self.lines.extend(differences.iter().map(|difference| format!("    {difference}")));
    }
}
