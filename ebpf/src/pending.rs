//! Connections that are established and wait to be accepted: since when, and how their handshake went.
//!
//! Tier 1 keeps this in the storage of the socket, which the kernel frees with the socket. A bounded hash
//! keyed by cookie has it where the accept finds a socket without storage access: in all of tier 2, and for
//! the first subflow of a Multipath TCP connection.

use acceptd_common::{Counter, Handshake, limits::PENDING_CONNECTIONS};
use aya_ebpf::{
    btf_maps::SkStorage,
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_ns},
    macros::{btf_map, map},
    maps::HashMap,
};

use crate::{
    count,
    offsets::*,
    peers,
    read::{AnyStruct, Typed},
    sock::{ProbedSock, TypedSock},
    storage::get_from_socket,
    uapi::{BPF_ANY, BPF_LOCAL_STORAGE_GET_F_CREATE, BPF_NOEXIST, IPPROTO_TCP},
    use_result,
};

/// Tier 1: the state of each connection. Created at SYN_RECV→ESTABLISHED, at a UNIX connect, and by the
/// survey of what existed before; after the accept it holds the [`OpenConnection`]. Freed with the socket.
#[btf_map]
static SOCKET_STATE: SkStorage<SocketState> = SkStorage::new();

/// Cookie → [`Pending`], in tier 2; in tier 1 for subflows of Multipath TCP. An entry is removed by the
/// accept or when the socket is destroyed, so it cannot leak. If the map is full, `Counter::PendingFull`
/// counts the connection.
#[map]
static PENDING_BY_COOKIE: HashMap<u64, Pending> = HashMap::with_max_entries(PENDING_CONNECTIONS, 0);

/// A connection that waits to be accepted.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Pending {
    /// Boot time of ESTABLISHED; 0 when that was before the programs were loaded.
    pub established_ns: u64,
    /// Microseconds, the unit in which the kernel keeps the time of the SYN-ACK; 0 when unknown. See
    /// [`Handshake`].
    handshake_us: u32,
    /// Eighths of a microsecond, as in `tcp_sock.srtt_us`; 0 when unknown.
    rtt: u32,
    synack_retransmits: u32,
    /// One of the constants below.
    state: u16,
    /// 1 if tier 1 saw that the listener defers accepts, so that `handshake_us` ends at the client's data.
    is_deferred: u16,
    /// Cookie of the client's socket, from [`peers::server_established`]; 0 when unknown.
    pub client: u64,
}

/// An accepted connection that [`crate::connections`] counts.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OpenConnection {
    pub accepted_ns: u64,
    /// Inode of its listener; 0 in [`Self::NONE`].
    pub listener: u64,
}

impl OpenConnection {
    /// The connection is not counted. Not an `Option`; see [`crate::sock::FileSock::NONE`].
    pub const NONE: Self = Self { accepted_ns: 0, listener: 0 };
}

/// The storage of a socket.
#[repr(C)]
struct SocketState {
    pending: Pending,
    open: OpenConnection,
}

impl Pending {
    /// The connection is not waiting; at most its handshake is known.
    const NOT_WAITING: u16 = 0;
    const WAITING: u16 = 1;
    /// The connection was accepted, and `sock_graft` reported it.
    const REPORTED: u16 = 2;
    /// The connection is being accepted.
    const ACCEPTING: u16 = 3;
    /// The accept failed that took the connection, which is being closed.
    const LOST: u16 = 4;
    /// The connection waits, and its transition to ESTABLISHED was not seen yet. It follows within
    /// microseconds, unless the kernel skips the program that sees it.
    const QUEUED: u16 = 5;

    /// A connection that is not known to wait. Not an `Option`; see [`crate::sock::FileSock::NONE`].
    pub const UNKNOWN: Self = Self {
        established_ns: 0,
        handshake_us: 0,
        rtt: 0,
        synack_retransmits: 0,
        state: Self::NOT_WAITING,
        is_deferred: 0,
        client: 0,
    };

    const fn waiting_since(established_ns: u64) -> Self {
        Self { established_ns, state: Self::WAITING, ..Self::UNKNOWN }
    }

