//! Batches that wait for the network: in a spool if there is one, else in memory. Filled by a thread, emptied by tasks.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use acceptd_spool::{Frame, Losses, Spool, SyncJob, Ticket};
use tokio::sync::Notify;

use crate::{batch::Batch, signal::Signal};

/// The backlog of one destination.
#[derive(Debug)]
pub(crate) struct Backlog {
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

/// Where a batch was kept, and is until it is [done](Backlog::done).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    InMemory,
    InSpool(Ticket),
}

/// A batch on its way out.
#[derive(Debug)]
pub(crate) struct Popped {
    pub(crate) kept: Kept,
    pub(crate) records: u32,
    /// None of a frame that only a newer version understands.
    pub(crate) batch: Option<Batch>,
}

impl Backlog {
    /// At most `max_bytes` of memory for what no spool takes.
    pub(crate) fn new(max_bytes: usize, spool: Option<Spool>) -> Self {
        Self { memory: Mutex::default(), spool: Mutex::new(spool), changed: Notify::new(), max_bytes }
    }

    pub(crate) fn has_spool(&self) -> bool {
        lock(&self.spool).is_some()
    }

    /// Appends a batch to the spool.
    ///
    /// # Errors
    /// Why it is not in there.
    pub(crate) fn append(&self, batch: &Batch) -> io::Result<()> {
        let frame =
            Frame { kind: batch.signal.number(), records: batch.records, body: batch.request.clone() };
        match &mut *lock(&self.spool) {
            Some(spool) => spool.append(&frame, now_ms())?,
            None => return Err(io::Error::other("it was closed")),
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Adds a batch to memory. The oldest ones that have to make room for it are returned: they are the caller's to count.
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

    /// The next batch, as soon as there is one; `None` once the backlog is closed and empty. What is in memory although there is
    /// a spool could not be kept there, and goes first.
    pub(crate) async fn pop(&self) -> Option<io::Result<Popped>> {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = self.try_pop() {
                // Two pushes between two looks leave only one permit: wake the next task for the rest.
                self.changed.notify_one();
                return Some(found);
            }
            if lock(&self.memory).closed {
                // Every other task that waits must see it too.
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
                return Some(Ok(Popped { kept: Kept::InMemory, records: batch.records, batch: Some(batch) }));
            }
        }
        let next = lock(&self.spool).as_mut()?.next(now_ms());
        Some(next.transpose()?.map(|(ticket, Frame { kind, records, body })| {
            let signal = Signal::from_number(kind);
            let batch = signal.map(|signal| Batch { signal, request: body, records });
            Popped { kept: Kept::InSpool(ticket), records, batch }
        }))
    }

    /// A batch is done with, whatever became of it.
    pub(crate) fn done(&self, kept: Kept) {
        if let (Kept::InSpool(ticket), Some(spool)) = (kept, &mut *lock(&self.spool)) {
            spool.done(ticket);
        }
    }

    /// What the spool lost since the last call.
    pub(crate) fn take_losses(&self) -> Losses {
        lock(&self.spool).as_mut().map(Spool::take_losses).unwrap_or_default()
    }

    /// What the spool has to have written through by now.
    ///
    /// # Errors
    /// No file descriptor was free.
    pub(crate) fn sync_job(&self) -> io::Result<Option<SyncJob>> {
        lock(&self.spool).as_mut().map_or(Ok(None), Spool::sync_job)
    }

    /// A job could not be done: the next one does it again.
    pub(crate) fn sync_failed(&self, job: SyncJob) {
        if let Some(spool) = &mut *lock(&self.spool) {
            spool.sync_failed(job);
        }
    }

    /// Lets [`Backlog::pop`] end when there is nothing more.
    pub(crate) fn close(&self) {
        lock(&self.memory).closed = true;
        self.changed.notify_one();
    }

    /// Records that are still in memory, which nobody will fetch any more.
    pub(crate) fn abandon(&self) -> u64 {
        lock(&self.memory).batches.drain(..).map(|batch| u64::from(batch.records)).sum()
    }

    /// Ends the spool: the next start has little to read then.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn close_spool(&self) -> io::Result<()> {
        lock(&self.spool).take().map_or(Ok(()), Spool::close)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: u32, bytes: usize) -> Batch {
        Batch { signal: Signal::Logs, request: vec![0; bytes].into(), records }
    }

    async fn popped(backlog: &Backlog) -> Option<Batch> {
        backlog.pop().await.map(|popped| popped.unwrap().batch.unwrap())
    }

    #[tokio::test]
    async fn the_oldest_make_room() {
        let backlog = Backlog::new(100, None);
        assert!(backlog.push(batch(1, 50)).is_empty());
        assert!(backlog.push(batch(2, 50)).is_empty());
        assert_eq!(backlog.push(batch(3, 60)), [batch(1, 50), batch(2, 50)]);
        assert_eq!(popped(&backlog).await, Some(batch(3, 60)));
        assert_eq!(backlog.push(batch(4, 101)), [batch(4, 101)], "what never fits is dropped itself");
    }

    #[tokio::test]
    async fn a_closed_backlog_is_emptied_first_and_ends_every_task() {
        let backlog = Backlog::new(100, None);
        assert!(backlog.push(batch(1, 1)).is_empty());
        backlog.close();
        assert_eq!(popped(&backlog).await, Some(batch(1, 1)));
        let (first, second) = tokio::join!(popped(&backlog), popped(&backlog));
        assert_eq!((first, second), (None, None));
    }
}
