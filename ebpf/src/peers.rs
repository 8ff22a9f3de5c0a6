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
    let client = Client { since_ns: unsafe { bpf_ktime_get_boot_ns() }, peer };
    if CONNECTING.insert(&cookie, &client, 0).is_err() {
        count::add(Counter::PeersFull);
    }
}

/// A connection within this host, as the accepting side sees it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Connected {
    /// Of the client's socket.
    cookie: u64,
    /// 1 once the server's end is established: from then on it is the server who ends this.
    is_servers: u64,
}

/// The client's end is established: before the server's.
#[inline(always)]
pub fn established(sk: *const u8) {
    let cookie: u64 = typed(sk, &SK_COOKIE);
    if cookie != 0 && CONNECTING.get_ptr(&cookie).is_some() {
        let tuple = Socket { sk, inode: 0 }.connected_tuple();
        if PEERS.insert(&tuple, &Connected { cookie, is_servers: 0 }, 0).is_err() {
            count::add(Counter::PeersFull);
        }
    }
}

/// The server's end is established. The client may be gone when it is accepted.
#[inline(always)]
pub fn reached(sk: *const u8) {
    let tuple = Socket { sk, inode: 0 }.accepted_tuple();
    if tuple.is_local()
        && let Some(connected) = PEERS.get_ptr_mut(&tuple)
    {
        // SAFETY: a non-null map value.
        unsafe { (*connected).is_servers = 1 };
    }
    // TCP fast open can be accepted before.
    if !probed_ptr(sk, &SK_SOCKET).is_null() {
        forget(sk);
    }
}

/// The client's end closed.
#[inline(always)]
pub fn closed(sk: *const u8) {
    let cookie: u64 = typed(sk, &SK_COOKIE);
    if cookie == 0 || CONNECTING.get_ptr(&cookie).is_none() {
        return;
    }
    let tuple = Socket { sk, inode: 0 }.connected_tuple();
    if let Some(connected) = PEERS.get_ptr(&tuple) {
        // SAFETY: a non-null map value.
        if unsafe { (*connected).is_servers } != 0 {
            return;
        }
        let _ = PEERS.remove(&tuple);
    }
    let _ = CONNECTING.remove(&cookie);
}

/// Who connected to a socket of TCP that was just accepted, by the cookie of the client's socket; 0 when that is not known. A
/// function of its own: its caller has no stack left for addresses.
#[inline(never)]
pub fn find(accepted: Socket) -> u64 {
    let tuple = accepted.accepted_tuple();
    if !tuple.is_local() {
        return 0;
    }
    let Some(connected) = PEERS.get_ptr(&tuple) else { return 0 };
    // SAFETY: a non-null map value.
    let cookie = unsafe { (*connected).cookie };
    let _ = PEERS.remove(&tuple);
    cookie
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

/// Nobody accepted a connection, and its server's end is gone.
#[inline(always)]
pub fn forget(sk: *const u8) {
    let tuple = Socket { sk, inode: 0 }.accepted_tuple();
    if !tuple.is_local() {
        return;
    }
    let Some(connected) = PEERS.get_ptr(&tuple) else { return };
    // SAFETY: a non-null map value.
    let _ = CONNECTING.remove(unsafe { &(*connected).cookie });
    let _ = PEERS.remove(&tuple);
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
