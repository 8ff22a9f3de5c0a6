//! Every map, with the reason for its size.

use acceptd_common::{
    Client, FailureKey, Failures, ListenerState, Lives, Open,
    counter::Counter,
    filter::FilterValue,
    limits::{
        BLOCKED_THREADS, BUDGETED_LISTENERS, COUNTED_LISTENERS, FAILURE_COUNTS, FILTER_VALUES,
        LIVING_CONNECTIONS, OPEN_CONNECTIONS, OWN_CONNECTIONS, PEERS as MOST_PEERS, PENDING_CONNECTIONS,
    },
};
use aya_ebpf::{
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};

use crate::{
    calls::Ongoing,
    lives::Life,
    pending::{Kept, Pending},
    sock::Tuple,
    storage::TaskStorage,
};

/// `BPF_F_NO_PREALLOC`, include/uapi/linux/bpf.h: memory for what is there, not for what could be.
const NO_PREALLOC: u32 = 1;

/// Samples on their way to the agent. The agent sets the size (`capture.ring_bytes`) when it loads the programs.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// One [`Counter`] a slot, added to atomically: a program can be preempted by another on its own CPU.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// The next sequence number of each CPU.
#[map]
pub static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Inode of a listener → failure records of the current second: its number, and how many.
#[map]
pub static FAILURE_BUDGETS: LruHashMap<u64, [u64; 2]> = LruHashMap::with_max_entries(BUDGETED_LISTENERS, 0);

/// Inode of a listener → traces of the current second that only slowness keeps: its number, and how many.
#[map]
pub static SLOW_BUDGETS: LruHashMap<u64, [u64; 2]> = LruHashMap::with_max_entries(BUDGETED_LISTENERS, 0);

/// How often what failed where, since the programs were loaded.
#[map]
pub static FAILURES: HashMap<FailureKey, Failures> = HashMap::with_max_entries(FAILURE_COUNTS, 0);

/// What a count of failures begins with.
#[map]
pub static NO_FAILURES: Array<Failures> = Array::with_max_entries(1, 0);

/// Tier 1: what each connection that waits to be accepted is known for. Made on SYN_RECV→ESTABLISHED, by a UNIX connect and
/// by the pass over what existed before; then what is counted of an accepted one. Gone with the socket.
#[btf_map]
pub static WAITING: SkStorage<Kept> = SkStorage::new();

/// Tier 1: the call that each thread is in. Made by a thread's first accept; gone with the thread.
#[btf_map]
pub static CALLS: TaskStorage<Ongoing> = TaskStorage::new();

/// Tier 2, and subflows of Multipath TCP and what a failed accept gave back in tier 1: cookie → the same of connections that
/// were not accepted yet. Emptied at the accept and when the socket is destroyed, so it cannot leak. Full is a counter.
#[map]
pub static PENDING: HashMap<u64, Pending> = HashMap::with_max_entries(PENDING_CONNECTIONS, 0);

/// Tier 1: what the end of each connection with a trace needs. Made by the accept; gone with the end, or the socket. Pinned.
#[btf_map]
pub static OPEN: SkStorage<Open> = SkStorage::new();

/// Tier 2, and Multipath TCP in tier 1: cookie → the same. Emptied at the end; what ended while no agent ran is swept at the
/// next start. Full is a counter. Pinned.
#[map]
pub static OPEN_BY_COOKIE: HashMap<u64, Open> = HashMap::with_max_entries(OPEN_CONNECTIONS, NO_PREALLOC);

/// What an entry of that begins with.
#[map]
pub static NOTHING_OPEN: Array<Open> = Array::with_max_entries(1, 0);

/// Inode of a listener → what is counted of its connections, since the programs were loaded. The agent removes what belongs to
/// no listener any more.
#[map]
pub static LIVES: HashMap<u64, Lives> = HashMap::with_max_entries(COUNTED_LISTENERS, NO_PREALLOC);

/// What an entry of that begins with.
#[map]
pub static NO_LIVES: Array<Lives> = Array::with_max_entries(1, 0);

/// Tier 2, and Multipath TCP in tier 1: cookie → the open connection that is counted. Emptied at its end. Full is a counter.
#[map]
pub static LIVING: HashMap<u64, Life> = HashMap::with_max_entries(LIVING_CONNECTIONS, NO_PREALLOC);

/// Nanoseconds since the Unix epoch at which `CLOCK_BOOTTIME` was 0. The agent measures it again and again.
#[map]
pub static ANCHOR: Array<u64> = Array::with_max_entries(1, 0);

/// Cookie of a client's socket → its process, of connections within this host. Emptied at the accept, and when
/// either end closes before; the agent sweeps what is left over by an end that was not seen. Full is a counter.
#[map]
pub static CONNECTING: HashMap<u64, Client> = HashMap::with_max_entries(MOST_PEERS, NO_PREALLOC);

/// The same connections as the accepting side sees them → that cookie, until its own end is established.
#[map]
pub static PEERS: HashMap<Tuple, u64> = HashMap::with_max_entries(MOST_PEERS, NO_PREALLOC);

/// Cookie → addresses of the agent's own outgoing connections.
#[map]
pub static OWN_BY_COOKIE: HashMap<u64, Tuple> = HashMap::with_max_entries(OWN_CONNECTIONS, 0);

/// The same connections as the accepting side sees them.
#[map]
pub static OWN_BY_TUPLE: HashMap<Tuple, u8> = HashMap::with_max_entries(OWN_CONNECTIONS, 0);

/// `filter.*`: filled before the programs are attached.
#[map]
pub static FILTER: HashMap<FilterValue, u8> = HashMap::with_max_entries(2 * 6 * FILTER_VALUES, 0);

/// Tier 2: thread → boot time at which it entered accept. Only used when attempts are captured.
#[map]
pub static ENTERED: HashMap<u64, u64> = HashMap::with_max_entries(BLOCKED_THREADS, 0);

/// Where the survey builds its rows, which are too large for the stack. One survey runs at a time.
#[map]
pub static ROW: Array<ListenerState> = Array::with_max_entries(1, 0);
