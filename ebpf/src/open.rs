//! Connections with a trace, from their accept to their end. Whether one has a trace is decided here, once, at its accept; what
//! the end needs is kept: in tier 1 in the socket, else by its cookie. Both maps are pinned, so that an agent sees the end of
//! what the one before it began.

use acceptd_common::{Closed, Counter, Open, Trace, trace};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_boot_ns, bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skc_to_tcp_sock,
};

use crate::{
    accept::Accept,
    budget, count,
    maps::{ANCHOR, NOTHING_OPEN, OPEN, OPEN_BY_COOKIE, SLOW_BUDGETS},
    offsets::*,
    pending,
    read::typed,
    send::send,
    sock::{AF_INET, AF_INET6, AF_UNIX, IPPROTO_MPTCP, IPPROTO_TCP, Socket},
    task,
};

/// `BPF_SK_STORAGE_GET_F_CREATE`, include/uapi/linux/bpf.h
const CREATE: u64 = 1;
/// The bit of `sk_flags` that says that a FIN arrived (`tcp_fin`), include/net/sock.h
const SOCK_DONE: u64 = 1;

/// Traces that only slowness keeps, for each listener and second: where everybody waits, each connection would have one.
const SLOW_TRACES: u64 = 100;

/// Decides whether a connection that was just accepted has a trace, and if so remembers it.
#[inline(always)]
pub fn begin(accept: &mut Accept) {
    if TRACES.load() != 0 {
        // The verifier wants a subprogram to return a number; without a use of it LLVM would leave a pointer there.
        core::hint::black_box(begin_if_sampled(accept));
    }
}

#[inline(never)]
fn begin_if_sampled(accept: &mut Accept) -> u32 {
    let socket = accept.accepted;
    // Of another socket nothing may be told.
    if !accept.verified || !socket.exists() || !ends_visibly(socket) {
        return 0;
    }
    let cookie = socket.cookie();
    let flags = sampled(accept, cookie);
    if flags == 0 {
        return 0;
    }
    let Some(open) = remember(socket, cookie) else {
        count::add(Counter::OpenFull);
        return 0;
    };
    open.began_ns = accept.pending.began_ns(accept.listener).unwrap_or(accept.now);
    open.trace = Trace { anchor_ns: anchor(), threshold: TRACE_THRESHOLD.load(), flags, reserved: 0 };
    open.generation = GENERATION.load();
    task::current(&mut open.task);
    accept.trace = open.trace;
    // Last: the other end may reset the connection at this moment, and what is not whole is not told.
    // SAFETY: a reference.
    unsafe { core::ptr::write_volatile(&mut open.accepted_ns, accept.now) };
    0
}

/// Whether some program sees this connection end.
#[inline(always)]
pub fn ends_visibly(socket: Socket) -> bool {
    match socket.family() {
        AF_INET | AF_INET6 => matches!(socket.protocol(), IPPROTO_TCP | IPPROTO_MPTCP),
        AF_UNIX => TIER.load() == 1 && UNIX_ENDS.load() != 0,
        _ => false,
    }
}

/// Bits of [`Trace::flags`]; 0 when it is not sampled.
#[inline(always)]
fn sampled(accept: &Accept, cookie: u64) -> u32 {
    if cookie == 0 {
        return 0;
    }
    let mut flags = 0;
    if trace::randomness([TRACE_KEY_0.load(), TRACE_KEY_1.load()], cookie) >= TRACE_THRESHOLD.load() {
        flags |= Trace::BY_RATIO;
    }
    let since = accept.pending.established_ns;
    if since != 0
        && accept.now.saturating_sub(since) >= TRACE_SLOW_NS.load()
        && (flags != 0 || budget::allows(&SLOW_BUDGETS, accept.listener.inode, SLOW_TRACES, accept.now))
    {
        flags |= Trace::SLOW;
    }
    if flags == 0 {
        return 0;
    }
    if accept.pending.is_preexisting() {
        flags |= Trace::PREEXISTING;
    }
    if accept.accepted.is_mptcp() {
        flags |= Trace::MPTCP;
    }
    flags
}

