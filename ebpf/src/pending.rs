//! Connections that are established and wait to be accepted, and since when. Tier 1 keeps that in the sockets themselves,
//! where it dies with them. A bounded hash keyed by cookie has it where the verifier does not know the type of the socket
//! that an accept finds: all of tier 2's, and the first subflow of a Multipath TCP connection.

use acceptd_common::{Counter, Handshake};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_boot_ns, bpf_ktime_get_ns, bpf_sk_storage_get, bpf_skc_to_tcp_sock,
};

use crate::{
    count,
    lives::Life,
    maps::{PENDING, WAITING},
    offsets::*,
    peers,
    read::{probed, probed_ptr, typed},
    sock::{IPPROTO_TCP, Socket},
};

/// `BPF_SK_STORAGE_GET_F_CREATE`, include/uapi/linux/bpf.h
const CREATE: u64 = 1;
/// `BPF_NOEXIST`, include/uapi/linux/bpf.h
const NEW: u64 = 1;

/// One connection.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Pending {
    /// Boot time of ESTABLISHED; 0 when that was before the programs were loaded.
    pub established_ns: u64,
    /// Microseconds, the unit of the kernel's clock for it; 0 when unknown. See [`Handshake`].
    handshake_us: u32,
    /// Eighths of a microsecond, as in `tcp_sock.srtt_us`; 0 when unknown.
    rtt: u32,
    synack_retransmits: u32,
    /// One of the constants below.
    state: u32,
    /// Cookie of the client's socket, see [`peers::reached`].
    pub client: u64,
}

/// What a socket keeps.
#[repr(C)]
pub struct Kept {
    pending: Pending,
    /// Of one that was accepted and is counted; else its listener is 0.
    life: Life,
}

impl Pending {
    /// It does not wait; at most its handshake is known.
    const NO: u32 = 0;
    /// It waits.
    const WAITS: u32 = 1;
    /// It was accepted, and told of by the backstop.
    const TOLD: u32 = 2;
    /// It is being accepted.
    const GRAFTED: u32 = 3;

    /// What is known of a connection that is not known to wait. No `Option`: LLVM would leave the rest of a `None`
    /// uninitialised, and copy it, which the verifier refuses.
    pub const UNKNOWN: Self = Self {
        established_ns: 0,
        handshake_us: 0,
        rtt: 0,
        synack_retransmits: 0,
        state: Self::NO,
        client: 0,
    };

    const fn since(established_ns: u64) -> Self {
        Self { established_ns, state: Self::WAITS, ..Self::UNKNOWN }
    }

    /// Whether it was waiting to be accepted.
    #[inline(always)]
    pub fn waits(&self) -> bool {
        self.state == Self::WAITS
    }

    /// Whether it was established before the programs were loaded.
    #[inline(always)]
    pub fn is_preexisting(&self) -> bool {
        self.waits() && self.established_ns == 0
    }

    /// When it began: with the SYN-ACK, where that is known.
    #[inline(always)]
    pub fn began_ns(&self, listener: Socket) -> Option<u64> {
        if self.established_ns == 0 {
            return None;
        }
        let handshake_us = if self.knows_handshake(listener) { self.handshake_us } else { 0 };
        Some(self.established_ns.saturating_sub(u64::from(handshake_us) * 1000))
    }

    /// Whether the backstop told that it was accepted.
    #[inline(always)]
    pub fn is_told(&self) -> bool {
        self.state == Self::TOLD
    }

    /// Whether its handshake is known. Of what was not seen to be established nothing is. Of a connection by SYN cookies the kernel has a round-trip time from a time stamp that has options in its low bits (`cookie_init_timestamp`,
    /// net/ipv4/syncookies.c): only a handshake that tier 1 saw proves that it is none.
    #[inline(always)]
    fn knows_handshake(&self, listener: Socket) -> bool {
        let is_seen = TIER.load() == 1 && self.handshake_us != 0;
        // What was sent twice has no round-trip time.
        let is_known = self.established_ns != 0 && (self.rtt != 0 || self.synack_retransmits != 0);
        is_known && (is_seen || listener.exists() && !listener.sent_cookies())
    }

    /// Fills `out`, which is zero.
    #[inline(always)]
    pub fn describe_handshake(&self, listener: Socket, out: &mut Handshake) {
        if self.knows_handshake(listener) {
            out.time_ns = u64::from(self.handshake_us) * 1000;
            out.rtt_ns = u64::from(self.rtt) * 125;
            out.synack_retransmits = self.synack_retransmits;
            out.is_known = 1;
        }
    }
}

/// Whether the socket itself keeps it. The verifier must know the socket, or it is not in tier 1.
#[inline(always)]
pub fn is_kept_in(socket: Socket) -> bool {
    TIER.load() == 1 && !socket.is_mptcp() && !socket.is_subflow()
}

/// What a socket keeps; the verifier knows `sk` as one.
#[inline(always)]
fn of_socket(sk: *const u8, flags: u64) -> Option<&'static mut Pending> {
    Some(&mut kept_by(sk, flags)?.pending)
}

