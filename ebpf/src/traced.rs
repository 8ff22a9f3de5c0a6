//! Traced connections, from their accept to their close. `begin` decides once, at the accept, whether a
//! connection has a trace, and stores what the report of its close needs: in tier 1 in the storage of the
//! socket, else by its cookie. Both maps are pinned, so that an agent reports the close of connections that
//! its predecessor saw accepted.

use acceptd_common::{
    ConnectionClosed, Counter, TraceDecision, TracedConnection,
    limits::{BUDGETED_LISTENERS, TRACED_CONNECTIONS},
    trace,
};
use aya_ebpf::{
    btf_maps::SkStorage,
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::{btf_map, map},
    maps::{Array, HashMap},
};

use crate::{
    budget::{Budgets, try_take},
    count,
    event::Accept,
    offsets::*,
    pending,
    send::send,
    sock::{ProbedSock, TypedSock},
    storage::{delete_from_socket, get_from_socket},
    task,
    uapi::{
        AF_INET, AF_INET6, AF_UNIX, BPF_ANY, BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE,
        IPPROTO_MPTCP, IPPROTO_TCP, SOCK_DONE,
    },
    use_result,
};

/// Tier 1: the traced connection of each socket. Created by the accept; removed by the close, or freed with
/// the socket. Pinned.
#[btf_map]
static TRACED_BY_SOCKET: SkStorage<TracedConnection> = SkStorage::new();

/// Cookie → its traced connection, in tier 2 and in tier 1 for Multipath TCP. Removed by the close; when it
/// starts, the agent removes the entries of connections that closed while no agent ran. If the map is full,
/// `Counter::TracedFull` counts the connection. Pinned.
#[map]
static TRACED_BY_COOKIE: HashMap<u64, TracedConnection> =
    HashMap::with_max_entries(TRACED_CONNECTIONS, BPF_F_NO_PREALLOC);

/// The zero value that an entry of `TRACED_BY_COOKIE` starts with, which is too large for the stack.
#[map]
static ZERO_TRACED: Array<TracedConnection> = Array::with_max_entries(1, 0);

/// Inode of a listener → its budget of traces that only slowness selects.
#[map]
static SLOW_BUDGETS: Budgets = Budgets::with_max_entries(BUDGETED_LISTENERS, 0);

/// Nanoseconds since the Unix epoch at which `CLOCK_BOOTTIME` was 0. The agent measures and updates it
/// periodically.
#[map]
static ANCHOR: Array<u64> = Array::with_max_entries(1, 0);

/// Traces that only slowness selects, for each listener and second. Without this limit, an overloaded
/// listener would have a trace for each connection.
const SLOW_TRACES_PER_SECOND: u64 = 100;

/// Decides whether a connection that was just accepted has a trace, and if so stores it.
#[inline(always)]
pub fn begin(accept: &mut Accept) {
    if TRACES_ENABLED.load() != 0 {
        use_result(begin_if_traced(accept));
    }
}

#[inline(never)]
fn begin_if_traced(accept: &mut Accept) -> u32 {
    let accepted = accept.accepted;
    // An unverified socket may be another connection's.
    if !accept.verified || !accepted.exists() || !is_close_observed(accepted.sk) {
        return 0;
    }
    let cookie = accepted.sk.identity_cookie();
    let flags = trace_flags(accept, cookie);
    if flags == 0 {
        return 0;
    }
    let Some(traced) = store(accept, cookie) else {
        count::add(Counter::TracedFull);
        return 0;
    };
    traced.began_ns = accept.pending.began_ns(accept.listener.sk).unwrap_or(accept.now);
    traced.trace =
        TraceDecision { anchor_ns: anchor_ns(), threshold: TRACE_THRESHOLD.load(), flags, reserved: 0 };
    traced.capture_epoch = CAPTURE_EPOCH.load();
    task::describe_current(&mut traced.task);
    accept.trace = traced.trace;
    // Last: the peer may reset the connection at this moment, and `closed` must not report an incomplete
    // entry.
    // SAFETY: the pointer is of a reference.
    unsafe { core::ptr::write_volatile(&raw mut traced.accepted_ns, accept.now) };
    0
}

/// Whether one of the attached programs sees this connection close.
#[inline(always)]
pub fn is_close_observed(sk: ProbedSock) -> bool {
    match sk.family() {
        AF_INET | AF_INET6 => matches!(sk.protocol(), IPPROTO_TCP | IPPROTO_MPTCP),
        AF_UNIX => TIER.load() == 1 && UNIX_RELEASE_SEEN.load() != 0,
        _ => false,
    }
}

