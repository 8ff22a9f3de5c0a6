//! Pins the maps of open traced connections in the BPF file system, so that they survive a restart of the
//! agent.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use acceptd_common::{ABI_VERSION, TracedConnection};
use aya::maps::{HashMap, MapData, MapError};
use rustix::fs::{FlockOperation, flock, statfs};
use zerocopy::FromBytes as _;

/// Each pinned map, with the prefix of its file name.
const MAPS: [(&str, &str); 2] = [("TRACED_BY_SOCKET", "open"), ("TRACED_BY_COOKIE", "open-by-cookie")];

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h
const BPF_FS: i128 = 0xcafe_4a11;

/// The feature that is missing without pinned maps.
pub(super) const FEATURE: &str =
    "the close of connections that were accepted before the last or the next restart of the agent";
/// The name under which the missing feature is reported, in place of a program's name.
pub(super) const NAME: &str = "pinned_maps";
pub(super) const REMEDY: &str = "mount the BPF file system (mount -t bpf bpf /sys/fs/bpf), or set capture.pin_directory to a folder in a BPF file system";

/// Each pinned map, with the path of its pin.
pub(super) type Pins = Vec<(&'static str, PathBuf)>;

/// Creates the pin directory if needed, locks it against other agents and removes pins of other format
/// versions. Returns where each map is to be pinned, and the lock, which is held while the file is open.
///
/// # Errors
/// Why maps cannot be pinned there, in one line.
pub(super) fn prepare(folder: &Path) -> Result<(Pins, File), String> {
    let with_path = |error: io::Error| format!("{}: {error}", folder.display());
    if let Err(error) = fs::create_dir(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(with_path(error));
    }
    let kind = statfs(folder).map_err(|error| with_path(error.into()))?.f_type;
    if i128::from(kind) != BPF_FS {
        // Do not leave an empty folder behind in another file system.
        _ = fs::remove_dir(folder);
        return Err(format!("{} is not in a BPF file system", folder.display()));
    }
    let lock = File::open(folder).map_err(with_path)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(format!("another acceptd uses {}", folder.display()));
    }
    let pins = MAPS.map(|(map, file)| (map, folder.join(format!("{file}-v{ABI_VERSION}"))));
    for entry in fs::read_dir(folder).map_err(with_path)?.flatten() {
        let is_ours = MAPS.iter().any(|(_, file)| {
            entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("{file}-v")))
        });
        if is_ours && !pins.iter().any(|(_, pin)| *pin == entry.path()) {
            _ = fs::remove_file(entry.path());
        }
    }
    Ok((pins.into(), lock))
}

/// Evicts connections that ended while no agent ran: entries of an earlier capture epoch that this run's
/// survey did not mark as still open. Returns how many were evicted.
///
/// # Errors
/// When the kernel refuses to list or remove entries.
pub(super) fn evict_earlier_epochs(
    map: &mut HashMap<&mut MapData, u64, [u8; size_of::<TracedConnection>()]>,
    capture_epoch: u64,
) -> Result<usize, MapError> {
    let mut ended = Vec::new();
    for entry in map.iter() {
        let (cookie, open) = entry?;
        let is_open = TracedConnection::read_from_bytes(&open)
            .is_ok_and(|open| open.capture_epoch >= capture_epoch || open.accepted_ns >= capture_epoch);
        if !is_open {
            ended.push(cookie);
        }
    }
    for cookie in &ended {
        map.remove(cookie)?;
    }
    Ok(ended.len())
}