#[inline(always)]
fn kept_by(sk: *const u8, flags: u64) -> Option<&'static mut Kept> {
    let map = (&raw const WAITING).cast_mut().cast();
    // SAFETY: the map is one of socket storage, and `sk` a socket.
    let kept: *mut Kept =
        unsafe { bpf_sk_storage_get(map, sk as *mut _, core::ptr::null_mut(), flags) }.cast();
    // SAFETY: a storage that is not null stays while the program runs. A connection is established and accepted once,
    // one after the other.
    unsafe { kept.as_mut() }
}

/// `child` is about to be established by the final ACK to `request` (`inet_csk_complete_hashdance`). Tier 1 only.
#[inline(always)]
pub fn handshake(child: *const u8, request: *const u8) {
    // Not by bpf_skc_to_tcp_request_sock, which does not know the requests of Multipath TCP (their `sk_prot` is another).
    if (Socket { sk: child, inode: 0 }).protocol() != IPPROTO_TCP {
        return;
    }
    // Microseconds on CLOCK_MONOTONIC.
    let sent: u64 = probed(request, &TCP_REQUEST_SNT_SYNACK);
    if sent == 0 {
        return;
    }
    if let Some(kept) = of_socket(child, CREATE) {
        // SAFETY: the helper has no arguments.
        let now = unsafe { bpf_ktime_get_ns() } / 1000;
        // Within one tick of the clock it took less than that, and is not unknown.
        kept.handshake_us = (now.saturating_sub(sent) as u32).max(1);
    }
}

/// `sk` reached its listener's queue; `client` is the cookie of its client's socket, or 0.
#[inline(always)]
pub fn established(sk: *const u8, cookie: u64, client: u64) {
    // A connection of TCP fast open can be accepted before it is established.
    if is_accepted(sk) || !remember(sk, cookie, client) {
        return peers::done(client);
    }
    // Meanwhile, perhaps before it was remembered.
    if is_accepted(sk) && take(Socket { sk, inode: 0 }).waits() {
        peers::done(client);
    }
}

#[inline(always)]
fn is_accepted(sk: *const u8) -> bool {
    !probed_ptr(sk, &SK_SOCKET).is_null()
}

/// Whether there is memory for it, which else is counted.
#[inline(always)]
fn remember(sk: *const u8, cookie: u64, client: u64) -> bool {
    let connection = Socket { sk, inode: 0 };
    // SAFETY: the helper has no arguments.
    let mut pending = Pending { client, ..Pending::since(unsafe { bpf_ktime_get_boot_ns() }) };
    // SAFETY: the verifier knows `sk` as a socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk as *mut _) } as *const u8;
    if !tcp.is_null() {
        pending.rtt = typed(tcp, &TCP_SRTT_US);
        // Begins as the count of the request's (`tcp_create_openreq_child`, net/ipv4/tcp_minisocks.c).
        pending.synack_retransmits = typed(tcp, &TCP_TOTAL_RETRANS);
    }
    if TIER.load() == 1 {
        // Also of a subflow, whose handshake was kept there.
        let Some(kept) = of_socket(sk, CREATE) else {
            count::add(Counter::PendingFull);
            return false;
        };
        pending.handshake_us = kept.handshake_us;
        if is_kept_in(connection) {
            *kept = pending;
            return true;
        }
    } else if pending.synack_retransmits == 0 {
        // Without a retransmission the first sample of the round-trip time is that of SYN-ACK and ACK.
        pending.handshake_us = pending.rtt.div_ceil(8);
    }
    if cookie == 0 {
        return false;
    }
    let is_kept = PENDING.insert(&cookie, &pending, 0).is_ok();
    if !is_kept {
        count::add(Counter::PendingFull);
    }
    is_kept
}

/// A UNIX client connects, and `sk` will be the server's end. Tier 1 only.
#[inline(always)]
pub fn connected_unix(sk: *const u8) {
    match of_socket(sk, CREATE) {
        // SAFETY: the helper has no arguments.
        Some(kept) => *kept = Pending::since(unsafe { bpf_ktime_get_boot_ns() }),
        None => count::add(Counter::PendingFull),
    }
}

/// `sk` waits since before the programs were loaded.
#[inline(always)]
pub fn existed(sk: *const u8, cookie: u64) {
    // On the stack: of a constant in `.rodata` the map got the value of another one (seen).
    let unknown = core::hint::black_box(Pending::since(0));
    if !is_kept_in(Socket { sk, inode: 0 }) {
        let _ = PENDING.insert(&cookie, &unknown, NEW);
    } else if let Some(kept) = of_socket(sk, CREATE)
        && kept.state == Pending::NO
    {
        *kept = unknown;
    }
}