/// Bits of [`TraceDecision::flags`]; 0 when the connection has no trace.
#[inline(always)]
fn trace_flags(accept: &Accept, cookie: u64) -> u32 {
    if cookie == 0 {
        return 0;
    }
    let mut flags = 0;
    if trace::randomness([TRACE_KEY_0.load(), TRACE_KEY_1.load()], cookie) >= TRACE_THRESHOLD.load() {
        flags |= TraceDecision::BY_RATIO;
    }
    let since = accept.pending.established_ns;
    if since != 0
        && accept.now.saturating_sub(since) >= TRACE_SLOW_NS.load()
        && (flags != 0 || try_take(&SLOW_BUDGETS, accept.listener.inode, SLOW_TRACES_PER_SECOND, accept.now))
    {
        flags |= TraceDecision::SLOW;
    }
    if flags == 0 {
        return 0;
    }
    if accept.pending.is_preexisting() {
        flags |= TraceDecision::PREEXISTING;
    }
    if accept.accepted.sk.is_mptcp() {
        flags |= TraceDecision::MPTCP;
    }
    if accept.pending.has_false_round_trip(accept.listener.sk) {
        flags |= TraceDecision::FALSE_ROUND_TRIP;
    }
    flags
}

#[inline(always)]
fn anchor_ns() -> u64 {
    // SAFETY: a non-null map value.
    ANCHOR.get_ptr(0).map_or(0, |anchor| unsafe { *anchor })
}

/// Memory for the traced connection of a verified accept.
#[inline(always)]
fn store(accept: &Accept, cookie: u64) -> Option<&'static mut TracedConnection> {
    if pending::is_in_socket_storage(accept.accepted.sk) {
        // SAFETY: the accept is verified, and only tier 1 has socket storage.
        return stored_in_socket(unsafe { accept.typed_accepted() }, BPF_LOCAL_STORAGE_GET_F_CREATE);
    }
    let zero = ZERO_TRACED.get_ptr(0)?;
    // SAFETY: a non-null map value, which no program writes to.
    TRACED_BY_COOKIE.insert(&cookie, unsafe { &*zero }, BPF_ANY).ok()?;
    // SAFETY: a non-null map value. No other program uses it: its connection was only just accepted.
    unsafe { TRACED_BY_COOKIE.get_ptr_mut(&cookie)?.as_mut() }
}

#[inline(always)]
fn stored_in_socket(sk: TypedSock, flags: u64) -> Option<&'static mut TracedConnection> {
    // SAFETY: storage that is not null stays while the program runs. A connection is accepted and closed
    // once, one after the other.
    unsafe { get_from_socket(&TRACED_BY_SOCKET, sk, flags).as_mut() }
}

/// A connection closed that was in TCP state `old_state`. Reports the close if the connection has a trace.
#[inline(always)]
pub fn closed(sk: TypedSock, old_state: u8) {
    if TRACES_ENABLED.load() == 0 {
        return;
    }
    if TIER.load() == 1
        && let Some(traced) = stored_in_socket(sk, 0)
    {
        if traced.accepted_ns == 0 {
            return;
        }
        report_closed(sk, traced, old_state);
        delete_from_socket(&TRACED_BY_SOCKET, sk);
        return;
    }
    let cookie = sk.cookie();
    if let Some(traced) = TRACED_BY_COOKIE.get_ptr(&cookie) {
        // SAFETY: a non-null map value.
        report_closed(sk, unsafe { &*traced }, old_state);
        let _ = TRACED_BY_COOKIE.remove(&cookie);
    }
}

#[inline(always)]
fn report_closed(sk: TypedSock, traced: &TracedConnection, old_state: u8) {
    count::add(Counter::OtherEvents);
    let tcp = sk.tcp();
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    send(
        now,
        #[inline(always)]
        |out: &mut ConnectionClosed| {
            out.traced = *traced;
            sk.probed().describe_connection(0, &mut out.socket);
            out.error = sk.load::<u32>(&SK_ERR);
            out.old_state = old_state;
            if tcp.is_null() {
                sk.probed().unix_name(&mut out.local);
                sk.probed().unix_peer_name(&mut out.peer);
            } else {
                out.flags = ConnectionClosed::HAS_TCP;
                // The kernel counts the peer's FIN as one byte.
                let fin = sk.load::<u64>(&SK_FLAGS) >> SOCK_DONE & 1;
                out.received = tcp.load::<u64>(&TCP_BYTES_RECEIVED).saturating_sub(fin);
                let retransmitted: u64 = tcp.load(&TCP_BYTES_RETRANS);
                out.sent = tcp.load::<u64>(&TCP_BYTES_SENT).saturating_sub(retransmitted);
                out.rtt_ns = u64::from(tcp.load::<u32>(&TCP_SRTT_US)) * 125;
                out.retransmits = tcp.load(&TCP_TOTAL_RETRANS);
            }
        },
    );
}

/// Marks the entry of a connection that the survey found alive, so that the agent's sweep at its start keeps
/// it.
#[inline(always)]
pub fn mark_alive(cookie: u64) {
    if let Some(traced) = TRACED_BY_COOKIE.get_ptr_mut(&cookie) {
        // SAFETY: a non-null map value.
        unsafe { (*traced).capture_epoch = CAPTURE_EPOCH.load() };
    }
}
