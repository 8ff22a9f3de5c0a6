//! The entry points of iterators. Both tiers use them, `iter/task` only tier 1.

use core::ffi::c_void;

use crate::{calls, offsets::*, read, survey};

/// `struct bpf_iter__task_file`: meta, task, fd, file; the last three are null at the end. kernel/bpf/task_iter.c
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn survey_listeners(ctx: *mut c_void) -> i32 {
    let args = ctx.cast::<u64>();
    // SAFETY: the iterator has four arguments, each in a slot of eight bytes; the verifier checks it.
    let (meta, task, fd, file) =
        unsafe { (read::slot(args, 0), read::slot(args, 1), read::slot(args, 2), read::slot(args, 3)) };
    if task != 0 && file != 0 {
        let seq: *const u8 = read::typed(meta as *const u8, &ITER_SEQ);
        survey::open_file(seq, task as *const u8, fd as u32, file as *const u8);
    }
    0
}

/// `struct bpf_iter__tcp`: meta, sk_common, uid; sk_common is null at the end. net/ipv4/tcp_ipv4.c
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn remember_queued(ctx: *mut c_void) -> i32 {
    // SAFETY: the iterator has these arguments, each in a slot of eight bytes; the verifier checks it.
    let skc = unsafe { read::slot(ctx.cast(), 1) };
    if skc != 0 {
        survey::tcp_socket(skc as *const u8);
    }
    0
}

/// Nobody is on the way out of accept for so long.
const LONG_AGO_NS: u64 = 5_000_000_000;

/// `struct bpf_iter__task`: meta, task; task is null at the end. kernel/bpf/task_iter.c
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn find_unended(ctx: *mut c_void) -> i32 {
    look_at(ctx, LONG_AGO_NS)
}

/// The same when the programs are detached, and no end will be seen any more.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn find_all_unended(ctx: *mut c_void) -> i32 {
    look_at(ctx, 0)
}

#[inline(always)]
fn look_at(ctx: *mut c_void, least_ns: u64) -> i32 {
    // SAFETY: the iterator has these arguments, each in a slot of eight bytes; the verifier checks it.
    let task = unsafe { read::slot(ctx.cast(), 1) };
    if task != 0 {
        calls::look_at(task as *const u8, least_ns);
    }
    0
}
