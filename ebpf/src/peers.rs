//! Who is at the other end, where that is on this host: of a TCP connection over the loopback the process that connected, of a
//! UNIX connection what the kernel keeps as its peer's credentials.

use acceptd_common::{Client, Counter, Peer};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes,
    generated::{bpf_get_current_task_btf, bpf_ktime_get_boot_ns},
};

use crate::{
    count,
    maps::{CONNECTING, PEERS},
    offsets::*,
    read::{at, probed, probed_ptr, typed},
    sock::{Socket, make_cookie},
    task,
};

/// `PIDTYPE_TGID`, include/linux/pid_types.h
const TGID: usize = 1;

/// A socket of the current task begins to connect. The verifier knows `sk` as a socket.
#[inline(always)]
pub fn connecting(sk: *const u8) {
    let cookie = make_cookie(sk);
    // The main socket of Multipath TCP has none, and no addresses: its subflows connect.
    if cookie == 0 || !(Socket { sk, inode: 0 }).connected_tuple().is_local() {
        return;
    }
    let mut peer = Peer::NONE;
    peer.tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the helper has no arguments and always returns the current task.
    peer.exe_len = task::executable_of(unsafe { bpf_get_current_task_btf() } as *const u8, &mut peer.exe);
    // The port is not chosen yet: the addresses follow at ESTABLISHED.
    // SAFETY: the helper has no arguments.
    let client = Client { since_ns: unsafe { bpf_ktime_get_boot_ns() }, is_servers: 0, peer };
    if CONNECTING.insert(&cookie, &client, 0).is_err() {
        count::add(Counter::PeersFull);
    }
}

/// The client's end is established: before the server's, which finds it by its addresses.
#[inline(always)]
pub fn established(sk: *const u8) {
    let cookie: u64 = typed(sk, &SK_COOKIE);
    if cookie != 0
        && CONNECTING.get_ptr(&cookie).is_some()
        && PEERS.insert(&Socket { sk, inode: 0 }.connected_tuple(), &cookie, 0).is_err()
    {
        count::add(Counter::PeersFull);
    }
}

/// The server's end is established. Returns the cookie of the client's socket; 0 when that is not known. From now on who has the
/// cookie says when the client is [`done`]: it may be gone when its connection is accepted. A function of its own: its caller
/// has no stack left for addresses.
#[inline(never)]
pub fn reached(server: Socket) -> u64 {
    let tuple = server.accepted_tuple();
    if !tuple.is_local() {
        return 0;
    }
    let Some(cookie) = PEERS.get_ptr(&tuple) else { return 0 };
    // SAFETY: a non-null map value.
    let cookie = unsafe { *cookie };
    let _ = PEERS.remove(&tuple);
    if let Some(client) = CONNECTING.get_ptr_mut(&cookie) {
        // SAFETY: a non-null map value.
        unsafe { (*client).is_servers = 1 };
    }
    cookie
}

/// The client's end closed.
#[inline(always)]
pub fn closed(sk: *const u8) {
    let cookie: u64 = typed(sk, &SK_COOKIE);
    if cookie == 0 {
        return;
    }
    let Some(client) = CONNECTING.get_ptr(&cookie) else { return };
    // SAFETY: a non-null map value.
    if unsafe { (*client).is_servers } == 0 {
        let _ = PEERS.remove(&Socket { sk, inode: 0 }.connected_tuple());
        let _ = CONNECTING.remove(&cookie);
    }
}

/// Fills `out`, which is zero, with what is known of the client whose cookie this is.
#[inline(always)]
pub fn describe(cookie: u64, out: &mut Peer) {
    if cookie != 0
        && let Some(client) = CONNECTING.get_ptr(&cookie)
    {
        // SAFETY: a non-null map value.
        *out = unsafe { (*client).peer };
    }
}

/// The accept that took this client's connection was told, or is not to be.
#[inline(always)]
pub fn done(cookie: u64) {
    if cookie != 0 {
        let _ = CONNECTING.remove(&cookie);
    }
}

/// Fills `out`, which is zero, with who connected to an accepted UNIX socket (`init_peercred`, net/unix/af_unix.c). A process
/// that is gone has a number, and no executable any more.
#[inline(always)]
pub fn of_unix(accepted: Socket, out: &mut Peer) {
    let pid = probed_ptr(accepted.sk, &SK_PEER_PID);
    if pid.is_null() {
        return;
    }
    // In the first namespace, the host's.
    out.tgid = probed(pid, &PID_NUMBER);
    let node = at(pid.wrapping_add(PID_TASKS.load() as usize + TGID * 8).cast::<u64>()) as *const u8;
    if node.is_null() {
        return;
    }
    let peer = node.wrapping_sub(TASK_PID_LINKS.load() as usize + TGID * 16);
    let file = probed_ptr(probed_ptr(peer, &TASK_MM), &MM_EXE_FILE);
    let name = probed_ptr(probed_ptr(file, &FILE_DENTRY), &DENTRY_NAME);
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    if let Ok(bytes) = unsafe { bpf_probe_read_kernel_str_bytes(name, &mut out.exe) } {
        out.exe_len = bytes.len() as u32;
    }
}
