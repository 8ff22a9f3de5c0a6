//! The metrics of listeners: one series for each set of labels, shared by all listeners with these labels. No
//! I/O.
//!
//! A series is removed some time after its last listener closed, so that the final counts are read once more.
//! At most [`MAX_SERIES`] series exist; all further listeners share the overflow series.

use std::{sync::Arc, time::Duration};

use acceptd_common::ConnectionStats;
use acceptd_otlp::errno;
use foldhash::{HashMap, HashMapExt as _};

use super::histogram::DurationHistogram;

/// Most series besides the overflow series.
const MAX_SERIES: usize = 500;

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
}

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
    /// Number of connections that the kernel dropped because the queue was full.
    pub(crate) overflows: u64,
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
    /// Number of listeners with these labels.
    listeners: usize,
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
    /// The kernel's statistics that were added to the series already.
    stats: Option<Box<ConnectionStats>>,
}

/// All series, and the listeners that count in them.
#[derive(Debug)]
pub(crate) struct SeriesTable {
    /// Listeners by inode number.
    listeners: HashMap<u64, ListenerEntry>,
    by_labels: HashMap<Arc<Labels>, usize>,
    /// The overflow series is the first one. Slots of removed series are reused.
    series: Vec<Series>,
    free: Vec<usize>,
    /// How long a series is kept after its last listener closed.
    retention: Duration,
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
            series: vec![Series::new(None, now_unix_ns)],
            free: Vec::new(),
            retention,
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

    /// Assigns a listener to the series with these labels. Its earlier counts stay in the series that it had
    /// before.
    pub(crate) fn assign(&mut self, listener: u64, labels: Labels, now_unix_ns: u64) {
        let before = self.listeners.get(&listener).map(|known| known.series);
        if before.is_some_and(|series| self.series[series].labels.as_deref() == Some(&labels)) {
            return;
        }
        let series = self.slot_for(labels, now_unix_ns);
        self.series[series].listeners += 1;
        self.series[series].unused_since_boot_ns = None;
        let new = || ListenerEntry { series, length: 0, limit: 0, oldest_wait_ns: 0, stats: None };
        self.listeners.entry(listener).or_insert_with(new).series = series;
        if let Some(before) = before {
            self.detach_listener(before);
        }
    }

    /// Removes one listener from a series.
    fn detach_listener(&mut self, slot: usize) {
        let listeners = &mut self.series[slot].listeners;
        *listeners = listeners.saturating_sub(1);
    }

