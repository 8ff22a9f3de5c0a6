//! A return of accept: counted, left out with a reason, or made into one sample.

use acceptd_common::{Call, Counter, InetAccept, Trace, UnixAccept};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns};

use crate::{
    count, failure, filter, lives,
    maps::{ENTERED, OWN_BY_TUPLE},
    offsets::*,
    open, peers,
    pending::{
        Pending, {self},
    },
    send::send,
    sock::{
        AF_UNIX, Socket, {self},
    },
    syscall::is_wanted,
    task,
};

// include/uapi/asm-generic/errno.h, include/linux/errno.h
const EINTR: i32 = 4;
pub const EAGAIN: i32 = 11;
const ERESTARTSYS: i32 = 512;
const ERESTARTNOINTR: i32 = 513;
const ERESTARTNOHAND: i32 = 514;
const ERESTART_RESTARTBLOCK: i32 = 516;

/// A descriptor that is not known.
pub const NO_FD: i32 = -1;

/// A call of accept that returned.
#[derive(Clone, Copy)]
pub struct Returned {
    /// One of `Call::SYSCALL_…`.
    pub syscall: u8,
    /// The new descriptor or slot, or a negative errno.
    pub result: i32,
    /// Whether a `result` that is no errno is a descriptor.
    pub is_fd: bool,
    /// Negative when it is not known. No `Option`, as with [`Pending::UNKNOWN`].
    pub listener_fd: i32,
}

/// What a hook knows of one accept.
#[derive(Clone, Copy)]
pub struct Accept {
    pub returned: Returned,
    pub now: u64,
    /// 0 when it is not known.
    pub blocked_ns: u64,
    pub accepted: Socket,
    pub listener: Socket,
    /// Whether `accepted` is surely the socket that the call returned.
    pub verified: bool,
    /// What is known of the socket from before it was accepted.
    pub pending: Pending,
    pub is_self: bool,
    pub trace: Trace,
}

impl Accept {
    /// One of which no socket is known yet.
    #[inline(always)]
    pub fn new(returned: Returned, now: u64, blocked_ns: u64) -> Self {
        Self {
            returned,
            now,
            blocked_ns,
            accepted: Socket::NONE,
            listener: Socket::NONE,
            verified: false,
            pending: Pending::UNKNOWN,
            is_self: false,
            trace: Trace { anchor_ns: 0, threshold: 0, flags: 0, reserved: 0 },
        }
    }

    /// Whether the accept is to be told ([`passes`]); if so, what is kept of its connection begins.
    #[inline(always)]
    pub fn begins(&mut self) -> bool {
        let passes = passes(self);
        if passes {
            open::begin(self);
            lives::begin(self);
        } else {
            peers::done(self.pending.client);
        }
        passes
    }
}

/// Tier 2: `listener` is only asked for when it is needed, half of all calls find an empty queue.
#[inline(always)]
pub fn returned(returned: Returned, listener: impl FnOnce() -> Socket) {
    count::add(Counter::Seen);
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let blocked_ns = if is_wanted(acceptd_common::SocketCall::ATTEMPT) { take_entered(now) } else { 0 };
    if returned.result < 0 {
        failed(returned, now, blocked_ns, listener);
    } else {
        let accepted = if returned.is_fd { sock::of_fd(returned.result) } else { Socket::NONE };
        succeeded(returned, now, blocked_ns, accepted, listener());
    }
}

/// Tier 2: a completion that does not say what it completes. It is an accept if its result is the descriptor of a pending
/// connection.
#[inline(always)]
pub fn may_have_returned(returned: Returned) {
    let accepted = sock::of_fd(returned.result);
    if !accepted.exists() {
        return;
    }
    if !pending::is_known(accepted) {
        return count::add(Counter::Unproven);
    }
    count::add(Counter::Seen);
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    succeeded(returned, now, 0, accepted, Socket::NONE);
}

/// A call that returned an error: counted, left out, or a record within its listener's budget.
#[inline(always)]
pub fn failed(returned: Returned, now: u64, blocked_ns: u64, listener: impl FnOnce() -> Socket) {
    match -returned.result {
        EAGAIN => return count::add(Counter::Eagain),
        EINTR | ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK => {
            return count::add(Counter::Interrupted);
        }
        _ => {}
    }
    let accept =
        Accept { listener: listener(), is_self: by_agent(), ..Accept::new(returned, now, blocked_ns) };
    if may_be_record(&accept) {
        submit(&accept);
    }
}

/// Whether a failure may be a record; counts it either way.
#[inline(never)]
fn may_be_record(failed: &Accept) -> bool {
    if failed.is_self && RECORD_SELF.load() == 0 {
        count::add(Counter::SelfAccept);
        return false;
    }
    let errno = -failed.returned.result as u32;
    let listener = failed.listener;
    if !listener.exists() {
        if !filter::passes_process() {
            count::add(Counter::Filtered);
            return false;
        }
        failure::count(errno, Socket::NONE);
        count::add(Counter::FailureNoListener);
        return false;
    }
    if !sock::is_known(listener.family()) {
        count::add(Counter::OtherFamily);
        return false;
    }
    if !filter::passes(&listener) {
        count::add(Counter::Filtered);
        return false;
    }
    failure::count(errno, listener);
    if !failure::in_budget(listener, failed.now) {
        count::add(Counter::FailureOverBudget);
        return false;
    }
    true
}

