//! Tier 1: in-flight accepts, one for each thread. `__sys_accept4` knows the descriptors and `do_accept` the
//! sockets, so the facts about a call stay in the storage of its task until both have returned.

use core::mem::size_of;

use acceptd_common::{AcceptCall, Counter, InetAccept, Kind, UnixAccept};
use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, macros::btf_map};

use crate::{
    accept,
    copies::RanCopies,
    count,
    event::{Accept, CallResult, NO_FD},
    offsets::HAS_COPIES,
    peers,
    pending::{self, Pending},
    read::{File, Task, Typed, as_scalar},
    send::{Sample, send_filled, zero},
    sock::{FileSock, TypedSock},
    storage::TaskStorage,
    syscall, task,
    uapi::{BPF_LOCAL_STORAGE_GET_F_CREATE, EAGAIN, FIRST_ERROR_POINTER},
};

/// The in-flight accept of each thread. Created by a thread's first accept, and used again by the next ones;
/// freed with the thread.
#[btf_map]
static IN_FLIGHT_ACCEPTS: TaskStorage<InFlightAccept> = TaskStorage::new();

/// The facts about the accept that a task is in.
#[repr(C)]
pub struct InFlightAccept {
    /// Boot time at which the task entered `__sys_accept4`, or `do_accept` when io_uring called it.
    pub entered_ns: u64,
    /// Boot time at which the call got its connection; valid from [`Self::GRAFTED`] on.
    pub grafted_ns: u64,
    pub listener_fd: i32,
    /// 1 between entry and exit of `__sys_accept4`.
    in_sys_accept: u8,
    /// How far the task is in `do_accept`: one of the `…_DO_ACCEPT` constants below, or `GRAFTED`.
    progress: u8,
    /// The result of `do_accept`: one of the outcomes below, or the [`Kind`] of the stored sample.
    outcome: u8,
    /// One of `AcceptCall::SYSCALL_…`.
    pub syscall: u8,
    /// Which copies of `accept4_entry`, `do_accept_entry` and `sock_graft` ran.
    entered: RanCopies,
    began: RanCopies,
    grafted: RanCopies,
    /// The connection that the call got, and what was known of it while it waited; valid from
    /// [`Self::GRAFTED`] on where the hooks have copies. Only compared: the socket may be gone.
    grafted_sk: u64,
    pending: Pending,
    /// A sample without the new descriptor; valid while `outcome` is a kind.
    sample: [u64; size_of::<UnixAccept>() / 8],
}

impl InFlightAccept {
    /// Outcome: nothing is known yet. The call is new, or the exit of `do_accept` was not seen.
    const NO_OUTCOME: u8 = 0;
    /// Outcome: the accept was reported, or counted.
    const DONE: u8 = u8::MAX;
    /// Outcome: the accept is excluded. Its exit counts it, if that is seen.
    const EXCLUDED: u8 = u8::MAX - 1;

    const OUTSIDE_DO_ACCEPT: u8 = 0;
    const IN_DO_ACCEPT: u8 = 1;
    /// In `do_accept`, with a connection: the exit follows within microseconds.
    const GRAFTED: u8 = 2;

    #[inline(always)]
    fn has_sample(&self) -> bool {
        self.outcome == Kind::UnixAccept as u8 || self.outcome == Kind::InetAccept as u8
    }

    /// Whether the call has a connection that was not reported yet.
    #[inline(always)]
    fn is_unreported(&self) -> bool {
        self.has_sample() || self.progress == Self::GRAFTED && self.outcome == Self::NO_OUTCOME
    }
}

#[inline(always)]
fn current(flags: u64) -> Option<&'static mut InFlightAccept> {
    in_task(task::current(), flags)
}

#[inline(always)]
fn in_task(task: Typed<Task>, flags: u64) -> Option<&'static mut InFlightAccept> {
    // SAFETY: storage that is not null stays while the program runs. Only its own task uses it, except for
    // `sweep`, which changes only what the task has finished with.
    unsafe { IN_FLIGHT_ACCEPTS.get(task, flags).as_mut() }
}

/// `sock_graft`: the in-flight accept of the current task, which just got its connection. Where the hook has
/// copies, every task has one, which says whether a copy has to act.
#[inline(always)]
pub fn current_at_graft() -> Option<&'static mut InFlightAccept> {
    current(if HAS_COPIES.load() == 0 { 0 } else { BPF_LOCAL_STORAGE_GET_F_CREATE })
}