    #[inline(always)]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, Self::WAITING | Self::QUEUED)
    }

    /// Whether a failed accept may have taken the connection from the queue.
    #[inline(always)]
    pub fn may_be_lost(&self) -> bool {
        self.is_waiting() || self.state == Self::ACCEPTING
    }

    /// Whether a failed accept took the connection from the queue.
    #[inline(always)]
    pub fn is_lost(&self) -> bool {
        self.state == Self::LOST
    }

    /// Whether the connection was established before the programs were loaded.
    #[inline(always)]
    pub fn is_preexisting(&self) -> bool {
        self.is_waiting() && self.established_ns == 0
    }

    /// When the server sent its SYN-ACK, or when the connection was established if the handshake is not
    /// known or the accept was deferred.
    #[inline(always)]
    pub fn began_ns(&self, listener: ProbedSock) -> Option<u64> {
        if self.established_ns == 0 {
            return None;
        }
        let is_known = self.has_handshake(listener) && !self.is_deferred(listener);
        let handshake_us = if is_known { self.handshake_us } else { 0 };
        Some(self.established_ns.saturating_sub(u64::from(handshake_us) * 1000))
    }

    /// Whether `sock_graft` already reported the accept of this connection.
    #[inline(always)]
    pub fn is_reported(&self) -> bool {
        self.state == Self::REPORTED
    }

    /// Reads the kernel's figures of the handshake of `tcp`.
    #[inline(always)]
    fn read_handshake(&mut self, tcp: TypedSock) {
        // Starts as the count of the request (`tcp_create_openreq_child`, net/ipv4/tcp_minisocks.c).
        self.synack_retransmits = tcp.load(&TCP_TOTAL_RETRANS);
        // After a retransmission the kernel measures by time stamps, if there are any. The client's is then
        // that of the first SYN-ACK, although it may answer a later one (`tcp_ack_update_rtt`,
        // net/ipv4/tcp_input.c).
        if self.synack_retransmits == 0 {
            self.rtt = tcp.load(&TCP_SRTT_US);
        }
    }

    /// Whether the handshake figures are valid. That needs ESTABLISHED to have been seen. With SYN cookies
    /// the kernel computes the round-trip time from a time stamp whose low bits hold TCP options
    /// (`cookie_init_timestamp`, net/ipv4/syncookies.c), so the figure is wrong. Only a handshake that tier 1
    /// timed itself proves that the connection did not use a SYN cookie.
    #[inline(always)]
    fn has_handshake(&self, listener: ProbedSock) -> bool {
        // After a retransmitted SYN-ACK there is no round-trip time.
        let is_known = self.established_ns != 0 && (self.rtt != 0 || self.synack_retransmits != 0);
        is_known && (self.is_timed() || !listener.is_null() && !listener.sent_syn_cookies())
    }

    /// Whether tier 1 measured the time from the SYN-ACK on.
    #[inline(always)]
    fn is_timed(&self) -> bool {
        TIER.load() == 1 && self.handshake_us != 0
    }

    /// Whether the kernel established the connection only when the client sent data (`TCP_DEFER_ACCEPT`): the
    /// times from the SYN-ACK on are then those of the client's silence, and so is the kernel's round-trip
    /// time. Tier 1 sees the listener at that moment; tier 2 has only the listener of the accept, whose
    /// option may have changed since.
    #[inline(always)]
    fn is_deferred(&self, listener: ProbedSock) -> bool {
        if self.is_timed() { self.is_deferred != 0 } else { listener.defers_accepts() }
    }

    /// Whether the kernel's smoothed round-trip time of this connection began with a value that is not the
    /// network's.
    #[inline(always)]
    pub fn has_false_round_trip(&self, listener: ProbedSock) -> bool {
        self.established_ns != 0
            && (self.synack_retransmits != 0
                || self.rtt != 0 && !self.has_handshake(listener)
                || self.is_deferred(listener))
    }

    /// Fills `out`, which is zero.
    #[inline(always)]
    pub fn describe_handshake(&self, listener: ProbedSock, out: &mut Handshake) {
        if self.has_handshake(listener) {
            out.time_ns = u64::from(self.handshake_us) * 1000;
            out.synack_retransmits = self.synack_retransmits;
            if self.is_deferred(listener) {
                out.known = Handshake::DEFERRED;
            } else {
                out.rtt_ns = u64::from(self.rtt) * 125;
                out.known = Handshake::MEASURED;
            }
        }
    }
}

