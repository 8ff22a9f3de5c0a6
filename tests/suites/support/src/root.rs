//! Whether this process runs as root, which loading eBPF programs needs.

use anyhow::{Result, bail};

/// Whether the effective user is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fails unless [`is_root`]; the error names the remedy.
///
/// # Errors
/// When another user than root runs `cargo xtask TASK`.
pub fn require(task: &str) -> Result<()> {
    if !is_root() {
        bail!(
            "`cargo xtask {task}` loads eBPF programs and needs root: run it again as root, for example in `sudo -s`"
        );
    }
    Ok(())
}
