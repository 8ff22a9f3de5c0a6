//! What is counted of listeners, for metrics: one series for each name that listeners have, however many sockets have it. Pure.
//!
//! A series ends with its last listener, a while after it: what was counted last is to be read once more. Beyond [`MOST`] all
//! others share one.

use std::{sync::Arc, time::Duration};

use acceptd_common::Lives;
use acceptd_otlp::errno;
use foldhash::{HashMap, HashMapExt as _};

use crate::listener::histogram::Histogram;

/// Series beside the one that others share.
const MOST: usize = 500;

/// What names a series: its attributes. Nothing that is another one for every process or connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    /// `network.transport`
    pub transport: &'static str,
    /// `network.type`
    pub network_type: Option<&'static str>,
    /// `network.local.address`: what it is bound to.
    pub address: Option<String>,
    /// `network.local.port`
    pub port: Option<u32>,
    /// `acceptd.listener.service`
    pub service: String,
    /// `process.executable.name`
    pub executable: String,
}

/// One series at one moment.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name; nothing for the one that all share for which there is no room.
    pub labels: Option<Arc<Labels>>,
    /// When it began, nanoseconds since the Unix epoch.
    pub since_unix_ns: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Accepts that failed, by the symbol of their error.
    pub failed: Vec<(&'static str, u64)>,
    /// How long connections waited.
    pub queue: Histogram,
    /// Connections that were dropped because the queue was full.
    pub overflows: u64,
    /// Connections that were closed without being accepted.
    pub abandoned: u64,
    /// How long connections were open that are not any more.
    pub lives: Histogram,
    /// Of now: connections that are open; nothing when they are not counted.
    pub open: Option<u64>,
    /// Of now: connections in the queues, and how many there could be.
    pub length: u64,
    /// See `length`.
    pub limit: u64,
    /// Of now: how long the oldest of them waits, in nanoseconds.
    pub oldest_wait_ns: u64,
    /// Listeners that have this name.
    listeners: usize,
    /// When the last of them was gone, nanoseconds on `CLOCK_BOOTTIME`.
    ended_boot_ns: Option<u64>,
    /// Whether it is not shown yet, since one of its name was shown last.
    is_hidden: bool,
}

/// One listener.
#[derive(Debug)]
struct Listener {
    series: usize,
    length: u32,
    limit: u32,
    oldest_wait_ns: u64,
    /// What was added to its series already.
    lives: Option<Box<Lives>>,
}

/// All of them.
#[derive(Debug)]
pub struct AllSeries {
    /// By inode.
    listeners: HashMap<u64, Listener>,
    by_labels: HashMap<Arc<Labels>, usize>,
    /// The first is the shared one. Places of those that ended are used again.
    series: Vec<Series>,
    free: Vec<usize>,
    /// How long a series stays when its last listener is gone.
    stays: Duration,
    /// Names of series that ended, and when (`CLOCK_BOOTTIME`): until a reader has seen that one is not there, another one of its
    /// name would be taken for the same, with counts that fell.
    buried: HashMap<Arc<Labels>, u64>,
}

impl Series {
    fn new(labels: Option<Arc<Labels>>, since_unix_ns: u64) -> Self {
        Self {
            labels,
            since_unix_ns,
            accepted: 0,
            failed: Vec::new(),
            queue: Histogram::default(),
            overflows: 0,
            abandoned: 0,
            lives: Histogram::default(),
            open: None,
            length: 0,
            limit: 0,
            oldest_wait_ns: 0,
            listeners: 0,
            ended_boot_ns: None,
            is_hidden: false,
        }
    }
}

impl AllSeries {
    /// None yet. One that ends `stays` for so long.
    #[must_use]
    pub fn new(now_unix_ns: u64, stays: Duration) -> Self {
        Self {
            listeners: HashMap::new(),
            by_labels: HashMap::new(),
            series: vec![Series::new(None, now_unix_ns)],
            free: Vec::new(),
            stays,
            buried: HashMap::new(),
        }
    }

    /// A connection was accepted from a listener. False when the listener is not known: it has to be [named](Self::name) first.
    #[must_use]
    pub fn accepted(&mut self, listener: u64, queue_ns: Option<u64>) -> bool {
        let Some(series) = self.of(listener) else { return false };
        series.accepted += 1;
        if let Some(nanos) = queue_ns {
            series.queue.record(nanos);
        }
        true
    }

    /// A listener has these labels from now on. What was counted of it stays with those that it had.
    pub fn name(&mut self, listener: u64, labels: Labels, now_unix_ns: u64) {
        let before = self.listeners.get(&listener).map(|known| known.series);
        if before.is_some_and(|series| self.series[series].labels.as_deref() == Some(&labels)) {
            return;
        }
        let series = self.place_of(labels, now_unix_ns);
        self.series[series].listeners += 1;
        self.series[series].ended_boot_ns = None;
        let new = || Listener { series, length: 0, limit: 0, oldest_wait_ns: 0, lives: None };
        self.listeners.entry(listener).or_insert_with(new).series = series;
        if let Some(before) = before {
            self.leave(before);
        }
    }

