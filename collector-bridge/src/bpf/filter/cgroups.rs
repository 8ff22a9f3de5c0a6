//! The cgroups of the filter, and everything below them. They may come and go while the agent runs: the paths
//! are resolved again and again, and a cgroup that is created anew under the same path has a new id.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use acceptd_common::limits::FILTER_CGROUP_LEVELS;

/// Most cgroups inside whose place is remembered, and most outside. Beyond that, the agent takes a cgroup for
/// one outside.
const MAX_MEMBERS: usize = 65_536;

/// Shortest time between two walks through the configured cgroups.
const WALK_INTERVAL: Duration = Duration::from_secs(1);

/// The id of the hierarchy's root, where a namespace does not hide it.
const ROOT_ID: u64 = 1;

/// The configured cgroups. Clones share what was found.
#[derive(Debug, Clone, Default)]
pub(super) struct CgroupSubtrees {
    configured: Vec<ConfiguredCgroup>,
    /// Bits of the levels at which the configured cgroups are.
    levels: u64,
    members: Arc<Mutex<Members>>,
}

/// A cgroup that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfiguredCgroup {
    /// The key that names it.
    pub(super) key: &'static str,
    /// Its folder.
    pub(super) folder: PathBuf,
    /// Whether events inside pass or are excluded.
    pub(super) flags: u8,
}

impl ConfiguredCgroup {
    /// The cgroup's id, which is the inode number of its folder; `None` if there is none at present.
    pub(super) fn id(&self) -> Option<u64> {
        fs::metadata(&self.folder).ok().filter(fs::Metadata::is_dir).map(|folder| folder.ino())
    }
}

/// The cgroups that were found in the configured ones.
#[derive(Debug, Default)]
struct Members {
    /// Flags by the id of the cgroup.
    flags: HashMap<u64, u8>,
    /// Ids that a walk did not find. A cgroup keeps its place, and no other one gets its id.
    outside: HashSet<u64>,
    /// Ids that were asked for since the last walk, and that it did not find.
    asked: HashSet<u64>,
    walked: Option<Instant>,
}

/// The result of a walk through the configured cgroups.
#[derive(Debug, Default)]
struct Walk {
    /// Flags by the id of the cgroup.
    flags: HashMap<u64, u8>,
    /// Whether some cgroups were not visited: there are too many, or a folder could not be read.
    is_partial: bool,
}

impl Members {
    /// The flags of the cgroup `id`. If it is not known, `walk` finds out, [`WALK_INTERVAL`] after the last
    /// walk at the earliest.
    fn flags(&mut self, id: u64, now: Instant, walk: impl FnOnce() -> Walk) -> u8 {
        if let Some(known) = self.flags.get(&id) {
            return *known;
        }
        if self.outside.contains(&id) {
            return 0;
        }
        if self.asked.len() < MAX_MEMBERS {
            self.asked.insert(id);
        }
        if self.walked.is_none_or(|walked| now.saturating_duration_since(walked) >= WALK_INTERVAL) {
            let Walk { flags, is_partial } = walk();
            self.flags = flags;
            self.walked = Some(now);
            let asked = std::mem::take(&mut self.asked);
            if !is_partial {
                if self.outside.len() + asked.len() > MAX_MEMBERS {
                    self.outside.clear();
                }
                self.outside.extend(asked.into_iter().filter(|id| !self.flags.contains_key(id)));
            }
        }
        self.flags.get(&id).copied().unwrap_or_default()
    }
}

