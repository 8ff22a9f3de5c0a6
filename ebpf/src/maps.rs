//! Every map, with the reason for its size.

use acceptd_common::{
    counter::Counter,
    limits::{OWN_CONNECTIONS, PENDING_CONNECTIONS},
};
use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray, RingBuf},
};

use crate::sock::Tuple;

/// Samples on their way to the agent. The agent sets the size (`capture.ring_bytes`) when it loads the programs.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// One [`Counter`] a slot, added to atomically: a program can be preempted by another on its own CPU.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// The next sequence number of each CPU.
#[map]
pub static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Failure records of the current second: its number, and how many.
#[map]
pub static FAILURE_BUDGET: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// Cookie → boot time of ESTABLISHED, of connections that were not accepted yet. Filled only on
/// SYN_RECV→ESTABLISHED; emptied at the accept and at CLOSE, so it cannot leak. Full is a counter.
#[map]
pub static PENDING: HashMap<u64, u64> = HashMap::with_max_entries(PENDING_CONNECTIONS, 0);

/// Cookie → addresses of the agent's own outgoing connections.
#[map]
pub static OWN_BY_COOKIE: HashMap<u64, Tuple> = HashMap::with_max_entries(OWN_CONNECTIONS, 0);

/// The same connections as the accepting side sees them.
#[map]
pub static OWN_BY_TUPLE: HashMap<Tuple, u8> = HashMap::with_max_entries(OWN_CONNECTIONS, 0);
