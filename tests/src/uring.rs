//! Rings of io_uring, for scenarios.
#![allow(unsafe_code, reason = "what a ring is asked to do must stay valid until it is done")]

use std::os::fd::{FromRawFd as _, OwnedFd};

use io_uring::{IoUring, cqueue, squeue};

/// A ring.
///
/// # Panics
/// When the kernel has none.
#[must_use]
pub fn new(entries: u32) -> IoUring {
    IoUring::new(entries).expect("io_uring; is kernel.io_uring_disabled 0?")
}

/// A ring with a polling thread.
///
/// # Panics
/// When the kernel has none.
#[must_use]
pub fn polling(entries: u32) -> IoUring {
    IoUring::builder().setup_sqpoll(50).build(entries).expect("io_uring with SQPOLL")
}

/// A ring with room for so many completions.
///
/// # Panics
/// When the kernel has none.
#[must_use]
pub fn with_completions(completions: u32) -> IoUring {
    IoUring::builder().setup_cqsize(completions).build(2).expect("io_uring with a small completion queue")
}

/// Submits one request, whose memory is not of this process (a null address).
///
/// # Panics
/// When the ring is full.
pub fn submit(ring: &mut IoUring, request: &squeue::Entry) {
    // SAFETY: no request of the scenarios has memory that the kernel reads or writes later.
    unsafe { ring.submission().push(request) }.expect("a free entry");
    ring.submit().expect("the ring takes it");
}

/// The next completion, if there is one.
pub fn next(ring: &mut IoUring) -> Option<cqueue::Entry> {
    ring.completion().next()
}

/// Waits for the next completion.
///
/// # Panics
/// When waiting fails.
pub fn completion(ring: &mut IoUring) -> cqueue::Entry {
    loop {
        if let Some(completion) = next(ring) {
            return completion;
        }
        ring.submit_and_wait(1).expect("the ring waits");
    }
}

/// Waits for a completion with a new descriptor.
///
/// # Panics
/// When the request failed.
pub fn descriptor(ring: &mut IoUring) -> OwnedFd {
    owned(completion(ring).result())
}

/// The descriptor that a completion brought.
///
/// # Panics
/// When it is an error.
#[must_use]
pub fn owned(result: i32) -> OwnedFd {
    assert!(result >= 0, "{}", std::io::Error::from_raw_os_error(-result));
    // SAFETY: the kernel just made this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(result) }
}
