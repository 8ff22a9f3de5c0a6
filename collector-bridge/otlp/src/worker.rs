//! The worker tasks of an exporter: each takes batches from the queue, sends, retries and splits them, and
//! counts every record in the ledger.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use acceptd_spool::Losses;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{
    batch::Batch,
    failure_log::{Failure, FailureLog},
    ledger::{DropReason, Ledger, LedgerSnapshot},
    queue::{DeliveryQueue, Popped, StoredIn},
    retry::Disposition,
    route::Route,
    signal::Signal,
    transport::{Accepted, Refused, Target},
};

/// Pause of a worker after a read of the spool failed.
const SPOOL_READ_PAUSE: Duration = Duration::from_secs(1);

/// The state that an exporter shares with its workers.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The current route. It may be replaced at any time: every attempt uses the newest one.
    pub(crate) route: watch::Sender<Route>,
    /// How often the spool is synced to the disk.
    pub(crate) sync_interval: Duration,
    pub(crate) queue: DeliveryQueue,
    pub(crate) ledger: Ledger,
    pub(crate) failures: FailureLog,
    /// True as soon as the shutdown begins.
    pub(crate) stopping: watch::Sender<bool>,
}

/// One worker's copy of the current route.
struct RouteWatch {
    newest: watch::Receiver<Route>,
    route: Route,
}

impl RouteWatch {
    fn new(mut newest: watch::Receiver<Route>) -> Self {
        let route = newest.borrow_and_update().clone();
        Self { newest, route }
    }

    fn newest_route(&mut self) -> &mut Route {
        if self.newest.has_changed().unwrap_or_default() {
            self.route = self.newest.borrow_and_update().clone();
        }
        &mut self.route
    }

    /// Waits until the route is replaced.
    async fn route_changed(&mut self) {
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.newest.mark_changed();
    }
}

/// The outcome of one request.
enum RequestOutcome {
    /// All records of the request are counted: acknowledged, rejected or dropped.
    Settled,
    /// The destination refuses the request as too large, for this reason: its records are sent in two halves.
    Split(String),
    /// The agent stops: the request stays in the spool for the next run.
    KeptInSpool,
}

/// The records of one batch while a worker delivers it. When this value is dropped, for whatever reason, the
/// records that are not settled go back to the spool, or are counted as dropped if they were in memory.
struct InFlight<'a> {
    shared: &'a Shared,
    stored_in: StoredIn,
    records: u64,
}

impl InFlight<'_> {
    fn settle(&mut self, records: u64, change: impl FnOnce(&mut LedgerSnapshot)) {
        self.records -= records;
        self.shared.ledger.change(|ledger| {
            ledger.in_flight -= records;
            change(ledger);
        });
    }

    fn is_in_spool(&self) -> bool {
        matches!(self.stored_in, StoredIn::Spool(_))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let unsettled = self.records;
        if unsettled == 0 {
            self.shared.queue.release(self.stored_in);
        } else if self.is_in_spool() {
            self.settle(unsettled, |ledger| ledger.spooled += unsettled);
        } else {
            self.settle(unsettled, |ledger| ledger.add_dropped(DropReason::Shutdown, unsettled));
        }
    }
}

impl Shared {
    /// The current destination, for messages.
    pub(crate) fn target(&self) -> Target {
        self.route.borrow().target.clone()
    }

    /// Sends batch after batch, until the queue is closed and empty, or the rest has to stay in the spool
    /// for the next run.
    pub(crate) async fn work(self: Arc<Self>) {
        let mut routes = RouteWatch::new(self.route.subscribe());
        while let Some(popped) = self.queue.pop().await {
            match popped {
                Ok(popped) => {
                    self.failures.recovered(Failure::SpoolRead, || "the spool is readable again".to_owned());
                    let stays_in_spool = self.deliver(&mut routes, popped).await;
                    self.count_losses();
                    if stays_in_spool {
                        return;
                    }
                }
                Err(error) => {
                    self.failures.warn(
                        Failure::SpoolRead,
                        &format!("cannot read the spool: {error}; trying again every {SPOOL_READ_PAUSE:?}"),
                    );
                    if *self.stopping.borrow() {
                        return;
                    }
                    self.pause(SPOOL_READ_PAUSE).await;
                }
            }
        }
    }

