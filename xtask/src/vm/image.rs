//! A guest's files: an initramfs with busybox, the programs, the kernel modules and the orders.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use xtask_support::{Workspace, files};

use super::{kernel::Unpacked, place::files_below};

/// The contents of an initramfs.
pub(super) struct Contents<'a> {
    pub(super) busybox: &'a Path,
    /// A folder with the programs and their libraries, at the paths that they have in the guest.
    pub(super) programs: &'a Path,
    pub(super) kernel: &'a Unpacked,
    /// A shell script.
    pub(super) orders: &'a str,
}

/// Writes `folder`.cpio and returns its path. The archive is not compressed: an emulated CPU would need
/// seconds to decompress it.
pub(super) fn pack(workspace: &Workspace, folder: &Path, contents: &Contents<'_>) -> Result<PathBuf> {
    // An earlier run may have left the folder.
    _ = std::fs::remove_dir_all(folder);
    for name in ["bin", "etc", "modules"] {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    }
    copy(&workspace.path("tests/vm/init"), &folder.join("init"))?;
    copy(contents.busybox, &folder.join("bin/busybox"))?;
    for file in files_below(contents.programs)? {
        copy(&file, &folder.join(file.strip_prefix(contents.programs).unwrap_or(&file)))?;
    }
    let mut order = String::new();
    for module in &contents.kernel.modules {
        let name = module.file_name().unwrap_or_default();
        copy(module, &folder.join("modules").join(name))?;
        order += &name.to_string_lossy();
        order.push('\n');
    }
    for (name, text) in [
        ("modules/order", order.as_str()),
        ("etc/orders", contents.orders),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ] {
        std::fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    pack_cpio(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    files::copy(from, to)?;
    std::fs::set_permissions(to, Permissions::from_mode(0o755))
        .with_context(|| format!("permissions of {}", to.display()))
}

fn pack_cpio(folder: &Path) -> Result<PathBuf> {
    // Not `with_extension`, which would take the part of 6.12 behind the dot for an extension.
    let mut archive = folder.as_os_str().to_owned();
    archive.push(".cpio");
    let archive = PathBuf::from(archive);
    let file = std::fs::File::create(&archive).with_context(|| format!("creating {}", archive.display()))?;
    let mut find = Command::new("find").arg(".").current_dir(folder).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().context("find's output")?;
    // In the guest root owns every file, whichever user runs this.
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
