//! The client process of a connection within this host. For TCP over the loopback, the client is remembered
//! when it connects, and found again by the addresses of the connection; for UNIX sockets the kernel keeps
//! its pid.

use acceptd_common::{ClientProcess, Counter, PeerProcess, limits::CLIENTS as MAX_CLIENTS};
use aya_ebpf::{
    helpers::{bpf_probe_read_kernel_str_bytes, generated::bpf_ktime_get_boot_ns},
    macros::map,
    maps::HashMap,
};

use crate::{
    count,
    offsets::*,
    read::{AnyStruct, Probed, Task, load_at},
    sock::{ProbedSock, TypedSock},
    task,
    tuple::Tuple,
    uapi::{BPF_ANY, BPF_F_NO_PREALLOC, PIDTYPE_TGID},
};

/// Cookie of a client's socket → its process, for connections within this host. An entry is removed by the
/// accept, or when either end closes before; the agent sweeps entries whose close the programs missed. If the
/// map is full, `Counter::ClientsFull` counts the connection.
#[map]
static CLIENTS: HashMap<u64, ClientProcess> = HashMap::with_max_entries(MAX_CLIENTS, BPF_F_NO_PREALLOC);

/// Addresses of the same connections → that cookie, until the server's end is established.
#[map]
static CLIENT_COOKIES: HashMap<Tuple, u64> = HashMap::with_max_entries(MAX_CLIENTS, BPF_F_NO_PREALLOC);

/// The current process begins to connect `sk`.
#[inline(always)]
pub fn client_connecting(sk: TypedSock) {
    let cookie = sk.make_cookie();
    // The main socket of Multipath TCP has neither cookie nor addresses: its subflows connect.
    if cookie == 0 || !Tuple::from_client(sk.probed()).is_local() {
        return;
    }
    let mut peer = PeerProcess::NONE;
    peer.tgid = task::current_tgid();
    peer.exe_len = task::copy_exe_name(task::current(), &mut peer.exe);
    // The port is not chosen yet: `client_established` adds the addresses.
    // SAFETY: the helper has no arguments.
    let client = ClientProcess { since_ns: unsafe { bpf_ktime_get_boot_ns() }, server_established: 0, peer };
    if CLIENTS.insert(&cookie, &client, BPF_ANY).is_err() {
        count::add(Counter::ClientsFull);
    }
}

/// The client's end is established. This comes before the server's end, which finds the client by these
/// addresses.
#[inline(always)]
pub fn client_established(sk: TypedSock) {
    let cookie = sk.cookie();
    if cookie != 0
        && CLIENTS.get_ptr(&cookie).is_some()
        && CLIENT_COOKIES.insert(&Tuple::from_client(sk.probed()), &cookie, BPF_ANY).is_err()
    {
        count::add(Counter::ClientsFull);
    }
}

/// The server's end is established. Returns the cookie of the client's socket; 0 if it is not known. The
/// caller must call [`forget_client`] with it: from now on the client's close no longer removes the entry,
/// since the client's socket may be gone when its connection is accepted. Not inlined: its caller has no room
/// on the stack for the addresses.
#[inline(never)]
pub fn server_established(server: ProbedSock) -> u64 {
    let tuple = Tuple::from_server(server);
    if !tuple.is_local() {
        return 0;
    }
    let Some(cookie) = CLIENT_COOKIES.get_ptr(&tuple) else { return 0 };
    // SAFETY: a non-null map value.
    let cookie = unsafe { *cookie };
    let _ = CLIENT_COOKIES.remove(&tuple);
    if let Some(client) = CLIENTS.get_ptr_mut(&cookie) {
        // SAFETY: a non-null map value.
        unsafe { (*client).server_established = 1 };
    }
    cookie
}

/// The client's end closed. Once the server's end is established, the server's side forgets the client.
#[inline(always)]
pub fn client_closed(sk: TypedSock) {
    let cookie = sk.cookie();
    if cookie == 0 {
        return;
    }
    let Some(client) = CLIENTS.get_ptr(&cookie) else { return };
    // SAFETY: a non-null map value.
    if unsafe { (*client).server_established } == 0 {
        let _ = CLIENT_COOKIES.remove(&Tuple::from_client(sk.probed()));
        let _ = CLIENTS.remove(&cookie);
    }
}

/// Describes the client whose socket has this cookie; `out` is zero, and stays so if the client is not known.
#[inline(always)]
pub fn describe_client(cookie: u64, out: &mut PeerProcess) {
    if cookie != 0
        && let Some(client) = CLIENTS.get_ptr(&cookie)
    {
        // SAFETY: from a non-null map value into the sample. An assignment becomes a call of `memmove`, whose
        // loop over bytes the verifier walks on each path.
        unsafe { core::ptr::copy_nonoverlapping(&raw const (*client).peer, out, 1) };
    }
}

/// Removes a client whose connection was reported, or will not be.
#[inline(always)]
pub fn forget_client(cookie: u64) {
    if cookie != 0 {
        let _ = CLIENTS.remove(&cookie);
    }
}

/// Describes the client of an accepted UNIX socket (`init_peercred`, net/unix/af_unix.c); `out` is zero. A
/// process that is gone still has its pid here, but no executable.
#[inline(always)]
pub fn describe_unix_client(accepted: ProbedSock, out: &mut PeerProcess) {
    let pid: Probed<AnyStruct> = accepted.follow(&SK_PEER_PID);
    if pid.is_null() {
        return;
    }
    // In the first pid namespace, the host's.
    out.tgid = pid.load(&PID_NUMBER);
    // The first task of the thread group, by the list node in `task_struct.pid_links`.
    let first = pid.member(&PID_TASKS).wrapping_add(PIDTYPE_TGID * size_of::<u64>());
    let node = load_at(first.cast::<u64>()) as *const u8;
    if node.is_null() {
        return;
    }
    // A `struct hlist_node` is two pointers.
    let task = node.wrapping_sub(TASK_PID_LINKS.load() as usize + PIDTYPE_TGID * 2 * size_of::<u64>());
    let file: Probed<AnyStruct> =
        Probed::<Task>::new(task).follow::<AnyStruct>(&TASK_MM).follow(&MM_EXE_FILE);
    let name: Probed<AnyStruct> = file.follow::<AnyStruct>(&FILE_DENTRY).follow(&DENTRY_NAME);
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    if let Ok(bytes) = unsafe { bpf_probe_read_kernel_str_bytes(name.as_ptr(), &mut out.exe) } {
        out.exe_len = bytes.len() as u32;
    }
}
