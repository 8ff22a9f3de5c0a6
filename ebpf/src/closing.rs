//! Which listener the current thread is closing. A queued connection has no pointer to its listener, and with
//! `SO_REUSEPORT` its addresses do not tell which of several listeners it waited for. But the thread that
//! closes a listener also closes the connections in its queue, before it does anything else
//! (`inet_csk_listen_stop`, net/ipv4/inet_connection_sock.c).

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::LruHashMap};

use crate::{offsets::SK_DPORT, sock::TypedSock, uapi::BPF_ANY};

/// Threads that may close a listener at one time.
const CLOSING_THREADS: u32 = 1024;

/// Thread → the listener that it closed last. Without an entry, the agent searches for the listener by the
/// connection's address.
#[map]
static CLOSING_LISTENERS: LruHashMap<u64, ClosingListener> = LruHashMap::with_max_entries(CLOSING_THREADS, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct ClosingListener {
    cookie: u64,
    /// When it closed, nanoseconds on `CLOCK_BOOTTIME`.
    closed_ns: u64,
    netns: u64,
}

/// The current thread closes `listener`, and next the connections in its queue.
#[inline(always)]
pub fn listener_closes(listener: TypedSock, now: u64) {
    let cookie = listener.cookie();
    if cookie == 0 {
        return;
    }
    let closing = core::hint::black_box(ClosingListener {
        cookie,
        closed_ns: now,
        netns: u64::from(listener.probed().netns()),
    });
    let _ = CLOSING_LISTENERS.insert(&bpf_get_current_pid_tgid(), &closing, BPF_ANY);
}

/// The kernel frees `sk`: if the current thread closed it as a listener, its queue is empty now. A listener
/// has no peer; of the connections, only those that closed in a queue have none (`tcp_disconnect`).
#[inline(always)]
pub fn socket_destroyed(sk: TypedSock) {
    if sk.load::<u16>(&SK_DPORT) != 0 {
        return;
    }
    let thread = bpf_get_current_pid_tgid();
    let Some(closing) = CLOSING_LISTENERS.get_ptr(&thread) else { return };
    // SAFETY: a non-null map value.
    if unsafe { (*closing).cookie } == sk.cookie() {
        let _ = CLOSING_LISTENERS.remove(&thread);
    }
}

/// The cookie of the listener in whose queue `connection` waited since `established_ns`, if the current
/// thread closes the connection because it closes that listener; else 0. An entry may be older than the
/// connection: shutdown(2) closes the queue, and not the socket.
#[inline(always)]
pub fn listener_of(connection: TypedSock, established_ns: u64) -> u64 {
    let Some(closing) = CLOSING_LISTENERS.get_ptr(&bpf_get_current_pid_tgid()) else { return 0 };
    // SAFETY: a non-null map value.
    let closing = unsafe { *closing };
    // Not the port: with TPROXY a connection has another one than its listener.
    let fits = closing.closed_ns >= established_ns && closing.netns == u64::from(connection.probed().netns());
    if fits { closing.cookie } else { 0 }
}
