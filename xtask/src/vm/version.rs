//! Selects the newest kernel of a series in the archive: Debian replaces packages all the time.

use anyhow::{Context, Result};

use super::matrix::Arch;

/// The series of the newest kernel of all.
pub(super) const NEWEST: &str = "newest";

/// The numbers of a version, in order: 6.12.90+deb12.1 is `[6, 12, 90, 12, 1]`.
pub(super) fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// The version of the newest `linux-image-VERSION-cloud-ARCH` of a series among the names.
pub(super) fn newest(names: &[String], series: &str, arch: Arch) -> Result<String> {
    let suffix = format!("-cloud-{}", arch.debian());
    let wanted = numbers(series);
    names
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-")?.strip_suffix(&suffix))
        .filter(|version| {
            version.starts_with(|first: char| first.is_ascii_digit()) && !version.contains("rc")
        })
        .filter(|version| series == NEWEST || numbers(version).starts_with(&wanted))
        .max_by_key(|version| numbers(version))
        .map(str::to_owned)
        .with_context(|| format!("apt's lists have no kernel {series} for {}", arch.name()))
}

#[cfg(test)]
mod tests {
    use super::{NEWEST, newest};
    use crate::vm::matrix::Arch;

    #[test]
    fn the_newest_of_a_series_by_number_not_by_letter() {
        let names: Vec<String> = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.12.9+deb13-cloud-amd64",
            "linux-image-6.12.90+deb12-cloud-amd64",
            "linux-image-6.12.90+deb12.1-cloud-amd64",
            "linux-image-6.12.99+deb13-cloud-arm64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-amd64",
            "linux-image-7.4-rc1-cloud-amd64",
            "linux-image-cloud-amd64",
        ]
        .map(str::to_owned)
        .into();
        let version = |series, arch| newest(&names, series, arch).ok();
        assert_eq!(version("6.1", Arch::X86_64).as_deref(), Some("6.1.0-50"));
        assert_eq!(version("6.12", Arch::X86_64).as_deref(), Some("6.12.90+deb12.1"));
        assert_eq!(version(NEWEST, Arch::X86_64).as_deref(), Some("7.3.4+deb13"));
        assert_eq!(version(NEWEST, Arch::Arm64).as_deref(), Some("6.12.99+deb13"));
        assert_eq!(version("5.10", Arch::X86_64), None);
    }
}
