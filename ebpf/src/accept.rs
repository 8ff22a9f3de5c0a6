//! A return of accept: counted, left out with a reason, or made into one sample.

use acceptd_common::{Call, Counter, InetAccept, UnixAccept};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns};

use crate::{
    count, failure, filter,
    maps::{ENTERED, OWN_BY_TUPLE, PENDING},
    offsets::*,
    send::send,
    sock::{self, AF_UNIX, Socket},
    syscall::is_wanted,
    task,
};

// include/uapi/asm-generic/errno.h, include/linux/errno.h
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const ERESTARTSYS: i32 = 512;
const ERESTARTNOINTR: i32 = 513;
const ERESTARTNOHAND: i32 = 514;
const ERESTART_RESTARTBLOCK: i32 = 516;

/// A call of accept that returned.
#[derive(Clone, Copy)]
pub struct Returned {
    /// One of `Call::SYSCALL_…`.
    pub syscall: u8,
    /// The new descriptor or slot, or a negative errno.
    pub result: i32,
    /// Whether a `result` that is no errno is a descriptor.
    pub is_fd: bool,
    pub listener_fd: Option<i32>,
}

/// What the hook knows when it decides to send a sample.
struct Accept {
    returned: Returned,
    now: u64,
    blocked: Option<u64>,
    accepted: Option<Socket>,
    listener: Option<Socket>,
    /// What the pending connections know of the socket.
    pending: Option<u64>,
    is_self: bool,
}

/// `listener` is only asked for when it is needed: half of all calls find an empty queue.
#[inline(always)]
pub fn returned(returned: Returned, listener: impl FnOnce() -> Option<Socket>) {
    count::add(Counter::Seen);
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let blocked = if is_wanted(acceptd_common::SocketCall::ATTEMPT) { take_entered(now) } else { None };
    if returned.result < 0 {
        failed(returned, now, blocked, listener);
    } else {
        let accepted = if returned.is_fd { sock::of_fd(returned.result) } else { None };
        succeeded(returned, now, blocked, accepted, listener());
    }
}

/// A completion that does not say what it completes. It is an accept if its result is the descriptor of a pending
/// connection.
#[inline(always)]
pub fn may_have_returned(returned: Returned) {
    let Some(accepted) = sock::of_fd(returned.result) else { return };
    let is_pending = PENDING.get_ptr(&accepted.cookie()).is_some();
    if !is_pending {
        return count::add(Counter::Unproven);
    }
    count::add(Counter::Seen);
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    succeeded(returned, now, None, Some(accepted), None);
}

#[inline(always)]
fn failed(returned: Returned, now: u64, blocked: Option<u64>, listener: impl FnOnce() -> Option<Socket>) {
    match -returned.result {
        EAGAIN => return count::add(Counter::Eagain),
        EINTR | ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK => {
            return count::add(Counter::Interrupted);
        }
        _ => {}
    }
    let is_self = by_agent();
    if is_self && RECORD_SELF.load() == 0 {
        return count::add(Counter::SelfAccept);
    }
    let errno = -returned.result as u32;
    let Some(listener) = listener() else {
        if !filter::passes_process() {
            return count::add(Counter::Filtered);
        }
        failure::count(errno, None);
        return count::add(Counter::FailureNoListener);
    };
    if !sock::is_known(listener.family()) {
        return count::add(Counter::OtherFamily);
    }
    if !filter::passes(listener) {
        return count::add(Counter::Filtered);
    }
    failure::count(errno, Some(listener));
    if !failure::in_budget(listener, now) {
        return count::add(Counter::FailureOverBudget);
    }
    submit(&Accept {
        returned,
        now,
        blocked,
        accepted: None,
        listener: Some(listener),
        pending: None,
        is_self,
    });
}

