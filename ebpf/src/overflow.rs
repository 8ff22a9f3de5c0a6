//! Connection attempts that a full accept queue refuses.
//!
//! Tier 1 counts them for each listener, where the kernel decides. For TCP the sum over a network namespace
//! is `ListenOverflows`; `sk_drops` of a listener grows for other reasons, too. Tier 2 counts only what a
//! refused connect of a UNIX socket shows; for TCP the agent compares the two counters of the kernel.

use acceptd_common::{
    Counter, RefusedAttempts, UnixName, UnixTarget,
    limits::{REFUSING_LISTENERS, UNIX_NAME_LEN, UNIX_TARGETS},
};
use aya_ebpf::{
    helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_user_buf},
    macros::{btf_map, map},
    maps::{Array, HashMap},
};

use crate::{
    count::{self, add_to},
    offsets::*,
    read::{AnyStruct, File, Probed, Socket, Typed, load_at},
    sock::{FileSock, ProbedSock, TypedSock, can_listen, copy_name},
    storage::TaskStorage,
    task,
    uapi::{
        AF_UNIX, BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, BPF_NOEXIST, EAGAIN, ETH_P_IP,
        FIRST_ERROR_POINTER, O_NONBLOCK, SOCK_STREAM, TCP_LISTEN,
    },
    use_result,
};

/// Inode of a listener → what its full queue refused: in tier 1, and SCTP and VSOCK in both tiers. The agent
/// removes listeners that are gone.
#[map]
static REFUSED: HashMap<u64, RefusedAttempts> =
    HashMap::with_max_entries(REFUSING_LISTENERS, BPF_F_NO_PREALLOC);

/// Tier 2: process and name → refused connects of UNIX sockets. The agent removes entries that no longer
/// grow.
#[map]
static UNIX_REFUSED: HashMap<UnixTarget, u64> = HashMap::with_max_entries(UNIX_TARGETS, BPF_F_NO_PREALLOC);

/// Offset of `sctp_endpoint.base.sk`. The agent sets it before it attaches the program, since the module may
/// be loaded after all other programs.
#[map]
static SCTP_ENDPOINT_SOCK: Array<u64> = Array::with_max_entries(1, 0);

/// Tier 1: the connect to a UNIX socket that a thread is in. Freed with the thread.
#[btf_map]
static UNIX_CONNECTS: TaskStorage<UnixConnect> = TaskStorage::new();

/// A call of connect that found its listener.
#[repr(C)]
pub struct UnixConnect {
    /// Inode of the listener; 0 if none was found.
    listener: u64,
    /// Boot time at which the listener's queue was found full; 0 if it was not.
    full_since_ns: u64,
    /// How long the call waited before that, in nanoseconds.
    waited_ns: u64,
}

/// Whether the accept queue is full (`sk_acceptq_is_full`, include/net/sock.h).
#[inline(always)]
fn is_full(listener: TypedSock) -> bool {
    listener.load::<u32>(&SK_ACK_BACKLOG) > listener.load::<u32>(&SK_MAX_ACK_BACKLOG)
}

/// A SYN arrives at a TCP listener (`tcp_conn_request`, net/ipv4/tcp_input.c).
#[inline(always)]
pub fn syn_arrived(listener: TypedSock) {
    if is_full(listener) && !drops_new_requests(listener.probed()) {
        count_refused(listener.probed());
    }
}

/// A client returns the cookie of its SCTP handshake to `endpoint` (`struct sctp_endpoint`). The kernel
/// aborts the connection if the accept queue is full (`sctp_sf_do_5_1D_ce`, net/sctp/sm_statefuns.c).
#[inline(always)]
pub fn sctp_cookie_arrived(endpoint: Probed<AnyStruct>) {
    let Some(offset) = SCTP_ENDPOINT_SOCK.get_ptr(0) else { return };
    // SAFETY: a non-null map value.
    let sk = endpoint.as_ptr().wrapping_add(unsafe { *offset } as usize);
    let listener: ProbedSock = Probed::new(load_at::<u64>(sk.cast()) as *const u8);
    if listener.is_listening()
        // One-to-many sockets (`SOCK_SEQPACKET`) have no accept queue.
        && listener.socket_type() == SOCK_STREAM
    {
        count_if_full(listener);
    }
}

