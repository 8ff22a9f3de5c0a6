//! The metrics of listeners: one series for each set of labels, shared by all listeners with these labels. No
//! I/O.
//!
//! A series is removed some time after its last listener closed, so that the final counts are read once more.
//! At most [`MAX_SERIES`] series exist; all further listeners share the overflow series.

use std::{sync::Arc, time::Duration};

use acceptd_common::ConnectionStats;
use acceptd_otlp::errno;
use foldhash::{HashMap, HashMapExt as _};

use super::{histogram::DurationHistogram, overflow::Overflow};

/// Most series besides the overflow series.
pub(crate) const MAX_SERIES: usize = 500;

/// Most series of UNIX listeners. There can be any number of names of UNIX sockets, and a TCP service that is
/// started later must still get a series.
pub(crate) const MAX_UNIX_SERIES: usize = 250;

/// The attributes that identify a series. None of them differs between processes or connections of one
/// service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    /// `network.transport`
    pub(crate) transport: &'static str,
    /// `network.type`
    pub(crate) network_type: Option<&'static str>,
    /// `network.local.address`: the address that the listener is bound to.
    pub(crate) address: Option<String>,
    /// `network.local.port`
    pub(crate) port: Option<u32>,
    /// `acceptd.listener.service`
    pub(crate) service: String,
    /// `process.executable.name`
    pub(crate) executable: String,
    /// `acceptd.netns.inode`, if it is not the host's network namespace.
    pub(crate) netns: Option<u32>,
    /// `container.id`
    pub(crate) container: Option<String>,
    /// `k8s.pod.uid`
    pub(crate) pod: Option<String>,
}

impl Labels {
    fn is_unix(&self) -> bool {
        self.transport == "unix"
    }
}

/// The slot of the overflow series.
const SHARED: usize = 0;

/// The state of one series.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// The attributes; `None` for the overflow series.
    pub(crate) labels: Option<Arc<Labels>>,
    /// Start time of the series, nanoseconds since the Unix epoch.
    pub(crate) since_unix_ns: u64,
    /// Number of accepted connections.
    pub(crate) accepted: u64,
    /// Numbers of failed accepts, by the symbol of the errno.
    pub(crate) failed: Vec<(&'static str, u64)>,
    /// How long accepted connections waited in the queue.
    pub(crate) queue: DurationHistogram,
    /// Number of connection attempts that were refused because the queue was full.
    pub(crate) overflows: u64,
    /// Number of calls of connect that waited until the queue had room.
    pub(crate) blocked_connects: u64,
    /// How long these waited, in nanoseconds.
    pub(crate) blocked_connect_ns: u64,
    /// Number of packets that the kernel dropped for another reason than a full queue.
    pub(crate) dropped_packets: u64,
    /// Number of connections that were closed before they were accepted.
    pub(crate) abandoned: u64,
    /// How long the closed connections were open.
    pub(crate) durations: DurationHistogram,
    /// Gauge: number of open connections; `None` if they are not counted.
    pub(crate) open: Option<u64>,
    /// Gauge: number of connections in the queues.
    pub(crate) length: u64,
    /// Gauge: number of connections that the queues have room for.
    pub(crate) limit: u64,
    /// Gauge: how long the oldest queued connection has waited, in nanoseconds.
    pub(crate) oldest_wait_ns: u64,
    /// Gauge: number of listeners with these labels.
    pub(crate) listeners: u64,
    /// When the last of these listeners closed, nanoseconds on `CLOCK_BOOTTIME`.
    unused_since_boot_ns: Option<u64>,
    /// Whether a reader may still remember a removed series with the same labels; see
    /// [`SeriesTable::removed`].
    is_hidden: bool,
}

/// One listener, and the series that it counts in.
#[derive(Debug)]
struct ListenerEntry {
    /// Index of the series.
    series: usize,
    length: u32,
    limit: u32,
    oldest_wait_ns: u64,
    /// A hash of the facts that the labels were made from; see [`SeriesTable::is_named`].
    named_by: u64,
    /// The kernel's statistics that were added to the series already.
    stats: Option<Box<ConnectionStats>>,
}

