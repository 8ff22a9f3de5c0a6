//! Ids that are computed, not drawn: the same event has the same ids wherever and however often they are made.

use std::hash::{BuildHasher as _, RandomState};

use acceptd_common::trace;
use acceptd_otlp::RecordUid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Makes the ids of one capture epoch (one load of the programs).
#[derive(Debug, Clone)]
pub struct Ids {
    /// Hash of host.id and boot id.
    boot: [u8; 16],
    epoch: u64,
}

/// What a trace is named after.
#[derive(Debug, Clone, Copy)]
pub enum Connection {
    /// The socket's cookie: unique on the host for this boot.
    Cookie(u64),
    /// A socket without a cookie is named after its record.
    Record(RecordUid),
}

/// Which span of a connection. A number is never used again.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub enum Role {
    /// The root span, from the SYN-ACK to the close.
    Connection = 0,
    /// From the SYN-ACK to ESTABLISHED.
    Handshake = 1,
    /// From ESTABLISHED to the accept.
    Queue = 2,
}

impl Ids {
    /// Ids of this host and boot, with a nonce drawn now: a reloaded program counts its sequence from 0 again.
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
    pub fn record(&self, cpu: u32, sequence: u64) -> RecordUid {
        RecordUid { epoch: self.epoch, cpu: u16::try_from(cpu).unwrap_or(u16::MAX), sequence }
    }

    /// What makes the randomness of traces out of cookies.
    #[must_use]
    pub fn key(&self) -> [u64; 2] {
        let [high, low]: [[u8; 8]; 2] = zerocopy::transmute!(self.boot);
        [u64::from_be_bytes(high), u64::from_be_bytes(low)]
    }

    /// Trace and span id of a connection; never zero. The programs in the kernel know the trace's low 56 bits, too: they decide
    /// by them which connections have a trace.
    #[must_use]
    pub fn trace(&self, connection: Connection, role: Role) -> ([u8; 16], [u8; 8]) {
        let mut name = [0; 41];
        name[..16].copy_from_slice(&self.boot);
        match connection {
            Connection::Cookie(cookie) => name[16..24].copy_from_slice(&cookie.to_be_bytes()),
            Connection::Record(uid) => {
                name[24..32].copy_from_slice(&uid.epoch.to_be_bytes());
                name[16..24].copy_from_slice(&uid.sequence.to_be_bytes());
                name[32..34].copy_from_slice(&uid.cpu.to_be_bytes());
                // Tells it from a cookie of the same number.
                name[34] = 1;
            }
        }
        let mut trace = xxh3_128(&name[..40]);
        if let Connection::Cookie(cookie) = connection {
            trace = trace >> trace::BITS << trace::BITS | u128::from(trace::randomness(self.key(), cookie));
        }
        let trace = trace.max(1);
        name[40] = 1 + role as u8;
        let span = xxh3_64(&name).max(1);
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
        let trace = |ids: &Ids, cookie| ids.trace(Connection::Cookie(cookie), Role::Connection);
        assert_eq!(
            trace(&ids(), 5),
            trace(&Ids::with_nonce("host", "boot", 8), 5),
            "a restart does not change them"
        );
        assert_ne!(trace(&ids(), 5), trace(&Ids::with_nonce("host", "boot2", 7), 5));
        assert_ne!(trace(&ids(), 5), trace(&Ids::with_nonce("host2", "boot", 7), 5));
        let all: HashSet<_> = (0..100_000).map(|cookie| trace(&ids(), cookie)).collect();
        assert_eq!(all.len(), 100_000);
        let uid = RecordUid { epoch: 0, cpu: 0, sequence: 5 };
        assert_ne!(trace(&ids(), 5), ids().trace(Connection::Record(uid), Role::Connection));
    }

    #[test]
    fn trace_ids_are_uniform_in_the_low_56_bits() {
        let mut ones = [0_u32; 56];
        for cookie in 0..20_000 {
            let (trace, _) = ids().trace(Connection::Cookie(cookie), Role::Connection);
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
        assert_ne!(Ids::new("host", "boot").record(0, 0).epoch, again.record(0, 0).epoch);
    }
}
