//! Runs that came to their end: a matrix takes more than an hour, and need not begin anew for one machine or one scenario.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::Path,
};

use anyhow::{Context, Result};

use super::{Place, busybox, kernel::Unpacked, logs, matrix::Kernel};

/// Everything that a run depends on, in one number. It protects nothing: it tells a run from another one.
pub(super) struct Kept(u64);

impl Kept {
    pub(super) fn of(
        place: &Place<'_>,
        kernel: &Kernel,
        unpacked: &Unpacked,
        orders: &str,
        cmdline: &str,
    ) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        (orders, cmdline).hash(&mut hasher);
        let folder = place.programs.get(kernel.arch.name()).context("its programs were not built")?;
        let mut add = |path: &Path| -> Result<()> {
            fs::read(path).with_context(|| format!("reading {}", path.display()))?.hash(&mut hasher);
            Ok(())
        };
        for file in super::files(folder)? {
            add(&file)?;
        }
        for path in &unpacked.modules {
            add(path)?;
        }
        add(&unpacked.image)?;
        add(&busybox(place, kernel.arch)?)?;
        add(&place.workspace.path("tests/vm/init"))?;
        Ok(Self(hasher.finish()))
    }

    /// The log of a run that depended on the same.
    pub(super) fn log(&self, place: &Place<'_>, id: &str) -> Option<String> {
        let known = fs::read_to_string(logs(place).join(format!("{id}.kept"))).ok()?;
        let log = fs::read(logs(place).join(format!("{id}.kept.log"))).ok()?;
        (known == self.text()).then(|| String::from_utf8_lossy(&log).into_owned())
    }

    /// Keeps the log of the run that has just ended.
    pub(super) fn keep(&self, place: &Place<'_>, id: &str, text: &str) -> Result<()> {
        fs::write(logs(place).join(format!("{id}.kept.log")), text).context("keeping a log")?;
        fs::write(logs(place).join(format!("{id}.kept")), self.text())
            .context("keeping what a run depended on")
    }

    fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}