/// Tier 2: the pending connections say whether `accepted`, found by its descriptor, is what the call returned.
#[inline(always)]
fn succeeded(returned: Returned, now: u64, blocked_ns: u64, accepted: Socket, listener: Socket) {
    let pending = if accepted.exists() { pending::take(accepted) } else { Pending::UNKNOWN };
    let verified = pending.waits();
    let mut accept =
        Accept { accepted, listener, verified, pending, ..Accept::new(returned, now, blocked_ns) };
    if accept.begins() {
        if !verified {
            count::add(unverified_because(accepted));
        }
        submit(&accept);
    }
}

/// Whether an accept that brought a connection is to be told; if not, it is counted why.
#[inline(never)]
pub fn passes(accept: &mut Accept) -> bool {
    let either = accept.accepted.or(accept.listener);
    if !either.exists() {
        count::add(Counter::SocketsGone);
        return false;
    }
    if !sock::is_known(either.family()) {
        count::add(Counter::OtherFamily);
        return false;
    }
    accept.is_self = by_agent() || accept.accepted.exists() && opened_by_agent(accept.accepted);
    if accept.is_self && RECORD_SELF.load() == 0 {
        count::add(Counter::SelfAccept);
        return false;
    }
    if !filter::passes(&either) {
        count::add(Counter::Filtered);
        return false;
    }
    true
}

/// Whether an accept would be told; counts nothing. The agent's own are left to the hook that sees them return.
#[inline(never)]
pub fn passes_silently(accepted: Socket) -> bool {
    sock::is_known(accepted.family())
        && !by_agent()
        && !opened_by_agent(accepted)
        && filter::passes(&accepted)
}

/// How long the current thread was in the call; 0 if its begin was not seen.
#[inline(always)]
fn take_entered(now: u64) -> u64 {
    let thread = bpf_get_current_pid_tgid();
    let Some(entered) = ENTERED.get_ptr(&thread) else { return 0 };
    // SAFETY: a non-null map value.
    let blocked_ns = now.saturating_sub(unsafe { *entered });
    let _ = ENTERED.remove(&thread);
    blocked_ns
}

#[inline(always)]
fn unverified_because(accepted: Socket) -> Counter {
    if !accepted.exists() {
        Counter::FdGone
    } else if accepted.cookie() == 0 {
        Counter::NoCookie
    } else {
        Counter::NotPending
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

impl Accept {
    #[inline(always)]
    pub fn is_unix(&self) -> bool {
        self.accepted.or(self.listener).family() == AF_UNIX
    }
}

#[inline(always)]
pub fn submit(accept: &Accept) {
    // The verifier wants a subprogram to return a number; without a use of it LLVM would leave a pointer there.
    core::hint::black_box(submit_once(accept));
    peers::done(accept.pending.client);
}

/// A function of its own, since programs come here from several places: the verifier's time grows with the square of a
/// program's length (10,000 instructions took it half a second, 5,000 a tenth of that).
#[inline(never)]
fn submit_once(accept: &Accept) -> u32 {
    if accept.is_unix() {
        send(
            accept.now,
            #[inline(always)]
            |out| unix(out, accept),
        );
    } else {
        send(
            accept.now,
            #[inline(always)]
            |out| inet(out, accept),
        );
    }
    0
}

/// Fills a sample, which is zero.
#[inline(always)]
pub fn inet(out: &mut InetAccept, accept: &Accept) {
    task::current(&mut out.task);
    call(&mut out.call, accept);
    if accept.accepted.exists() {
        accept.accepted.describe_connection(&mut out.socket);
    }
    if accept.listener.exists() {
        accept.listener.describe_listener(&mut out.listener);
    }
    accept.pending.describe_handshake(accept.listener, &mut out.handshake);
    out.trace = accept.trace;
    peers::describe(accept.pending.client, &mut out.peer);
}

/// Fills a sample, which is zero.
#[inline(always)]
pub fn unix(out: &mut UnixAccept, accept: &Accept) {
    task::current(&mut out.task);
    call(&mut out.call, accept);
    let socket = accept.accepted;
    if socket.exists() {
        out.inode = socket.inode;
        out.cookie = socket.cookie();
        out.netns = socket.netns();
        socket.unix_peer_name(&mut out.peer);
    }
    if accept.listener.exists() {
        accept.listener.describe_listener(&mut out.listener);
    }
    // The accepted socket has its listener's name.
    accept.accepted.or(accept.listener).unix_name(&mut out.local);
    out.trace = accept.trace;
    if accept.accepted.exists() {
        peers::of_unix(accept.accepted, &mut out.peer_process);
    }
}

#[inline(always)]
fn call(out: &mut Call, accept: &Accept) {
    let Returned { syscall, result, is_fd, listener_fd } = accept.returned;
    out.syscall = syscall;
    out.tier = TIER.load() as u8;
    out.result = result;
    let mut flags = 0;
    if is_fd {
        flags |= Call::HAS_FD;
    }
    if listener_fd >= 0 {
        flags |= Call::HAS_LISTENER_FD;
        out.listener_fd = listener_fd;
    }
    if accept.is_self {
        flags |= Call::SELF_ACCEPT;
    }
    if accept.blocked_ns != 0 {
        flags |= Call::HAS_BLOCKED_TIME;
        out.blocked_ns = accept.blocked_ns;
    }
    if accept.verified {
        flags |= Call::VERIFIED;
    }
    if accept.pending.established_ns != 0 {
        flags |= Call::HAS_QUEUE_TIME;
        out.queue_ns = accept.now.saturating_sub(accept.pending.established_ns);
    }
    if accept.accepted.exists() {
        flags |= Call::HAS_SOCKET;
    }
    if accept.listener.exists() {
        flags |= Call::HAS_LISTENER;
    }
    out.flags = flags;
}