/// `sock_graft` reported the accept of the current task, whose entry into `do_accept` was not seen. Its exit
/// must not report it again.
#[inline(always)]
pub fn mark_current_reported() {
    if let Some(in_flight) = current(0)
        && in_flight.in_sys_accept == 1
    {
        in_flight.outcome = InFlightAccept::DONE;
    }
}

impl InFlightAccept {
    /// Whether this copy of `sock_graft` has to act.
    #[inline(always)]
    pub fn must_graft(&mut self, copy: u8) -> bool {
        self.grafted.must_act(copy)
    }

    /// Notes that the call got the connection `sk`. Returns `false` if the task is not in `do_accept`, or if
    /// its entry was not seen.
    #[inline(always)]
    pub fn set_grafted(&mut self, sk: TypedSock) -> bool {
        if self.progress == Self::OUTSIDE_DO_ACCEPT {
            return false;
        }
        self.progress = Self::GRAFTED;
        if HAS_COPIES.load() != 0 {
            self.grafted_sk = as_scalar(sk.address());
            self.pending = pending::peek(sk);
        }
        true
    }

    #[inline(always)]
    pub fn exclude(&mut self) {
        self.outcome = Self::EXCLUDED;
    }
}

/// The current task enters `__sys_accept4`.
#[inline(always)]
pub fn sys_accept_entry(copy: u8, listener_fd: i32) {
    let Some(in_flight) = current(BPF_LOCAL_STORAGE_GET_F_CREATE) else {
        return count::add(Counter::BlockedTimesFull);
    };
    if !in_flight.entered.must_act(copy) {
        return;
    }
    finish_previous(in_flight);
    // SAFETY: the helper has no arguments.
    in_flight.entered_ns = unsafe { bpf_ktime_get_boot_ns() };
    in_flight.listener_fd = listener_fd;
    // Only accept and accept4 lead here.
    in_flight.syscall = syscall::current_accept().map_or(AcceptCall::SYSCALL_ACCEPT4, |(syscall, _)| syscall);
    in_flight.in_sys_accept = 1;
}

/// The current task enters `do_accept`.
#[inline(always)]
pub fn do_accept_entry(copy: u8) {
    if let Some(in_flight) = current(BPF_LOCAL_STORAGE_GET_F_CREATE)
        && in_flight.began.must_act(copy)
    {
        // From a system call that was just entered; else from io_uring, perhaps after a system call whose
        // exit was not seen.
        let is_from_syscall = in_flight.in_sys_accept == 1
            && in_flight.progress == InFlightAccept::OUTSIDE_DO_ACCEPT
            && in_flight.outcome == InFlightAccept::NO_OUTCOME;
        if !is_from_syscall {
            finish_previous(in_flight);
            // SAFETY: the helper has no arguments.
            in_flight.entered_ns = unsafe { bpf_ktime_get_boot_ns() };
            in_flight.listener_fd = NO_FD;
            in_flight.syscall = AcceptCall::SYSCALL_IO_URING;
        }
        in_flight.progress = InFlightAccept::IN_DO_ACCEPT;
    }
}

/// The current thread exits.
#[inline(always)]
pub fn thread_exit() {
    if let Some(in_flight) = current(0) {
        finish_previous(in_flight);
    }
}

/// Called for any thread at any time: reports its accept if that got its connection at least `min_age_ns`
/// ago. The thread has left accept, and its exit was not seen.
#[inline(always)]
pub fn sweep(task: Typed<Task>, min_age_ns: u64) {
    let Some(in_flight) = in_task(task, 0) else { return };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if in_flight.is_unreported() && now.saturating_sub(in_flight.grafted_ns) >= min_age_ns {
        report_missed_exit(in_flight);
        in_flight.outcome = InFlightAccept::DONE;
    }
}

/// Reports the task's previous accept if its exit was not seen, and resets the state for the next one. The
/// kernel skips the exit programs for all threads that are inside a function while another tool attaches a
/// program to this function or detaches one (`bpf_tramp_image_put`, kernel/bpf/trampoline.c).
#[inline(always)]
fn finish_previous(in_flight: &mut InFlightAccept) {
    if in_flight.is_unreported() {
        report_missed_exit(in_flight);
    }
    in_flight.progress = InFlightAccept::OUTSIDE_DO_ACCEPT;
    in_flight.in_sys_accept = 0;
    in_flight.outcome = InFlightAccept::NO_OUTCOME;
}

/// Sends the stored sample of an accept whose exit was missed; without one, counts the missed exit.
#[inline(always)]
fn report_missed_exit(in_flight: &mut InFlightAccept) {
    if !send_stored(in_flight, NO_FD) {
        count::add(Counter::Seen);
        count::add(Counter::MissedExit);
    }
}