/// Whether the state of this connection is in the storage of its socket; else it is in maps keyed by cookie.
/// Every caller with `true` is in tier 1.
#[inline(always)]
pub fn is_in_socket_storage(sk: ProbedSock) -> bool {
    TIER.load() == 1 && !sk.is_mptcp() && !sk.is_mptcp_subflow()
}

#[inline(always)]
fn stored_pending(sk: TypedSock, flags: u64) -> Option<&'static mut Pending> {
    Some(&mut socket_state(sk, flags)?.pending)
}

#[inline(always)]
fn socket_state(sk: TypedSock, flags: u64) -> Option<&'static mut SocketState> {
    // SAFETY: storage that is not null stays while the program runs. A connection is established and accepted
    // once, one after the other.
    unsafe { get_from_socket(&SOCKET_STATE, sk, flags).as_mut() }
}

/// Tier 1: the final ACK to `request` is about to establish `child` (`inet_csk_complete_hashdance`); with
/// `TCP_DEFER_ACCEPT` the client's first data.
#[inline(always)]
pub fn store_handshake(listener: TypedSock, child: TypedSock, request: Typed<AnyStruct>) {
    // Not `bpf_skc_to_tcp_request_sock`: that helper refuses the requests of Multipath TCP, whose `sk_prot`
    // is another.
    if child.probed().protocol() != IPPROTO_TCP {
        return;
    }
    // Microseconds on CLOCK_MONOTONIC.
    let sent: u64 = request.probed().load(&TCP_REQUEST_SNT_SYNACK);
    if sent == 0 {
        return;
    }
    if let Some(pending) = stored_pending(child, BPF_LOCAL_STORAGE_GET_F_CREATE) {
        // SAFETY: the helper has no arguments.
        let now = unsafe { bpf_ktime_get_ns() } / 1000;
        // A handshake within one tick of the clock is known, too, so it must not be 0.
        pending.handshake_us = (now.saturating_sub(sent) as u32).max(1);
        pending.is_deferred = u16::from(listener.probed().defers_accepts());
        if HAS_COPIES.load() != 0 && is_in_socket_storage(child.probed()) {
            // In softirq, where the kernel cannot preempt: this program is never skipped.
            // SAFETY: the helper has no arguments.
            pending.established_ns = unsafe { bpf_ktime_get_boot_ns() };
            pending.state = Pending::QUEUED;
        }
    }
}

/// Reads of `sk` what its transition to ESTABLISHED, which was not seen, would have stored. Until the accept
/// the server has sent nothing else, so the kernel's figures are still those of the handshake.
#[inline(never)]
fn complete(pending: &mut Pending, sk: TypedSock) -> u32 {
    let tcp = sk.tcp();
    if !tcp.is_null() {
        pending.read_handshake(tcp);
    }
    pending.client = peers::server_established(sk.probed());
    pending.state = Pending::WAITING;
    0
}

/// `sk` reached its listener's accept queue. `client` is the cookie of its client's socket, or 0.
#[inline(always)]
pub fn store_established(sk: TypedSock, cookie: u64, client: u64) {
    // A connection of TCP fast open can be accepted before it is established.
    if sk.probed().is_accepted() || !store(sk, cookie, client) {
        return peers::forget_client(client);
    }
    // It may have been accepted since, and the accept may have come before the entry.
    if sk.probed().is_accepted() && take(sk).is_waiting() {
        peers::forget_client(client);
    }
}

