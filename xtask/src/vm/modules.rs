//! Kernel modules: finds them in a package, and orders them by their dependencies. Those are in a module's
//! section `.modinfo`, so depmod is not needed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The name of a module, by its file: `kernel/net/sctp/sctp.ko.xz` is sctp. The kernel does not distinguish
/// `-` and `_`.
pub(super) fn name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    Some(file.split_once(".ko")?.0.replace('-', "_"))
}

/// All modules of a package, by name.
pub(super) fn find(library: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![library.join("kernel")];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = name(&entry.file_name().to_string_lossy()) {
                found.insert(name, entry.path());
            }
        }
    }
    Ok(found)
}

/// The names in a module's field `depends=`.
pub(super) fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|bytes| bytes == FIELD) else { return Vec::new() };
    let value = module[at + FIELD.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// Appends `wanted` to `order`, behind its dependencies. `dependencies_of` returns those of a module, or
/// `None` if the package has no such file: the module is built in, or missing.
pub(super) fn in_order(
    wanted: &str,
    order: &mut Vec<String>,
    dependencies_of: &mut dyn FnMut(&str) -> Result<Option<Vec<String>>>,
) -> Result<()> {
    if order.iter().any(|name| name == wanted) {
        return Ok(());
    }
    let Some(dependencies) = dependencies_of(wanted)? else { return Ok(()) };
    for dependency in dependencies {
        in_order(&dependency, order, dependencies_of)?;
    }
    order.push(wanted.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{depends, in_order, name};

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(name("kernel/net/sctp/sctp.ko.xz").as_deref(), Some("sctp"));
        assert_eq!(name("kernel/drivers/nvme/nvme-core.ko").as_deref(), Some("nvme_core"));
        assert_eq!(name("modules.order"), None);
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let bytes = b"ELF\0license=GPL\0depends=vmw-vsock-virtio_common,vsock\0retpoline=Y\0";
        assert_eq!(depends(bytes), ["vmw_vsock_virtio_common", "vsock"]);
        assert_eq!(depends(b"ELF\0depends=\0name=x\0"), Vec::<String>::new());
        assert_eq!(depends(b"nothing"), Vec::<String>::new());
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let mut order = Vec::new();
        let mut dependencies_of = |name: &str| {
            Ok(match name {
                "a" => Some(vec!["b".to_owned(), "c".to_owned()]),
                "b" => Some(vec!["c".to_owned(), "built_in".to_owned()]),
                "c" => Some(Vec::new()),
                _ => None,
            })
        };
        in_order("a", &mut order, &mut dependencies_of).unwrap();
        in_order("c", &mut order, &mut dependencies_of).unwrap();
        assert_eq!(order, ["c", "b", "a"]);
    }
}
