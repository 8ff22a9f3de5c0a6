//! How many connections of each listener are open, and how long they were: counted here, since an event for each end would
//! double the cost of a connection.

use acceptd_common::{Counter, Lives, histogram};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

use crate::{
    accept::Accept,
    count::{
        add_to, {self},
    },
    maps::{LIVES, LIVING, NO_LIVES},
    offsets::*,
    open, pending,
    read::typed,
};

/// A connection that was accepted.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Life {
    pub accepted_ns: u64,
    /// Inode of its listener.
    pub listener: u64,
}

impl Life {
    /// No `Option`, as with [`crate::pending::Pending::UNKNOWN`].
    pub const NONE: Self = Self { accepted_ns: 0, listener: 0 };
}

/// A connection was accepted. The verifier knows its socket in tier 1.
#[inline(always)]
pub fn begin(accept: &Accept) {
    if COUNTS_LIVES.load() != 0 {
        // The verifier wants a subprogram to return a number; without a use of it LLVM would leave a pointer there.
        core::hint::black_box(begin_life(accept));
    }
}

#[inline(never)]
fn begin_life(accept: &Accept) -> u32 {
    let socket = accept.accepted;
    let listener = accept.listener.inode;
    // Of another socket, or without a listener, there is nothing to count.
    if !accept.verified || !socket.exists() || listener == 0 || !open::ends_visibly(socket) {
        return 0;
    }
    // Before the connection can be seen to end.
    let Some(lives) = of_listener(listener) else {
        count::add(Counter::LivesFull);
        return 0;
    };
    let life = Life { accepted_ns: accept.now, listener };
    let is_kept = if pending::is_kept_in(socket) {
        pending::lives(socket.sk, life)
    } else {
        let cookie = socket.cookie();
        cookie != 0 && LIVING.insert(&cookie, &life, 0).is_ok()
    };
    if is_kept {
        add_to(&mut lives.accepted, 1);
    } else {
        count::add(Counter::LivesFull);
    }
    0
}

#[inline(always)]
fn of_listener(listener: u64) -> Option<&'static mut Lives> {
    if LIVES.get_ptr(&listener).is_none() {
        let none = NO_LIVES.get_ptr(0)?;
        // Another CPU may do the same; what is there stays.
        // SAFETY: a non-null map value. It is too large for the stack.
        let _ = LIVES.insert(&listener, unsafe { &*none }, NEW);
    }
    // SAFETY: a non-null map value. It is only added to, atomically.
    unsafe { LIVES.get_ptr_mut(&listener)?.as_mut() }
}

/// `BPF_NOEXIST`, include/uapi/linux/bpf.h
const NEW: u64 = 1;

/// A connection ended. The verifier knows `sk` as a socket.
#[inline(always)]
pub fn ended(sk: *const u8) {
    if COUNTS_LIVES.load() == 0 {
        return;
    }
    let life = match pending::take_life(sk) {
        Some(life) => life,
        None => {
            let cookie: u64 = typed(sk, &SK_COOKIE);
            let Some(life) = LIVING.get_ptr(&cookie) else { return };
            // SAFETY: a non-null map value.
            let life = unsafe { *life };
            let _ = LIVING.remove(&cookie);
            life
        }
    };
    let Some(lives) = LIVES.get_ptr_mut(&life.listener) else { return };
    // SAFETY: a non-null map value. It is only added to, atomically.
    let lives = unsafe { &mut *lives };
    // SAFETY: the helper has no arguments.
    let nanos = unsafe { bpf_ktime_get_boot_ns() }.saturating_sub(life.accepted_ns);
    add_to(&mut lives.ended, 1);
    add_to(&mut lives.total_ns, nanos);
    if let Some(bucket) = lives.buckets.get_mut(histogram::bucket(nanos)) {
        add_to(bucket, 1);
    }
}
