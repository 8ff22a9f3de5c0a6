//! Counts the open connections of each listener, and how long they were open. Counted here, because an event
//! for each close would double the cost of a connection.

use acceptd_common::{
    ConnectionStats, Counter, histogram,
    limits::{COUNTED_LISTENERS, OPEN_CONNECTIONS as MAX_OPEN_CONNECTIONS},
};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, HashMap},
};

use crate::{
    count::{self, add_to},
    event::Accept,
    offsets::*,
    pending::{self, OpenConnection},
    sock::TypedSock,
    traced::is_close_observed,
    uapi::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    use_result,
};

/// Inode of a listener → the figures of its connections since the programs were loaded. The agent removes
/// entries of listeners that are gone. If the map is full, `Counter::ConnectionStatsFull` counts the
/// connection.
#[map]
static CONNECTION_STATS: HashMap<u64, ConnectionStats> =
    HashMap::with_max_entries(COUNTED_LISTENERS, BPF_F_NO_PREALLOC);

/// The zero value that an entry of `CONNECTION_STATS` starts with, which is too large for the stack.
#[map]
static ZERO_STATS: Array<ConnectionStats> = Array::with_max_entries(1, 0);

/// Cookie → an open connection that is counted, in tier 2 and in tier 1 for Multipath TCP; the others are in
/// the storage of their sockets. Removed by the close. If the map is full, `Counter::ConnectionStatsFull`
/// counts the connection.
#[map]
static OPEN_CONNECTIONS: HashMap<u64, OpenConnection> =
    HashMap::with_max_entries(MAX_OPEN_CONNECTIONS, BPF_F_NO_PREALLOC);

/// Counts a connection that was just accepted.
#[inline(always)]
pub fn count_accepted(accept: &Accept) {
    if COUNT_CONNECTIONS.load() != 0 {
        use_result(count_verified(accept));
    }
}

#[inline(never)]
fn count_verified(accept: &Accept) -> u32 {
    let accepted = accept.accepted;
    let listener = accept.listener.inode;
    // An unverified socket may be another connection's, and without a listener there is no entry to count in.
    if !accept.verified || !accepted.exists() || listener == 0 || !is_close_observed(accepted.sk) {
        return 0;
    }
    // Before the open connection is stored, which lets a program count the close.
    let Some(stats) = stats_for(listener) else {
        count::add(Counter::ConnectionStatsFull);
        return 0;
    };
    let open = OpenConnection { accepted_ns: accept.now, listener };
    let is_stored = if pending::is_in_socket_storage(accepted.sk) {
        // SAFETY: the accept is verified, and only tier 1 has socket storage.
        pending::store_open_connection(unsafe { accept.typed_accepted() }, open)
    } else {
        let cookie = accepted.sk.identity_cookie();
        cookie != 0 && OPEN_CONNECTIONS.insert(&cookie, &open, BPF_ANY).is_ok()
    };
    if is_stored {
        add_to(&mut stats.accepted, 1);
    } else {
        count::add(Counter::ConnectionStatsFull);
    }
    0
}

/// The figures of a listener, which are created if need be.
#[inline(always)]
fn stats_for(listener: u64) -> Option<&'static mut ConnectionStats> {
    if CONNECTION_STATS.get_ptr(&listener).is_none() {
        let zero = ZERO_STATS.get_ptr(0)?;
        // If another CPU inserts first, its entry stays.
        // SAFETY: a non-null map value, which no program writes to.
        let _ = CONNECTION_STATS.insert(&listener, unsafe { &*zero }, BPF_NOEXIST);
    }
    // SAFETY: a non-null map value. Programs only add to it, atomically.
    unsafe { CONNECTION_STATS.get_ptr_mut(&listener)?.as_mut() }
}

/// Counts the close of a connection, if its accept was counted.
#[inline(always)]
pub fn count_closed(sk: TypedSock) {
    if COUNT_CONNECTIONS.load() == 0 {
        return;
    }
    let open = if let Some(open) = pending::take_open_connection(sk) {
        open
    } else {
        let cookie = sk.cookie();
        let Some(open) = OPEN_CONNECTIONS.get_ptr(&cookie) else { return };
        // SAFETY: a non-null map value.
        let open = unsafe { *open };
        let _ = OPEN_CONNECTIONS.remove(&cookie);
        open
    };
    let Some(stats) = CONNECTION_STATS.get_ptr_mut(&open.listener) else { return };
    // SAFETY: a non-null map value. Programs only add to it, atomically.
    let stats = unsafe { &mut *stats };
    // SAFETY: the helper has no arguments.
    let open_ns = unsafe { bpf_ktime_get_boot_ns() }.saturating_sub(open.accepted_ns);
    add_to(&mut stats.closed, 1);
    add_to(&mut stats.total_open_ns, open_ns);
    if let Some(bucket) = stats.buckets.get_mut(histogram::bucket(open_ns)) {
        add_to(bucket, 1);
    }
}
