//! Starts and stops the delivery of batches to one destination, and takes the batches to deliver. They wait
//! in the delivery queue (`queue.rs`); worker tasks take them from there and send them (`worker.rs`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use acceptd_spool::{Spool, SpoolConfig, SpoolError};
use tokio::{sync::watch, task::JoinSet, time};

use crate::{
    batch::Batch,
    failure_log::{Failure, FailureLog},
    ledger::{DropReason, Ledger, LedgerSnapshot},
    queue::DeliveryQueue,
    route::{ExporterConfig, ExporterError, PreparedRoute, Route},
    transport::{Target, TransportClient},
    worker::Shared,
};

/// A handle to one exporter. Clones share the same queue and workers.
#[derive(Debug, Clone)]
pub struct Exporter {
    shared: Arc<Shared>,
    workers: Arc<Mutex<JoinSet<()>>>,
}

impl Exporter {
    /// Starts the workers on the current tokio runtime. This does not connect yet: a Collector that is down,
    /// or whose name does not resolve, is retried with each request.
    ///
    /// # Errors
    /// The target, a header or a certificate is invalid, or another process uses the spool.
    pub fn spawn(config: ExporterConfig) -> Result<Self, ExporterError> {
        let transport = TransportClient::new(&config.target, &config.settings)?;
        Self::with_transport(transport, config)
    }

    fn with_transport(transport: TransportClient, config: ExporterConfig) -> Result<Self, ExporterError> {
        let ledger = Ledger::default();
        let route = Route::new(transport, &config);
        let spool = config.spool.map(|spool| open_spool(spool, &ledger)).transpose()?.flatten();
        let workers = config.concurrency.max(1);
        let shared = Arc::new(Shared {
            route: watch::Sender::new(route),
            sync_interval: config.sync_interval,
            queue: DeliveryQueue::new(config.queue_max_bytes, spool),
            ledger,
            failures: FailureLog::default(),
            stopping: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(Arc::clone(&shared).work());
        }
        if shared.queue.has_spool() {
            tasks.spawn(Arc::clone(&shared).sync_spool_periodically());
        }
        Ok(Self { shared, workers: Arc::new(Mutex::new(tasks)) })
    }

    /// Sends every request over this route from now on, also those that wait for their next attempt. The
    /// queue, the spool and the number of workers do not change.
    pub fn redirect(&self, PreparedRoute(route): PreparedRoute) {
        self.shared.route.send_replace(route);
    }

    /// The destination of the current route.
    #[must_use]
    pub fn target(&self) -> Target {
        self.shared.target()
    }

    /// Queues a batch, and never waits for the network. The batch goes to the spool; without a spool, or when
    /// the spool cannot be written, it goes to memory. When the queue in memory is full, its oldest batches
    /// are dropped and counted as `queue_full`.
    pub fn push(&self, batch: Batch) {
        let Shared { queue, ledger, failures, .. } = &*self.shared;
        let records = u64::from(batch.records);
        let has_spool = queue.has_spool();
        ledger.change(|ledger| {
            ledger.records += records;
            *(if has_spool { &mut ledger.spooled } else { &mut ledger.queued }) += records;
        });
        if has_spool {
            let appended = queue.append(&batch);
            self.shared.count_losses();
            let Err(error) = appended else {
                failures
                    .recovered(Failure::SpoolAppend, || "records are written to the spool again".to_owned());
                return;
            };
            ledger.change(|ledger| {
                ledger.spooled -= records;
                ledger.queued += records;
            });
            failures.warn(Failure::SpoolAppend, &format!(
                "cannot write to the spool for {}: {error}; records are kept in memory, up to queue.max_bytes; make room on the disk, or make spool.directory writable",
                self.shared.target()
            ));
        }
        let dropped: u64 = queue.push(batch).iter().map(|batch| u64::from(batch.records)).sum();
        if dropped > 0 {
            ledger.change(|ledger| {
                ledger.queued -= dropped;
                ledger.add_dropped(DropReason::QueueFull, dropped);
            });
            failures.warn(Failure::QueueFull, &format!(
                "the queue for {} is full: {dropped} records dropped; the destination is down or slower than the accepts; raise queue.max_bytes, set spool.directory, or check the destination",
                self.shared.target()
            ));
        }
    }

    /// The counts of all records so far, by outcome.
    #[must_use]
    pub fn ledger(&self) -> LedgerSnapshot {
        self.shared.ledger.snapshot()
    }

    /// One message for each failure that persists, or that happened within the last minute.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.shared.failures.troubles()
    }

    /// Delivers as much as possible until `deadline`, and returns the final ledger. Requests that wait for
    /// their next attempt are sent at once. Records that are in the spool after that stay there; the others
    /// are dropped and counted as `shutdown`.
    pub async fn shutdown(self, deadline: Instant) -> LedgerSnapshot {
        let Shared { queue, ledger, stopping, failures, .. } = &*self.shared;
        queue.close();
        stopping.send_replace(true);
        let mut workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let all_finished = async { while workers.join_next().await.is_some() {} };
        if time::timeout_at(deadline.into(), all_finished).await.is_err() {
            workers.shutdown().await;
        }
        let undelivered = queue.discard_memory();
        ledger.change(|ledger| {
            ledger.queued -= undelivered;
            ledger.add_dropped(DropReason::Shutdown, undelivered);
        });
        self.shared.count_losses();
        if let Err(error) = queue.close_spool() {
            failures.warn(Failure::SpoolSync, &format!(
                "cannot close the spool: {error}; the next start reads more of the spool, and some records may be sent twice"
            ));
        }
        self.ledger()
    }
}