#[inline(always)]
fn succeeded(
    returned: Returned,
    now: u64,
    blocked: Option<u64>,
    accepted: Option<Socket>,
    listener: Option<Socket>,
) {
    let Some(either) = accepted.or(listener) else { return count::add(Counter::SocketsGone) };
    if !sock::is_known(either.family()) {
        return count::add(Counter::OtherFamily);
    }
    let pending = accepted.and_then(take_pending);
    let is_self = by_agent() || accepted.is_some_and(opened_by_agent);
    if is_self && RECORD_SELF.load() == 0 {
        return count::add(Counter::SelfAccept);
    }
    if !filter::passes(either) {
        return count::add(Counter::Filtered);
    }
    if pending.is_none() {
        count::add(unverified_because(accepted));
    }
    submit(&Accept { returned, now, blocked, accepted, listener, pending, is_self });
}

/// Forgets a pending connection, and says since when it was established; 0 when that is not known.
#[inline(always)]
fn take_pending(accepted: Socket) -> Option<u64> {
    let cookie = accepted.cookie();
    let established = PENDING.get_ptr(&cookie)?;
    // SAFETY: a non-null map value.
    let established = unsafe { *established };
    let _ = PENDING.remove(&cookie);
    Some(established)
}

/// How long the current thread was in the call, if its begin was seen.
#[inline(always)]
fn take_entered(now: u64) -> Option<u64> {
    let thread = bpf_get_current_pid_tgid();
    let entered = ENTERED.get_ptr(&thread)?;
    // SAFETY: a non-null map value.
    let blocked = now.saturating_sub(unsafe { *entered });
    let _ = ENTERED.remove(&thread);
    Some(blocked)
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
pub fn by_agent() -> bool {
    bpf_get_current_pid_tgid() >> 32 == AGENT_TGID.load()
}

#[inline(always)]
pub fn opened_by_agent(accepted: Socket) -> bool {
    OWN_BY_TUPLE.get_ptr(&accepted.accepted_tuple()).is_some()
}

#[inline(always)]
fn submit(accept: &Accept) {
    let either = accept.accepted.or(accept.listener);
    if either.is_some_and(|socket| socket.family() == AF_UNIX) {
        send(accept.now, |out| unix(out, accept));
    } else {
        send(accept.now, |out| inet(out, accept));
    }
}

#[inline(always)]
fn inet(out: &mut InetAccept, accept: &Accept) {
    task::current(&mut out.task);
    call(&mut out.call, accept);
    if let Some(socket) = accept.accepted {
        socket.describe_connection(&mut out.socket);
    }
    if let Some(listener) = accept.listener {
        listener.describe_listener(&mut out.listener);
    }
}

#[inline(always)]
fn unix(out: &mut UnixAccept, accept: &Accept) {
    task::current(&mut out.task);
    call(&mut out.call, accept);
    if let Some(socket) = accept.accepted {
        out.inode = socket.inode;
        out.cookie = socket.cookie();
        out.netns = socket.netns();
        socket.unix_peer_name(&mut out.peer);
    }
    if let Some(listener) = accept.listener {
        listener.describe_listener(&mut out.listener);
    }
    // The accepted socket has its listener's name.
    if let Some(named) = accept.accepted.or(accept.listener) {
        named.unix_name(&mut out.local);
    }
}

#[inline(always)]
fn call(out: &mut Call, accept: &Accept) {
    let Returned { syscall, result, is_fd, listener_fd } = accept.returned;
    out.syscall = syscall;
    out.tier = 2;
    out.result = result;
    let mut flags = 0;
    if is_fd {
        flags |= Call::HAS_FD;
    }
    if let Some(fd) = listener_fd {
        flags |= Call::HAS_LISTENER_FD;
        out.listener_fd = fd;
    }
    if accept.is_self {
        flags |= Call::SELF_ACCEPT;
    }
    if let Some(blocked) = accept.blocked {
        flags |= Call::HAS_BLOCKED_TIME;
        out.blocked_ns = blocked;
    }
    if let Some(established) = accept.pending {
        flags |= Call::VERIFIED;
        if established != 0 {
            flags |= Call::HAS_QUEUE_TIME;
            out.queue_ns = accept.now.saturating_sub(established);
        }
    }
    if accept.accepted.is_some() {
        flags |= Call::HAS_SOCKET;
    }
    if accept.listener.is_some() {
        flags |= Call::HAS_LISTENER;
    }
    out.flags = flags;
}
