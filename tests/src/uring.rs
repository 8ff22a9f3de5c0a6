//! io_uring instances for scenarios.
#![allow(unsafe_code, reason = "memory of a submitted request must stay valid until it completes")]

use std::os::fd::{FromRawFd as _, OwnedFd};

use io_uring::{IoUring, cqueue, squeue};

/// A ring with room for this many submissions.
///
/// # Panics
/// If the kernel has no io_uring, or it is disabled.
#[must_use]
pub fn new(entries: u32) -> IoUring {
    IoUring::new(entries).expect("io_uring; is kernel.io_uring_disabled 0?")
}

/// A ring whose submissions a kernel thread polls (`SQPOLL`).
///
/// # Panics
/// If the kernel has no io_uring, or it is disabled.
#[must_use]
pub fn with_sqpoll(entries: u32) -> IoUring {
    IoUring::builder().setup_sqpoll(50).build(entries).expect("io_uring with SQPOLL")
}

/// A ring with room for this many completions.
///
/// # Panics
/// If the kernel has no io_uring, or it is disabled.
#[must_use]
pub fn with_completions(completions: u32) -> IoUring {
    IoUring::builder().setup_cqsize(completions).build(2).expect("io_uring with a small completion queue")
}

/// Submits one request. It must not refer to memory of this process: pass null for addresses.
///
/// # Panics
/// If the submission queue is full.
pub fn submit(ring: &mut IoUring, request: &squeue::Entry) {
    // SAFETY: no scenario submits a request with memory that the kernel accesses later.
    unsafe { ring.submission().push(request) }.expect("a free entry");
    ring.submit().expect("the ring accepts the request");
}

/// The next completion, if there is one.
pub fn next(ring: &mut IoUring) -> Option<cqueue::Entry> {
    ring.completion().next()
}

/// Waits for the next completion.
///
/// # Panics
/// If waiting fails.
pub fn completion(ring: &mut IoUring) -> cqueue::Entry {
    loop {
        if let Some(completion) = next(ring) {
            return completion;
        }
        ring.submit_and_wait(1).expect("the ring waits");
    }
}

/// Waits for the next completion, whose result is a new descriptor.
///
/// # Panics
/// If the request failed.
pub fn descriptor(ring: &mut IoUring) -> OwnedFd {
    owned(completion(ring).result())
}

/// Takes ownership of the descriptor in a completion's result.
///
/// # Panics
/// If the result is an error.
#[must_use]
pub fn owned(result: i32) -> OwnedFd {
    assert!(result >= 0, "{}", std::io::Error::from_raw_os_error(-result));
    // SAFETY: the completion just returned this descriptor, so nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(result) }
}