/// Opens the spool, and counts the records that an earlier run left in it. An unusable folder is logged and
/// returns `None`, so the agent runs without a spool; a folder that another process has locked is an error.
fn open_spool(config: SpoolConfig, ledger: &Ledger) -> Result<Option<Spool>, SpoolError> {
    let (spool, recovery) = match Spool::open(config) {
        Ok(opened) => opened,
        Err(error @ SpoolError::Locked(_)) => return Err(error),
        Err(error @ SpoolError::Unusable { .. }) => {
            tracing::warn!(
                "{error}; the agent runs without a spool: records are kept in memory, up to queue.max_bytes"
            );
            return Ok(None);
        }
    };
    for warning in &recovery.warnings {
        tracing::warn!("{warning}");
    }
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            "ignoring {} bytes at the end of the spool: an earlier run ended before it had written the whole request",
            recovery.torn_bytes
        );
    }
    if recovery.records > 0 {
        tracing::info!("the spool has {} records of an earlier run; they will be sent", recovery.records);
    }
    ledger.change(|ledger| {
        ledger.recovered = recovery.records;
        ledger.spooled = recovery.records;
    });
    Ok(Some(spool))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::{
        retry::Disposition,
        signal::Signal,
        transport::{Refused, ScriptedClient, TransportSettings},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> ExporterConfig {
        ExporterConfig {
            target: Target::Http("http://scripted".to_owned()),
            settings: TransportSettings::default(),
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

    /// Delivers one batch that is refused once for each of `refusals`, on tokio's paused clock. Returns the
    /// ledger and the pauses between the attempts.
    async fn delivered(
        refusals: impl IntoIterator<Item = Disposition>,
        config: ExporterConfig,
    ) -> (LedgerSnapshot, Vec<Duration>) {
        let refused = |disposition| Refused { disposition, reason: "scripted".to_owned() };
        let client = ScriptedClient::refusing(refusals.into_iter().map(refused));
        let start = Instant::now();
        let exporter =
            Exporter::with_transport(TransportClient::Scripted(client.clone()), config).expect("no spool");
        exporter.push(Batch { signal: Signal::Logs, request: vec![0; 9].into(), records: 7 });
        while exporter.ledger().acknowledged + exporter.ledger().dropped_total() == 0 {
            assert!(start.elapsed() < 1000 * SECOND, "{:?}", exporter.ledger());
            time::sleep(SECOND).await;
        }
        let sent_at = client.sent_at();
        let pauses = sent_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        (exporter.ledger(), pauses)
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest_and_none_is_shorter_than_half() {
        let (ledger, pauses) = delivered([Disposition::Retry; 9], config()).await;
        assert_eq!((ledger.acknowledged, ledger.retries), (7, 9));
        for (pause, whole) in pauses.iter().zip([1, 2, 4, 8, 16, 30, 30, 30, 30]) {
            // tokio's clock has a resolution of one millisecond.
            let whole = whole * SECOND + Duration::from_millis(2);
            assert!(
                *pause >= (whole / 2).checked_sub(Duration::from_millis(2)).unwrap() && *pause <= whole,
                "{pause:?} of {whole:?}"
            );
        }
        assert_eq!(pauses.len(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn agents_that_fail_together_pause_differently() {
        let mut firsts = Vec::new();
        for _ in 0..20 {
            firsts.push(delivered([Disposition::Retry], config()).await.1[0].as_millis());
        }
        firsts.sort_unstable();
        firsts.dedup();
        assert!(firsts.len() >= 10, "{firsts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_that_the_server_asks_for_is_kept_exactly() {
        let requested = 77 * SECOND;
        let (ledger, pauses) = delivered([Disposition::RetryAfter(requested)], config()).await;
        assert_eq!(ledger.acknowledged, 7);
        assert!(pauses[0] >= requested && pauses[0] <= requested + Duration::from_millis(2), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_retry_is_later_than_the_window() {
        let start = Instant::now();
        let (ledger, pauses) = delivered(vec![Disposition::Retry; 1000], config()).await;
        assert_eq!((ledger.dropped[&DropReason::RetryExpired], ledger.retries), (7, pauses.len() as u64));
        let waited: Duration = pauses.iter().sum();
        assert!(waited <= 300 * SECOND && waited > 269 * SECOND, "{waited:?}");
        assert!(start.elapsed() < 302 * SECOND);
        let beyond = delivered([Disposition::RetryAfter(301 * SECOND)], config()).await.0;
        assert_eq!(
            (beyond.dropped[&DropReason::RetryExpired], beyond.retries),
            (7, 0),
            "a retry after the window would be dropped anyway"
        );
        let never = ExporterConfig { retry_window: Duration::ZERO, ..config() };
        assert_eq!(delivered([Disposition::Retry], never).await.0.retries, 0);
    }
}
