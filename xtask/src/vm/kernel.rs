//! A kernel of the archive, unpacked: its image, its config, and the modules that scenarios need.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    archive::{Archive, unpack},
    matrix::{Arch, Kernel},
    modules, version,
};
use crate::command;

/// What scenarios use beyond what is built in; what the package lacks is left out and is `not_applicable`.
const WANTED: [&str; 5] = ["crc32c_generic", "sctp", "vsock_loopback", "nfsd", "tun"];

/// Those by which a flavour is chosen: the first is no module any more on newer kernels.
const DECISIVE: [&str; 4] = ["sctp", "vsock_loopback", "nfsd", "tun"];

/// Since Linux 6.19 in parts: the kernel, its config and its modules.
const PARTS: [&str; 4] = ["image", "base", "binary", "modules"];

/// What was found, and everything that the claims of tests/kernels.toml are held against.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The release, as `uname -r` says it.
    pub(super) release: String,
    pub(super) package_version: String,
    pub(super) flavour: &'static str,
    pub(super) image: PathBuf,
    pub(super) facts: Facts,
    /// Wanted modules and what they depend on, in the order in which they can be loaded.
    pub(super) modules: Vec<PathBuf>,
}

/// What the package says of the kernel.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) release: String,
    pub(super) config: BTreeSet<String>,
    pub(super) modules: BTreeSet<String>,
}

/// Downloads and unpacks the newest kernel of the series: the cloud flavour unless the generic one has more.
pub(super) fn fetch(archive: &Archive, kernel: &Kernel, folder: &Path) -> Result<Unpacked> {
    let version = version::newest(archive.names(), &kernel.series, kernel.arch)?;
    if let Some(least) = &kernel.at_least
        && version::numbers(&version) < version::numbers(least)
    {
        bail!(
            "the newest kernel that the archive has is {version}, and {least} or later is expected: are all its lists there?"
        );
    }
    let cloud = flavour(archive, kernel.arch, &version, "cloud", folder)?;
    let lacks = |unpacked: &Unpacked| {
        DECISIVE.iter().filter(|module| !unpacked.facts.modules.contains(**module)).count()
    };
    if lacks(&cloud) == 0 || kernel.refused.is_some() {
        return Ok(cloud);
    }
    let generic = flavour(archive, kernel.arch, &version, "generic", folder)?;
    Ok(if lacks(&generic) < lacks(&cloud) { generic } else { cloud })
}

fn flavour(
    archive: &Archive,
    arch: Arch,
    version: &str,
    flavour: &'static str,
    folder: &Path,
) -> Result<Unpacked> {
    let debian = arch.debian();
    let release =
        if flavour == "cloud" { format!("{version}-cloud-{debian}") } else { format!("{version}-{debian}") };
    let tree = folder.join("kernels").join(&release);
    let names: Vec<String> = PARTS
        .iter()
        .map(|part| format!("linux-{part}-{release}"))
        .filter(|name| archive.names().contains(name))
        .collect();
    let packages = archive.download(&names, debian)?;
    let package_version = packages.last().and_then(|file| version_of(file)).unwrap_or_default();
    // A release can be built anew under the same name.
    let whole = tree.join("unpacked");
    let file_names: Vec<_> = packages
        .iter()
        .filter_map(|package| package.file_name())
        .map(|name| name.to_string_lossy())
        .collect();
    let stamp = file_names.join("\n");
    if std::fs::read_to_string(&whole).ok().as_ref() != Some(&stamp) {
        _ = std::fs::remove_dir_all(&tree);
        for package in &packages {
            unpack(package, &tree)?;
        }
        std::fs::write(&whole, &stamp).with_context(|| format!("writing {}", whole.display()))?;
    }
    let first = |candidates: [String; 2]| {
        let paths = candidates.map(|path| tree.join(path));
        let [wanted, _] = &paths;
        let message = format!("the packages of {release} have no {}", wanted.display());
        paths.into_iter().find(|path| path.exists()).context(message)
    };
    let image = first([format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")])?;
    let config = first([format!("boot/config-{release}"), format!("usr/lib/modules/{release}/config")])?;
    let library = first([format!("usr/lib/modules/{release}"), format!("lib/modules/{release}")])?;
    let read =
        |path: &Path| std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let found = modules::find(&library)?;
    let built_in = read(&library.join("modules.builtin"))?;
    let facts = Facts {
        release: release.clone(),
        config: options(&read(&config)?),
        modules: found.keys().cloned().chain(built_in.lines().filter_map(modules::name)).collect(),
    };
    let modules = plain(&found, &tree.join("plain"))?;
    Ok(Unpacked { release, package_version, flavour, image, facts, modules })
}

/// Decompresses the wanted modules and theirs; in the order of loading.
fn plain(found: &BTreeMap<String, PathBuf>, folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut order = Vec::new();
    for wanted in WANTED {
        modules::in_order(wanted, &mut order, &mut |name| {
            let Some(packed) = found.get(name) else { return Ok(None) };
            let path = decompress(packed, &folder.join(format!("{name}.ko")))?;
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok(Some(modules::depends(&bytes)))
        })?;
    }
    Ok(order.iter().map(|name| folder.join(format!("{name}.ko"))).collect())
}

fn decompress(packed: &Path, to: &Path) -> Result<PathBuf> {
    if !to.exists() {
        let mut command = match packed.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => Command::new("xz"),
            Some("zst") => Command::new("zstd"),
            _ => {
                std::fs::copy(packed, to).with_context(|| format!("copying {}", packed.display()))?;
                return Ok(to.to_path_buf());
            }
        };
        let next = to.with_extension("next");
        let file = std::fs::File::create(&next).with_context(|| format!("making {}", next.display()))?;
        command.args(["-dc"]).arg(packed).stdout(file);
        command::capture(command)?;
        std::fs::rename(&next, to).with_context(|| format!("naming {}", to.display()))?;
    }
    Ok(to.to_path_buf())
}

/// Options that are on, built in or as a module.
fn options(config: &str) -> BTreeSet<String> {
    let on = |line: &str| Some(line.split_once('=')?.0.to_owned());
    config.lines().filter(|line| line.starts_with("CONFIG_")).filter_map(on).collect()
}

/// The version in a package's file name, `NAME_VERSION_ARCHITECTURE.deb`.
fn version_of(file: &Path) -> Option<String> {
    Some(file.file_name()?.to_str()?.split('_').nth(1)?.replace("%3a", ":"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{options, version_of};

    #[test]
    fn an_option_is_on_when_it_has_a_value() {
        let on = options("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\n# a comment\nCONFIG_D=\"x=y\"\n");
        assert_eq!(on.iter().map(String::as_str).collect::<Vec<_>>(), ["CONFIG_B", "CONFIG_C", "CONFIG_D"]);
    }

    #[test]
    fn a_packages_version_is_in_its_file_name() {
        let version = |name| version_of(Path::new(name));
        assert_eq!(version("a/linux-image-x_6.1.176-1_amd64.deb").as_deref(), Some("6.1.176-1"));
        assert_eq!(version("busybox_1%3a1.38.0-3_arm64.deb").as_deref(), Some("1:1.38.0-3"));
    }
}
