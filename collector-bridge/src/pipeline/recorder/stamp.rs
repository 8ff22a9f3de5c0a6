//! Makes the ids and times of records. The clocks are read once a burst, so that a record costs no clock
//! read.

use std::time::Instant;

use acceptd_otlp::RecordUid;

use crate::{
    clock::{Clock, now_unix_nanos},
    config::PeerAddress,
    mapping::{RecordContext, ids::Ids},
};

/// The CPU number in the ids of records that the agent makes itself. No CPU of the kernel has it.
const NO_CPU: u32 = u32::MAX;

/// The ids, times and privacy setting that all records of a burst share.
pub(super) struct Stamp {
    ids: Ids,
    clock: Clock,
    /// When the burst began: wall clock, nanoseconds since the Unix epoch.
    observed_unix_ns: u64,
    /// When the burst began: monotonic clock.
    now: Instant,
    peers: PeerAddress,
    /// Records made without a sample so far; the sequence number of the next one.
    made: u64,
}

impl Stamp {
    pub(super) fn new(ids: Ids, peers: PeerAddress) -> Self {
        Self {
            ids,
            clock: Clock::new(),
            observed_unix_ns: now_unix_nanos(),
            now: Instant::now(),
            peers,
            made: 0,
        }
    }

    pub(super) fn set_peers(&mut self, peers: PeerAddress) {
        self.peers = peers;
    }

    /// Reads the clocks. All records until the next call have this time as the time of their observation.
    pub(super) fn begin_burst(&mut self) {
        self.clock.refresh();
        self.observed_unix_ns = now_unix_nanos();
        self.now = Instant::now();
    }

    /// The input that the mapping needs besides a sample.
    pub(super) fn context(&self) -> RecordContext<'_> {
        RecordContext {
            ids: &self.ids,
            clock: &self.clock,
            observed_unix_ns: self.observed_unix_ns,
            peers: self.peers,
        }
    }

    /// When the burst began.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// When the burst began, nanoseconds since the Unix epoch.
    pub(super) fn observed_unix_ns(&self) -> u64 {
        self.observed_unix_ns
    }

    /// Nanoseconds since the Unix epoch at which `CLOCK_BOOTTIME` was 0, by the last comparison of the
    /// clocks.
    pub(super) fn boot_time_unix_nanos(&self) -> u64 {
        self.clock.boot_time_unix_nanos()
    }

    /// The id of a record that has no sample behind it. The record counts as made.
    pub(super) fn next_uid(&mut self) -> RecordUid {
        let sequence = self.made;
        self.made += 1;
        self.ids.record_uid(NO_CPU, sequence)
    }

    /// How many records without a sample were made.
    pub(super) fn made(&self) -> u64 {
        self.made
    }
}