/// All series, and the listeners that count in them.
#[derive(Debug)]
pub(crate) struct SeriesTable {
    /// Listeners by inode number.
    listeners: HashMap<u64, ListenerEntry>,
    by_labels: HashMap<Arc<Labels>, usize>,
    /// Number of series of UNIX listeners.
    of_unix: usize,
    /// The overflow series is the first one. Slots of removed series are reused.
    series: Vec<Series>,
    free: Vec<usize>,
    /// How long a series is kept after its last listener closed.
    retention: Duration,
    /// When [`Self::retain`] was called last, nanoseconds on `CLOCK_BOOTTIME`.
    retained_boot_ns: u64,
    /// Labels of removed series, and when they were removed (`CLOCK_BOOTTIME`). A new series with the same
    /// labels stays hidden until a reader has had time to see the labels absent; otherwise its reset would
    /// look like a falling counter.
    removed: HashMap<Arc<Labels>, u64>,
}

impl Series {
    fn new(labels: Option<Arc<Labels>>, since_unix_ns: u64) -> Self {
        Self {
            labels,
            since_unix_ns,
            accepted: 0,
            failed: Vec::new(),
            queue: DurationHistogram::default(),
            overflows: 0,
            blocked_connects: 0,
            blocked_connect_ns: 0,
            dropped_packets: 0,
            abandoned: 0,
            durations: DurationHistogram::default(),
            open: None,
            length: 0,
            limit: 0,
            oldest_wait_ns: 0,
            listeners: 0,
            unused_since_boot_ns: None,
            is_hidden: false,
        }
    }
}

impl SeriesTable {
    /// A table without series. A series is kept for `retention` after its last listener closed.
    #[must_use]
    pub(crate) fn new(now_unix_ns: u64, retention: Duration) -> Self {
        Self {
            listeners: HashMap::new(),
            by_labels: HashMap::new(),
            of_unix: 0,
            series: vec![Series::new(None, now_unix_ns)],
            free: Vec::new(),
            retention,
            retained_boot_ns: 0,
            removed: HashMap::new(),
        }
    }

    /// Counts an accepted connection. Returns false if the listener has no series yet: call [`Self::assign`]
    /// first.
    #[must_use]
    pub(crate) fn count_accept(&mut self, listener: u64, queue_ns: Option<u64>) -> bool {
        let Some(series) = self.series_for(listener) else { return false };
        series.accepted += 1;
        if let Some(nanos) = queue_ns {
            series.queue.record(nanos);
        }
        true
    }

    /// Counts an accepted connection of a listener that no table has room for.
    pub(crate) fn count_accept_beyond(&mut self, queue_ns: Option<u64>) {
        self.series[SHARED].accepted += 1;
        if let Some(nanos) = queue_ns {
            self.series[SHARED].queue.record(nanos);
        }
    }

    /// Whether a listener has a series of its own whose labels were made from the same facts, of which
    /// `named_by` is a hash: then there is no need to make them again.
    #[must_use]
    pub(crate) fn is_named(&self, listener: u64, named_by: u64) -> bool {
        let known = self.listeners.get(&listener);
        known.is_some_and(|known| known.named_by == named_by && known.series != SHARED)
    }

    /// Assigns a listener to the series with these labels, which were made from facts with the hash
    /// `named_by`. Its earlier counts stay in the series that it had before.
    pub(crate) fn assign(&mut self, listener: u64, labels: Labels, named_by: u64, now_unix_ns: u64) {
        let before = self.listeners.get(&listener).map(|known| known.series);
        if before.is_some_and(|series| self.series[series].labels.as_deref() == Some(&labels)) {
            if let Some(known) = self.listeners.get_mut(&listener) {
                known.named_by = named_by;
            }
            return;
        }
        let series = self.slot_for(labels, now_unix_ns);
        self.series[series].listeners += 1;
        self.series[series].unused_since_boot_ns = None;
        let new = || ListenerEntry { series, length: 0, limit: 0, oldest_wait_ns: 0, named_by, stats: None };
        let known = self.listeners.entry(listener).or_insert_with(new);
        (known.series, known.named_by) = (series, named_by);
        if let Some(before) = before {
            self.detach_listener(before);
        }
    }

