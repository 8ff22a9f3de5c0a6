//! Facts about the host: its id and name, the id of this boot, and the time of the boot.

mod name;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use acceptd_otlp::Host;

use super::proc_dir::host_proc;
use crate::clock::Clock;

/// The host, as every Resource shows it.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// `host.*` attributes.
    pub host: Host,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// When the host booted, nanoseconds since the Unix epoch. Measured once for each boot and then kept in a
    /// file, so that the identities of processes survive restarts of the agent and steps of the wall clock.
    pub boot_time_unix_ns: u64,
}

/// Gathers the facts. `root` is where the host's files are (`host.root`), `id` and `name` override what is
/// found, and `state` is the folder in which the boot time is kept. Returns a warning for each fact that
/// could not be determined.
#[must_use]
pub fn gather(root: &Path, id: Option<&str>, name: Option<&str>, state: &Path) -> (HostFacts, Vec<String>) {
    let mut warnings = Vec::new();
    let id = id.map(str::to_owned).or_else(|| machine_id(root));
    if id.is_none() {
        warnings.push(format!(
            "no machine id in {}: records have no host.id; set host.id, or create the file with systemd-machine-id-setup",
            root.join("etc/machine-id").display()
        ));
    }
    let (name, name_warning) = name.map_or_else(|| name::host_name(root), |set| (set.to_owned(), None));
    warnings.extend(name_warning);
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let (boot_time_unix_ns, warning) = boot_time(&state.join("boot-time"), &boot_id);
    warnings.extend(warning);
    let host = Host { id, name, arch: semconv_arch(std::env::consts::ARCH) };
    (HostFacts { host, boot_id, boot_time_unix_ns }, warnings)
}

/// The inode number of the host's network namespace: that of process 1. `None` if it is not visible, as for
/// an agent in a pid namespace of its own.
#[must_use]
pub fn network_namespace(root: &Path) -> Option<u32> {
    let file = host_proc(root)?.join("1/ns/net");
    u32::try_from(fs::metadata(file).ok()?.ino()).ok()
}

fn machine_id(root: &Path) -> Option<String> {
    ["etc/machine-id", "var/lib/dbus/machine-id"].iter().find_map(|file| {
        let id = fs::read_to_string(root.join(file)).ok()?.trim().to_owned();
        (!id.is_empty() && id != "uninitialized").then_some(id)
    })
}

/// The values of `host.arch` in the semantic conventions.
fn semconv_arch(rust_arch: &'static str) -> &'static str {
    match rust_arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The boot time that was kept for this boot; or else measures it now, keeps it, and returns a warning if
/// that fails.
fn boot_time(file: &Path, boot_id: &str) -> (u64, Option<String>) {
    if let Some(kept) = kept_boot_time(file, boot_id) {
        return (kept, None);
    }
    let measured = Clock::new().boot_time_unix_nanos();
    let warning = write_atomically(file, &format!("{boot_id} {measured}\n")).err().map(|error| {
        format!(
            "cannot keep the boot time in {}: {error}; process.creation.time may differ by milliseconds after a restart of the agent; set state.directory to a writable folder",
            file.display()
        )
    });
    (measured, warning)
}

fn kept_boot_time(file: &Path, boot_id: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let (kept_for, time) = text.trim().split_once(' ')?;
    if kept_for == boot_id { time.parse().ok() } else { None }
}

/// Writes a file so that a reader sees either the old or the new content, never a part of it.
fn write_atomically(file: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut temporary = PathBuf::from(file);
    temporary.set_extension("tmp");
    fs::write(&temporary, content)?;
    fs::rename(&temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_time_is_the_same_after_a_restart() {
        let state = tempfile::tempdir().expect("a temporary folder");
        let file = state.path().join("deep/boot-time");
        let (first, warning) = boot_time(&file, "boot-1");
        assert_eq!(warning, None);
        let (second, _) = boot_time(&file, "boot-1");
        assert_eq!(first, second);
        fs::write(&file, "boot-1 123\n").expect("writable");
        assert_eq!(boot_time(&file, "boot-1").0, 123);
        assert_ne!(boot_time(&file, "boot-2").0, 123, "another boot has another time");
    }

    #[test]
    fn a_damaged_file_is_measured_anew() {
        let state = tempfile::tempdir().expect("a temporary folder");
        let file = state.path().join("boot-time");
        for damage in ["", "boot-1", "boot-1 x", "\0\0 9"] {
            fs::write(&file, damage).expect("writable");
            let now = Clock::new().boot_time_unix_nanos();
            assert!(boot_time(&file, "boot-1").0.abs_diff(now) < 1_000_000_000);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_warning_with_a_remedy() {
        let (facts, warnings) =
            gather(Path::new("/nonexistent"), None, Some("here"), Path::new("/proc/none"));
        assert_eq!(facts.host.name, "here");
        assert!(warnings.iter().any(|warning| warning.contains("state.directory")), "{warnings:?}");
        assert!(warnings.iter().any(|warning| warning.contains("machine-id")), "{warnings:?}");
    }
}