    /// A listener has a series no more.
    fn leave(&mut self, place: usize) {
        let listeners = &mut self.series[place].listeners;
        *listeners = listeners.saturating_sub(1);
    }

    fn place_of(&mut self, labels: Labels, now_unix_ns: u64) -> usize {
        if let Some(place) = self.by_labels.get(&labels) {
            return *place;
        }
        if self.by_labels.len() >= MOST {
            return 0;
        }
        let labels = Arc::new(labels);
        let mut new = Series::new(Some(Arc::clone(&labels)), now_unix_ns);
        new.is_hidden = self.buried.contains_key(&labels);
        let place = self.free.pop().unwrap_or(self.series.len());
        if place < self.series.len() {
            self.series[place] = new;
        } else {
            self.series.push(new);
        }
        self.by_labels.insert(labels, place);
        place
    }

    /// Whether a listener has a series.
    #[must_use]
    pub fn has(&self, listener: u64) -> bool {
        self.listeners.contains_key(&listener)
    }

    fn of(&mut self, listener: u64) -> Option<&mut Series> {
        let place = self.listeners.get(&listener)?.series;
        self.series.get_mut(place)
    }

    /// Accepts failed.
    pub fn failed(&mut self, listener: u64, errno: u32, count: u64) {
        let Some(series) = self.of(listener) else { return };
        let symbol = errno::symbol(i32::try_from(errno).unwrap_or(i32::MAX));
        match series.failed.iter_mut().find(|(known, _)| *known == symbol) {
            Some((_, known)) => *known += count,
            None => series.failed.push((symbol, count)),
        }
    }

    /// The queue was full.
    pub fn overflowed(&mut self, listener: u64, count: u32) {
        if let Some(series) = self.of(listener) {
            series.overflows += u64::from(count);
        }
    }

    /// A connection was closed without being accepted.
    pub fn abandoned(&mut self, listener: u64) {
        if let Some(series) = self.of(listener) {
            series.abandoned += 1;
        }
    }

    /// The state of a listener's queue.
    pub fn looked(&mut self, listener: u64, length: u32, limit: u32, oldest_wait_ns: u64) {
        if let Some(known) = self.listeners.get_mut(&listener) {
            (known.length, known.limit, known.oldest_wait_ns) = (length, limit, oldest_wait_ns);
        }
    }

    /// What the programs counted of a listener's connections by now. False when nobody listens there any more.
    pub fn lived(&mut self, listener: u64, lives: &Lives) -> bool {
        let Some(known) = self.listeners.get_mut(&listener) else { return false };
        let Some(series) = self.series.get_mut(known.series) else { return false };
        let before = known.lives.as_deref();
        let told = before.map_or(0, |before| before.total_ns);
        let new = lives
            .buckets
            .iter()
            .enumerate()
            .map(|(index, count)| count.saturating_sub(before.map_or(0, |before| before.buckets[index])));
        series.lives.add(lives.total_ns.saturating_sub(told), new);
        match &mut known.lives {
            Some(known) => **known = *lives,
            unknown => *unknown = Some(Box::new(*lives)),
        }
        true
    }

    /// Forgets the listeners that are not open any more, and the series that have been without one for long enough. The shared
    /// one stays: its counts are nobody's in particular.
    pub fn retain(&mut self, now_boot_ns: u64, is_open: impl Fn(u64) -> bool) {
        let closed: Vec<u64> =
            self.listeners.keys().copied().filter(|listener| !is_open(*listener)).collect();
        for listener in closed {
            if let Some(known) = self.listeners.remove(&listener) {
                self.leave(known.series);
            }
        }
        let is_long = |since: u64| Duration::from_nanos(now_boot_ns.saturating_sub(since)) >= self.stays;
        self.buried.retain(|_, ended| !is_long(*ended));
        for (place, series) in self.series.iter_mut().enumerate().skip(1) {
            series.is_hidden &= series.labels.as_ref().is_some_and(|labels| self.buried.contains_key(labels));
            let Some(labels) = series.labels.as_ref().filter(|_| series.listeners == 0) else { continue };
            let ended = *series.ended_boot_ns.get_or_insert(now_boot_ns);
            if is_long(ended) {
                self.by_labels.remove(labels);
                if self.buried.len() < MOST {
                    self.buried.insert(Arc::clone(labels), now_boot_ns);
                }
                *series = Series::new(None, 0);
                self.free.push(place);
            }
        }
    }

