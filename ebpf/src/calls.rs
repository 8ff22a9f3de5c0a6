//! Tier 1: calls of accept that are under way. `__sys_accept4` knows the descriptors, `do_accept` the sockets: what is known
//! of a call is kept with its task until both have returned.

use core::mem::size_of;

use acceptd_common::{Call, Counter, InetAccept, Kind, UnixAccept};
use aya_ebpf::helpers::{
    bpf_ktime_get_boot_ns,
    generated::{bpf_get_current_task_btf, bpf_task_pt_regs, bpf_task_storage_get},
};

use crate::{
    accept::{
        Accept, EAGAIN, NO_FD, Returned, {self},
    },
    count,
    maps::CALLS,
    peers, pending, read,
    send::{Sample, send_kept, zero},
    sock::{
        Socket, {self},
    },
    syscall::{
        SystemCall, What, {self},
    },
};

/// `BPF_LOCAL_STORAGE_GET_F_CREATE`, include/uapi/linux/bpf.h
const CREATE: u64 = 1;
/// `MAX_ERRNO`, include/linux/err.h
const LAST_ERROR: u64 = 0_u64.wrapping_sub(4095);

/// What is known of the call that a task is in. It stays with the task, for its next call.
#[repr(C)]
pub struct Ongoing {
    /// Boot time at which `__sys_accept4` began, or `do_accept` when a ring called it.
    pub began_ns: u64,
    /// When it got its connection; valid from [`Self::GRAFTED`] on.
    pub grafted_ns: u64,
    pub listener_fd: i32,
    /// 1 between the begin and the end of `__sys_accept4`.
    in_syscall: u8,
    /// Between the begin and the end of `do_accept`: how far it came, one of the constants below.
    inside: u8,
    /// What `do_accept` left: one of the constants below, or the kind of the sample.
    outcome: u8,
    /// One of `Call::SYSCALL_…`.
    pub syscall: u8,
    /// 1 if the connection in the sample was known to wait.
    was_pending: u8,
    /// A sample without the new descriptor.
    sample: [u64; size_of::<UnixAccept>() / 8],
}

impl Ongoing {
    /// `do_accept` did not return.
    const NOTHING: u8 = 0;
    /// Everything was said, or counted.
    const TOLD: u8 = u8::MAX;
    /// Nothing is kept, since nothing is to be told: the end of the call, if it is seen, counts that.
    const LEFT_OUT: u8 = u8::MAX - 1;

    const OUTSIDE: u8 = 0;
    /// It began.
    const WAITS: u8 = 1;
    /// It has a connection: its end is a matter of microseconds.
    const GRAFTED: u8 = 2;

    #[inline(always)]
    fn has_sample(&self) -> bool {
        self.outcome == Kind::UnixAccept as u8 || self.outcome == Kind::InetAccept as u8
    }

    /// Whether it has a connection that was not told yet.
    #[inline(always)]
    fn is_due(&self) -> bool {
        self.has_sample() || self.inside == Self::GRAFTED && self.outcome == Self::NOTHING
    }
}

#[inline(always)]
fn of_current_task(flags: u64) -> Option<&'static mut Ongoing> {
    // SAFETY: the helper has no arguments and always returns the current task.
    of_task(unsafe { bpf_get_current_task_btf() } as *const u8, flags)
}

/// The verifier knows `task` as one.
#[inline(always)]
fn of_task(task: *const u8, flags: u64) -> Option<&'static mut Ongoing> {
    let map = (&raw const CALLS).cast_mut().cast();
    // SAFETY: the map is one of task storage, and `task` a task.
    let ongoing: *mut Ongoing =
        unsafe { bpf_task_storage_get(map, task as *mut _, core::ptr::null_mut(), flags).cast() };
    // SAFETY: a storage that is not null stays while the program runs. Only its own task uses it, and `look_at`, which
    // touches only what the task is done with.
    unsafe { ongoing.as_mut() }
}

