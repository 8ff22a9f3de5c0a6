//! Reads the sources that show the kernel's preemption model. Each source may be missing: debugfs needs
//! `CAP_SYS_ADMIN`, and the build configuration is a file that not every kernel has.

use std::{fs, io, io::Read as _};

use flate2::read::GzDecoder;
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// A build configuration has less than 400 kB of text. A longer file is something else.
const LONGEST_CONFIG: u64 = 4 << 20;

/// The sources that could be read.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// `sched/preempt` in debugfs.
    pub(super) debugfs: Option<String>,
    /// `uname -v`.
    pub(super) version: String,
    /// Major and minor number of `uname -r`; zeros if it has none.
    pub(super) release: (u32, u32),
    /// `/proc/cmdline`
    pub(super) cmdline: Option<String>,
    /// The options that the kernel was built with, one a line.
    pub(super) config: Option<String>,
}

impl Evidence {
    /// Reads every source.
    #[must_use]
    pub(super) fn gather() -> Self {
        let system = rustix::system::uname();
        let release = system.release().to_string_lossy();
        Self {
            debugfs: debugfs().ok(),
            version: system.version().to_string_lossy().into_owned(),
            release: numbers(&release).unwrap_or_default(),
            cmdline: fs::read_to_string("/proc/cmdline").ok(),
            config: config(&release),
        }
    }
}

/// Where debugfs is not mounted, or not where it usually is, it is opened without a place in the tree: that
/// changes nothing for other processes, and ends with the descriptor.
fn debugfs() -> io::Result<String> {
    const MOUNTED: &str = "/sys/kernel/debug/sched/preempt";
    fs::read_to_string(MOUNTED).or_else(|_| {
        let system = fsopen("debugfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&system)?;
        let root = fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let file = openat(root, "sched/preempt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        io::read_to_string(fs::File::from(file))
    })
}

/// `/proc/config.gz` is of the running kernel. A file in /boot has its release in its name.
fn config(release: &str) -> Option<String> {
    let mut text = String::new();
    if let Ok(file) = fs::File::open("/proc/config.gz") {
        let mut unpacked = GzDecoder::new(file).take(LONGEST_CONFIG);
        if unpacked.read_to_string(&mut text).is_ok() {
            return Some(text);
        }
    }
    let names = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    names.iter().find_map(|name| fs::read_to_string(name).ok())
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Evidence, numbers};

    #[test]
    fn the_running_kernel_is_read() {
        let evidence = Evidence::gather();
        assert!(evidence.version.starts_with('#'), "{evidence:?}");
        assert!(evidence.release > (4, 0) && evidence.cmdline.is_some(), "{evidence:?}");
    }

    #[test]
    fn a_release_of_any_vendor_has_its_numbers() {
        assert_eq!(numbers("7.3.4+deb13-cloud-amd64"), Some((7, 3)));
        assert_eq!(numbers("4.18.0-553.el8_10.x86_64"), Some((4, 18)));
        assert_eq!(numbers("next"), None);
    }
}