    /// Removes one listener from a series.
    fn detach_listener(&mut self, slot: usize) {
        let listeners = &mut self.series[slot].listeners;
        *listeners = listeners.saturating_sub(1);
    }

    /// The slot of the series with these labels; makes the series if needed. [`SHARED`] if there is no room.
    fn slot_for(&mut self, labels: Labels, now_unix_ns: u64) -> usize {
        if let Some(slot) = self.by_labels.get(&labels) {
            return *slot;
        }
        if !self.has_room(&labels) {
            self.evict_unused(labels.is_unix() && self.of_unix >= MAX_UNIX_SERIES);
        }
        if !self.has_room(&labels) {
            return SHARED;
        }
        self.of_unix += usize::from(labels.is_unix());
        let labels = Arc::new(labels);
        let mut new = Series::new(Some(Arc::clone(&labels)), now_unix_ns);
        new.is_hidden = self.removed.contains_key(&labels);
        let slot = self.free.pop().unwrap_or(self.series.len());
        if slot < self.series.len() {
            self.series[slot] = new;
        } else {
            self.series.push(new);
        }
        self.by_labels.insert(labels, slot);
        slot
    }

    fn has_room(&self, labels: &Labels) -> bool {
        self.by_labels.len() < MAX_SERIES && !(labels.is_unix() && self.of_unix >= MAX_UNIX_SERIES)
    }

    /// Removes the series that has been without a listener for the longest time, if there is one.
    fn evict_unused(&mut self, only_unix: bool) {
        let unused = |series: &Series| {
            let labels = series.labels.as_ref()?;
            let is_unused = series.listeners == 0 && (!only_unix || labels.is_unix());
            is_unused.then(|| series.unused_since_boot_ns.unwrap_or(u64::MAX))
        };
        let slots = self.series.iter().enumerate();
        let oldest = slots.filter_map(|(slot, series)| Some((unused(series)?, slot))).min();
        if let Some((_, slot)) = oldest {
            self.remove(slot, self.retained_boot_ns);
        }
    }

    /// Removes a series at `now_boot_ns`.
    fn remove(&mut self, slot: usize, now_boot_ns: u64) {
        let Some(labels) = std::mem::replace(&mut self.series[slot], Series::new(None, 0)).labels else {
            return;
        };
        self.by_labels.remove(&labels);
        self.of_unix -= usize::from(labels.is_unix());
        if self.removed.len() < MAX_SERIES {
            self.removed.insert(labels, now_boot_ns);
        }
        self.free.push(slot);
    }

    /// Number of listeners that have no series of their own, because there is no room.
    #[must_use]
    pub(crate) fn sharing(&self) -> u64 {
        self.series[SHARED].listeners
    }

    /// Whether a listener is assigned to a series.
    #[must_use]
    pub(crate) fn contains(&self, listener: u64) -> bool {
        self.listeners.contains_key(&listener)
    }

    /// The series that a listener counts in.
    fn series_for(&mut self, listener: u64) -> Option<&mut Series> {
        let slot = self.listeners.get(&listener)?.series;
        self.series.get_mut(slot)
    }

    /// Counts failed accepts.
    pub(crate) fn count_failures(&mut self, listener: u64, errno: u32, count: u64) {
        let Some(series) = self.series_for(listener) else { return };
        let symbol = errno::symbol(i32::try_from(errno).unwrap_or(i32::MAX));
        match series.failed.iter_mut().find(|(known, _)| *known == symbol) {
            Some((_, known)) => *known = known.saturating_add(count),
            None => series.failed.push((symbol, count)),
        }
    }

    /// Adds a finding about a full queue.
    pub(crate) fn count_overflow(&mut self, listener: u64, found: &Overflow) {
        if let Some(series) = self.series_for(listener) {
            for (total, more) in [
                (&mut series.overflows, found.refused),
                (&mut series.blocked_connects, found.waited),
                (&mut series.blocked_connect_ns, found.waited_ns),
                (&mut series.dropped_packets, found.dropped),
            ] {
                *total = total.saturating_add(more);
            }
        }
    }