/// The call that the current thread is in, if it is one that acceptd looks at.
#[inline(always)]
pub fn current() -> Option<SystemCall> {
    // SAFETY: the helpers take the current task, and return its registers at the entry of the kernel.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const u8;
    syscall::of(regs)
}

/// By which of accept and accept4 the current thread accepts, and on which descriptor; nothing if by neither.
#[inline(always)]
pub fn by_syscall() -> Option<(u8, i32)> {
    match current()? {
        SystemCall { what: What::Accept(syscall), arguments } => Some((syscall, arguments[0] as i32)),
        SystemCall { what: What::Related(_), .. } => None,
    }
}

/// The call of the current task got its connection: nothing if it is not in `do_accept`, or its begin was not seen.
#[inline(always)]
pub fn grafted() -> Option<&'static mut Ongoing> {
    let ongoing = of_current_task(0)?;
    if ongoing.inside == Ongoing::OUTSIDE {
        return None;
    }
    ongoing.inside = Ongoing::GRAFTED;
    Some(ongoing)
}

/// The backstop told of the connection of the current task's call, whose `do_accept` was not seen to begin: its end says nothing
/// more.
#[inline(always)]
pub fn told() {
    if let Some(ongoing) = of_current_task(0)
        && ongoing.in_syscall == 1
    {
        ongoing.outcome = Ongoing::TOLD;
    }
}

impl Ongoing {
    #[inline(always)]
    pub fn leave_out(&mut self) {
        self.outcome = Self::LEFT_OUT;
    }

    /// The call failed. The backstop may have kept a connection that then could not be handed over: it ends as one that
    /// nobody accepted.
    #[inline(always)]
    fn give_back(&self) {
        if self.outcome != Kind::InetAccept as u8 || self.was_pending == 0 {
            return;
        }
        // SAFETY: `keep` left one there.
        let sample = unsafe { &*self.sample.as_ptr().cast::<InetAccept>() };
        let is_since_known = sample.call.flags & Call::HAS_QUEUE_TIME != 0;
        let since = if is_since_known { sample.header.boot_ns - sample.call.queue_ns } else { 0 };
        pending::give_back(sample.socket.cookie, since);
    }
}

/// `__sys_accept4` begins.
#[inline(always)]
pub fn began(listener_fd: i32) {
    let Some(ongoing) = of_current_task(CREATE) else { return count::add(Counter::BlockedFull) };
    send_unended(ongoing);
    // SAFETY: the helper has no arguments.
    ongoing.began_ns = unsafe { bpf_ktime_get_boot_ns() };
    ongoing.listener_fd = listener_fd;
    // No other system call leads here.
    ongoing.syscall = by_syscall().map_or(Call::SYSCALL_ACCEPT4, |(syscall, _)| syscall);
    ongoing.in_syscall = 1;
}

/// `do_accept` begins.
#[inline(always)]
pub fn entered() {
    if let Some(ongoing) = of_current_task(CREATE) {
        // A system call that has just begun; else a ring calls, perhaps after a system call whose end was not seen.
        let is_of_call = ongoing.in_syscall == 1
            && ongoing.inside == Ongoing::OUTSIDE
            && ongoing.outcome == Ongoing::NOTHING;
        if !is_of_call {
            send_unended(ongoing);
            // SAFETY: the helper has no arguments.
            ongoing.began_ns = unsafe { bpf_ktime_get_boot_ns() };
            ongoing.listener_fd = NO_FD;
            ongoing.syscall = Call::SYSCALL_IO_URING;
        }
        ongoing.inside = Ongoing::WAITS;
    }
}

/// The current thread ends.
#[inline(always)]
pub fn exited() {
    if let Some(ongoing) = of_current_task(0) {
        send_unended(ongoing);
    }
}

/// Any thread, some time or other: one that got its connection `least_ns` ago has left accept, and the end was not seen.
#[inline(always)]
pub fn look_at(task: *const u8, least_ns: u64) {
    let Some(ongoing) = of_task(task, 0) else { return };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if ongoing.is_due() && now.saturating_sub(ongoing.grafted_ns) >= least_ns {
        tell(ongoing);
        ongoing.outcome = Ongoing::TOLD;
    }
}

