//! From the backlog to the destination: attempts, retries, halves, and the ledger of it all.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use acceptd_spool::Losses;
use tokio::{
    sync::watch,
    time::{
        Instant, {self},
    },
};

use crate::{
    backlog::{Backlog, Kept, Popped},
    batch::Batch,
    complaint::{About, Complaints},
    exporter::ExporterConfig,
    ledger::{DropReason, Ledger, LedgerSnapshot},
    retry::{Backoff, Verdict},
    signal::Signal,
    transport::{Accepted, Refused, Target, Transport},
};

/// Pause after the spool could not be read.
const UNREADABLE: Duration = Duration::from_secs(1);

/// How requests get to the destination.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    target: Target,
    transport: Transport,
    /// Deadline of one attempt.
    timeout: Duration,
    retry_window: Duration,
    backoff: Backoff,
}

impl Way {
    pub(crate) fn over(transport: Transport, config: &ExporterConfig) -> Self {
        Self {
            target: config.target.clone(),
            transport,
            timeout: config.timeout,
            retry_window: config.retry_window,
            backoff: Backoff { initial: config.backoff_initial, max: config.backoff_max },
        }
    }
}

/// What the workers of one destination share.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// May be replaced at any time: every attempt takes the newest.
    pub(crate) way: watch::Sender<Way>,
    /// How often the spool is written through to the disk.
    pub(crate) sync_interval: Duration,
    pub(crate) backlog: Backlog,
    pub(crate) ledger: Ledger,
    pub(crate) complaints: Complaints,
    /// True as soon as the agent ends.
    pub(crate) stopping: watch::Sender<bool>,
}

/// One that sends.
struct Worker {
    newest: watch::Receiver<Way>,
    way: Way,
}

impl Worker {
    fn on(mut newest: watch::Receiver<Way>) -> Self {
        let way = newest.borrow_and_update().clone();
        Self { newest, way }
    }

    fn newest_way(&mut self) -> &mut Way {
        if self.newest.has_changed().unwrap_or_default() {
            self.way = self.newest.borrow_and_update().clone();
        }
        &mut self.way
    }

    /// Waits until there is another way.
    async fn another_way(&mut self) {
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.newest.mark_changed();
    }
}

/// What became of one request.
enum Outcome {
    /// It is accounted for.
    Settled,
    /// It should be sent in halves; why.
    Halve(String),
    /// It stays in the spool for the next run.
    Left,
}

/// Records under way. Those that are not settled in the end, whatever ends it, stay in the spool or are lost.
struct Flight<'a> {
    delivery: &'a Delivery,
    kept: Kept,
    records: u64,
}

impl Flight<'_> {
    fn settle(&mut self, records: u64, change: impl FnOnce(&mut LedgerSnapshot)) {
        self.records -= records;
        self.delivery.ledger.change(|ledger| {
            ledger.in_flight -= records;
            change(ledger);
        });
    }

    fn is_in_spool(&self) -> bool {
        matches!(self.kept, Kept::InSpool(_))
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let left = self.records;
        if left == 0 {
            self.delivery.backlog.done(self.kept);
        } else if self.is_in_spool() {
            self.settle(left, |ledger| ledger.spooled += left);
        } else {
            self.settle(left, |ledger| ledger.add_dropped(DropReason::Shutdown, left));
        }
    }
}

impl Delivery {
    /// Where to, for messages.
    pub(crate) fn target(&self) -> Target {
        self.way.borrow().target.clone()
    }

    /// Sends batch after batch until there are no more, or the rest has to wait for the next run.
    pub(crate) async fn work(self: Arc<Self>) {
        let mut worker = Worker::on(self.way.subscribe());
        while let Some(popped) = self.backlog.pop().await {
            match popped {
                Ok(popped) => {
                    self.complaints.recovered(About::Read, || "the spool can be read again".to_owned());
                    let is_left = self.deliver(&mut worker, popped).await;
                    self.count_losses();
                    if is_left {
                        return;
                    }
                }
                Err(error) => {
                    self.complaints.warn(
                        About::Read,
                        &format!("the spool cannot be read: {error}; trying again every {UNREADABLE:?}"),
                    );
                    if *self.stopping.borrow() {
                        return;
                    }
                    self.rest(UNREADABLE).await;
                }
            }
        }
    }

