//! Decides what becomes of an accept that returned: it is counted, excluded with a reason, or made into one
//! sample.

use acceptd_common::{AcceptCall, Counter, InetAccept, UnixAccept};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

use crate::{
    connections, count,
    event::{Accept, CallResult},
    failure, filter,
    offsets::*,
    own, peers,
    pending::{self, Pending},
    send::send,
    sock::{FileSock, ProbedSock, is_recorded_family},
    syscall, task, traced,
    uapi::{EAGAIN, EINTR, ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTNOINTR, ERESTARTSYS},
    use_result,
};

/// Tier 2: a call of accept returned. `find_listener` is called only if the listener is needed, because half
/// of all calls find an empty queue.
#[inline(always)]
pub fn call_returned(call: CallResult, find_listener: impl FnOnce() -> FileSock) {
    count::add(Counter::Seen);
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let blocked_ns = syscall::take_blocked_ns(now);
    if count_retry(call.result) {
        return;
    }
    let listener = find_listener();
    if call.result < 0 {
        failed(call, now, blocked_ns, listener);
    } else {
        let accepted = if call.is_fd { FileSock::from_fd(call.result) } else { FileSock::NONE };
        succeeded(call, now, blocked_ns, accepted, listener);
    }
}

/// Tier 2: a request of io_uring accepted a connection into a slot of the ring's own table of files.
#[inline(always)]
pub fn slot_filled(call: CallResult, accepted: FileSock, find_listener: impl FnOnce() -> FileSock) {
    count::add(Counter::Seen);
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    succeeded(call, now, 0, accepted, find_listener());
}

/// Tier 2: a request of io_uring returned `accepted`, a connection that waited to be accepted. Its listener
/// is not known.
#[inline(always)]
pub fn request_returned(call: CallResult, accepted: FileSock) {
    slot_filled(
        call,
        accepted,
        #[inline(always)]
        || FileSock::NONE,
    );
}

/// Counts a result that only means "call accept again": the queue was empty, or a signal interrupted the
/// call. `false` for every other result.
#[inline(always)]
pub fn count_retry(result: i32) -> bool {
    match -result {
        EAGAIN => count::add(Counter::Eagain),
        EINTR | ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK => {
            count::add(Counter::Interrupted);
        }
        _ => return false,
    }
    true
}

/// A call of accept returned an error other than those of [`count_retry`]. The error is counted, and is
/// reported within the listener's budget.
#[inline(always)]
pub fn failed(call: CallResult, now: u64, blocked_ns: u64, listener: FileSock) {
    failure::note_lost_connection(-call.result as u32, now);
    let is_self = own::is_current_process();
    let accept = Accept { listener, is_self, ..Accept::new(call, now, blocked_ns) };
    if is_failure_reported(&accept) {
        submit(&accept);
    }
}

/// Whether a failure is reported. Counts the failure, and the reason if it is not reported.
#[inline(never)]
fn is_failure_reported(failed: &Accept) -> bool {
    if failed.is_self && !own::are_reported() {
        count::add(Counter::SelfAccept);
        return false;
    }
    let errno = -failed.call.result as u32;
    let listener = failed.listener;
    if !listener.exists() {
        if !filter::passes_process() {
            count::add(Counter::Filtered);
            return false;
        }
        failure::count(errno, FileSock::NONE);
        count::add(Counter::FailureNoListener);
        return false;
    }
    if !is_recorded_family(listener.sk.family()) {
        count::add(Counter::OtherFamily);
        return false;
    }
    if !filter::passes(listener.sk) {
        count::add(Counter::Filtered);
        return false;
    }
    failure::count(errno, listener);
    if !failure::take_budget(listener, failed.now) {
        count::add(Counter::FailureOverBudget);
        return false;
    }
    true
}

/// Tier 2: a call of accept returned a connection. `accepted` was found by its descriptor; if the connection
/// is pending, it is certainly the one that the call returned.
#[inline(always)]
fn succeeded(call: CallResult, now: u64, blocked_ns: u64, accepted: FileSock, listener: FileSock) {
    let pending = if accepted.exists() {
        pending::take_by_cookie(accepted.sk.identity_cookie())
    } else {
        Pending::UNKNOWN
    };
    let verified = pending.is_waiting();
    let mut accept = Accept { accepted, listener, verified, pending, ..Accept::new(call, now, blocked_ns) };
    if begin_connection(&mut accept) {
        if !verified {
            count::add(unverified_reason(accepted));
        }
        submit(&accept);
    }
}

/// Whether the accept is reported ([`passes`]). If so, starts the trace of its connection, and stores the
/// connection as an open one ([`pending::OpenConnection`]). The caller must report the accept.
#[inline(always)]
pub fn begin_connection(accept: &mut Accept) -> bool {
    let passes = passes(accept);
    if passes {
        traced::begin(accept);
        connections::count_accepted(accept);
    } else {
        peers::forget_client(accept.pending.client);
    }
    passes
}

