//! The event filter (`filter.*`): the values for the kernel's map, and the same rule for records that the
//! agent makes in user space.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt as _, path::Path};

use acceptd_common::{FilterKey, Listener, Task, filter::FilterValue};

use crate::config::{self, Family};

/// Which events are recorded. Values of one key are alternatives (OR), keys are combined with AND, and
/// exclude wins over include.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    values: BTreeMap<FilterValue, u8>,
    includes: u64,
    excludes: u64,
}

impl EventFilter {
    /// The filter of a configuration. `cgroups` is where the host's cgroup v2 file system is mounted.
    ///
    /// # Errors
    /// When a configured cgroup does not exist, with the remedy.
    pub fn from_config(
        include: &config::FilterSection,
        exclude: &config::FilterExcludeSection,
        cgroups: &Path,
    ) -> Result<Self, String> {
        let mut filter = Self::default();
        filter.include(numbers(FilterKey::Port, &include.ports));
        filter.exclude(numbers(FilterKey::Port, &exclude.ports));
        filter.include(families(&include.families));
        filter.exclude(families(&exclude.families));
        filter.include(numbers(FilterKey::Pid, &include.pids));
        filter.exclude(numbers(FilterKey::Pid, &exclude.pids));
        filter.include(include.comms.iter().map(|comm| comm_value(comm.as_bytes())));
        filter.exclude(exclude.comms.iter().map(|comm| comm_value(comm.as_bytes())));
        filter.include(cgroup_values("filter.cgroups", &include.cgroups, cgroups)?.into_iter());
        filter.exclude(cgroup_values("filter.exclude.cgroups", &exclude.cgroups, cgroups)?.into_iter());
        filter.include(numbers(FilterKey::Netns, &include.netns));
        filter.exclude(numbers(FilterKey::Netns, &exclude.netns));
        Ok(filter)
    }

    /// A filter that only events of process `pid` pass.
    #[must_use]
    pub fn for_process(pid: u32) -> Self {
        let mut filter = Self::default();
        filter.include(numbers(FilterKey::Pid, &[u64::from(pid)]));
        filter
    }

    fn include(&mut self, values: impl Iterator<Item = FilterValue>) {
        for value in values {
            self.includes |= 1 << value.key;
            *self.values.entry(value).or_default() |= FilterValue::INCLUDE;
        }
    }

    fn exclude(&mut self, values: impl Iterator<Item = FilterValue>) {
        for value in values {
            self.excludes |= 1 << value.key;
            *self.values.entry(value).or_default() |= FilterValue::EXCLUDE;
        }
    }

    /// Whether no key has values to include: then every event passes, unless it is excluded.
    #[must_use]
    pub fn has_no_includes(&self) -> bool {
        self.includes == 0
    }

    /// The keys that have values to include, as a bit mask ([`FilterKey::bit`]).
    #[must_use]
    pub fn includes(&self) -> u64 {
        self.includes
    }

    /// The keys that have values to exclude, as a bit mask ([`FilterKey::bit`]).
    #[must_use]
    pub fn excludes(&self) -> u64 {
        self.excludes
    }

    /// The entries of the kernel's map: each value with its flags ([`FilterValue::INCLUDE`],
    /// [`FilterValue::EXCLUDE`]).
    pub fn values(&self) -> impl Iterator<Item = (&FilterValue, u8)> {
        self.values.iter().map(|(value, flags)| (value, *flags))
    }

    /// Whether an event of `listener` and its owner passes. An unknown owner passes no filter that includes
    /// processes or cgroups.
    #[must_use]
    pub fn passes(&self, listener: &Listener, owner: Option<&Task>) -> bool {
        let port = u64::from(u16::from_be(listener.port));
        let process = |value: fn(&Task) -> FilterValue| owner.map(value);
        self.passes_value(FilterKey::Port, Some(FilterValue::number(FilterKey::Port, port)))
            && self.passes_value(
                FilterKey::Family,
                Some(FilterValue::number(FilterKey::Family, u64::from(listener.family))),
            )
            && self.passes_value(
                FilterKey::Netns,
                Some(FilterValue::number(FilterKey::Netns, u64::from(listener.netns))),
            )
            && self.passes_value(
                FilterKey::Pid,
                process(|task| FilterValue::number(FilterKey::Pid, u64::from(task.tgid))),
            )
            && self.passes_value(FilterKey::Comm, process(|task| comm_value(&task.leader_comm)))
            && self.passes_value(
                FilterKey::Cgroup,
                process(|task| FilterValue::number(FilterKey::Cgroup, task.cgroup_id)),
            )
    }