    /// Delivers a batch, or as many halves of it as it takes. Says whether some of it stays in the spool.
    async fn deliver(&self, worker: &mut Worker, popped: Popped) -> bool {
        let Popped { kept, records, batch } = popped;
        let records = u64::from(records);
        self.ledger.change(|ledger| {
            let waited = match kept {
                Kept::InMemory => &mut ledger.queued,
                Kept::InSpool(_) => &mut ledger.spooled,
            };
            // A spool that somebody else wrote may hold more than it says: the ledger does not add up then.
            *waited = waited.saturating_sub(records);
            ledger.in_flight += records;
        });
        let mut flight = Flight { delivery: self, kept, records };
        let Some(batch) = batch else {
            flight.settle(records, |ledger| ledger.add_dropped(DropReason::SpoolCorrupt, records));
            self.complaints.warn(
                About::Loss,
                &format!(
                    "{records} records for {} dropped: a newer acceptd wrote them to the spool",
                    self.target()
                ),
            );
            return false;
        };
        let mut waiting = vec![batch];
        while let Some(batch) = waiting.pop() {
            match self.attempt_until_decided(worker, &mut flight, &batch).await {
                Outcome::Settled => {}
                Outcome::Left => return true,
                Outcome::Halve(reason) => {
                    if let Some((first, second)) = batch.split() {
                        self.ledger.change(|ledger| ledger.splits += 1);
                        waiting.extend([second, first]);
                    } else {
                        let target = &worker.newest_way().target;
                        self.dropped(&mut flight, &batch, DropReason::TooLarge, target, &reason);
                    }
                }
            }
        }
        false
    }

    /// Sends a request until it is accepted or dropped.
    async fn attempt_until_decided(
        &self,
        worker: &mut Worker,
        flight: &mut Flight<'_>,
        batch: &Batch,
    ) -> Outcome {
        let began = Instant::now();
        for attempt in 0.. {
            let Way { target, transport, timeout, retry_window, backoff } = worker.newest_way();
            let sent = time::timeout(*timeout, transport.send(batch)).await;
            let Refused { verdict, reason } = match sent {
                Ok(Ok(answer)) => {
                    self.accepted(flight, batch, &answer, target);
                    return Outcome::Settled;
                }
                Ok(Err(refused)) => refused,
                Err(_) => {
                    transport.reconnect();
                    let reason = format!("no answer within {timeout:?}");
                    Refused { verdict: Verdict::Retry, reason }
                }
            };
            let pause = match verdict {
                Verdict::Retry => backoff.pause(attempt, RandomState::new().hash_one(attempt)),
                Verdict::RetryAfter(asked) => asked,
                Verdict::Split => return Outcome::Halve(reason),
                Verdict::Drop => {
                    self.dropped(flight, batch, DropReason::NonRetryable, target, &reason);
                    return Outcome::Settled;
                }
            };
            // What is in the spool is safe there: it waits until the destination takes it or spool.max_bytes drops it.
            let give_up = (!flight.is_in_spool()).then(|| began + *retry_window);
            let fate = match give_up {
                // The server may ask for a pause beyond the end of time.
                Some(give_up) if Instant::now().checked_add(pause).is_none_or(|next| next > give_up) => {
                    self.dropped(flight, batch, DropReason::RetryExpired, target, &reason);
                    return Outcome::Settled;
                }
                Some(_) => format!("for up to {retry_window:?}, nothing is lost yet"),
                None if *self.stopping.borrow() => return Outcome::Left,
                None => "until it does, from the spool".to_owned(),
            };
            self.ledger.change(|ledger| ledger.retries += 1);
            self.complaints.warn(
                About::Refusal,
                &format!("{target} does not take {}: {reason}; trying again {fate}", batch.signal.items()),
            );
            tokio::select! {
                () = self.rest(pause) => {}
                // Another way may lead where this one does not.
                () = worker.another_way() => {}
            }
        }
        Outcome::Settled
    }

