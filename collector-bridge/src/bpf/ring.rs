//! Waits for samples in the ring buffer.

use std::{os::fd::AsFd as _, time::Duration};

use aya::maps::{MapData, RingBuf};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// Waits until the ring has samples or `timeout` has passed. A signal ends the wait early and is no error.
///
/// # Errors
/// When poll(2) fails for any reason but a signal.
pub(crate) fn wait(ring: &RingBuf<MapData>, timeout: Duration) -> Result<(), Errno> {
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    let mut ready = [PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN)];
    match poll(&mut ready, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}