/// Counts a connection that `listener` refuses if its queue is full.
#[inline(always)]
pub fn count_if_full(listener: ProbedSock) {
    if listener.load::<u32>(&SK_ACK_BACKLOG) > listener.load::<u32>(&SK_MAX_ACK_BACKLOG) {
        count_refused(listener);
    }
}

/// A final ACK, or that of a SYN cookie, arrives at a TCP listener.
#[inline(always)]
pub fn final_ack_arrived(listener: TypedSock) {
    if is_full(listener) {
        count_refused(listener.probed());
    }
}

/// Whether `skb` carries an IPv4 packet. An IPv6 listener then calls IPv4's function, which counts.
#[inline(always)]
pub fn is_ipv4(skb: Typed<AnyStruct>) -> bool {
    skb.load::<u16>(&SKB_PROTOCOL) == ETH_P_IP.to_be()
}

/// Whether the kernel drops a SYN before it checks the accept queue, because too many handshakes are
/// pending and SYN cookies are off. Such a drop is none of `ListenOverflows`. Older releases of a series
/// compare with `>=` (`inet_csk_reqsk_queue_is_full`).
#[inline(always)]
fn drops_new_requests(listener: ProbedSock) -> bool {
    if SYSCTL_SYN_COOKIES.load() == ABSENT {
        return false;
    }
    let cookies: u8 = listener.follow::<AnyStruct>(&SK_NET).load(&SYSCTL_SYN_COOKIES);
    cookies == 0 && listener.load::<u32>(&REQUEST_QUEUE_LENGTH) > listener.load::<u32>(&SK_MAX_ACK_BACKLOG)
}

#[inline(always)]
fn count_refused(listener: ProbedSock) {
    match entry(inode_of(listener)) {
        Some(counts) => add_to(&mut counts.refused, 1),
        None => count::add(Counter::RefusedUncounted),
    }
}

/// The inode of a listener, which the first subflow of a Multipath TCP listener shares; 0 if it closes. Taken
/// from the socket's memory, not from its file: a listener of the kernel has no file.
#[inline(always)]
fn inode_of(listener: ProbedSock) -> u64 {
    let socket: Probed<Socket> = listener.follow(&SK_SOCKET);
    if socket.is_null() { 0 } else { socket.load(&SOCKET_INODE_NUMBER) }
}

/// The counts of a listener, which are created if need be.
#[inline(always)]
fn entry(listener: u64) -> Option<&'static mut RefusedAttempts> {
    if listener == 0 {
        return None;
    }
    if REFUSED.get_ptr(&listener).is_none() {
        let zero = core::hint::black_box(RefusedAttempts { refused: 0, waited: 0, waited_ns: 0 });
        // If another CPU inserts first, its entry stays.
        let _ = REFUSED.insert(&listener, &zero, BPF_NOEXIST);
    }
    // SAFETY: a non-null map value. Programs only add to it, atomically.
    unsafe { REFUSED.get_ptr_mut(&listener)?.as_mut() }
}

/// Copies what the queue of `listener` refused.
#[inline(always)]
pub fn describe(listener: ProbedSock, out: &mut RefusedAttempts) {
    let inode = inode_of(listener);
    if let Some(counts) = REFUSED.get_ptr(&inode) {
        // SAFETY: a non-null map value.
        *out = unsafe { *counts };
    }
}

/// Tier 1: a process looked for a UNIX socket of this type, to connect to or to send to, and found `other`,
/// or an error in place of a pointer (`unix_find_other`, net/unix/af_unix.c).
#[inline(always)]
pub fn unix_found(other: TypedSock, socket_type: u16) {
    if !can_listen(socket_type) || other.is_null() || other.address() >= FIRST_ERROR_POINTER {
        return;
    }
    if other.load::<u8>(&SK_STATE) != TCP_LISTEN {
        return;
    }
    // SAFETY: a value of task storage, which only the programs of this thread change; or null.
    let connect = unsafe { UNIX_CONNECTS.get(task::current(), BPF_LOCAL_STORAGE_GET_F_CREATE).as_mut() };
    let Some(connect) = connect else { return };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let listener = inode_of(other.probed());
    if connect.listener != listener {
        // Another call, after one whose exit was not seen.
        (connect.full_since_ns, connect.waited_ns) = (0, 0);
    } else if connect.full_since_ns != 0 {
        // The call waited, and looks for the socket again.
        connect.waited_ns += now.saturating_sub(connect.full_since_ns);
    }
    connect.listener = listener;
    let is_full = other.load::<u32>(&SK_RECEIVE_LENGTH) > other.load::<u32>(&SK_MAX_ACK_BACKLOG);
    connect.full_since_ns = if is_full { now } else { 0 };
}