/// The end of a call was not seen: whoever attaches a program to a function, or detaches one, makes the kernel skip the exit
/// programs for all that are inside (`bpf_tramp_image_put`, kernel/bpf/trampoline.c).
#[inline(always)]
fn send_unended(ongoing: &mut Ongoing) {
    if ongoing.is_due() {
        tell(ongoing);
    }
    ongoing.inside = Ongoing::OUTSIDE;
    ongoing.in_syscall = 0;
    ongoing.outcome = Ongoing::NOTHING;
}

/// Sends what is known of a call that is due; counts it where nothing is.
#[inline(always)]
fn tell(ongoing: &mut Ongoing) {
    if !send_kept_of(ongoing, NO_FD) {
        count::add(Counter::Seen);
        count::add(Counter::Unended);
    }
}

/// `do_accept` returned: the file of the accepted socket, or an error in place of a pointer.
#[inline(always)]
pub fn left(listener_file: *const u8, result: u64) {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let ongoing = match of_current_task(0) {
        Some(ongoing) => {
            ongoing.inside = Ongoing::OUTSIDE;
            if ongoing.outcome == Ongoing::TOLD {
                return;
            }
            if result >= LAST_ERROR {
                ongoing.give_back();
            }
            ongoing.outcome = Ongoing::NOTHING;
            if ongoing.in_syscall == 1 { Some(ongoing) } else { None }
        }
        None => None,
    };
    let (syscall, listener_fd, blocked_ns) = match &ongoing {
        Some(ongoing) => (ongoing.syscall, ongoing.listener_fd, now.saturating_sub(ongoing.began_ns)),
        // By a ring, or the begin was not seen.
        None => match by_syscall() {
            Some((syscall, fd)) => (syscall, fd, 0),
            None => (Call::SYSCALL_IO_URING, NO_FD, 0),
        },
    };
    if result >= LAST_ERROR {
        let returned = Returned { syscall, result: error(result), is_fd: true, listener_fd };
        return failed(ongoing, returned, now, blocked_ns, listener_file);
    }
    let accepted = sock::of_typed_file(result as *const u8);
    if !accepted.exists() {
        return;
    }
    sock::make_cookie(accepted.sk);
    let pending = pending::take(accepted);
    if pending.is_told() {
        if let Some(ongoing) = ongoing {
            ongoing.outcome = Ongoing::TOLD;
        }
        return;
    }
    let listener = of_file(listener_file);
    let returned = Returned { syscall, result: 0, is_fd: false, listener_fd };
    let mut accept =
        Accept { accepted, listener, verified: true, pending, ..Accept::new(returned, now, blocked_ns) };
    succeeded(ongoing, &mut accept);
}

#[inline(always)]
fn failed(
    ongoing: Option<&mut Ongoing>,
    returned: Returned,
    now: u64,
    blocked_ns: u64,
    listener_file: *const u8,
) {
    if returned.syscall == Call::SYSCALL_IO_URING && returned.result == -EAGAIN {
        // The request now waits for the listener to be readable; nobody is told that it could not accept yet.
        return;
    }
    if let Some(ongoing) = ongoing {
        ongoing.outcome = Ongoing::TOLD;
    }
    count::add(Counter::Seen);
    accept::failed(returned, now, blocked_ns, || of_file(listener_file));
}

#[inline(always)]
fn succeeded(ongoing: Option<&mut Ongoing>, accept: &mut Accept) {
    let passes = accept.begins();
    let Some(ongoing) = ongoing else {
        count::add(Counter::Seen);
        if passes {
            accept::submit(accept);
        }
        return;
    };
    if passes {
        keep(ongoing, accept);
        peers::done(accept.pending.client);
    } else {
        count::add(Counter::Seen);
        ongoing.outcome = Ongoing::TOLD;
    }
}