/// Whether an accept that returned a connection is reported. Sets [`Accept::is_self`]. Counts the reason if
/// the accept is not reported.
#[inline(never)]
pub fn passes(accept: &mut Accept) -> bool {
    let sk = accept.either_socket();
    if sk.is_null() {
        count::add(Counter::SocketsGone);
        return false;
    }
    if !is_recorded_family(sk.family()) {
        count::add(Counter::OtherFamily);
        return false;
    }
    accept.is_self = own::is_current_process() || accept.accepted.exists() && own::opened(accept.accepted.sk);
    if accept.is_self && !own::are_reported() {
        count::add(Counter::SelfAccept);
        return false;
    }
    if !filter::passes_accept(accept.accepted.sk, accept.listener.sk) {
        count::add(Counter::Filtered);
        return false;
    }
    true
}

/// Whether an accept would be reported; counts nothing. `false` for accepts of the agent: the exit hook
/// counts those. `listener` may be another one, if its descriptor was replaced since.
#[inline(never)]
pub fn would_pass(accepted: ProbedSock, listener: ProbedSock) -> bool {
    is_recorded_family(accepted.family())
        && !own::is_current_process()
        && !own::opened(accepted)
        && filter::passes_accept(accepted, listener)
}

/// Why it is not certain that `accepted` is the socket that the call returned.
#[inline(always)]
pub fn unverified_reason(accepted: FileSock) -> Counter {
    if !accepted.exists() {
        Counter::FdGone
    } else if accepted.sk.identity_cookie() == 0 {
        Counter::NoCookie
    } else {
        Counter::NotPending
    }
}

/// Sends the sample of an accept, and forgets its client.
#[inline(always)]
pub fn submit(accept: &Accept) {
    use_result(send_sample(accept));
    peers::forget_client(accept.pending.client);
}

/// Not inlined, since programs come here from several places: the verifier's time grows with the square of a
/// program's length (10,000 instructions took it half a second, 5,000 a tenth of that).
#[inline(never)]
fn send_sample(accept: &Accept) -> u32 {
    if accept.is_unix() {
        send(
            accept.now,
            #[inline(always)]
            |out| fill_unix(out, accept),
        );
    } else {
        send(
            accept.now,
            #[inline(always)]
            |out| fill_inet(out, accept),
        );
    }
    0
}

/// Fills a sample, which is zero.
#[inline(always)]
pub fn fill_inet(out: &mut InetAccept, accept: &Accept) {
    let Accept { accepted, listener, .. } = *accept;
    task::describe_current(&mut out.task);
    fill_call(&mut out.call, accept);
    if accepted.exists() {
        accepted.sk.describe_connection(accepted.inode, &mut out.socket);
    }
    if listener.exists() {
        listener.sk.describe_listener(listener.inode, &mut out.listener);
    }
    accept.pending.describe_handshake(listener.sk, &mut out.handshake);
    out.trace = accept.trace;
    peers::describe_client(accept.pending.client, &mut out.peer);
}

/// Fills a sample, which is zero.
#[inline(always)]
pub fn fill_unix(out: &mut UnixAccept, accept: &Accept) {
    let Accept { accepted, listener, .. } = *accept;
    task::describe_current(&mut out.task);
    fill_call(&mut out.call, accept);
    if accepted.exists() {
        out.inode = accepted.inode;
        out.cookie = accepted.sk.identity_cookie();
        out.netns = accepted.sk.netns();
        accepted.sk.unix_peer_name(&mut out.peer);
    }
    if listener.exists() {
        listener.sk.describe_listener(listener.inode, &mut out.listener);
    }
    // The accepted socket has its listener's name.
    accept.either_socket().unix_name(&mut out.local);
    out.trace = accept.trace;
    if accepted.exists() {
        peers::describe_unix_client(accepted.sk, &mut out.peer_process);
    }
}

#[inline(always)]
fn fill_call(out: &mut AcceptCall, accept: &Accept) {
    let CallResult { syscall, result, is_fd, listener_fd } = accept.call;
    out.syscall = syscall;
    out.tier = TIER.load() as u8;
    out.result = result;
    let mut flags = 0;
    if is_fd {
        flags |= AcceptCall::HAS_FD;
    }
    if listener_fd >= 0 {
        flags |= AcceptCall::HAS_LISTENER_FD;
        out.listener_fd = listener_fd;
    }
    if accept.is_self {
        flags |= AcceptCall::SELF_ACCEPT;
    }
    if accept.blocked_ns != 0 {
        flags |= AcceptCall::HAS_BLOCKED_TIME;
        out.blocked_ns = accept.blocked_ns;
    }
    if accept.verified {
        flags |= AcceptCall::VERIFIED;
    }
    if accept.pending.established_ns != 0 {
        flags |= AcceptCall::HAS_QUEUE_TIME;
        out.queue_ns = accept.now.saturating_sub(accept.pending.established_ns);
    }
    if accept.accepted.exists() {
        flags |= AcceptCall::HAS_SOCKET;
    }
    if accept.listener.exists() {
        flags |= AcceptCall::HAS_LISTENER;
    }
    out.flags = flags;
}