/// Stores that `sk` waits from now on. Returns `false` if there was no memory for it, which is counted.
#[inline(always)]
fn store(sk: TypedSock, cookie: u64, client: u64) -> bool {
    // SAFETY: the helper has no arguments.
    let mut pending = Pending { client, ..Pending::waiting_since(unsafe { bpf_ktime_get_boot_ns() }) };
    let tcp = sk.tcp();
    if !tcp.is_null() {
        pending.read_handshake(tcp);
    }
    if TIER.load() == 1 {
        // For a subflow, too: `store_handshake` stored its handshake here.
        let Some(stored) = stored_pending(sk, BPF_LOCAL_STORAGE_GET_F_CREATE) else {
            count::add(Counter::PendingFull);
            return false;
        };
        pending.handshake_us = stored.handshake_us;
        pending.is_deferred = stored.is_deferred;
        if is_in_socket_storage(sk.probed()) {
            *stored = pending;
            return true;
        }
    } else if pending.synack_retransmits == 0 {
        // Without a retransmission, the first sample of the round-trip time is that of SYN-ACK and ACK.
        pending.handshake_us = pending.rtt.div_ceil(8);
    }
    if cookie == 0 {
        return false;
    }
    let is_stored = PENDING_BY_COOKIE.insert(&cookie, &pending, BPF_ANY).is_ok();
    if !is_stored {
        count::add(Counter::PendingFull);
    }
    is_stored
}

/// Tier 1: a UNIX client connects, and `sk` will be the server's end.
#[inline(always)]
pub fn store_unix_connect(sk: TypedSock) {
    match stored_pending(sk, BPF_LOCAL_STORAGE_GET_F_CREATE) {
        // SAFETY: the helper has no arguments.
        Some(pending) => *pending = Pending::waiting_since(unsafe { bpf_ktime_get_boot_ns() }),
        None => count::add(Counter::PendingFull),
    }
}

/// `sk` has been waiting since before the programs were loaded.
#[inline(always)]
pub fn store_preexisting(sk: TypedSock, cookie: u64) {
    // On the stack: from a constant in `.rodata`, the map got the value of another constant (seen).
    let waiting = core::hint::black_box(Pending::waiting_since(0));
    if !is_in_socket_storage(sk.probed()) {
        let _ = PENDING_BY_COOKIE.insert(&cookie, &waiting, BPF_NOEXIST);
    } else if let Some(pending) = stored_pending(sk, BPF_LOCAL_STORAGE_GET_F_CREATE)
        && pending.state == Pending::NOT_WAITING
    {
        *pending = waiting;
    }
}

/// Removes a connection from those that wait, and returns what was known about it.
#[inline(always)]
pub fn take(sk: TypedSock) -> Pending {
    if !is_in_socket_storage(sk.probed()) {
        return take_by_cookie(sk.probed().identity_cookie());
    }
    let Some(stored) = stored_pending(sk, 0) else { return Pending::UNKNOWN };
    let mut pending = *stored;
    if HAS_COPIES.load() != 0 && pending.state == Pending::QUEUED {
        use_result(complete(&mut pending, sk));
    }
    if pending.may_be_lost() || pending.is_lost() {
        // The kernel frees the storage with the socket. To delete it here would cost more.
        stored.state = Pending::NOT_WAITING;
    }
    pending
}

/// [`take`] for a connection whose state is not in the storage of its socket: all of tier 2's. 0 is no
/// cookie.
#[inline(always)]
pub fn take_by_cookie(cookie: u64) -> Pending {
    // Without a cookie, the connection was not seen to be established.
    if cookie == 0 {
        return Pending::UNKNOWN;
    }
    let Some(pending) = PENDING_BY_COOKIE.get_ptr(&cookie) else { return Pending::UNKNOWN };
    // SAFETY: a non-null map value.
    let pending = unsafe { *pending };
    let _ = PENDING_BY_COOKIE.remove(&cookie);
    pending
}

/// Stores an accepted connection in the storage of its socket. Returns `false` if there was no memory.
#[inline(always)]
pub fn store_open_connection(sk: TypedSock, open: OpenConnection) -> bool {
    let Some(state) = socket_state(sk, BPF_LOCAL_STORAGE_GET_F_CREATE) else { return false };
    state.open = open;
    true
}

/// Takes an accepted connection out of the storage of its socket, if it is there.
#[inline(always)]
pub fn take_open_connection(sk: TypedSock) -> Option<OpenConnection> {
    if TIER.load() != 1 {
        return None;
    }
    let state = socket_state(sk, 0)?;
    let open = state.open;
    state.open = OpenConnection::NONE;
    if open.listener == 0 { None } else { Some(open) }
}

/// Tier 1: what is known of a connection that waits, which stays.
#[inline(always)]
pub fn peek(sk: TypedSock) -> Pending {
    let Some(stored) = stored_for(sk) else { return Pending::UNKNOWN };
    complete_stored(stored, sk);
    *stored
}

