//! What outlives the agent: maps of open connections, pinned in the BPF file system.

use std::{
    fs::{
        File, {self},
    },
    io,
    path::{Path, PathBuf},
};

use acceptd_common::{ABI_VERSION, Open};
use aya::maps::{HashMap, MapData, MapError};
use rustix::fs::{FlockOperation, flock, statfs};
use zerocopy::FromBytes as _;

/// The maps, and how the names of their files begin.
const MAPS: [(&str, &str); 2] = [("OPEN", "open"), ("OPEN_BY_COOKIE", "open-by-cookie")];

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h
const BPF_FS: i128 = 0xcafe_4a11;

/// What is gone without them.
pub(super) const FEATURE: &str =
    "the ends of connections that the agent before saw begin, and of this one's at the next start";
/// The name of the feature, in place of a program's.
pub(super) const NAME: &str = "pinned_maps";
pub(super) const REMEDY: &str = "mount the BPF file system (mount -t bpf bpf /sys/fs/bpf), or set capture.pin_directory to a folder in one";

/// Where each map is pinned.
pub(super) type Pins = Vec<(&'static str, PathBuf)>;

/// Makes the folder if need be, and says where each map is pinned, with the lock that keeps others from it. Maps of other versions
/// are of no use any more.
pub(super) fn prepare(folder: &Path) -> Result<(Pins, File), String> {
    let named = |error: io::Error| format!("{}: {error}", folder.display());
    if let Err(error) = fs::create_dir(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(named(error));
    }
    let kind = statfs(folder).map_err(|error| named(error.into()))?.f_type;
    if i128::from(kind) != BPF_FS {
        // Nothing of ours stays in somebody else's file system.
        _ = fs::remove_dir(folder);
        return Err(format!("{} is not in a BPF file system", folder.display()));
    }
    let lock = File::open(folder).map_err(named)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(format!("another agent uses {}", folder.display()));
    }
    let pins = MAPS.map(|(map, file)| (map, folder.join(format!("{file}-v{ABI_VERSION}"))));
    for entry in fs::read_dir(folder).map_err(named)?.flatten() {
        let is_ours = MAPS.iter().any(|(_, file)| {
            entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("{file}-v")))
        });
        if is_ours && !pins.iter().any(|(_, pin)| *pin == entry.path()) {
            _ = fs::remove_file(entry.path());
        }
    }
    Ok((pins.into(), lock))
}

/// Forgets connections that ended while no agent ran: those of earlier `generation`s that were not found to be there.
///
/// # Errors
/// When the kernel refuses to show them.
pub(super) fn sweep(
    map: &mut HashMap<&mut MapData, u64, [u8; size_of::<Open>()]>,
    generation: u64,
) -> Result<usize, MapError> {
    let mut gone = Vec::new();
    for entry in map.iter() {
        let (cookie, open) = entry?;
        let is_there = Open::read_from_bytes(&open)
            .is_ok_and(|open| open.generation >= generation || open.accepted_ns >= generation);
        if !is_there {
            gone.push(cookie);
        }
    }
    for cookie in &gone {
        map.remove(cookie)?;
    }
    Ok(gone.len())
}
