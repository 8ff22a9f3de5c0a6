//! A pool of buffers for encoded requests. The page faults of fresh memory for each request, of up to some
//! megabytes, would cost more than the encoding of its records.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Upper bound of the pooled buffers: about as many as there are requests in flight.
const MAX_POOLED: usize = 2;

/// Hands out buffers, and takes each back when the last [`Bytes`] of it is dropped.
#[derive(Debug, Clone, Default)]
pub(crate) struct BufferPool(Arc<Mutex<Vec<Vec<u8>>>>);

impl BufferPool {
    /// An empty buffer with room for `length` bytes. A pooled buffer that is too small, or of at least four
    /// times that size, is freed, so that a burst does not hold its memory for ever.
    pub(crate) fn take(&self, length: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| (length..length.saturating_mul(4)).contains(&buffer.capacity());
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // An eighth more, so that the buffer also fits a next request that is a little larger.
        pooled.filter(fits).unwrap_or_else(|| Vec::with_capacity(length + length / 8))
    }

    /// Makes the filled buffer shareable. Its memory returns to the pool with the last reference.
    pub(crate) fn share(&self, memory: Vec<u8>) -> Bytes {
        Bytes::from_owner(PooledBytes { memory, pool: self.clone() })
    }
}

struct PooledBytes {
    memory: Vec<u8>,
    pool: BufferPool,
}

impl AsRef<[u8]> for PooledBytes {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for PooledBytes {
    fn drop(&mut self) {
        let mut pooled = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pooled.len() < MAX_POOLED {
            let mut memory = std::mem::take(&mut self.memory);
            memory.clear();
            pooled.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_with_the_last_reference() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(1000);
        let address = buffer.as_ptr();
        buffer.extend_from_slice(b"request");
        let request = pool.share(buffer);
        let again = request.clone();
        assert_eq!(request, b"request"[..]);
        drop(request);
        let other = pool.take(1000);
        assert_ne!(other.as_ptr(), address, "a reference still exists");
        drop(again);
        let buffer = pool.take(1000);
        assert_eq!((buffer.as_ptr(), buffer.len()), (address, 0));
    }

    #[test]
    fn the_pool_is_bounded_and_its_buffers_fit() {
        let pool = BufferPool::default();
        let shared: Vec<Bytes> = (0..5).map(|_| pool.share(Vec::with_capacity(1000))).collect();
        drop(shared);
        assert_eq!(pool.0.lock().expect("no panic").len(), MAX_POOLED);
        assert!(pool.take(10).capacity() < 100, "a small request does not hold a large buffer");
        assert!(pool.take(5000).capacity() >= 5000);
    }
}
