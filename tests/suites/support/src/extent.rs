//! How much of a suite to run: `--quick` or `--full`.

use clap::Args;

/// The two flags, of which exactly one must be given.
#[derive(Args, Debug, Clone, Copy)]
#[group(required = true, multiple = false)]
pub struct Extent {
    /// Run what CI runs, a minute or two
    #[arg(long)]
    pub quick: bool,
    /// Run everything, and write the figures to docs/results
    #[arg(long)]
    pub full: bool,
}

impl Extent {
    /// `--quick`
    pub const QUICK: Self = Self { quick: true, full: false };

    /// The flag to pass on to a suite's program.
    #[must_use]
    pub fn flag(self) -> &'static str {
        if self.full { "--full" } else { "--quick" }
    }
}