    /// Delivers a batch, in as many parts as its splits make of it. Returns whether a part stays in the
    /// spool.
    async fn deliver(&self, routes: &mut RouteWatch, popped: Popped) -> bool {
        let Popped { stored_in, records, batch } = popped;
        let records = u64::from(records);
        self.ledger.change(|ledger| {
            let waited = match stored_in {
                StoredIn::Memory => &mut ledger.queued,
                StoredIn::Spool(_) => &mut ledger.spooled,
            };
            // Saturates because a spool that another program wrote may have more records than its manifest
            // says. The ledger does not balance then.
            *waited = waited.saturating_sub(records);
            ledger.in_flight += records;
        });
        let mut in_flight = InFlight { shared: self, stored_in, records };
        let Some(batch) = batch else {
            in_flight.settle(records, |ledger| ledger.add_dropped(DropReason::SpoolCorrupt, records));
            self.failures.warn(
                Failure::SpoolLoss,
                &format!(
                    "{records} records for {} dropped: a newer version of acceptd wrote them to the spool, and this version cannot read them",
                    self.target()
                ),
            );
            return false;
        };
        let mut waiting = vec![batch];
        while let Some(batch) = waiting.pop() {
            match self.attempt_until_decided(routes, &mut in_flight, &batch).await {
                RequestOutcome::Settled => {}
                RequestOutcome::KeptInSpool => return true,
                RequestOutcome::Split(reason) => {
                    if let Some((first, second)) = batch.split() {
                        self.ledger.change(|ledger| ledger.splits += 1);
                        waiting.extend([second, first]);
                    } else {
                        let target = &routes.newest_route().target;
                        self.count_dropped(&mut in_flight, &batch, DropReason::TooLarge, target, &reason);
                    }
                }
            }
        }
        false
    }

    /// Sends a request again and again until its outcome is certain.
    async fn attempt_until_decided(
        &self,
        routes: &mut RouteWatch,
        in_flight: &mut InFlight<'_>,
        batch: &Batch,
    ) -> RequestOutcome {
        let first_attempt = Instant::now();
        for attempt in 0.. {
            let Route { target, transport, timeout, retry_window, backoff } = routes.newest_route();
            let sent = time::timeout(*timeout, transport.send(batch)).await;
            let Refused { disposition, reason } = match sent {
                Ok(Ok(answer)) => {
                    self.count_accepted(in_flight, batch, &answer, target);
                    return RequestOutcome::Settled;
                }
                Ok(Err(refused)) => refused,
                Err(_) => {
                    transport.reconnect();
                    let reason = format!("no answer within {timeout:?}");
                    Refused { disposition: Disposition::Retry, reason }
                }
            };
            let pause = match disposition {
                Disposition::Retry => backoff.pause(attempt, RandomState::new().hash_one(attempt)),
                Disposition::RetryAfter(requested) => requested,
                Disposition::Split => return RequestOutcome::Split(reason),
                Disposition::Drop => {
                    self.count_dropped(in_flight, batch, DropReason::NonRetryable, target, &reason);
                    return RequestOutcome::Settled;
                }
            };
            // A request in the spool has no retry window: it is retried until the destination accepts it, or
            // until the spool drops it because of spool.max_bytes or spool.max_age.
            let give_up_at = (!in_flight.is_in_spool()).then(|| first_attempt + *retry_window);
            let how_long = match give_up_at {
                // `checked_add`: the pause that a server asks for may overflow an Instant.
                Some(give_up_at)
                    if Instant::now().checked_add(pause).is_none_or(|next| next > give_up_at) =>
                {
                    self.count_dropped(in_flight, batch, DropReason::RetryExpired, target, &reason);
                    return RequestOutcome::Settled;
                }
                Some(_) => format!("for up to {retry_window:?}; no records are lost so far"),
                None if *self.stopping.borrow() => return RequestOutcome::KeptInSpool,
                None => "until it does; records are kept in the spool".to_owned(),
            };
            self.ledger.change(|ledger| ledger.retries += 1);
            self.failures.warn(
                Failure::Refused,
                &format!(
                    "{target} does not accept {}: {reason}; trying again {how_long}",
                    batch.signal.items()
                ),
            );
            tokio::select! {
                () = self.pause(pause) => {}
                // The new route may work where the old one fails: try at once.
                () = routes.route_changed() => {}
            }
        }
        RequestOutcome::Settled
    }

    /// Sleeps until the next attempt. The start of the shutdown ends the sleep early.
    async fn pause(&self, pause: Duration) {
        let mut stopping = self.stopping.subscribe();
        if *stopping.borrow_and_update() {
            time::sleep(pause).await;
        } else {
            _ = time::timeout(pause, stopping.changed()).await;
        }
    }