impl CgroupSubtrees {
    /// Adds the cgroup at `path` below `root`, where the cgroup v2 file system is mounted.
    ///
    /// # Errors
    /// The path cannot be that of a cgroup; with the remedy.
    pub(super) fn add(
        &mut self,
        key: &'static str,
        path: &str,
        flags: u8,
        root: &Path,
    ) -> Result<(), String> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(format!(
                "{key}: {path:?} leads out of a cgroup; give the cgroup v2 path, which stands after `0::` in /proc/PID/cgroup"
            ));
        }
        if parts.len() >= FILTER_CGROUP_LEVELS as usize {
            return Err(format!(
                "{key}: {path:?} is more than {} levels deep; name one of the cgroups above it",
                FILTER_CGROUP_LEVELS - 1
            ));
        }
        // Inside a cgroup namespace the paths begin at an unknown level.
        let is_whole = fs::metadata(root).is_ok_and(|root| root.ino() == ROOT_ID);
        self.levels |= if is_whole { 1 << parts.len() } else { (1 << FILTER_CGROUP_LEVELS) - 1 };
        self.configured.push(ConfiguredCgroup { key, folder: root.join(parts.join("/")), flags });
        Ok(())
    }

    pub(super) fn configured(&self) -> &[ConfiguredCgroup] {
        &self.configured
    }

    /// The id of each configured cgroup that exists now, with all flags that it was configured with.
    pub(super) fn present(&self) -> BTreeMap<u64, u8> {
        let mut present = BTreeMap::new();
        for cgroup in &self.configured {
            if let Some(id) = cgroup.id() {
                *present.entry(id).or_default() |= cgroup.flags;
            }
        }
        present
    }

    /// Bits of the levels at which the programs must compare the cgroups of a task.
    pub(super) fn levels(&self) -> u64 {
        self.levels
    }

    /// The flags of all configured cgroups that the cgroup `id` is in, at any depth.
    pub(super) fn flags(&self, id: u64) -> u8 {
        if self.configured.is_empty() {
            return 0;
        }
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.flags(id, Instant::now(), || self.walk())
    }

    fn walk(&self) -> Walk {
        let mut found = Walk::default();
        for cgroup in &self.configured {
            let mut rest = vec![cgroup.folder.clone()];
            while let Some(folder) = rest.pop() {
                if found.flags.len() >= MAX_MEMBERS {
                    found.is_partial = true;
                    break;
                }
                let below = fs::metadata(&folder).and_then(|metadata| {
                    *found.flags.entry(metadata.ino()).or_default() |= cgroup.flags;
                    fs::read_dir(&folder)
                });
                match below {
                    Ok(entries) => {
                        for entry in entries {
                            match entry.and_then(|entry| Ok((entry.file_type()?.is_dir(), entry.path()))) {
                                Ok((true, path)) => rest.push(path),
                                Ok((false, _)) => {}
                                Err(_) => found.is_partial = true,
                            }
                        }
                    }
                    // The cgroup is gone, or does not exist yet: its id will be a new one.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(_) => found.is_partial = true,
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_at_any_depth_have_the_flags_of_those_above() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let inner = root.path().join("a/b/c");
        fs::create_dir_all(&inner).expect("new folders");
        let mut cgroups = CgroupSubtrees::default();
        cgroups.add("filter.cgroups", "/a", 1, root.path()).expect("a path");
        cgroups.add("filter.exclude.cgroups", "a/b/", 2, root.path()).expect("a path");
        let id = |path: &str| fs::metadata(root.path().join(path)).expect("a folder").ino();
        assert_eq!(["a", "a/b", "a/b/c", ""].map(|path| cgroups.flags(id(path))), [1, 3, 3, 0]);
        assert_eq!(cgroups.levels(), u64::from(u32::MAX), "the temporary folder is no hierarchy's root");
        assert_eq!(cgroups.flags(0), 0);
    }

    /// Members that are asked for cgroups `ids` every quarter of a second, with the number of walks.
    fn walks(members: &mut Members, ids: impl Iterator<Item = u64>, found: fn() -> Walk) -> u32 {
        let start = Instant::now();
        let mut walks = 0;
        for (at, id) in (0..).zip(ids) {
            let flags = members.flags(id, start + WALK_INTERVAL * at / 4, || {
                walks += 1;
                found()
            });
            assert_eq!(flags, found().flags.get(&id).copied().unwrap_or_default());
        }
        walks
    }

    #[test]
    fn a_cgroup_outside_is_searched_for_once() {
        let found = || Walk { flags: HashMap::from([(7, 1)]), is_partial: false };
        let mut members = Members::default();
        // The second walk settles everything that was asked for after the first one.
        assert_eq!(walks(&mut members, (0..100).map(|at| 10 + at % 4), found), 2);
        assert_eq!(members.flags(7, Instant::now(), || unreachable!()), 1);
        let gaps = || Walk { is_partial: true, ..Walk::default() };
        assert_eq!(walks(&mut Members::default(), [10; 100].into_iter(), gaps), 25, "it may be in the gaps");
    }

    #[test]
    fn what_is_remembered_of_cgroups_outside_is_bounded() {
        let mut members = Members::default();
        let more = 3 * u64::try_from(MAX_MEMBERS).expect("small");
        assert!(walks(&mut members, 1..more, Walk::default) > 0);
        assert!(members.outside.len() <= MAX_MEMBERS && members.asked.len() <= MAX_MEMBERS);
    }

    #[test]
    fn a_path_that_no_cgroup_has_is_named() {
        let mut cgroups = CgroupSubtrees::default();
        let root = Path::new("/sys/fs/cgroup");
        let cause = cgroups.add("filter.cgroups", "/a/../b", 1, root).expect_err("leads out");
        assert!(
            cause.contains("filter.cgroups: \"/a/../b\" leads out") && cause.contains("/proc/PID/cgroup")
        );
        let deep = "/a".repeat(40);
        let cause = cgroups.add("filter.cgroups", &deep, 1, root).expect_err("too deep");
        assert!(cause.contains("more than 31 levels deep"), "{cause}");
    }
}
