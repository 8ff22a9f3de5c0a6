//! A return of accept: counted, left out with a reason, or made into one sample.

use core::mem::size_of;

use acceptd_common::{ABI_VERSION, Counter, InetAccept, Kind};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};

use crate::{
    count,
    maps::{EVENTS, OWN_BY_TUPLE, PENDING},
    offsets::*,
    sock::{self, Socket},
    syscall::AcceptCall,
    task,
};

// include/uapi/asm-generic/errno.h, include/linux/errno.h
const EINTR: i64 = 4;
const EAGAIN: i64 = 11;
const ERESTARTSYS: i64 = 512;
const ERESTARTNOINTR: i64 = 513;
const ERESTARTNOHAND: i64 = 514;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// What the hook knows when it decides to send a sample.
struct Accept<'a> {
    call: &'a AcceptCall,
    result: i64,
    now: u64,
    accepted: Option<Socket>,
    listener: Option<Socket>,
    /// Boot time of ESTABLISHED, when the socket was pending.
    established: Option<u64>,
    is_self: bool,
}

#[inline(always)]
pub fn returned(call: &AcceptCall, result: i64) {
    count::add(Counter::Seen);
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if result < 0 { failed(call, result, now) } else { succeeded(call, result, now) }
}

#[inline(always)]
fn failed(call: &AcceptCall, result: i64, now: u64) {
    match -result {
        EAGAIN => return count::add(Counter::Eagain),
        EINTR | ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK => {
            return count::add(Counter::Interrupted);
        }
        _ => {}
    }
    let Some(listener) = sock::of_fd(call.listener_fd) else {
        return count::add(Counter::FailureNoListener);
    };
    if !listener.is_inet() {
        return count::add(Counter::OtherFamily);
    }
    let is_self = by_agent();
    if is_self && RECORD_SELF.load() == 0 {
        return count::add(Counter::SelfAccept);
    }
    if !count::failure_in_budget(now) {
        return count::add(Counter::FailureOverBudget);
    }
    send(&Accept { call, result, now, accepted: None, listener: Some(listener), established: None, is_self });
}

#[inline(always)]
fn succeeded(call: &AcceptCall, result: i64, now: u64) {
    let accepted = sock::of_fd(result as i32);
    let listener = sock::of_fd(call.listener_fd);
    let Some(either) = accepted.or(listener) else { return count::add(Counter::SocketsGone) };
    if !either.is_inet() {
        return count::add(Counter::OtherFamily);
    }
    let established = accepted.and_then(take_pending);
    let is_self = by_agent() || accepted.is_some_and(opened_by_agent);
    if is_self && RECORD_SELF.load() == 0 {
        return count::add(Counter::SelfAccept);
    }
    if established.is_none() {
        count::add(unverified_because(accepted));
    }
    send(&Accept { call, result, now, accepted, listener, established, is_self });
}

/// Forgets a pending connection, and says since when it was established.
#[inline(always)]
fn take_pending(accepted: Socket) -> Option<u64> {
    let cookie = accepted.cookie();
    let established = PENDING.get_ptr(&cookie)?;
    // SAFETY: a non-null map value.
    let established = unsafe { *established };
    let _ = PENDING.remove(&cookie);
    Some(established)
}

#[inline(always)]
fn unverified_because(accepted: Option<Socket>) -> Counter {
    match accepted {
        None => Counter::FdGone,
        Some(socket) if socket.cookie() == 0 => Counter::NoCookie,
        Some(_) => Counter::NotPending,
    }
}

#[inline(always)]
fn by_agent() -> bool {
    bpf_get_current_pid_tgid() >> 32 == AGENT_TGID.load()
}

#[inline(always)]
fn opened_by_agent(accepted: Socket) -> bool {
    OWN_BY_TUPLE.get_ptr(&accepted.accepted_tuple()).is_some()
}

#[inline(always)]
fn send(accept: &Accept<'_>) {
    // Before the reservation, so that an event without room leaves a gap.
    let sequence = count::next_sequence();
    let Some(mut entry) = EVENTS.reserve::<InetAccept>(0) else {
        return count::add(Counter::LostRing);
    };
    let sample = entry.as_mut_ptr();
    // SAFETY: the reservation has the size and alignment of a sample, of which all-zero bytes are a valid one.
    let out = unsafe {
        core::ptr::write_bytes(sample, 0, 1);
        &mut *sample
    };
    out.header.abi = ABI_VERSION;
    out.header.kind = Kind::InetAccept as u16;
    out.header.length = size_of::<InetAccept>() as u32;
    // SAFETY: the helper has no arguments.
    out.header.cpu = unsafe { bpf_get_smp_processor_id() };
    out.header.sequence = sequence;
    out.header.boot_ns = accept.now;
    task::current(&mut out.task);
    fill(out, accept);
    entry.submit(0);
    count::add(Counter::Submitted);
}

#[inline(always)]
fn fill(out: &mut InetAccept, accept: &Accept<'_>) {
    out.syscall = accept.call.syscall;
    out.tier = 2;
    out.result = accept.result as i32;
    out.listener_fd = accept.call.listener_fd;
    if accept.is_self {
        out.flags |= InetAccept::SELF_ACCEPT;
    }
    if let Some(established) = accept.established {
        out.flags |= InetAccept::VERIFIED | InetAccept::HAS_QUEUE_TIME;
        out.queue_ns = accept.now.saturating_sub(established);
    }
    if let Some(socket) = accept.accepted {
        out.flags |= InetAccept::HAS_SOCKET;
        out.family = socket.family();
        out.protocol = socket.protocol();
        out.cookie = socket.cookie();
        out.inode = socket.inode;
        out.local_addr = bytes(socket.local_address());
        out.peer_addr = bytes(socket.peer_address());
        out.local_port = socket.local_port();
        out.peer_port = socket.peer_port();
        out.netns = socket.netns();
    }
    if let Some(listener) = accept.listener {
        out.flags |= InetAccept::HAS_LISTENER;
        out.listener_family = listener.family();
        out.listener_cookie = listener.cookie();
        out.listener_inode = listener.inode;
        out.listener_addr = bytes(listener.local_address());
        out.listener_port = listener.local_port();
        (out.backlog_length, out.backlog_limit) = listener.backlog();
        if accept.accepted.is_none() {
            out.protocol = listener.protocol();
            out.netns = listener.netns();
        }
    }
}

/// The address as it is in memory, which is network order.
#[inline(always)]
fn bytes(address: sock::Address) -> [u8; 16] {
    let mut out = [0; 16];
    let [a, b, c, d] = address.map(u32::to_ne_bytes);
    out[..4].copy_from_slice(&a);
    out[4..8].copy_from_slice(&b);
    out[8..12].copy_from_slice(&c);
    out[12..].copy_from_slice(&d);
    out
}
