//! The memory of requests, used again: fresh pages for each request of some megabytes would cost more than its records.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers that are kept: as many as requests are usually under way.
const KEPT: usize = 2;

/// Lends buffers, and gets each back when the last [`Bytes`] of it is dropped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recycler(Arc<Mutex<Vec<Vec<u8>>>>);

impl Recycler {
    /// An empty buffer for `length` bytes. One that is far too large is given up: what a burst needed is not kept
    /// for ever.
    pub(crate) fn buffer(&self, length: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| (length..length.saturating_mul(4)).contains(&buffer.capacity());
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // With some room for a next one that is a little larger.
        kept.filter(fits).unwrap_or_else(|| Vec::with_capacity(length + length / 8))
    }

    /// The bytes, whose memory comes back here.
    pub(crate) fn lend(&self, memory: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { memory, home: self.clone() })
    }
}

struct Lent {
    memory: Vec<u8>,
    home: Recycler,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            let mut memory = std::mem::take(&mut self.memory);
            memory.clear();
            kept.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_with_the_last_reference() {
        let recycler = Recycler::default();
        let mut buffer = recycler.buffer(1000);
        let address = buffer.as_ptr();
        buffer.extend_from_slice(b"request");
        let request = recycler.lend(buffer);
        let again = request.clone();
        assert_eq!(request, b"request"[..]);
        drop(request);
        let other = recycler.buffer(1000);
        assert_ne!(other.as_ptr(), address, "somebody still reads it");
        drop(again);
        let buffer = recycler.buffer(1000);
        assert_eq!((buffer.as_ptr(), buffer.len()), (address, 0));
    }

    #[test]
    fn what_is_kept_is_bounded_and_fits() {
        let recycler = Recycler::default();
        let lent: Vec<Bytes> = (0..5).map(|_| recycler.lend(Vec::with_capacity(1000))).collect();
        drop(lent);
        assert_eq!(recycler.0.lock().expect("no panic").len(), KEPT);
        assert!(recycler.buffer(10).capacity() < 100, "a small request does not hold a large buffer");
        assert!(recycler.buffer(5000).capacity() >= 5000);
    }
}
