//! Batches that wait for the network: bounded in bytes, filled by a thread, emptied by tasks.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::batch::Batch;

/// The queue of one destination.
#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    batches: VecDeque<Batch>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { inner: Mutex::default(), changed: Notify::new(), max_bytes }
    }

    /// Adds a batch. The oldest ones that have to make room for it are returned: they are the caller's to count.
    pub(crate) fn push(&self, batch: Batch) -> Vec<Batch> {
        let mut inner = self.lock();
        inner.bytes += batch.request.len();
        inner.batches.push_back(batch);
        let mut dropped = Vec::new();
        while inner.bytes > self.max_bytes {
            let Some(oldest) = inner.batches.pop_front() else { break };
            inner.bytes -= oldest.request.len();
            dropped.push(oldest);
        }
        drop(inner);
        self.changed.notify_one();
        dropped
    }

    /// The oldest batch, as soon as there is one; `None` once the queue is closed and empty.
    pub(crate) async fn pop(&self) -> Option<Batch> {
        loop {
            let changed = self.changed.notified();
            {
                let mut inner = self.lock();
                if let Some(batch) = inner.batches.pop_front() {
                    inner.bytes -= batch.request.len();
                    if !inner.batches.is_empty() {
                        // Two pushes between two looks leave only one permit: wake the next task for the rest.
                        self.changed.notify_one();
                    }
                    return Some(batch);
                }
                if inner.closed {
                    // Every other task that waits must see it too.
                    self.changed.notify_one();
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Lets [`Queue::pop`] end when the queue is empty.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Signal;

    fn batch(records: u32, bytes: usize) -> Batch {
        Batch { signal: Signal::Logs, request: vec![0; bytes].into(), records }
    }

    #[tokio::test]
    async fn the_oldest_make_room() {
        let queue = Queue::new(100);
        assert!(queue.push(batch(1, 50)).is_empty());
        assert!(queue.push(batch(2, 50)).is_empty());
        assert_eq!(queue.push(batch(3, 60)), [batch(1, 50), batch(2, 50)]);
        assert_eq!(queue.pop().await, Some(batch(3, 60)));
        assert_eq!(queue.push(batch(4, 101)), [batch(4, 101)], "what never fits is dropped itself");
    }

    #[tokio::test]
    async fn a_closed_queue_is_emptied_first_and_ends_every_task() {
        let queue = Queue::new(100);
        assert!(queue.push(batch(1, 1)).is_empty());
        queue.close();
        assert_eq!(queue.pop().await, Some(batch(1, 1)));
        let (first, second) = tokio::join!(queue.pop(), queue.pop());
        assert_eq!((first, second), (None, None));
    }
}