#[inline(always)]
fn anchor() -> u64 {
    // SAFETY: a non-null map value.
    ANCHOR.get_ptr(0).map_or(0, |anchor| unsafe { *anchor })
}

/// Memory for a connection, in tier 1 in the socket, which the verifier knows.
#[inline(always)]
fn remember(socket: Socket, cookie: u64) -> Option<&'static mut Open> {
    if pending::is_kept_in(socket) {
        return of_socket(socket.sk, CREATE);
    }
    let nothing = NOTHING_OPEN.get_ptr(0)?;
    // SAFETY: a non-null map value. It is too large for the stack.
    OPEN_BY_COOKIE.insert(&cookie, unsafe { &*nothing }, 0).ok()?;
    // SAFETY: a non-null map value. Its connection was only just accepted: nobody else touches it.
    unsafe { OPEN_BY_COOKIE.get_ptr_mut(&cookie)?.as_mut() }
}

#[inline(always)]
fn of_socket(sk: *const u8, flags: u64) -> Option<&'static mut Open> {
    let map = (&raw const OPEN).cast_mut().cast();
    // SAFETY: the map is one of socket storage, and `sk` a socket.
    let open: *mut Open =
        unsafe { bpf_sk_storage_get(map, sk as *mut _, core::ptr::null_mut(), flags) }.cast();
    // SAFETY: a storage that is not null stays while the program runs. A connection is accepted and ends once, one after the other.
    unsafe { open.as_mut() }
}

/// A connection ends, and its state was `old`. Tells of it if it has a trace. The verifier knows `sk` as a socket.
#[inline(always)]
pub fn ended(sk: *const u8, old: u8) {
    if TRACES.load() == 0 {
        return;
    }
    if TIER.load() == 1
        && let Some(open) = of_socket(sk, 0)
    {
        if open.accepted_ns == 0 {
            return;
        }
        tell(sk, open, old);
        let map = (&raw const OPEN).cast_mut().cast();
        // SAFETY: the map is one of socket storage, and the verifier knows the socket.
        unsafe { bpf_sk_storage_delete(map, sk as *mut _) };
        return;
    }
    let cookie: u64 = typed(sk, &SK_COOKIE);
    if let Some(open) = OPEN_BY_COOKIE.get_ptr(&cookie) {
        // SAFETY: a non-null map value.
        tell(sk, unsafe { &*open }, old);
        let _ = OPEN_BY_COOKIE.remove(&cookie);
    }
}

#[inline(always)]
fn tell(sk: *const u8, open: &Open, old: u8) {
    count::add(Counter::Other);
    let connection = Socket { sk, inode: 0 };
    // SAFETY: the verifier knows `sk` as a socket; null for one that is not TCP's.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk as *mut _) } as *const u8;
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    send(
        now,
        #[inline(always)]
        |out: &mut Closed| {
            out.open = *open;
            connection.describe_connection(&mut out.socket);
            out.error = typed::<u32>(sk, &SK_ERR);
            out.old_state = old;
            if tcp.is_null() {
                connection.unix_name(&mut out.local);
                connection.unix_peer_name(&mut out.peer);
            } else {
                out.flags = Closed::HAS_TCP;
                // The FIN counts as one.
                let fin = typed::<u64>(sk, &SK_FLAGS) >> SOCK_DONE & 1;
                out.received = typed::<u64>(tcp, &TCP_BYTES_RECEIVED).saturating_sub(fin);
                let again: u64 = typed(tcp, &TCP_BYTES_RETRANS);
                out.sent = typed::<u64>(tcp, &TCP_BYTES_SENT).saturating_sub(again);
                out.rtt_ns = u64::from(typed::<u32>(tcp, &TCP_SRTT_US)) * 125;
                out.retransmits = typed(tcp, &TCP_TOTAL_RETRANS);
            }
        },
    );
}

/// A connection is there: what is remembered of it is not of one that ended while no agent ran.
#[inline(always)]
pub fn is_there(cookie: u64) {
    if let Some(open) = OPEN_BY_COOKIE.get_ptr_mut(&cookie) {
        // SAFETY: a non-null map value.
        unsafe { (*open).generation = GENERATION.load() };
    }
}
