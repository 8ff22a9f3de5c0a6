//! Keeps the cgroups in the kernel's filter up to date while the agent runs.

use acceptd_common::{FilterKey, filter::FilterValue};
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::IntoBytes as _;

use super::{
    EventFilter,
    cgroups::{CgroupSubtrees, ConfiguredCgroup},
};

/// The kernel's map of filter values, of which the agent changes the cgroups.
pub struct LiveFilter {
    map: HashMap<MapData, [u8; size_of::<FilterValue>()], u8>,
    cgroups: CgroupSubtrees,
    /// The id of each configured cgroup that is in the map.
    ids: Vec<Option<u64>>,
}

impl LiveFilter {
    /// The filter whose values but cgroups are in `map` already.
    pub(in crate::bpf) fn new(
        map: HashMap<MapData, [u8; size_of::<FilterValue>()], u8>,
        filter: &EventFilter,
    ) -> Self {
        let cgroups = filter.cgroups.clone();
        let ids = vec![None; cgroups.configured().len()];
        Self { map, cgroups, ids }
    }

    /// Whether the filter names cgroups: without any, nothing changes.
    #[must_use]
    pub fn has_cgroups(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Resolves the configured cgroups again. Logs which of them came or went.
    ///
    /// # Errors
    /// When the kernel refuses a change of the map.
    pub fn refresh(&mut self) -> Result<(), MapError> {
        let resolved: Vec<Option<u64>> = self.cgroups.configured().iter().map(ConfiguredCgroup::id).collect();
        if resolved == self.ids {
            return Ok(());
        }
        for id in self.ids.iter().flatten().filter(|id| !resolved.contains(&Some(**id))) {
            self.map.remove(&entry(*id))?;
        }
        let configured = self.cgroups.configured();
        for id in resolved.iter().flatten() {
            // One cgroup may be named twice, to include and to exclude.
            let same = configured.iter().zip(&resolved).filter(|(_, other)| **other == Some(*id));
            let flags = same.fold(0, |flags, (cgroup, _)| flags | cgroup.flags);
            self.map.insert(&entry(*id), &flags, 0)?;
        }
        for ((cgroup, before), now) in configured.iter().zip(&self.ids).zip(&resolved) {
            let (key, folder) = (cgroup.key, cgroup.folder.display());
            match (before, now) {
                (Some(_), None) => {
                    tracing::warn!("{key}: the cgroup {folder} is gone; acceptd looks for it again");
                }
                (_, Some(_)) if before != now => tracing::debug!("{key}: the cgroup {folder} is there"),
                _ => {}
            }
        }
        self.ids = resolved;
        Ok(())
    }

    /// Warns of each configured cgroup that is missing at the start.
    pub fn warn_of_missing(&self) {
        let missing = self.cgroups.configured().iter().zip(&self.ids).filter(|(_, id)| id.is_none());
        for (ConfiguredCgroup { key, folder, .. }, _) in missing {
            tracing::warn!(
                "{key}: there is no cgroup {} yet; acceptd looks for it several times a second, and accepts before it is found are not compared with it; if it should be there, give the cgroup v2 path, which stands after `0::` in /proc/PID/cgroup",
                folder.display()
            );
        }
    }
}

fn entry(id: u64) -> [u8; size_of::<FilterValue>()] {
    let mut entry = [0; size_of::<FilterValue>()];
    entry.copy_from_slice(FilterValue::number(FilterKey::Cgroup, id).as_bytes());
    entry
}