    /// The slot of the series with these labels; makes the series if needed. Slot 0 if there is no room.
    fn slot_for(&mut self, labels: Labels, now_unix_ns: u64) -> usize {
        if let Some(slot) = self.by_labels.get(&labels) {
            return *slot;
        }
        if self.by_labels.len() >= MAX_SERIES {
            return 0;
        }
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
            Some((_, known)) => *known += count,
            None => series.failed.push((symbol, count)),
        }
    }

    /// Counts connections that the kernel dropped because the queue was full.
    pub(crate) fn count_overflow(&mut self, listener: u64, count: u32) {
        if let Some(series) = self.series_for(listener) {
            series.overflows += u64::from(count);
        }
    }

    /// Counts a connection that was closed before it was accepted.
    pub(crate) fn count_abandoned(&mut self, listener: u64) {
        if let Some(series) = self.series_for(listener) {
            series.abandoned += 1;
        }
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
        let is_expired =
            |since: u64| Duration::from_nanos(now_boot_ns.saturating_sub(since)) >= self.retention;
        self.removed.retain(|_, removed_at| !is_expired(*removed_at));
        for (slot, series) in self.series.iter_mut().enumerate().skip(1) {
            series.is_hidden &=
                series.labels.as_ref().is_some_and(|labels| self.removed.contains_key(labels));
            let Some(labels) = series.labels.as_ref().filter(|_| series.listeners == 0) else { continue };
            let since = *series.unused_since_boot_ns.get_or_insert(now_boot_ns);
            if is_expired(since) {
                self.by_labels.remove(labels);
                if self.removed.len() < MAX_SERIES {
                    self.removed.insert(Arc::clone(labels), now_boot_ns);
                }
                *series = Series::new(None, 0);
                self.free.push(slot);
            }
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
            !series.is_hidden && (series.labels.is_some() || series.accepted > 0 || series.listeners > 0)
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(port: u32) -> Labels {
        Labels {
            transport: "tcp",
            network_type: Some("ipv4"),
            address: Some("0.0.0.0".to_owned()),
            port: Some(port),
            service: "shop".to_owned(),
            executable: "nginx".to_owned(),
        }
    }

    fn stats(accepted: u64, closed: u64) -> ConnectionStats {
        let mut stats =
            ConnectionStats { accepted, closed, total_open_ns: closed * 1_000_000, buckets: [0; _] };
        stats.buckets[acceptd_common::histogram::bucket(1_000_000)] = closed;
        stats
    }

    #[test]
    fn listeners_with_the_same_labels_share_a_series() {
        let mut all = SeriesTable::new(1, Duration::from_mins(1));
        assert!(!all.count_accept(7, None), "no labels are assigned");
        for (listener, port) in [(7, 80), (8, 80), (9, 81)] {
            all.assign(listener, labels(port), 2);
            assert!(all.count_accept(listener, Some(1_000)));
            all.set_queue(listener, 3, 10, listener);
            all.count_connections(listener, &stats(5, 2));
        }
        all.count_failures(7, 24, 3);
        all.count_failures(8, 24, 1);
        all.count_overflow(8, 4);
        all.count_abandoned(7);
        let found = all.snapshot();
        assert_eq!(found.len(), 2);
        let both =
            found.iter().find(|series| series.labels.as_deref() == Some(&labels(80))).expect("port 80");
        assert_eq!(
            (both.accepted, both.queue.count(), both.durations.count(), both.open),
            (2, 2, 4, Some(6))
        );
        assert_eq!(both.failed, [("EMFILE", 4)]);
        assert_eq!((both.overflows, both.abandoned), (4, 1));
        assert_eq!((both.length, both.limit, both.oldest_wait_ns, both.since_unix_ns), (6, 20, 8, 2));
    }

    #[test]
    fn counts_of_the_kernel_are_added_once() {
        let mut all = SeriesTable::new(1, Duration::from_mins(1));
        all.assign(7, labels(80), 1);
        all.count_connections(7, &stats(5, 2));
        all.count_connections(7, &stats(9, 3));
        let found = all.snapshot();
        assert_eq!(
            (found[0].durations.count(), found[0].durations.sum(), found[0].open),
            (3, 0.003, Some(6))
        );
        assert!(!all.count_connections(8, &stats(1, 1)), "the listener is unknown");
    }

    const MINUTE: u64 = 60_000_000_000;

    #[test]
    fn a_series_is_removed_some_time_after_its_last_listener() {
        let mut all = SeriesTable::new(1, Duration::from_mins(1));
        all.assign(7, labels(80), 1);
        all.assign(8, labels(80), 1);
        assert!(all.count_accept(8, None));
        all.retain(0, |listener| listener == 8);
        all.retain(2 * MINUTE, |listener| listener == 8);
        assert_eq!(all.snapshot()[0].accepted, 1);
        all.retain(3 * MINUTE, |_| false);
        all.retain(4 * MINUTE - 1, |_| false);
        assert_eq!(all.snapshot()[0].accepted, 1, "it can be read once more");
        all.retain(4 * MINUTE, |_| false);
        assert_eq!(all.snapshot().len(), 0);
        all.assign(9, labels(80), 5);
        all.retain(5 * MINUTE - 1, |_| true);
        assert_eq!(all.snapshot().len(), 0, "a reader has to see the labels absent first");
        all.retain(5 * MINUTE, |_| true);
        assert_eq!((all.snapshot()[0].since_unix_ns, all.snapshot()[0].accepted), (5, 0), "a new series");
        assert_eq!(all.series.len(), 2, "in the same slot");
        all.retain(6 * MINUTE, |_| false);
        all.assign(9, labels(80), 6);
        all.retain(8 * MINUTE, |_| true);
        assert_eq!(
            all.snapshot()[0].since_unix_ns,
            5,
            "a listener that is back in time continues the series"
        );
    }

    #[test]
    fn a_listener_whose_service_changes_gets_another_series() {
        let mut all = SeriesTable::new(1, Duration::ZERO);
        all.assign(7, labels(80), 1);
        assert!(all.count_accept(7, None));
        let other = Labels { service: "known by now".to_owned(), ..labels(80) };
        all.assign(7, other.clone(), 2);
        assert!(all.count_accept(7, None));
        all.retain(1, |_| true);
        let found = all.snapshot();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].labels.as_deref(), found[0].accepted), (Some(&other), 1));
    }

    #[test]
    fn listeners_beyond_the_limit_share_the_overflow_series() {
        let mut all = SeriesTable::new(1, Duration::from_mins(1));
        for listener in 1..=MAX_SERIES as u64 + 20 {
            all.assign(listener, labels(u32::try_from(listener).expect("small")), 1);
            assert!(all.count_accept(listener, None));
        }
        let found = all.snapshot();
        assert_eq!(found.len(), MAX_SERIES + 1);
        let overflow = found.iter().find(|series| series.labels.is_none()).expect("the overflow series");
        assert_eq!(overflow.accepted, 20);
    }
}
