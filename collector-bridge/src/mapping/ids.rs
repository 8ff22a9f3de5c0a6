//! Computes record, trace and span ids. The ids are hashes and not random, so that an event gets the same ids
//! wherever and however often they are computed.

use std::hash::{BuildHasher as _, RandomState};

use acceptd_common::trace;
use acceptd_otlp::RecordUid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Computes the ids of one capture epoch, which is one load of the programs.
#[derive(Debug, Clone)]
pub struct Ids {
    /// Hash of host.id and boot id.
    boot: [u8; 16],
    /// Hash of `boot` and a nonce.
    epoch: u64,
}

/// The role of a span in a connection's trace. The numbers go into the span ids: never reuse one.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub enum SpanRole {
    /// The root span, from the SYN-ACK to the close.
    Connection = 0,
    /// From the SYN-ACK to ESTABLISHED.
    Handshake = 1,
    /// From ESTABLISHED to the accept.
    Queue = 2,
}

impl Ids {
    /// Ids for this host and boot. A random nonce separates this epoch from earlier ones, because reloaded
    /// programs count their sequence from 0 again.
    #[must_use]
    pub fn new(host_id: &str, boot_id: &str) -> Self {
        // RandomState is keyed by the operating system's entropy.
        Self::with_nonce(host_id, boot_id, RandomState::new().hash_one(std::process::id()))
    }

    fn with_nonce(host_id: &str, boot_id: &str, nonce: u64) -> Self {
        let boot = xxh3_128(format!("{host_id}\0{boot_id}").as_bytes()).to_be_bytes();
        let mut seed = [0; 24];
        seed[..16].copy_from_slice(&boot);
        seed[16..].copy_from_slice(&nonce.to_be_bytes());
        Self { boot, epoch: xxh3_64(&seed) }
    }

    /// `log.record.uid` of the event with this CPU and sequence number.
    #[must_use]
    pub fn record_uid(&self, cpu: u32, sequence: u64) -> RecordUid {
        RecordUid { epoch: self.epoch, cpu: u16::try_from(cpu).unwrap_or(u16::MAX), sequence }
    }

    /// The key with which the programs turn a socket cookie into the randomness that sampling is decided by.
    #[must_use]
    pub fn sampling_key(&self) -> [u64; 2] {
        let [high, low]: [[u8; 8]; 2] = zerocopy::transmute!(self.boot);
        [u64::from_be_bytes(high), u64::from_be_bytes(low)]
    }

    /// Trace id and span id of a span of the connection whose socket has this cookie, which is unique on the
    /// host for this boot; neither id is ever zero. The low 56 bits of the trace id are the randomness that
    /// the programs compute in the kernel to decide which connections are traced.
    #[must_use]
    pub fn trace_and_span_id(&self, cookie: u64, role: SpanRole) -> ([u8; 16], [u8; 8]) {
        let mut input = [0; 41];
        input[..16].copy_from_slice(&self.boot);
        input[16..24].copy_from_slice(&cookie.to_be_bytes());
        let trace = xxh3_128(&input[..40]) >> trace::BITS << trace::BITS
            | u128::from(trace::randomness(self.sampling_key(), cookie));
        let trace = trace.max(1);
        input[40] = 1 + role as u8;
        let span = xxh3_64(&input).max(1);
        (trace.to_be_bytes(), span.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn ids() -> Ids {
        Ids::with_nonce("host", "boot", 7)
    }

    #[test]
    fn the_same_connection_has_the_same_ids_and_no_other_has_them() {
        let trace = |ids: &Ids, cookie| ids.trace_and_span_id(cookie, SpanRole::Connection);
        assert_eq!(
            trace(&ids(), 5),
            trace(&Ids::with_nonce("host", "boot", 8), 5),
            "a restart does not change them"
        );
        assert_ne!(trace(&ids(), 5), trace(&Ids::with_nonce("host", "boot2", 7), 5));
        assert_ne!(trace(&ids(), 5), trace(&Ids::with_nonce("host2", "boot", 7), 5));
        let all: HashSet<_> = (0..100_000).map(|cookie| trace(&ids(), cookie)).collect();
        assert_eq!(all.len(), 100_000);
    }

    #[test]
    fn trace_ids_are_uniform_in_the_low_56_bits() {
        let mut ones = [0_u32; 56];
        for cookie in 0..20_000 {
            let (trace, _) = ids().trace_and_span_id(cookie, SpanRole::Connection);
            let low = u128::from_be_bytes(trace);
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += u32::from((low >> bit) & 1 == 1);
            }
        }
        // 10,000 expected, standard deviation 71: six of them.
        assert!(ones.iter().all(|&count| count.abs_diff(10_000) < 426), "{ones:?}");
    }

    #[test]
    fn a_new_epoch_has_new_record_uids() {
        let again = Ids::new("host", "boot");
        assert_ne!(Ids::new("host", "boot").record_uid(0, 0).epoch, again.record_uid(0, 0).epoch);
    }
}