    /// Counts a connection that was closed before it was accepted, and that waited for one of these
    /// listeners. If they do not all have the same series, it counts in the overflow series.
    pub(crate) fn count_abandoned(&mut self, listeners: impl Iterator<Item = u64>) {
        let mut slots = listeners.map(|listener| self.listeners.get(&listener).map(|known| known.series));
        let Some(Some(slot)) = slots.next() else { return };
        let slot = if slots.all(|other| other == Some(slot)) { slot } else { SHARED };
        self.series[slot].abandoned += 1;
    }

    /// Sets the gauges of a listener's queue.
    pub(crate) fn set_queue(&mut self, listener: u64, length: u32, limit: u32, oldest_wait_ns: u64) {
        if let Some(known) = self.listeners.get_mut(&listener) {
            (known.length, known.limit, known.oldest_wait_ns) = (length, limit, oldest_wait_ns);
        }
    }

    /// Adds what the kernel has counted of a listener's connections since the last call. Returns false if the
    /// listener is not in the table.
    pub(crate) fn count_connections(&mut self, listener: u64, stats: &ConnectionStats) -> bool {
        let Some(known) = self.listeners.get_mut(&listener) else { return false };
        let Some(series) = self.series.get_mut(known.series) else { return false };
        let before = known.stats.as_deref();
        let total_before = before.map_or(0, |before| before.total_open_ns);
        let new = stats
            .buckets
            .iter()
            .enumerate()
            .map(|(index, count)| count.saturating_sub(before.map_or(0, |before| before.buckets[index])));
        series.durations.add(stats.total_open_ns.saturating_sub(total_before), new);
        match &mut known.stats {
            Some(known) => **known = *stats,
            unknown => *unknown = Some(Box::new(*stats)),
        }
        true
    }

    /// Removes closed listeners, and the series that have had no listener for the retention time. The
    /// overflow series stays.
    pub(crate) fn retain(&mut self, now_boot_ns: u64, is_open: impl Fn(u64) -> bool) {
        let closed: Vec<u64> =
            self.listeners.keys().copied().filter(|listener| !is_open(*listener)).collect();
        for listener in closed {
            if let Some(known) = self.listeners.remove(&listener) {
                self.detach_listener(known.series);
            }
        }
        self.retained_boot_ns = now_boot_ns;
        let is_expired =
            |since: u64| Duration::from_nanos(now_boot_ns.saturating_sub(since)) >= self.retention;
        self.removed.retain(|_, removed_at| !is_expired(*removed_at));
        let mut expired = Vec::new();
        for (slot, series) in self.series.iter_mut().enumerate() {
            series.is_hidden &=
                series.labels.as_ref().is_some_and(|labels| self.removed.contains_key(labels));
            if series.labels.is_none() || series.listeners > 0 {
                continue;
            }
            if is_expired(*series.unused_since_boot_ns.get_or_insert(now_boot_ns)) {
                expired.push(slot);
            }
        }
        for slot in expired {
            self.remove(slot, now_boot_ns);
        }
    }

    /// Every visible series at this moment; the overflow series only if it is in use.
    #[must_use]
    pub(crate) fn snapshot(&self) -> Vec<Series> {
        let mut all = self.series.clone();
        for known in self.listeners.values() {
            let Some(series) = all.get_mut(known.series) else { continue };
            series.length += u64::from(known.length);
            series.limit += u64::from(known.limit);
            series.oldest_wait_ns = series.oldest_wait_ns.max(known.oldest_wait_ns);
            if let Some(stats) = &known.stats {
                let open = stats.accepted.saturating_sub(stats.closed);
                series.open = Some(series.open.unwrap_or_default() + open);
            }
        }
        all.retain(|series| {
            let is_used = series.accepted > 0 || series.abandoned > 0 || series.listeners > 0;
            !series.is_hidden && (series.labels.is_some() || is_used)
        });
        all
    }
}

#[cfg(test)]
mod tests;