    /// Sleeps until the next try; the beginning of the shutdown ends it.
    async fn rest(&self, pause: Duration) {
        let mut stopping = self.stopping.subscribe();
        if *stopping.borrow_and_update() {
            time::sleep(pause).await;
        } else {
            _ = time::timeout(pause, stopping.changed()).await;
        }
    }

    fn accepted(&self, flight: &mut Flight<'_>, batch: &Batch, answer: &Accepted, target: &Target) {
        let items = batch.signal.items();
        let records = u64::from(batch.records);
        let rejected = answer.rejected.min(records);
        flight.settle(records, |ledger| {
            ledger.acknowledged += records - rejected;
            ledger.rejected += rejected;
            ledger.requests += 1;
        });
        self.complaints.recovered(About::Refusal, || format!("{target} takes {items} again"));
        if rejected > 0 || !answer.message.is_empty() {
            self.complaints.warn(
                About::Rejection,
                &format!("{target} rejected {rejected} of {records} {items}: {}", answer.message),
            );
        }
    }

    fn dropped(
        &self,
        flight: &mut Flight<'_>,
        batch: &Batch,
        reason: DropReason,
        target: &Target,
        why: &str,
    ) {
        let items = batch.signal.items();
        let records = u64::from(batch.records);
        flight.settle(records, |ledger| ledger.add_dropped(reason, records));
        self.complaints.warn(
            About::Drop,
            &format!(
                "{records} {items} dropped ({}): {target} says: {why}{}",
                reason.name(),
                remedy(batch.signal, why)
            ),
        );
    }

    /// Counts what the spool lost since the last time.
    pub(crate) fn count_losses(&self) {
        let Losses { full, expired, corrupt } = self.backlog.take_losses();
        for (reason, records, why) in [
            (
                DropReason::SpoolFull,
                full,
                "the spool is full: raise spool.max_bytes, or look at the Collector",
            ),
            (DropReason::SpoolExpired, expired, "they waited longer than spool.max_age"),
            (DropReason::SpoolCorrupt, corrupt, "the spool's files were changed or damaged"),
        ] {
            if records > 0 {
                self.ledger.change(|ledger| {
                    ledger.spooled = ledger.spooled.saturating_sub(records);
                    ledger.add_dropped(reason, records);
                });
                let target = self.target();
                self.complaints.warn(About::Loss, &format!("{records} records for {target} dropped: {why}"));
            }
        }
    }

    /// Has the spool written through to the disk, again and again.
    pub(crate) async fn keep_in_sync(self: Arc<Self>) {
        while !*self.stopping.borrow() {
            self.rest(self.sync_interval).await;
            match self.sync().await {
                Ok(false) => {}
                Ok(true) => self.complaints.recovered(About::Disk, || "the spool is on the disk again".to_owned()),
                Err(error) => self.complaints.warn(About::Disk, &format!(
                    "the spool cannot be written through to the disk: {error}; a loss of power would lose it"
                )),
            }
            self.count_losses();
        }
    }

    /// Says whether there was something to do.
    async fn sync(&self) -> std::io::Result<bool> {
        let Some(job) = self.backlog.sync_job()? else { return Ok(false) };
        // The disk may take its time; the job comes back for the case that it was in vain.
        let (job, done) = tokio::task::spawn_blocking(move || {
            let done = job.run();
            (job, done)
        })
        .await?;
        done.map(|()| true).inspect_err(|_| self.backlog.sync_failed(job))
    }
}

/// What to do about a Collector that knows nothing of a signal: it only receives those that one of its pipelines takes.
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
    use crate::Signal;

    #[test]
    fn who_does_not_know_a_signal_needs_a_pipeline() {
        let unknown = "Unimplemented: unknown service";
        assert!(remedy(Signal::Traces, unknown).ends_with("or set traces.export = false"));
        assert!(remedy(Signal::Metrics, "404 Not Found").contains("a pipeline for metrics"));
        assert_eq!(remedy(Signal::Traces, "Unauthenticated"), "");
        assert_eq!(remedy(Signal::Logs, unknown), "");
    }
}
