//! Delivery to one destination: what is given to it waits in a backlog (`backlog.rs`), from which workers take and send it
//! (`delivery.rs`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use acceptd_spool::{Spool, SpoolConfig, SpoolError};
use tokio::{sync::watch, task::JoinSet, time};

use crate::{
    backlog::Backlog,
    batch::Batch,
    complaint::{About, Complaints},
    delivery::{Delivery, Way},
    ledger::{DropReason, Ledger, LedgerSnapshot},
    transport::{Settings, Target, Transport, TransportError},
};

/// How to deliver.
#[derive(Debug, Clone)]
pub struct ExporterConfig {
    /// Where to.
    pub target: Target,
    /// How requests travel.
    pub settings: Settings,
    /// Deadline of one attempt.
    pub timeout: Duration,
    /// How long a request is retried that is not in a spool.
    pub retry_window: Duration,
    /// First pause before a retry.
    pub backoff_initial: Duration,
    /// Longest pause before a retry.
    pub backoff_max: Duration,
    /// Bound of the queue in memory.
    pub queue_max_bytes: usize,
    /// Requests under way at the same time.
    pub concurrency: usize,
    /// Where requests are kept until the destination has them.
    pub spool: Option<SpoolConfig>,
    /// How often a spool is written through to the disk.
    pub sync_interval: Duration,
}

impl ExporterConfig {
    /// A way that requests can be sent, for [`Exporter::redirect`]; nobody is asked.
    ///
    /// # Errors
    /// A target, header or certificate that cannot be used.
    pub fn prepare(&self) -> Result<Prepared, ExporterError> {
        Ok(Prepared(Way::over(Transport::new(&self.target, &self.settings)?, self)))
    }
}

/// Target, settings, timeout, retry window and back-off that can be used.
#[derive(Debug)]
pub struct Prepared(Way);

/// A handle to the delivery; cloning shares it.
#[derive(Debug, Clone)]
pub struct Exporter {
    delivery: Arc<Delivery>,
    workers: Arc<Mutex<JoinSet<()>>>,
}

impl Exporter {
    /// Starts the delivery on the current tokio runtime. Does not connect yet: a Collector that is down, or whose name
    /// does not resolve, is retried.
    ///
    /// # Errors
    /// A target, header or certificate that cannot be used at all; a spool that somebody else uses.
    pub fn spawn(config: ExporterConfig) -> Result<Self, ExporterError> {
        let transport = Transport::new(&config.target, &config.settings)?;
        Self::over(transport, config)
    }

    fn over(transport: Transport, config: ExporterConfig) -> Result<Self, ExporterError> {
        let ledger = Ledger::default();
        let way = Way::over(transport, &config);
        let spool = config.spool.map(|spool| open(spool, &ledger)).transpose()?.flatten();
        let workers = config.concurrency.max(1);
        let delivery = Arc::new(Delivery {
            way: watch::Sender::new(way),
            sync_interval: config.sync_interval,
            backlog: Backlog::new(config.queue_max_bytes, spool),
            ledger,
            complaints: Complaints::default(),
            stopping: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(Arc::clone(&delivery).work());
        }
        if delivery.backlog.has_spool() {
            tasks.spawn(Arc::clone(&delivery).keep_in_sync());
        }
        Ok(Self { delivery, workers: Arc::new(Mutex::new(tasks)) })
    }

    /// Sends everything from now on in this way, what waits for its next attempt too. The queue, the spool and the number of
    /// requests under way stay as they are.
    pub fn redirect(&self, Prepared(way): Prepared) {
        self.delivery.way.send_replace(way);
    }

    /// Where it sends to.
    #[must_use]
    pub fn target(&self) -> Target {
        self.delivery.target()
    }

    /// Takes a batch; never waits for the network. Without a spool, or when it takes nothing, the oldest batches in memory are
    /// dropped when they are too many, and counted.
    pub fn push(&self, batch: Batch) {
        let Delivery { backlog, ledger, complaints, .. } = &*self.delivery;
        let records = u64::from(batch.records);
        let has_spool = backlog.has_spool();
        ledger.change(|ledger| {
            ledger.records += records;
            *(if has_spool { &mut ledger.spooled } else { &mut ledger.queued }) += records;
        });
        if has_spool {
            let appended = backlog.append(&batch);
            self.delivery.count_losses();
            let Err(error) = appended else {
                complaints.recovered(About::Append, || "the spool takes records again".to_owned());
                return;
            };
            ledger.change(|ledger| {
                ledger.spooled -= records;
                ledger.queued += records;
            });
            complaints.warn(About::Append, &format!(
                "the spool for {} takes nothing: {error}; records stay in memory, at most queue.max_bytes of them; make room on the disk, or make spool.directory writable",
                self.delivery.target()
            ));
        }
        let dropped: u64 = backlog.push(batch).iter().map(|batch| u64::from(batch.records)).sum();
        if dropped > 0 {
            ledger.change(|ledger| {
                ledger.queued -= dropped;
                ledger.add_dropped(DropReason::QueueFull, dropped);
            });
            complaints.warn(About::Queue, &format!(
                "the queue for {} is full: {dropped} records dropped; it is slower than the accepts, or down; raise queue.max_bytes, set spool.directory, or look there",
                self.delivery.target()
            ));
        }
    }

    /// What became of the records so far.
    #[must_use]
    pub fn ledger(&self) -> LedgerSnapshot {
        self.delivery.ledger.snapshot()
    }

    /// What is not well with the delivery, in words.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.delivery.complaints.troubles()
    }

