//! A task, with what vanishes when its process ends.

use acceptd_common::{Task, limits::EXE_LEN};
use aya_ebpf::helpers::{
    bpf_probe_read_kernel_str_bytes,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task_btf},
};

use crate::{
    offsets::*,
    read::{probed, probed_ptr, typed},
};

/// Fills `out`, which is zero, for the current task.
#[inline(always)]
pub fn current(out: &mut Task) {
    describe_current_task(out);
}

/// A global function, which the verifier looks at once and not on every path that leads to it: what it has to find out about
/// each pointer that is followed from a task takes it a search through the kernel's types.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe_current_task(out: *mut Task) -> i32 {
    // SAFETY: the verifier gives a pointer to a task's description, or null.
    let Some(out) = (unsafe { out.as_mut() }) else { return 0 };
    // SAFETY: the helpers have no arguments; the first always returns the current task.
    let (task, cgroup_id) = unsafe { (bpf_get_current_task_btf() as *const u8, bpf_get_current_cgroup_id()) };
    of(task, out);
    out.cgroup_id = cgroup_id;
    0
}

/// Fills `out`, which is zero, for a task that is not the current one.
#[inline(always)]
pub fn other(task: *const u8, out: &mut Task) {
    of(task, out);
    let set = probed_ptr(task, &TASK_CGROUPS);
    let node = probed_ptr(probed_ptr(set, &CSS_SET_CGROUP), &CGROUP_NODE);
    out.cgroup_id = probed(node, &NODE_ID);
}

/// Fills `out`, which is zero, but for the cgroup. The verifier must know `task` as a task_struct.
#[inline(always)]
fn of(task: *const u8, out: &mut Task) {
    let leader: *const u8 = typed(task, &TASK_GROUP_LEADER);
    let cred: *const u8 = typed(task, &TASK_CRED);

    out.leader_start_ns = typed(leader, &TASK_START_BOOTTIME);
    out.exec_id = typed(leader, &TASK_SELF_EXEC_ID);
    out.tgid = typed(task, &TASK_TGID);
    out.tid = typed(task, &TASK_PID);
    out.euid = typed(cred, &CRED_EUID);
    out.egid = typed(cred, &CRED_EGID);
    out.uid = typed(cred, &CRED_UID);
    out.comm = comm(task);
    out.leader_comm = comm(leader);
    let mm: *const u8 = typed(task, &TASK_MM);
    out.kernel_thread = u32::from(mm.is_null());
    out.arg_start = if mm.is_null() { 0 } else { typed(mm, &MM_ARG_START) };
    out.exe_len = executable_of(task, &mut out.exe);
}

/// The name (comm) of the current process: that of its main thread.
#[inline(always)]
pub fn current_leader_comm() -> [u8; 16] {
    // SAFETY: the helper has no arguments and always returns the current task.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    comm(typed(task, &TASK_GROUP_LEADER))
}

#[inline(always)]
fn comm(task: *const u8) -> [u8; 16] {
    probed(task, &TASK_COMM)
}

/// How long the basename of the executable is, which is read from the directory entry of `mm->exe_file`: comm is a thread's name.
#[inline(always)]
pub fn executable_of(task: *const u8, out: &mut [u8; EXE_LEN]) -> u32 {
    let mm: *const u8 = typed(task, &TASK_MM);
    if mm.is_null() {
        return 0;
    }
    let file: *const u8 = typed(mm, &MM_EXE_FILE);
    let dentry: *const u8 = typed(file, &FILE_DENTRY);
    let name: u64 = typed(dentry, &DENTRY_NAME);
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel_str_bytes(name as *const u8, out) }.map_or(0, |bytes| bytes.len() as u32)
}