/// Whether the current task entered `do_accept`, and no program saw it return.
#[inline(always)]
fn is_in_do_accept() -> bool {
    match current(0) {
        Some(in_flight) => in_flight.progress != InFlightAccept::OUTSIDE_DO_ACCEPT,
        None => false,
    }
}

/// `do_accept` returned to the current task. `result` is the file of the accepted socket, or an error in
/// place of a pointer. A copy acts if the task still counts as being in `do_accept`; if the entry was not
/// seen, only the first copy can act.
#[inline(always)]
pub fn do_accept_exit(copy: u8, listener: Typed<File>, result: Typed<File>) {
    // A lookup of its own: if the one below had two ways to fail, LLVM would lose its type for the verifier.
    if copy > 0 && !is_in_do_accept() {
        return;
    }
    let is_error = result.address() >= FIRST_ERROR_POINTER;
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let in_flight = match current(0) {
        Some(in_flight) => {
            in_flight.progress = InFlightAccept::OUTSIDE_DO_ACCEPT;
            if in_flight.outcome == InFlightAccept::DONE {
                return;
            }
            in_flight.outcome = InFlightAccept::NO_OUTCOME;
            if in_flight.in_sys_accept == 1 { Some(in_flight) } else { None }
        }
        None => None,
    };
    let (syscall, listener_fd, blocked_ns) = match &in_flight {
        Some(in_flight) => {
            (in_flight.syscall, in_flight.listener_fd, now.saturating_sub(in_flight.entered_ns))
        }
        // io_uring called, or the entry of the system call was not seen.
        None => match syscall::current_accept() {
            Some((syscall, fd)) => (syscall, fd, 0),
            None => (AcceptCall::SYSCALL_IO_URING, NO_FD, 0),
        },
    };
    if is_error {
        let call = CallResult { syscall, result: errno(result), is_fd: true, listener_fd };
        return do_accept_failed(in_flight, call, now, blocked_ns, listener);
    }
    let sk = TypedSock::from_file(result);
    if sk.is_null() {
        return;
    }
    sk.make_cookie();
    let pending = pending::take(sk);
    if pending.is_reported() {
        if let Some(in_flight) = in_flight {
            in_flight.outcome = InFlightAccept::DONE;
        }
        return;
    }
    let accepted = FileSock { sk: sk.probed(), inode: result.probed().inode() };
    let listener = listener_socket(listener);
    let call = CallResult { syscall, result: 0, is_fd: false, listener_fd };
    let mut accept =
        Accept { accepted, listener, verified: true, pending, ..Accept::new(call, now, blocked_ns) };
    do_accept_succeeded(in_flight, &mut accept);
}

#[inline(always)]
fn do_accept_failed(
    in_flight: Option<&mut InFlightAccept>,
    call: CallResult,
    now: u64,
    blocked_ns: u64,
    listener: Typed<File>,
) {
    if call.syscall == AcceptCall::SYSCALL_IO_URING && call.result == -EAGAIN {
        // The request now waits until the listener is readable. The application does not see this error.
        return;
    }
    if let Some(in_flight) = in_flight {
        in_flight.outcome = InFlightAccept::DONE;
    }
    count::add(Counter::Seen);
    if !accept::count_retry(call.result) {
        accept::failed(call, now, blocked_ns, listener_socket(listener));
    }
}

#[inline(always)]
fn do_accept_succeeded(in_flight: Option<&mut InFlightAccept>, accept: &mut Accept) {
    let is_reported = accept::begin_connection(accept);
    let Some(in_flight) = in_flight else {
        count::add(Counter::Seen);
        if is_reported {
            accept::submit(accept);
        }
        return;
    };
    if is_reported {
        store_sample(in_flight, accept);
        peers::forget_client(accept.pending.client);
    } else {
        count::add(Counter::Seen);
        in_flight.outcome = InFlightAccept::DONE;
    }
}

/// `__sys_accept4` returned `result` to the current task: a descriptor or a negative errno. The first copy
/// that runs ends the call, so later copies find nothing to do.
#[inline(always)]
pub fn sys_accept_exit(result: i32) {
    let Some(in_flight) = current(0) else { return };
    if in_flight.in_sys_accept == 0 {
        return;
    }
    in_flight.in_sys_accept = 0;
    // Then the exit of `do_accept` was not seen.
    let is_grafted = in_flight.progress == InFlightAccept::GRAFTED;
    in_flight.progress = InFlightAccept::OUTSIDE_DO_ACCEPT;
    if in_flight.outcome == InFlightAccept::DONE {
        return;
    }
    if result < 0 || !send_stored(in_flight, result) {
        count::add(Counter::Seen);
        report_without_do_accept(in_flight, result, is_grafted);
    }
    in_flight.outcome = InFlightAccept::NO_OUTCOME;
}