    fn passes_value(&self, key: FilterKey, value: Option<FilterValue>) -> bool {
        let found = value.and_then(|value| self.values.get(&value)).copied().unwrap_or_default();
        found & FilterValue::EXCLUDE == 0
            && (self.includes & key.bit() == 0 || found & FilterValue::INCLUDE != 0)
    }
}

fn numbers(key: FilterKey, numbers: &[u64]) -> impl Iterator<Item = FilterValue> {
    numbers.iter().map(move |number| FilterValue::number(key, *number))
}

fn families(families: &[Family]) -> impl Iterator<Item = FilterValue> {
    families.iter().map(|family| FilterValue::number(FilterKey::Family, u64::from(family.number())))
}

/// A comm as the kernel stores it: truncated, and padded with zeroes.
fn comm_value(comm: &[u8]) -> FilterValue {
    let mut value = [0; 16];
    for (to, from) in value.iter_mut().zip(comm) {
        *to = *from;
    }
    FilterValue { value, key: FilterKey::Comm as u32 }
}

/// The values of the configured cgroups: a cgroup's id is the inode number of its folder.
fn cgroup_values(key: &str, paths: &[String], root: &Path) -> Result<Vec<FilterValue>, String> {
    let value = |path: &String| {
        let folder = root.join(path.trim_start_matches('/'));
        let found = std::fs::metadata(&folder).map_err(|error| {
            format!(
                "{key}: no cgroup {}: {error}; give the cgroup v2 path, which stands after `0::` in /proc/PID/cgroup",
                folder.display()
            )
        })?;
        Ok(FilterValue::number(FilterKey::Cgroup, found.ino()))
    };
    paths.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::config::Config;

    fn filter(change: impl FnOnce(&mut Config)) -> EventFilter {
        let mut config = Config::default();
        change(&mut config);
        EventFilter::from_config(&config.filter, &config.filter_exclude, Path::new("/nonexistent"))
            .expect("no cgroups")
    }

    fn nginx() -> (Listener, Task) {
        let (mut listener, mut task) = (Listener::new_zeroed(), Task::new_zeroed());
        listener.port = 443_u16.to_be();
        listener.family = 2;
        listener.netns = 7;
        task.tgid = 812;
        task.leader_comm[..5].copy_from_slice(b"nginx");
        (listener, task)
    }

    #[test]
    fn without_values_everything_passes() {
        let (listener, task) = nginx();
        assert!(filter(|_| ()).passes(&listener, Some(&task)));
        assert!(filter(|_| ()).passes(&listener, None));
    }

    #[test]
    fn or_within_a_key_and_between_keys() {
        let (listener, task) = nginx();
        let passes = |change: fn(&mut Config)| filter(change).passes(&listener, Some(&task));
        assert!(passes(|config| config.filter.ports = vec![80, 443]));
        assert!(!passes(|config| config.filter.ports = vec![80]));
        assert!(passes(|config| {
            config.filter.ports = vec![443];
            config.filter.comms = vec!["nginx".to_owned()];
        }));
        assert!(!passes(|config| {
            config.filter.ports = vec![443];
            config.filter.comms = vec!["ngin".to_owned()];
        }));
        assert!(passes(|config| config.filter.families = vec![Family::Inet]));
        assert!(!passes(|config| config.filter.families = vec![Family::Inet6, Family::Unix]));
        assert!(passes(|config| config.filter.netns = vec![7]));
        assert!(passes(|config| config.filter.pids = vec![812]));
    }

    #[test]
    fn exclude_wins() {
        let (listener, task) = nginx();
        let filter = filter(|config| {
            config.filter.ports = vec![443];
            config.filter_exclude.ports = vec![443];
        });
        assert!(!filter.passes(&listener, Some(&task)));
        assert_eq!(filter.values().count(), 1, "one value, included and excluded");
    }

    #[test]
    fn an_unknown_process_passes_no_filter_for_processes() {
        let (listener, _) = nginx();
        assert!(!filter(|config| config.filter.pids = vec![812]).passes(&listener, None));
        assert!(filter(|config| config.filter_exclude.pids = vec![812]).passes(&listener, None));
    }

    #[test]
    fn a_missing_cgroup_is_named() {
        let mut config = Config::default();
        config.filter_exclude.cgroups = vec!["/system.slice/none.service".to_owned()];
        let error =
            EventFilter::from_config(&config.filter, &config.filter_exclude, Path::new("/sys/fs/cgroup"))
                .expect_err("there is no such cgroup");
        assert!(
            error.starts_with("filter.exclude.cgroups: no cgroup /sys/fs/cgroup/system.slice"),
            "{error}"
        );
        assert!(error.contains("/proc/PID/cgroup"), "{error}");
    }
}
