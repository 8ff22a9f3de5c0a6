//! The files of a run: target/vm, the programs of each architecture, and the suites' program.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use xtask_support::Workspace;

use super::{
    archive::{Archive, unpack},
    matrix::{Arch, Kernel},
    programs,
};
use crate::{apt, build};

/// Paths of a run.
pub(super) struct Place<'a> {
    pub(super) workspace: &'a Workspace,
    /// target/vm
    pub(super) folder: PathBuf,
    pub(super) archive: Archive,
    /// The suites' program, which reads the guests' logs.
    pub(super) suites: PathBuf,
    /// The folder of the guests' programs, by architecture.
    programs: BTreeMap<&'static str, PathBuf>,
}

impl<'a> Place<'a> {
    /// Installs QEMU and tools, and builds the programs for the architectures of `kernels`.
    pub(super) fn prepare(workspace: &'a Workspace, kernels: &[Kernel]) -> Result<Self> {
        apt::require("cpio", "--version", "cpio")?;
        apt::require("xz", "--version", "xz-utils")?;
        apt::require("zstd", "--version", "zstd")?;
        let built = build::suites(workspace, build::QUICK)?;
        let mut programs = BTreeMap::new();
        for arch in [Arch::X86_64, Arch::Arm64] {
            if kernels.iter().any(|kernel| kernel.arch == arch) {
                match arch {
                    Arch::X86_64 => apt::require("qemu-system-x86_64", "--version", "qemu-system-x86")?,
                    Arch::Arm64 => apt::require("qemu-system-aarch64", "--version", "qemu-system-arm")?,
                }
                programs.insert(arch.name(), programs::build(workspace, arch, &built)?);
            }
        }
        let folder = workspace.path("target/vm");
        for part in ["guests", "logs"] {
            std::fs::create_dir_all(folder.join(part))
                .with_context(|| format!("creating target/vm/{part}"))?;
        }
        let archive = Archive::open(&folder)?;
        let place = Self { workspace, folder, archive, suites: built.join("suites"), programs };
        // Unpacked here, before several machines would unpack it at the same time.
        for kernel in kernels {
            place.busybox(kernel.arch)?;
        }
        Ok(place)
    }

    /// The folder of the serial logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// The folder of the guests' programs for an architecture.
    pub(super) fn programs(&self, arch: Arch) -> Result<&Path> {
        self.programs.get(arch.name()).map(PathBuf::as_path).context("its programs were not built")
    }

    /// The guest's busybox, from the archive: that of the host may not be static.
    pub(super) fn busybox(&self, arch: Arch) -> Result<PathBuf> {
        let folder = self.folder.join("busybox").join(arch.name());
        let find = || {
            let paths = ["bin/busybox", "usr/bin/busybox"].map(|path| folder.join(path));
            paths.into_iter().find(|path| path.exists())
        };
        if let Some(found) = find() {
            return Ok(found);
        }
        for package in self.archive.download(&["busybox-static".to_owned()], arch.debian())? {
            unpack(&package, &folder)?;
        }
        find().context("the package busybox-static has no busybox")
    }
}

/// Every file below `folder`, sorted.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}