/// Sends the stored sample, with the new descriptor if `fd` is not negative. Returns `false` if there is no
/// sample.
#[inline(always)]
fn send_stored(in_flight: &mut InFlightAccept, fd: i32) -> bool {
    if in_flight.outcome == Kind::UnixAccept as u8 {
        complete::<UnixAccept>(
            in_flight,
            fd,
            #[inline(always)]
            |sample| &mut sample.call,
        );
    } else if in_flight.outcome == Kind::InetAccept as u8 {
        complete::<InetAccept>(
            in_flight,
            fd,
            #[inline(always)]
            |sample| &mut sample.call,
        );
    } else {
        return false;
    }
    true
}

/// Fills the sample of an accept, and stores it until the descriptor is known.
#[inline(always)]
pub fn store_sample(in_flight: &mut InFlightAccept, accept: &Accept) {
    if accept.is_unix() {
        let sample: &mut UnixAccept = zeroed(in_flight);
        accept::fill_unix(sample, accept);
        sample.header.boot_ns = accept.now;
        in_flight.outcome = Kind::UnixAccept as u8;
    } else {
        let sample: &mut InetAccept = zeroed(in_flight);
        accept::fill_inet(sample, accept);
        sample.header.boot_ns = accept.now;
        in_flight.outcome = Kind::InetAccept as u8;
    }
}

#[inline(always)]
fn zeroed<S: Sample>(in_flight: &mut InFlightAccept) -> &mut S {
    const { assert!(size_of::<S>() <= size_of::<UnixAccept>() && align_of::<S>() <= 8) };
    let sample = in_flight.sample.as_mut_ptr().cast::<S>();
    // SAFETY: there is room for one, and all-zero bytes are a valid one.
    unsafe {
        zero(sample);
        &mut *sample
    }
}

/// Completes the stored sample, and sends it.
#[inline(always)]
fn complete<S: Sample>(
    in_flight: &mut InFlightAccept,
    fd: i32,
    call: impl FnOnce(&mut S) -> &mut AcceptCall,
) {
    // SAFETY: `outcome` says that `store_sample` stored one of this kind.
    let sample = unsafe { &mut *in_flight.sample.as_mut_ptr().cast::<S>() };
    let call = call(sample);
    if fd >= 0 {
        call.result = fd;
        call.flags |= AcceptCall::HAS_FD;
    }
    count::add(Counter::Seen);
    send_filled(sample);
}

/// `__sys_accept4` returned, and there is no outcome of `do_accept`: no descriptor was free or the listener's
/// was invalid, so `do_accept` was not called; or its exit was not seen. With `is_grafted`, `sock_graft` saw
/// which connection the call got.
#[inline(always)]
fn report_without_do_accept(in_flight: &InFlightAccept, result: i32, is_grafted: bool) {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let blocked_ns = now.saturating_sub(in_flight.entered_ns);
    let listener_fd = in_flight.listener_fd;
    let call = CallResult { syscall: in_flight.syscall, result, is_fd: true, listener_fd };
    if accept::count_retry(result) {
        return;
    }
    let listener = FileSock::from_fd(listener_fd);
    if result < 0 {
        return accept::failed(call, now, blocked_ns, listener);
    }
    let accepted = FileSock::from_fd(result);
    let verified =
        HAS_COPIES.load() != 0 && is_grafted && accepted.sk.as_ptr() as u64 == in_flight.grafted_sk;
    let pending = if verified { in_flight.pending } else { Pending::UNKNOWN };
    let mut accept = Accept { accepted, listener, verified, pending, ..Accept::new(call, now, blocked_ns) };
    if accept::passes(&mut accept) {
        if !verified {
            count::add(accept::unverified_reason(accepted));
        }
        accept::submit(&accept);
    }
}

/// The listening socket of a file, which is given a cookie if it has none.
#[inline(always)]
fn listener_socket(file: Typed<File>) -> FileSock {
    let sk = TypedSock::from_file(file);
    if sk.is_null() {
        return FileSock::NONE;
    }
    sk.make_cookie();
    FileSock { sk: sk.probed().without_smc(), inode: file.probed().inode() }
}

/// The negative errno that stands in place of a pointer, which the verifier still takes for one.
#[inline(always)]
fn errno(result: Typed<File>) -> i32 {
    as_scalar(result.address()) as i32
}
