//! The entry points of BPF iterators. Both tiers use them, except for `iter/task`, which is for tier 1.

use core::ffi::c_void;

use crate::{
    in_flight,
    offsets::ITER_SEQ,
    read::{AnyStruct, Arguments, File, Task, Typed},
    sock::TypedSock,
    survey,
};

/// `struct bpf_iter__task_file`: meta, task, fd, file; task and file are null at the end.
/// kernel/bpf/task_iter.c
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn survey_listeners(ctx: *mut c_void) -> i32 {
    let args = Arguments::from_raw(ctx);
    // SAFETY: the four arguments of the iterator.
    let (meta, task, fd, file): (Typed<AnyStruct>, Typed<Task>, _, Typed<File>) =
        unsafe { (args.typed(0), args.typed(1), args.word(2), args.typed(3)) };
    if !task.is_null() && !file.is_null() {
        survey::visit_file(meta.follow(&ITER_SEQ), task, fd as u32, file);
    }
    0
}

/// `struct bpf_iter__tcp`: meta, sk_common, uid; sk_common is null at the end. net/ipv4/tcp_ipv4.c
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn remember_queued(ctx: *mut c_void) -> i32 {
    // SAFETY: the second argument of the iterator.
    let skc: TypedSock = unsafe { Arguments::from_raw(ctx).typed(1) };
    if !skc.is_null() {
        survey::visit_tcp_socket(skc);
    }
    0
}

/// An accept that got its connection this long ago has left the kernel: its exit was missed.
const MISSED_EXIT_AGE_NS: u64 = 5_000_000_000;

/// Reports the accepts whose exit was missed. `struct bpf_iter__task`: meta, task; task is null at the end.
/// kernel/bpf/task_iter.c
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn sweep_in_flight(ctx: *mut c_void) -> i32 {
    sweep(ctx, MISSED_EXIT_AGE_NS)
}

/// Reports all accepts whose exit was not seen, for the end of the agent: the programs are detached, and will
/// see no further exit.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn sweep_all_in_flight(ctx: *mut c_void) -> i32 {
    sweep(ctx, 0)
}

#[inline(always)]
fn sweep(ctx: *mut c_void, min_age_ns: u64) -> i32 {
    // SAFETY: the second argument of the iterator.
    let task: Typed<Task> = unsafe { Arguments::from_raw(ctx).typed(1) };
    if !task.is_null() {
        in_flight::sweep(task, min_age_ns);
    }
    0
}