    /// Delivers what it can until `deadline`, and returns the final ledger. What waits for its next try is tried at once, and what
    /// is in the spool after that stays there; the rest is dropped, and counted as `shutdown`.
    pub async fn shutdown(self, deadline: Instant) -> LedgerSnapshot {
        let Delivery { backlog, ledger, stopping, complaints, .. } = &*self.delivery;
        backlog.close();
        stopping.send_replace(true);
        let mut workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let all_ended = async { while workers.join_next().await.is_some() {} };
        if time::timeout_at(deadline.into(), all_ended).await.is_err() {
            workers.shutdown().await;
        }
        let left = backlog.abandon();
        ledger.change(|ledger| {
            ledger.queued -= left;
            ledger.add_dropped(DropReason::Shutdown, left);
        });
        self.delivery.count_losses();
        if let Err(error) = backlog.close_spool() {
            complaints.warn(About::Disk, &format!(
                "the spool cannot be closed: {error}; the next start reads more of it, and some records may be sent twice"
            ));
        }
        self.ledger()
    }
}

/// Opens a spool, with what an earlier run left in it. One that cannot be used is not worth ending for: then there is none.
fn open(config: SpoolConfig, ledger: &Ledger) -> Result<Option<Spool>, SpoolError> {
    let (spool, recovery) = match Spool::open(config) {
        Ok(opened) => opened,
        Err(error @ SpoolError::Locked(_)) => return Err(error),
        Err(error @ SpoolError::Unusable { .. }) => {
            tracing::warn!("{error}; until then records are kept in memory, at most queue.max_bytes of them");
            return Ok(None);
        }
    };
    for oddity in &recovery.oddities {
        tracing::warn!("{oddity}");
    }
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            "{} bytes at the end of the spool are no whole request: an earlier run did not come to write it",
            recovery.torn_bytes
        );
    }
    if recovery.records > 0 {
        tracing::info!("{} records of an earlier run are in the spool and will be sent", recovery.records);
    }
    ledger.change(|ledger| {
        ledger.recovered = recovery.records;
        ledger.spooled = recovery.records;
    });
    Ok(Some(spool))
}

/// A destination that cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// Its address, headers or certificates.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Its spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::{
        retry::Verdict,
        signal::Signal,
        transport::{Refused, scripted::Client},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> ExporterConfig {
        ExporterConfig {
            target: Target::Http("http://scripted".to_owned()),
            settings: Settings::default(),
            timeout: 10 * SECOND,
            retry_window: 300 * SECOND,
            backoff_initial: SECOND,
            backoff_max: 30 * SECOND,
            queue_max_bytes: 1 << 20,
            concurrency: 1,
            spool: None,
            sync_interval: SECOND,
        }
    }

    /// One batch, refused so often, on a clock that stands still but for the pauses: the ledger, and the pauses.
    async fn delivered(
        refusals: impl IntoIterator<Item = Verdict>,
        config: ExporterConfig,
    ) -> (LedgerSnapshot, Vec<Duration>) {
        let refused = |verdict| Refused { verdict, reason: "scripted".to_owned() };
        let client = Client::refusing(refusals.into_iter().map(refused));
        let began = Instant::now();
        let exporter = Exporter::over(Transport::Scripted(client.clone()), config).expect("no spool");
        exporter.push(Batch { signal: Signal::Logs, request: vec![0; 9].into(), records: 7 });
        while exporter.ledger().acknowledged + exporter.ledger().dropped_total() == 0 {
            assert!(began.elapsed() < 1000 * SECOND, "{:?}", exporter.ledger());
            time::sleep(SECOND).await;
        }
        let asked = client.asked_at();
        let pauses = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        (exporter.ledger(), pauses)
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest_and_none_is_shorter_than_half() {
        let (ledger, pauses) = delivered([Verdict::Retry; 9], config()).await;
        assert_eq!((ledger.acknowledged, ledger.retries), (7, 9));
        for (pause, whole) in pauses.iter().zip([1, 2, 4, 8, 16, 30, 30, 30, 30]) {
            // tokio's clock ticks in milliseconds.
            let whole = whole * SECOND + Duration::from_millis(2);
            assert!(
                *pause >= (whole / 2).checked_sub(Duration::from_millis(2)).unwrap() && *pause <= whole,
                "{pause:?} of {whole:?}"
            );
        }
        assert_eq!(pauses.len(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn no_two_agents_pause_alike() {
        let mut firsts = Vec::new();
        for _ in 0..20 {
            firsts.push(delivered([Verdict::Retry], config()).await.1[0].as_millis());
        }
        firsts.sort_unstable();
        firsts.dedup();
        assert!(firsts.len() >= 10, "{firsts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_wish_is_taken_to_the_letter() {
        let wish = 77 * SECOND;
        let (ledger, pauses) = delivered([Verdict::RetryAfter(wish)], config()).await;
        assert_eq!(ledger.acknowledged, 7);
        assert!(pauses[0] >= wish && pauses[0] <= wish + Duration::from_millis(2), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_is_never_overstepped() {
        let began = Instant::now();
        let (ledger, pauses) = delivered(vec![Verdict::Retry; 1000], config()).await;
        assert_eq!((ledger.dropped[&DropReason::RetryExpired], ledger.retries), (7, pauses.len() as u64));
        let waited: Duration = pauses.iter().sum();
        assert!(waited <= 300 * SECOND && waited > 269 * SECOND, "{waited:?}");
        assert!(began.elapsed() < 302 * SECOND);
        let beyond = delivered([Verdict::RetryAfter(301 * SECOND)], config()).await.0;
        assert_eq!(
            (beyond.dropped[&DropReason::RetryExpired], beyond.retries),
            (7, 0),
            "it would be in vain"
        );
        let never = ExporterConfig { retry_window: Duration::ZERO, ..config() };
        assert_eq!(delivered([Verdict::Retry], never).await.0.retries, 0);
    }
}
