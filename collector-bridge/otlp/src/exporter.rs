//! Delivery to one Collector: queue, attempts, retries, and the ledger of it all.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet, time};

use crate::{
    batch::Batch,
    ledger::{DropReason, Ledger, LedgerSnapshot},
    queue::Queue,
    retry::{Backoff, Verdict},
    transport::{Accepted, Refused, Settings, Target, Transport, TransportError},
};

/// A failing Collector is complained of once, and then at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// How to deliver.
#[derive(Debug, Clone)]
pub struct ExporterConfig {
    /// Where to.
    pub target: Target,
    /// How requests travel.
    pub settings: Settings,
    /// Deadline of one attempt.
    pub timeout: Duration,
    /// How long a request is retried.
    pub retry_window: Duration,
    /// First pause before a retry.
    pub backoff_initial: Duration,
    /// Longest pause before a retry.
    pub backoff_max: Duration,
    /// Bound of the queue.
    pub queue_max_bytes: usize,
    /// Requests under way at the same time.
    pub concurrency: usize,
}

/// A handle to the delivery; cloning shares it.
#[derive(Debug, Clone)]
pub struct Exporter {
    shared: Arc<Shared>,
    workers: Arc<Mutex<JoinSet<()>>>,
}

#[derive(Debug)]
struct Shared {
    config: ExporterConfig,
    queue: Queue,
    ledger: Ledger,
    complaint: Mutex<Complaint>,
    /// True from [`Exporter::shutdown`] on.
    stopping: watch::Sender<bool>,
}

impl Exporter {
    /// Starts the delivery on the current tokio runtime. Does not connect yet: a Collector that is down, or whose name
    /// does not resolve, is retried.
    ///
    /// # Errors
    /// A target, header or certificate that cannot be used at all.
    pub fn spawn(config: ExporterConfig) -> Result<Self, TransportError> {
        let transport = Transport::new(&config.target, &config.settings)?;
        let workers = config.concurrency.max(1);
        let shared = Arc::new(Shared {
            queue: Queue::new(config.queue_max_bytes),
            config,
            ledger: Ledger::default(),
            complaint: Mutex::default(),
            stopping: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (shared, mut transport) = (Arc::clone(&shared), transport.clone());
            tasks.spawn(async move {
                while let Some(batch) = shared.queue.pop().await {
                    let records = u64::from(batch.records);
                    shared.ledger.change(|ledger| {
                        ledger.queued -= records;
                        ledger.in_flight += records;
                    });
                    shared.deliver(&mut transport, batch).await;
                }
            });
        }
        Ok(Self { shared, workers: Arc::new(Mutex::new(tasks)) })
    }

    /// Queues a batch; never blocks. When the queue is full the oldest batches are dropped, and counted.
    pub fn push(&self, batch: Batch) {
        let records = u64::from(batch.records);
        self.shared.ledger.change(|ledger| {
            ledger.records += records;
            ledger.queued += records;
        });
        let dropped: u64 = self.shared.queue.push(batch).iter().map(|batch| u64::from(batch.records)).sum();
        if dropped > 0 {
            self.shared.ledger.change(|ledger| {
                ledger.queued -= dropped;
                *ledger.dropped.entry(DropReason::QueueFull).or_default() += dropped;
            });
            self.shared.complain(&format!(
                "the queue is full: {dropped} records dropped; the Collector is slower than the accepts, or down; raise queue.max_bytes or look at the Collector"
            ));
        }
    }

    /// What became of the records so far.
    #[must_use]
    pub fn ledger(&self) -> LedgerSnapshot {
        self.shared.ledger.snapshot()
    }

    /// Delivers what is queued until `deadline`, drops the rest (counted as `shutdown`), and returns the final ledger.
    /// What waits for its next try is tried at once.
    pub async fn shutdown(self, deadline: Instant) -> LedgerSnapshot {
        self.shared.queue.close();
        self.shared.stopping.send_replace(true);
        let mut workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let all_ended = async { while workers.join_next().await.is_some() {} };
        if time::timeout_at(deadline.into(), all_ended).await.is_err() {
            workers.shutdown().await;
        }
        self.shared.ledger.change(|ledger| {
            let left = ledger.queued + ledger.in_flight;
            if left > 0 {
                *ledger.dropped.entry(DropReason::Shutdown).or_default() += left;
            }
            ledger.queued = 0;
            ledger.in_flight = 0;
        });
        self.ledger()
    }
}

impl Shared {
    /// Delivers a batch, or as many halves of it as it takes.
    async fn deliver(&self, transport: &mut Transport, batch: Batch) {
        let mut waiting = vec![batch];
        while let Some(batch) = waiting.pop() {
            let Some(refused) = self.attempt_until_decided(transport, &batch).await else { continue };
            if let Some((first, second)) = batch.split() {
                self.ledger.change(|ledger| ledger.splits += 1);
                waiting.extend([second, first]);
            } else {
                self.dropped(&batch, DropReason::TooLarge, &refused);
            }
        }
    }

