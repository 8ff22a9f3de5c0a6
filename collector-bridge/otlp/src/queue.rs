//! Batches that wait for the network: in the spool if there is one, otherwise in memory. The drain thread
//! pushes; the worker tasks pop.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use acceptd_spool::{Frame, Losses, Spool, SyncJob, Ticket};
use tokio::sync::Notify;

use crate::{batch::Batch, signal::Signal};

/// The waiting batches of one destination.
#[derive(Debug)]
pub(crate) struct DeliveryQueue {
    memory: Mutex<Memory>,
    spool: Mutex<Option<Spool>>,
    changed: Notify,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Memory {
    batches: VecDeque<Batch>,
    bytes: usize,
    closed: bool,
}

/// Where a batch is stored until it is [released](DeliveryQueue::release).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredIn {
    Memory,
    Spool(Ticket),
}

/// A batch that a worker took from the queue.
#[derive(Debug)]
pub(crate) struct Popped {
    pub(crate) stored_in: StoredIn,
    pub(crate) records: u32,
    /// `None` if the frame is of a kind that only a newer version of acceptd knows.
    pub(crate) batch: Option<Batch>,
}

impl DeliveryQueue {
    /// `max_bytes` bounds the memory of the batches that are not in a spool.
    pub(crate) fn new(max_bytes: usize, spool: Option<Spool>) -> Self {
        Self { memory: Mutex::default(), spool: Mutex::new(spool), changed: Notify::new(), max_bytes }
    }

    pub(crate) fn has_spool(&self) -> bool {
        lock(&self.spool).is_some()
    }

    /// Appends a batch to the spool.
    ///
    /// # Errors
    /// The write failed or the spool is closed: the batch is not in the spool.
    pub(crate) fn append(&self, batch: &Batch) -> io::Result<()> {
        let frame =
            Frame { kind: batch.signal.number(), records: batch.records, body: batch.request.clone() };
        match &mut *lock(&self.spool) {
            Some(spool) => spool.append(&frame, now_ms())?,
            None => return Err(io::Error::other("the spool is closed")),
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Adds a batch to memory, and removes the oldest ones until `max_bytes` is kept. The removed batches are
    /// returned; the caller counts them as dropped.
    pub(crate) fn push(&self, batch: Batch) -> Vec<Batch> {
        let mut memory = lock(&self.memory);
        memory.bytes += batch.request.len();
        memory.batches.push_back(batch);
        let mut dropped = Vec::new();
        while memory.bytes > self.max_bytes {
            let Some(oldest) = memory.batches.pop_front() else { break };
            memory.bytes -= oldest.request.len();
            dropped.push(oldest);
        }
        drop(memory);
        self.changed.notify_one();
        dropped
    }

    /// Waits for the next batch. Returns `None` once the queue is closed and empty. Batches in memory go
    /// first, also if there is a spool: they are there because the spool could not be written.
    pub(crate) async fn pop(&self) -> Option<io::Result<Popped>> {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = self.try_pop() {
                // Two pushes between two calls of `try_pop` leave only one permit: wake the next worker for
                // the rest.
                self.changed.notify_one();
                return Some(found);
            }
            if lock(&self.memory).closed {
                // Wake the next waiting worker, so that every worker sees that the queue is closed.
                self.changed.notify_one();
                return None;
            }
            changed.await;
        }
    }

    fn try_pop(&self) -> Option<io::Result<Popped>> {
        {
            let mut memory = lock(&self.memory);
            if let Some(batch) = memory.batches.pop_front() {
                memory.bytes -= batch.request.len();
                let records = batch.records;
                return Some(Ok(Popped { stored_in: StoredIn::Memory, records, batch: Some(batch) }));
            }
        }
        let next = lock(&self.spool).as_mut()?.next(now_ms());
        Some(next.transpose()?.map(|(ticket, Frame { kind, records, body })| {
            let signal = Signal::from_number(kind);
            let batch = signal.map(|signal| Batch { signal, request: body, records });
            Popped { stored_in: StoredIn::Spool(ticket), records, batch }
        }))
    }

    /// Releases a batch whose records are all settled: the spool need not keep it any longer.
    pub(crate) fn release(&self, stored_in: StoredIn) {
        if let (StoredIn::Spool(ticket), Some(spool)) = (stored_in, &mut *lock(&self.spool)) {
            spool.release(ticket);
        }
    }

    /// The records that the spool lost since the last call.
    pub(crate) fn take_losses(&self) -> Losses {
        lock(&self.spool).as_mut().map(Spool::take_losses).unwrap_or_default()
    }

    /// The spool's changes that are not synced to the disk yet; `None` if there are none, or no spool.
    ///
    /// # Errors
    /// No file descriptor was free.
    pub(crate) fn sync_job(&self) -> io::Result<Option<SyncJob>> {
        lock(&self.spool).as_mut().map_or(Ok(None), Spool::sync_job)
    }

    /// Gives back a job that failed: the next job repeats it.
    pub(crate) fn sync_failed(&self, job: SyncJob) {
        if let Some(spool) = &mut *lock(&self.spool) {
            spool.sync_failed(job);
        }
    }

    /// Makes [`DeliveryQueue::pop`] return `None` as soon as the queue is empty.
    pub(crate) fn close(&self) {
        lock(&self.memory).closed = true;
        self.changed.notify_one();
    }

    /// Discards the batches in memory, after the workers have stopped. Returns the number of their records.
    pub(crate) fn discard_memory(&self) -> u64 {
        lock(&self.memory).batches.drain(..).map(|batch| u64::from(batch.records)).sum()
    }

    /// Closes the spool, so that the next start has little to read.
    ///
    /// # Errors
    /// A write to the file system failed.
    pub(crate) fn close_spool(&self) -> io::Result<()> {
        lock(&self.spool).take().map_or(Ok(()), Spool::close)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_BATCHES: [Batch; 0] = [];

    fn batch(records: u32, bytes: usize) -> Batch {
        Batch { signal: Signal::Logs, request: vec![0; bytes].into(), records }
    }

    async fn popped(queue: &DeliveryQueue) -> Option<Batch> {
        queue.pop().await.map(|popped| popped.unwrap().batch.unwrap())
    }

    #[tokio::test]
    async fn the_oldest_batches_are_dropped_when_memory_is_full() {
        let queue = DeliveryQueue::new(100, None);
        assert_eq!(queue.push(batch(1, 50)), NO_BATCHES);
        assert_eq!(queue.push(batch(2, 50)), NO_BATCHES);
        assert_eq!(queue.push(batch(3, 60)), [batch(1, 50), batch(2, 50)]);
        assert_eq!(popped(&queue).await, Some(batch(3, 60)));
        assert_eq!(
            queue.push(batch(4, 101)),
            [batch(4, 101)],
            "a batch that alone exceeds the bound is dropped itself"
        );
    }

    #[tokio::test]
    async fn a_closed_queue_is_emptied_first_and_then_every_pop_returns_none() {
        let queue = DeliveryQueue::new(100, None);
        assert_eq!(queue.push(batch(1, 1)), NO_BATCHES);
        queue.close();
        assert_eq!(popped(&queue).await, Some(batch(1, 1)));
        let (first, second) = tokio::join!(popped(&queue), popped(&queue));
        assert_eq!((first, second), (None, None));
    }
}
