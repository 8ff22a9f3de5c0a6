//! From the backlog to the destination: attempts, retries, halves, and the ledger of it all.

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
    backlog::{Backlog, Kept, Popped},
    batch::Batch,
    complaint::{About, Complaints},
    exporter::ExporterConfig,
    ledger::{DropReason, Ledger, LedgerSnapshot},
    retry::{Backoff, Verdict},
    transport::{Accepted, Refused, Transport},
};

/// Pause after the spool could not be read.
const UNREADABLE: Duration = Duration::from_secs(1);

/// What the workers of one destination share.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) config: ExporterConfig,
    pub(crate) backlog: Backlog,
    pub(crate) ledger: Ledger,
    pub(crate) complaints: Complaints,
    /// True as soon as the agent ends.
    pub(crate) stopping: watch::Sender<bool>,
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
    /// Sends batch after batch until there are no more, or the rest has to wait for the next run.
    pub(crate) async fn work(self: Arc<Self>, mut transport: Transport) {
        while let Some(popped) = self.backlog.pop().await {
            match popped {
                Ok(popped) => {
                    let is_left = self.deliver(&mut transport, popped).await;
                    self.count_losses();
                    if is_left {
                        return;
                    }
                }
                Err(error) => {
                    self.complaints.warn(
                        About::Disk,
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
    async fn deliver(&self, transport: &mut Transport, popped: Popped) -> bool {
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
                &format!("{records} records dropped: a newer acceptd wrote them to the spool"),
            );
            return false;
        };
        let mut waiting = vec![batch];
        while let Some(batch) = waiting.pop() {
            match self.attempt_until_decided(transport, &mut flight, &batch).await {
                Outcome::Settled => {}
                Outcome::Left => return true,
                Outcome::Halve(reason) => match batch.split() {
                    Some((first, second)) => {
                        self.ledger.change(|ledger| ledger.splits += 1);
                        waiting.extend([second, first]);
                    }
                    None => self.dropped(&mut flight, &batch, DropReason::TooLarge, &reason),
                },
            }
        }
        false
    }

    /// Sends a request until it is accepted or dropped.
    async fn attempt_until_decided(
        &self,
        transport: &mut Transport,
        flight: &mut Flight<'_>,
        batch: &Batch,
    ) -> Outcome {
        let backoff = Backoff { initial: self.config.backoff_initial, max: self.config.backoff_max };
        // What is in the spool is safe there: it waits until the destination takes it or spool.max_bytes drops it.
        let give_up = (!flight.is_in_spool()).then(|| Instant::now() + self.config.retry_window);
        for attempt in 0.. {
            let sent = time::timeout(self.config.timeout, transport.send(batch)).await;
            let Refused { verdict, reason } = match sent {
                Ok(Ok(answer)) => {
                    self.accepted(flight, batch, &answer);
                    return Outcome::Settled;
                }
                Ok(Err(refused)) => refused,
                Err(_) => {
                    transport.reconnect();
                    let reason = format!("no answer within {:?}", self.config.timeout);
                    Refused { verdict: Verdict::Retry, reason }
                }
            };
            let pause = match verdict {
                Verdict::Retry => backoff.pause(attempt, RandomState::new().hash_one(attempt)),
                Verdict::RetryAfter(asked) => asked,
                Verdict::Split => return Outcome::Halve(reason),
                Verdict::Drop => {
                    self.dropped(flight, batch, DropReason::NonRetryable, &reason);
                    return Outcome::Settled;
                }
            };
            let fate = match give_up {
                Some(give_up) if Instant::now() + pause > give_up => {
                    self.dropped(flight, batch, DropReason::RetryExpired, &reason);
                    return Outcome::Settled;
                }
                Some(_) => format!("for up to {:?}, nothing is lost yet", self.config.retry_window),
                None if *self.stopping.borrow() => return Outcome::Left,
                None => "until it does, from the spool".to_owned(),
            };
            self.ledger.change(|ledger| ledger.retries += 1);
            self.complaints.warn(
                About::Refusal,
                &format!("{} does not take records: {reason}; trying again {fate}", self.config.target),
            );
            self.rest(pause).await;
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

    fn accepted(&self, flight: &mut Flight<'_>, batch: &Batch, answer: &Accepted) {
        let records = u64::from(batch.records);
        let rejected = answer.rejected.min(records);
        flight.settle(records, |ledger| {
            ledger.acknowledged += records - rejected;
            ledger.rejected += rejected;
            ledger.requests += 1;
        });
        if rejected > 0 || !answer.message.is_empty() {
            self.complaints.warn(
                About::Rejection,
                &format!(
                    "{} rejected {rejected} of {records} records: {}",
                    self.config.target, answer.message
                ),
            );
        } else {
            self.complaints
                .recovered(About::Refusal, || format!("{} takes records again", self.config.target));
        }
    }

    fn dropped(&self, flight: &mut Flight<'_>, batch: &Batch, reason: DropReason, why: &str) {
        let records = u64::from(batch.records);
        flight.settle(records, |ledger| ledger.add_dropped(reason, records));
        self.complaints.warn(
            About::Drop,
            &format!("{records} records dropped ({reason:?}): {} says: {why}", self.config.target),
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
                self.complaints.warn(About::Loss, &format!("{records} records dropped: {why}"));
            }
        }
    }

    /// Has the spool written through to the disk, again and again.
    pub(crate) async fn keep_in_sync(self: Arc<Self>) {
        while !*self.stopping.borrow() {
            self.rest(self.config.sync_interval).await;
            if let Err(error) = self.sync().await {
                self.complaints.warn(About::Disk, &format!(
                    "the spool cannot be written through to the disk: {error}; a loss of power would lose it"
                ));
            }
            self.count_losses();
        }
    }

    async fn sync(&self) -> std::io::Result<()> {
        let Some(job) = self.backlog.sync_job()? else { return Ok(()) };
        // The disk may take its time; the job comes back for the case that it was in vain.
        let (job, done) = tokio::task::spawn_blocking(move || {
            let done = job.run();
            (job, done)
        })
        .await?;
        done.inspect_err(|_| self.backlog.sync_failed(job))
    }
}