    /// Sends a batch until it is accepted or dropped. Returns the refusal if it should be sent in halves.
    async fn attempt_until_decided(&self, transport: &mut Transport, batch: &Batch) -> Option<String> {
        let backoff = Backoff { initial: self.config.backoff_initial, max: self.config.backoff_max };
        let give_up = Instant::now() + self.config.retry_window;
        for attempt in 0.. {
            let sent = time::timeout(self.config.timeout, transport.send(batch)).await;
            let Refused { verdict, reason } = match sent {
                Ok(Ok(answer)) => {
                    self.accepted(batch, &answer);
                    return None;
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
                Verdict::Split => return Some(reason),
                Verdict::Drop => {
                    self.dropped(batch, DropReason::NonRetryable, &reason);
                    return None;
                }
            };
            if Instant::now() + pause > give_up {
                self.dropped(batch, DropReason::RetryExpired, &reason);
                return None;
            }
            self.ledger.change(|ledger| ledger.retries += 1);
            self.complain(&format!(
                "the Collector at {} does not take records: {reason}; trying again for up to {:?}, nothing is lost yet",
                self.config.target, self.config.retry_window
            ));
            self.rest(pause).await;
        }
        None
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

    fn accepted(&self, batch: &Batch, answer: &Accepted) {
        let records = u64::from(batch.records);
        let rejected = answer.rejected.min(records);
        self.ledger.change(|ledger| {
            ledger.in_flight -= records;
            ledger.acknowledged += records - rejected;
            ledger.rejected += rejected;
            ledger.requests += 1;
        });
        if rejected > 0 || !answer.message.is_empty() {
            self.complain(&format!(
                "the Collector at {} rejected {rejected} of {records} records: {}",
                self.config.target, answer.message
            ));
        } else {
            self.recovered();
        }
    }

    fn dropped(&self, batch: &Batch, reason: DropReason, why: &str) {
        let records = u64::from(batch.records);
        self.ledger.change(|ledger| {
            ledger.in_flight -= records;
            *ledger.dropped.entry(reason).or_default() += records;
        });
        self.complain(&format!(
            "{records} records dropped ({reason:?}): {} answered: {why}",
            self.config.target
        ));
    }

    fn complain(&self, message: &str) {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if complaint.last.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            complaint.suppressed += 1;
            return;
        }
        match complaint.suppressed {
            0 => tracing::warn!("{message}"),
            more => tracing::warn!("{message} ({more} more messages like this in between)"),
        }
        *complaint = Complaint { last: Some(Instant::now()), suppressed: 0, failing: true };
    }

    fn recovered(&self) {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut complaint.failing) {
            tracing::info!("the Collector at {} takes records again", self.config.target);
        }
    }
}

/// When a failure was last complained of, and how many were not.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<Instant>,
    suppressed: u64,
    /// A complaint was logged, and no recovery since.
    failing: bool,
}
