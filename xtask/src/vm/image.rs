//! The guest's files: an initramfs of busybox, the programs, the modules and what the guest is told to do.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::kernel::Unpacked;
use crate::workspace::Workspace;

/// What a guest is made of.
pub(super) struct Parts<'a> {
    pub(super) busybox: &'a Path,
    /// A folder with the programs and their libraries, where the guest will have them.
    pub(super) programs: &'a Path,
    pub(super) kernel: &'a Unpacked,
    /// A shell script.
    pub(super) orders: &'a str,
}

/// Writes `folder`.cpio and returns its path. It is not compressed: to unpack it costs an emulated CPU seconds.
pub(super) fn make(workspace: &Workspace, folder: &Path, parts: &Parts<'_>) -> Result<PathBuf> {
    // Of a run before.
    _ = std::fs::remove_dir_all(folder);
    for name in ["bin", "etc", "modules"] {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    copy(&workspace.path("tests/vm/init"), &folder.join("init"))?;
    copy(parts.busybox, &folder.join("bin/busybox"))?;
    for file in super::files(parts.programs)? {
        copy(&file, &folder.join(file.strip_prefix(parts.programs).unwrap_or(&file)))?;
    }
    let mut order = String::new();
    for module in &parts.kernel.modules {
        let name = module.file_name().unwrap_or_default();
        copy(module, &folder.join("modules").join(name))?;
        order += &name.to_string_lossy();
        order.push('\n');
    }
    for (name, text) in [
        ("modules/order", order.as_str()),
        ("etc/orders", parts.orders),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ] {
        std::fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    pack(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    std::fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    std::fs::set_permissions(to, Permissions::from_mode(0o755))
        .with_context(|| format!("permissions of {}", to.display()))
}

fn pack(folder: &Path) -> Result<PathBuf> {
    // Not `with_extension`: what follows the dot of 6.12 is not one.
    let mut archive = folder.as_os_str().to_owned();
    archive.push(".cpio");
    let archive = PathBuf::from(archive);
    let file = std::fs::File::create(&archive).with_context(|| format!("making {}", archive.display()))?;
    let mut find = Command::new("find").arg(".").current_dir(folder).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().context("find's output")?;
    // Root owns everything in the guest, whoever packs it.
    let packed = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
        .current_dir(folder)
        .stdin(names)
        .stdout(file)
        .status()
        .context("cpio did not start")?;
    if !find.wait()?.success() || !packed.success() {
        bail!("cpio could not pack {}", folder.display());
    }
    Ok(archive)
}