/// `__sys_accept4` returned.
#[inline(always)]
pub fn ended(result: i32) {
    let Some(ongoing) = of_current_task(0) else { return };
    if ongoing.in_syscall == 0 {
        return;
    }
    ongoing.in_syscall = 0;
    ongoing.inside = Ongoing::OUTSIDE;
    if ongoing.outcome == Ongoing::TOLD {
        return;
    }
    if result < 0 {
        ongoing.give_back();
    }
    if result < 0 || !send_kept_of(ongoing, result) {
        count::add(Counter::Seen);
        without_do_accept(ongoing, result);
    }
    ongoing.outcome = Ongoing::NOTHING;
}

/// Sends the sample that was kept, if one was. `fd` is negative when it is not known.
#[inline(always)]
fn send_kept_of(ongoing: &mut Ongoing, fd: i32) -> bool {
    if ongoing.outcome == Kind::UnixAccept as u8 {
        finish::<UnixAccept>(ongoing, fd, |sample| &mut sample.call);
    } else if ongoing.outcome == Kind::InetAccept as u8 {
        finish::<InetAccept>(ongoing, fd, |sample| &mut sample.call);
    } else {
        return false;
    }
    true
}

/// Makes the sample, and keeps it until the descriptor is known.
#[inline(always)]
pub fn keep(ongoing: &mut Ongoing, accept: &Accept) {
    ongoing.was_pending = u8::from(accept.pending.waits());
    if accept.is_unix() {
        let sample: &mut UnixAccept = zeroed(ongoing);
        accept::unix(sample, accept);
        sample.header.boot_ns = accept.now;
        ongoing.outcome = Kind::UnixAccept as u8;
    } else {
        let sample: &mut InetAccept = zeroed(ongoing);
        accept::inet(sample, accept);
        sample.header.boot_ns = accept.now;
        ongoing.outcome = Kind::InetAccept as u8;
    }
}

#[inline(always)]
fn zeroed<S: Sample>(ongoing: &mut Ongoing) -> &mut S {
    const { assert!(size_of::<S>() <= size_of::<UnixAccept>() && align_of::<S>() <= 8) };
    let sample = ongoing.sample.as_mut_ptr().cast::<S>();
    // SAFETY: there is room for one, and all-zero bytes are a valid one.
    unsafe {
        zero(sample);
        &mut *sample
    }
}

/// Completes the sample that was kept, and sends it.
#[inline(always)]
fn finish<S: Sample>(ongoing: &mut Ongoing, fd: i32, call: impl FnOnce(&mut S) -> &mut Call) {
    // SAFETY: `keep` left one of this kind there.
    let sample = unsafe { &mut *ongoing.sample.as_mut_ptr().cast::<S>() };
    let call = call(sample);
    if fd >= 0 {
        call.result = fd;
        call.flags |= Call::HAS_FD;
    }
    count::add(Counter::Seen);
    send_kept(sample);
}

/// No descriptor was free, or the one given is none: `do_accept` was never called. Or its return was not seen.
#[inline(always)]
fn without_do_accept(ongoing: &Ongoing, result: i32) {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let blocked_ns = now.saturating_sub(ongoing.began_ns);
    let listener_fd = ongoing.listener_fd;
    let returned = Returned { syscall: ongoing.syscall, result, is_fd: true, listener_fd };
    if result < 0 {
        return accept::failed(returned, now, blocked_ns, || sock::of_fd(listener_fd));
    }
    let (accepted, listener) = (sock::of_fd(result), sock::of_fd(listener_fd));
    let mut accept = Accept { accepted, listener, ..Accept::new(returned, now, blocked_ns) };
    if accept::passes(&mut accept) {
        count::add(Counter::FdGone);
        accept::submit(&accept);
    }
}

/// The socket of a file that the verifier knows, with a cookie.
#[inline(always)]
fn of_file(file: *const u8) -> Socket {
    let socket = sock::of_typed_file(file);
    if socket.exists() {
        sock::make_cookie(socket.sk);
    }
    socket
}

/// The number of an error that stands in place of a pointer, which the verifier still takes for one: read as memory.
#[inline(always)]
fn error(pointer: u64) -> i32 {
    read::at(&raw const pointer) as i32
}