/// Tier 1: a connect of a UNIX socket returned (`unix_stream_connect`, net/unix/af_unix.c). `flags` has
/// `O_NONBLOCK` if it did not wait.
#[inline(always)]
pub fn unix_connected(socket: Typed<Socket>, flags: u32, result: i32) {
    // SAFETY: as in `unix_found`.
    let connect = unsafe { UNIX_CONNECTS.get(task::current(), 0).as_mut() };
    let (listener, waited_ns) = match connect {
        Some(connect) => {
            let found = (connect.listener, connect.waited_ns);
            let full_since_ns = connect.full_since_ns;
            (connect.listener, connect.full_since_ns, connect.waited_ns) = (0, 0, 0);
            if full_since_ns != 0 && result < 0 && flags & O_NONBLOCK == 0 {
                // It waited until its time was over, or until a signal arrived.
                // SAFETY: the helper has no arguments.
                let waited = unsafe { bpf_ktime_get_boot_ns() }.saturating_sub(full_since_ns);
                (found.0, found.1 + waited)
            } else {
                found
            }
        }
        None => (0, 0),
    };
    let refused = result == -EAGAIN && !is_tried_again(socket, flags);
    if !refused && waited_ns == 0 {
        return;
    }
    let Some(counts) = entry(listener) else {
        if refused {
            count::add(Counter::RefusedUncounted);
        }
        return;
    };
    if refused {
        add_to(&mut counts.refused, 1);
    }
    if waited_ns != 0 {
        add_to(&mut counts.waited, 1);
        add_to(&mut counts.waited_ns, waited_ns);
    }
}

/// Whether io_uring tried first without waiting, and will connect again on a thread that waits: only then is
/// the call non-blocking and the socket not.
#[inline(always)]
fn is_tried_again(socket: Typed<Socket>, flags: u32) -> bool {
    let file: Typed<File> = socket.follow(&SOCKET_FILE);
    flags & O_NONBLOCK != 0 && !file.is_null() && file.load::<u32>(&FILE_FLAGS) & O_NONBLOCK == 0
}

/// Tier 2: connect failed with `EAGAIN`. For a UNIX socket this means that the queue was full. `address` and
/// `length` are the call's arguments.
#[inline(always)]
pub fn connect_failed(fd: i32, address: u64, length: u32) {
    use_result(count_by_name(fd, address, length));
}

/// Not inlined: the key is large, and the caller has no room on its stack. The name is read from the memory
/// of the process, where another thread may have changed it since: the agent compares it with the names of
/// listeners, and nothing else follows from it.
#[inline(never)]
fn count_by_name(fd: i32, address: u64, length: u32) -> u32 {
    let socket = FileSock::from_fd(fd);
    if !socket.exists() || socket.sk.family() != AF_UNIX || !can_listen(socket.sk.socket_type()) {
        return 0;
    }
    let unnamed = UnixName { length: 0, bytes: [0; UNIX_NAME_LEN] };
    let mut target = core::hint::black_box(UnixTarget { netns: 0, tgid: 0, name: unnamed });
    target.netns = socket.sk.netns();
    target.tgid = task::current_tgid();
    copy_name(
        // The length includes the family.
        length.saturating_sub(2),
        &mut target.name,
        #[inline(always)]
        |to| {
            // SAFETY: the helper takes any address, and fails on one that cannot be read.
            unsafe { bpf_probe_read_user_buf(address.wrapping_add(2) as *const u8, to) }.is_ok()
        },
    );
    if UNIX_REFUSED.get_ptr(&target).is_none() {
        let _ = UNIX_REFUSED.insert(&target, &core::hint::black_box(0), BPF_NOEXIST);
    }
    match UNIX_REFUSED.get_ptr_mut(&target) {
        // SAFETY: a non-null map value of eight bytes.
        Some(refused) => add_to(unsafe { &mut *refused }, 1),
        None => count::add(Counter::RefusedUncounted),
    }
    0
}