/// Completes an entry whose connection was not seen to be established.
#[inline(always)]
fn complete_stored(stored: &mut Pending, sk: TypedSock) {
    if HAS_COPIES.load() != 0 && stored.state == Pending::QUEUED {
        let mut pending = *stored;
        use_result(complete(&mut pending, sk));
        // SAFETY: from the stack into a map value. As in `mark_reported`, not an assignment.
        unsafe { core::ptr::copy_nonoverlapping(&raw const pending, stored, 1) };
    }
}

/// The entry of a connection, if there is one.
#[inline(always)]
fn stored_for(sk: TypedSock) -> Option<&'static mut Pending> {
    if is_in_socket_storage(sk.probed()) {
        return stored_pending(sk, 0);
    }
    // SAFETY: a map value, or null. A connection is established and accepted once, one after the other.
    unsafe { PENDING_BY_COOKIE.get_ptr_mut(&sk.probed().identity_cookie())?.as_mut() }
}

/// Tier 1: marks a connection that is being accepted, so that it does not count as abandoned whatever happens
/// next. Returns what is known about it, which stays.
#[inline(always)]
pub fn mark_accepting(accepted: TypedSock) -> Pending {
    let Some(stored) = stored_for(accepted) else { return Pending::UNKNOWN };
    complete_stored(stored, accepted);
    let pending = *stored;
    if pending.is_waiting() {
        stored.state = Pending::ACCEPTING;
    }
    pending
}

/// The current thread closes a connection that its failed accept took from the queue.
#[inline(always)]
pub fn mark_lost(sk: TypedSock) {
    if let Some(stored) = stored_for(sk)
        && stored.may_be_lost()
    {
        stored.state = Pending::LOST;
    }
}

/// Tier 1: marks a connection whose accept `sock_graft` reports, so that `do_accept` does not report it
/// again.
#[inline(always)]
pub fn mark_reported(accepted: TypedSock) {
    // On the stack, as in `store_preexisting`.
    let reported = core::hint::black_box(Pending { state: Pending::REPORTED, ..Pending::UNKNOWN });
    if !is_in_socket_storage(accepted.probed()) {
        let cookie = accepted.probed().identity_cookie();
        if cookie != 0 {
            let _ = PENDING_BY_COOKIE.insert(&cookie, &reported, BPF_ANY);
        }
    } else if let Some(stored) = stored_pending(accepted, BPF_LOCAL_STORAGE_GET_F_CREATE) {
        // SAFETY: from the stack into the storage of a socket. An assignment becomes a call of `memmove`,
        // whose loop over bytes the verifier walks on each path.
        unsafe { core::ptr::copy_nonoverlapping(&raw const reported, stored, 1) };
    }
}

/// Tier 2: whether `PENDING_BY_COOKIE` has an entry for this socket, so it is known to wait.
#[inline(always)]
pub fn has_entry(accepted: ProbedSock) -> bool {
    PENDING_BY_COOKIE.get_ptr(&accepted.identity_cookie()).is_some()
}

/// When the oldest connection in the accept queue of `listener` was established; `None` if that is not known.
/// `oldest` is this connection as the caller found it.
#[inline(always)]
pub fn oldest_established_ns(listener: TypedSock, oldest: ProbedSock) -> Option<u64> {
    if !is_in_socket_storage(listener.probed()) {
        let pending = PENDING_BY_COOKIE.get_ptr(&oldest.identity_cookie())?;
        // SAFETY: a non-null map value.
        return Some(unsafe { (*pending).established_ns });
    }
    // The same way to the connection once more, now with types, since its storage is wanted. The connection
    // may be accepted or closed meanwhile; its memory stays that of a TCP socket as long as this program runs
    // (`SLAB_TYPESAFE_BY_RCU`, `tcp_prot`).
    let tcp = listener.tcp();
    if tcp.is_null() {
        return None;
    }
    let request: Typed<AnyStruct> = tcp.follow(&ACCEPT_QUEUE_HEAD);
    if request.is_null() {
        return None;
    }
    let connection: TypedSock = request.follow(&REQUEST_SK);
    if connection.is_null() {
        return None;
    }
    Some(stored_pending(connection, 0)?.established_ns)
}