    fn count_accepted(
        &self,
        in_flight: &mut InFlight<'_>,
        batch: &Batch,
        answer: &Accepted,
        target: &Target,
    ) {
        let items = batch.signal.items();
        let records = u64::from(batch.records);
        let rejected = answer.rejected.min(records);
        in_flight.settle(records, |ledger| {
            ledger.acknowledged += records - rejected;
            ledger.rejected += rejected;
            ledger.requests += 1;
        });
        self.failures.recovered(Failure::Refused, || format!("{target} accepts {items} again"));
        if rejected > 0 || !answer.message.is_empty() {
            self.failures.warn(
                Failure::RecordsRejected,
                &format!("{target} rejected {rejected} of {records} {items}: {}", answer.message),
            );
        }
    }

    fn count_dropped(
        &self,
        in_flight: &mut InFlight<'_>,
        batch: &Batch,
        reason: DropReason,
        target: &Target,
        why: &str,
    ) {
        let items = batch.signal.items();
        let records = u64::from(batch.records);
        in_flight.settle(records, |ledger| ledger.add_dropped(reason, records));
        self.failures.warn(
            Failure::RecordsDropped,
            &format!(
                "{records} {items} dropped ({}) for {target}: {why}{}",
                reason.name(),
                remedy(batch.signal, why)
            ),
        );
    }

    /// Counts the records that the spool lost since the last call.
    pub(crate) fn count_losses(&self) {
        let Losses { full, expired, corrupt } = self.queue.take_losses();
        for (reason, records, why) in [
            (DropReason::SpoolFull, full, "the spool is full: raise spool.max_bytes, or check the Collector"),
            (DropReason::SpoolExpired, expired, "they were in the spool for longer than spool.max_age"),
            (DropReason::SpoolCorrupt, corrupt, "the files of the spool were changed or damaged"),
        ] {
            if records > 0 {
                self.ledger.change(|ledger| {
                    ledger.spooled = ledger.spooled.saturating_sub(records);
                    ledger.add_dropped(reason, records);
                });
                let target = self.target();
                self.failures
                    .warn(Failure::SpoolLoss, &format!("{records} records for {target} dropped: {why}"));
            }
        }
    }

    /// Syncs the spool to the disk once per `sync_interval`, until the shutdown begins.
    pub(crate) async fn sync_spool_periodically(self: Arc<Self>) {
        while !*self.stopping.borrow() {
            self.pause(self.sync_interval).await;
            match self.sync_spool().await {
                Ok(false) => {}
                Ok(true) => self
                    .failures
                    .recovered(Failure::SpoolSync, || "the spool is synced to the disk again".to_owned()),
                Err(error) => self.failures.warn(Failure::SpoolSync, &format!(
                    "cannot sync the spool to the disk: {error}; a power failure would lose the records that are not synced; check the disk"
                )),
            }
            self.count_losses();
        }
    }

    /// Returns whether there was anything to sync.
    async fn sync_spool(&self) -> std::io::Result<bool> {
        let Some(job) = self.queue.sync_job()? else { return Ok(false) };
        // On a blocking thread because the disk may take long. The job is returned so that it can be repeated
        // if it failed.
        let (job, done) = tokio::task::spawn_blocking(move || {
            let done = job.run();
            (job, done)
        })
        .await?;
        done.map(|()| true).inspect_err(|_| self.queue.sync_failed(job))
    }
}

/// The remedy for a Collector that does not know a signal, to append to the message; empty for any other
/// refusal. A Collector only receives the signals of which it has a pipeline.
fn remedy(signal: Signal, why: &str) -> String {
    let is_unknown = why.contains("Unimplemented") || why.contains("404");
    if signal == Signal::Logs || !is_unknown {
        return String::new();
    }
    format!("; add a pipeline for {signal} to the Collector's configuration, or set {signal}.export = false")
}

#[cfg(test)]
mod tests {
    use super::remedy;
    use crate::signal::Signal;

    #[test]
    fn a_collector_that_does_not_know_a_signal_needs_a_pipeline() {
        let unknown = "Unimplemented: unknown service";
        assert!(remedy(Signal::Traces, unknown).ends_with("or set traces.export = false"));
        assert!(remedy(Signal::Metrics, "404 Not Found").contains("a pipeline for metrics"));
        assert_eq!(remedy(Signal::Traces, "Unauthenticated"), "");
        assert_eq!(remedy(Signal::Logs, unknown), "");
    }
}
