//! The command line of `cargo xtask vm`.

use clap::Args;

use super::matrix::Arch;

/// The tiers of the agent.
const TIERS: [u8; 2] = [1, 2];

/// Which kernels and scenarios to run. Without --quick and --full, the filters select from the whole list.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Only kernels of this series: 6.1, or newest
    #[arg(long, value_name = "SERIES")]
    pub(super) kernel: Vec<String>,
    /// Only this architecture
    #[arg(long, value_enum)]
    pub(super) arch: Vec<Arch>,
    /// Only this tier of the agent
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(super) tier: Vec<u8>,
    /// Only scenarios with this in their name
    #[arg(long, value_name = "PART")]
    pub(super) only: Vec<String>,
    /// Boot with these kernel parameters instead of those of tests/kernels.toml
    #[arg(long, value_name = "PARAMETERS")]
    pub(super) cmdline: Option<String>,
    /// Run what CI runs: the scenarios and kernels that tests/kernels.toml names for it
    #[arg(long, conflicts_with = "full")]
    pub(super) quick: bool,
    /// Run everything in tests/kernels.toml, about an hour, and write docs/kernels.md. A kernel whose run
    /// completed before with the same programs is not booted again, except for its failed scenarios, one at a
    /// time
    #[arg(long, conflicts_with_all = ["kernel", "arch", "tier", "only", "cmdline"])]
    pub(super) full: bool,
}

impl Options {
    /// `--quick`
    pub(super) fn quick() -> Self {
        Self { quick: true, ..Self::default() }
    }

    /// The tiers to run.
    pub(super) fn tiers(&self) -> Vec<u8> {
        if self.tier.is_empty() { TIERS.to_vec() } else { self.tier.clone() }
    }
}