/// Forgets a connection, and says what was known of it. In tier 1 the verifier knows `socket`.
#[inline(always)]
pub fn take(socket: Socket) -> Pending {
    if !is_kept_in(socket) {
        return take_by_cookie(socket.cookie());
    }
    let Some(kept) = of_socket(socket.sk, 0) else { return Pending::UNKNOWN };
    let pending = *kept;
    if pending.waits() || pending.state == Pending::GRAFTED {
        // Its memory goes with the socket: to give it back now would cost more.
        kept.state = Pending::NO;
    }
    pending
}

/// A connection that the socket itself keeps was accepted, and is counted.
#[inline(always)]
pub fn lives(sk: *const u8, life: Life) -> bool {
    let Some(kept) = kept_by(sk, CREATE) else { return false };
    kept.life = life;
    true
}

/// Tier 1: a connection that is counted ends.
#[inline(always)]
pub fn take_life(sk: *const u8) -> Option<Life> {
    if TIER.load() != 1 {
        return None;
    }
    let kept = kept_by(sk, 0)?;
    let life = kept.life;
    kept.life = Life::NONE;
    if life.listener == 0 { None } else { Some(life) }
}

#[inline(always)]
fn take_by_cookie(cookie: u64) -> Pending {
    // Of what was not seen to be established.
    if cookie == 0 {
        return Pending::UNKNOWN;
    }
    let Some(pending) = PENDING.get_ptr(&cookie) else { return Pending::UNKNOWN };
    // SAFETY: a non-null map value.
    let pending = unsafe { *pending };
    let _ = PENDING.remove(&cookie);
    pending
}

/// `accepted` is being accepted, and is not abandoned whatever happens; what is known of it stays. Tier 1 only.
#[inline(always)]
pub fn graft(accepted: Socket) -> Pending {
    let kept = if is_kept_in(accepted) {
        match of_socket(accepted.sk, 0) {
            Some(kept) => kept,
            None => return Pending::UNKNOWN,
        }
    } else {
        match PENDING.get_ptr_mut(&accepted.cookie()) {
            // SAFETY: a non-null map value.
            Some(kept) => unsafe { &mut *kept },
            None => return Pending::UNKNOWN,
        }
    };
    let pending = *kept;
    kept.state = Pending::GRAFTED;
    pending
}

/// The accept that took a connection failed after all. Tier 1 only, where its socket can no longer be asked for: it is about to
/// be closed.
#[inline(always)]
pub fn give_back(cookie: u64, established_ns: u64) {
    if let Some(kept) = PENDING.get_ptr_mut(&cookie) {
        // SAFETY: a non-null map value.
        unsafe { (*kept).state = Pending::WAITS };
        return;
    }
    // On the stack, as above.
    let waits = core::hint::black_box(Pending::since(established_ns));
    if PENDING.insert(&cookie, &waits, 0).is_err() {
        count::add(Counter::PendingFull);
    }
}

/// Forgets a connection that ends, and says what was known of it.
#[inline(always)]
pub fn take_ended(socket: Socket) -> Pending {
    let pending = take(socket);
    if pending.state != Pending::GRAFTED {
        return pending;
    }
    // Its accept was told without its end, or failed and gave it back.
    let back = take_by_cookie(socket.cookie());
    if back.waits() {
        return Pending { client: pending.client, ..back };
    }
    peers::done(pending.client);
    back
}

/// The backstop tells of `accepted`. Tier 1 only.
#[inline(always)]
pub fn tell(accepted: Socket) {
    // On the stack, as above.
    let told = core::hint::black_box(Pending { state: Pending::TOLD, ..Pending::UNKNOWN });
    if !is_kept_in(accepted) {
        let cookie = accepted.cookie();
        if cookie != 0 {
            let _ = PENDING.insert(&cookie, &told, 0);
        }
    } else if let Some(kept) = of_socket(accepted.sk, CREATE) {
        *kept = told;
    }
}

/// Whether a connection is known to wait, without forgetting it. Tier 2 only.
#[inline(always)]
pub fn is_known(accepted: Socket) -> bool {
    PENDING.get_ptr(&accepted.cookie()).is_some()
}

/// Since when the connection waits that the next accept on `listener` takes; nothing when that is not known. In tier 1
/// the verifier knows `listener`.
#[inline(always)]
pub fn oldest_since(listener: Socket, oldest: Socket) -> Option<u64> {
    if !is_kept_in(listener) {
        let pending = PENDING.get_ptr(&oldest.cookie())?;
        // SAFETY: a non-null map value.
        return Some(unsafe { (*pending).established_ns });
    }
    // The same way once more, with types. It may be accepted or closed meanwhile; its memory stays that of a TCP socket
    // as long as this program runs (`SLAB_TYPESAFE_BY_RCU`, `tcp_prot`).
    // SAFETY: the verifier knows the listener as a socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(listener.sk as *mut _) } as *const u8;
    if tcp.is_null() {
        return None;
    }
    let request: *const u8 = typed(tcp, &ACCEPT_QUEUE_HEAD);
    if request.is_null() {
        return None;
    }
    let connection: *const u8 = typed(request, &REQUEST_SK);
    if connection.is_null() {
        return None;
    }
    Some(of_socket(connection, 0)?.established_ns)
}
