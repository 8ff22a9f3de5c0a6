//! Logs of completed runs, kept under target/vm/logs: `--full` takes more than an hour, and need not start
//! over for one machine or one scenario.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    kernel::Unpacked,
    matrix::Kernel,
    place::{Place, files_below},
};

/// A hash of everything that a run depends on. It is not cryptographic: it only distinguishes runs.
pub(super) struct CachedRun(u64);

impl CachedRun {
    /// Hashes the programs, the kernel with its modules, the guest's init and orders, and the kernel
    /// parameters.
    pub(super) fn identify(
        place: &Place<'_>,
        kernel: &Kernel,
        unpacked: &Unpacked,
        orders: &str,
        cmdline: &str,
    ) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        (orders, cmdline).hash(&mut hasher);
        let mut add = |path: &Path| -> Result<()> {
            fs::read(path).with_context(|| format!("reading {}", path.display()))?.hash(&mut hasher);
            Ok(())
        };
        for file in files_below(place.programs(kernel.arch)?)? {
            add(&file)?;
        }
        for path in &unpacked.modules {
            add(path)?;
        }
        add(&unpacked.image)?;
        add(&place.busybox(kernel.arch)?)?;
        add(&place.workspace.path("tests/vm/init"))?;
        Ok(Self(hasher.finish()))
    }

    /// The log of an equal run, if there is one.
    pub(super) fn log(&self, place: &Place<'_>, id: &str) -> Option<PathBuf> {
        let known = fs::read_to_string(place.logs().join(format!("{id}.kept"))).ok()?;
        let log = place.logs().join(format!("{id}.kept.log"));
        (known == self.text() && log.exists()).then_some(log)
    }

    /// Stores the log of a run that has just completed.
    pub(super) fn store(&self, place: &Place<'_>, id: &str, log: &Path) -> Result<()> {
        fs::copy(log, place.logs().join(format!("{id}.kept.log"))).context("keeping a log")?;
        fs::write(place.logs().join(format!("{id}.kept")), self.text())
            .context("keeping what a run depended on")
    }

    fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}