    /// Every series of this moment, the shared one only if it has something to say.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Series> {
        let mut all = self.series.clone();
        for known in self.listeners.values() {
            let Some(series) = all.get_mut(known.series) else { continue };
            series.length += u64::from(known.length);
            series.limit += u64::from(known.limit);
            series.oldest_wait_ns = series.oldest_wait_ns.max(known.oldest_wait_ns);
            if let Some(lives) = &known.lives {
                let open = lives.accepted.saturating_sub(lives.ended);
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

    fn lives(accepted: u64, ended: u64) -> Lives {
        let mut lives = Lives { accepted, ended, total_ns: ended * 1_000_000, buckets: [0; _] };
        lives.buckets[acceptd_common::histogram::bucket(1_000_000)] = ended;
        lives
    }

    #[test]
    fn sockets_of_one_name_are_one_series() {
        let mut all = AllSeries::new(1, Duration::from_mins(1));
        assert!(!all.accepted(7, None), "nobody has named it");
        for (listener, port) in [(7, 80), (8, 80), (9, 81)] {
            all.name(listener, labels(port), 2);
            assert!(all.accepted(listener, Some(1_000)));
            all.looked(listener, 3, 10, listener);
            all.lived(listener, &lives(5, 2));
        }
        all.failed(7, 24, 3);
        all.failed(8, 24, 1);
        all.overflowed(8, 4);
        all.abandoned(7);
        let found = all.snapshot();
        assert_eq!(found.len(), 2);
        let both =
            found.iter().find(|series| series.labels.as_deref() == Some(&labels(80))).expect("port 80");
        assert_eq!((both.accepted, both.queue.count(), both.lives.count(), both.open), (2, 2, 4, Some(6)));
        assert_eq!(both.failed, [("EMFILE", 4)]);
        assert_eq!((both.overflows, both.abandoned), (4, 1));
        assert_eq!((both.length, both.limit, both.oldest_wait_ns, both.since_unix_ns), (6, 20, 8, 2));
    }

    #[test]
    fn counts_of_the_kernel_are_added_once() {
        let mut all = AllSeries::new(1, Duration::from_mins(1));
        all.name(7, labels(80), 1);
        all.lived(7, &lives(5, 2));
        all.lived(7, &lives(9, 3));
        let found = all.snapshot();
        assert_eq!((found[0].lives.count(), found[0].lives.sum(), found[0].open), (3, 0.003, Some(6)));
        assert!(!all.lived(8, &lives(1, 1)), "nobody listens there");
    }

    const MINUTE: u64 = 60_000_000_000;

    #[test]
    fn a_series_ends_a_while_after_its_last_listener() {
        let mut all = AllSeries::new(1, Duration::from_mins(1));
        all.name(7, labels(80), 1);
        all.name(8, labels(80), 1);
        assert!(all.accepted(8, None));
        all.retain(0, |listener| listener == 8);
        all.retain(2 * MINUTE, |listener| listener == 8);
        assert_eq!(all.snapshot()[0].accepted, 1);
        all.retain(3 * MINUTE, |_| false);
        all.retain(4 * MINUTE - 1, |_| false);
        assert_eq!(all.snapshot()[0].accepted, 1, "it can be read once more");
        all.retain(4 * MINUTE, |_| false);
        assert_eq!(all.snapshot().len(), 0);
        all.name(9, labels(80), 5);
        all.retain(5 * MINUTE - 1, |_| true);
        assert_eq!(all.snapshot().len(), 0, "whoever reads has to see that the first one ended");
        all.retain(5 * MINUTE, |_| true);
        assert_eq!((all.snapshot()[0].since_unix_ns, all.snapshot()[0].accepted), (5, 0), "another one");
        assert_eq!(all.series.len(), 2, "in the same place");
        all.retain(6 * MINUTE, |_| false);
        all.name(9, labels(80), 6);
        all.retain(8 * MINUTE, |_| true);
        assert_eq!(all.snapshot()[0].since_unix_ns, 5, "who is back in time goes on");
    }

    #[test]
    fn a_listener_of_another_service_is_another_series() {
        let mut all = AllSeries::new(1, Duration::ZERO);
        all.name(7, labels(80), 1);
        assert!(all.accepted(7, None));
        let other = Labels { service: "known by now".to_owned(), ..labels(80) };
        all.name(7, other.clone(), 2);
        assert!(all.accepted(7, None));
        all.retain(1, |_| true);
        let found = all.snapshot();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].labels.as_deref(), found[0].accepted), (Some(&other), 1));
    }

    #[test]
    fn those_beyond_share_one() {
        let mut all = AllSeries::new(1, Duration::from_mins(1));
        for listener in 1..=MOST as u64 + 20 {
            all.name(listener, labels(u32::try_from(listener).expect("small")), 1);
            assert!(all.accepted(listener, None));
        }
        let found = all.snapshot();
        assert_eq!(found.len(), MOST + 1);
        let shared = found.iter().find(|series| series.labels.is_none()).expect("the shared one");
        assert_eq!(shared.accepted, 20);
    }
}
