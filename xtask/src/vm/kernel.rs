//! Fetches a kernel from the archive and unpacks it: the image, the config, and the modules that scenarios
//! need.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use xtask_support::command;

use super::{
    archive::{Archive, unpack},
    matrix::{Arch, Kernel},
    modules, version,
};

/// Modules that scenarios use. Those that a package lacks are skipped; their scenarios must be
/// `not_applicable`.
const WANTED_MODULES: [&str; 7] =
    ["crc32c_generic", "sctp", "vsock_loopback", "nfsd", "tun", "smc", "af_alg"];

/// The modules by which a flavour is chosen. `crc32c_generic` is not among them: newer kernels have no such
/// module.
const DECISIVE_MODULES: [&str; 4] = ["sctp", "vsock_loopback", "nfsd", "tun"];

/// The packages of a kernel. Since Linux 6.19 the image, the config and the modules are in several packages.
const PACKAGE_PARTS: [&str; 4] = ["image", "base", "binary", "modules"];

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The release, as `uname -r` prints it.
    pub(super) release: String,
    pub(super) package_version: String,
    pub(super) flavour: &'static str,
    pub(super) image: PathBuf,
    /// Facts to check the claims of tests/kernels.toml against.
    pub(super) facts: PackageFacts,
    /// The wanted modules and their dependencies, in the order in which they can be loaded.
    pub(super) modules: Vec<PathBuf>,
}

/// Facts about a kernel, from its package.
#[derive(Debug, Default)]
pub(super) struct PackageFacts {
    pub(super) release: String,
    /// The options that are on.
    pub(super) config: BTreeSet<String>,
    /// All modules, including those that are built in.
    pub(super) modules: BTreeSet<String>,
}

/// Downloads and unpacks the newest kernel of a series: the cloud flavour, or the generic one if that has
/// more of the decisive modules.
pub(super) fn fetch(archive: &Archive, kernel: &Kernel, folder: &Path) -> Result<Unpacked> {
    let version = version::newest(archive.names(), &kernel.series, kernel.arch)?;
    if let Some(least) = &kernel.at_least
        && version::numbers(&version) < version::numbers(least)
    {
        bail!(
            "the newest kernel in the archive is {version}, and {least} or later is expected: were all package lists downloaded?"
        );
    }
    let cloud = flavour(archive, kernel.arch, &version, "cloud", folder)?;
    let lacks = |unpacked: &Unpacked| {
        DECISIVE_MODULES.iter().filter(|module| !unpacked.facts.modules.contains(**module)).count()
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
    let names: Vec<String> = PACKAGE_PARTS
        .iter()
        .map(|part| format!("linux-{part}-{release}"))
        .filter(|name| archive.names().contains(name))
        .collect();
    let packages = archive.download(&names, debian)?;
    let package_version = packages.last().and_then(|file| version_of(file)).unwrap_or_default();
    // Compared by file name: Debian may rebuild a release under the same name.
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
    let facts = PackageFacts {
        release: release.clone(),
        config: options(&read(&config)?),
        modules: found.keys().cloned().chain(built_in.lines().filter_map(modules::name)).collect(),
    };
    let modules = decompress_modules(&found, &tree.join("plain"))?;
    Ok(Unpacked { release, package_version, flavour, image, facts, modules })
}

/// Decompresses the wanted modules and their dependencies; returns them in the order of loading.
fn decompress_modules(found: &BTreeMap<String, PathBuf>, folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut order = Vec::new();
    for wanted in WANTED_MODULES {
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
        let file = std::fs::File::create(&next).with_context(|| format!("creating {}", next.display()))?;
        command.args(["-dc"]).arg(packed).stdout(file);
        command::capture(command)?;
        std::fs::rename(&next, to).with_context(|| format!("renaming to {}", to.display()))?;
    }
    Ok(to.to_path_buf())
}

/// The options of a config that are on, built in or as a module.
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
