//! Tasks, and how one is described in a sample: everything that vanishes when its process ends.

use acceptd_common::{Task as TaskSample, limits::EXE_LEN};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task_btf},
};

use crate::{
    offsets::*,
    read::{AnyStruct, Task, Typed},
    uapi::PF_KTHREAD,
};

/// The current task.
#[inline(always)]
pub fn current() -> Typed<Task> {
    // SAFETY: the helper has no arguments and always returns the current `struct task_struct *`.
    unsafe { Typed::new(bpf_get_current_task_btf() as *const u8) }
}

/// The process id of the current task, in the host's pid namespace.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Describes the current task; `out` is zero.
#[inline(always)]
pub fn describe_current(out: &mut TaskSample) {
    describe_current_task(out);
}

/// A global function, so that the verifier checks it once and not on every path that leads to it: for each
/// pointer that is followed from a task, the verifier searches the kernel's BTF.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe_current_task(out: *mut TaskSample) -> i32 {
    // SAFETY: for the verifier, the argument of a global function is a pointer to a task's description, or
    // null.
    let Some(out) = (unsafe { out.as_mut() }) else { return 0 };
    // SAFETY: the helper has no arguments.
    let cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    describe(current(), out);
    out.cgroup_id = cgroup_id;
    0
}

/// Describes a task other than the current one; `out` is zero.
#[inline(always)]
pub fn describe_other(task: Typed<Task>, out: &mut TaskSample) {
    describe(task, out);
    let cgroup = task.probed().follow::<AnyStruct>(&TASK_CGROUPS).follow::<AnyStruct>(&CSS_SET_CGROUP);
    out.cgroup_id = cgroup.follow::<AnyStruct>(&CGROUP_NODE).load(&NODE_ID);
}

/// Describes a task, except for its cgroup; `out` is zero.
#[inline(always)]
fn describe(task: Typed<Task>, out: &mut TaskSample) {
    let leader: Typed<Task> = task.follow(&TASK_GROUP_LEADER);
    let cred: Typed<AnyStruct> = task.follow(&TASK_CRED);

    out.leader_start_ns = leader.load(&TASK_START_BOOTTIME);
    out.exec_id = leader.load(&TASK_SELF_EXEC_ID);
    out.tgid = task.load(&TASK_TGID);
    out.tid = task.load(&TASK_PID);
    out.euid = cred.load(&CRED_EUID);
    out.egid = cred.load(&CRED_EGID);
    out.uid = cred.load(&CRED_UID);
    out.comm = comm(task);
    out.leader_comm = comm(leader);
    let mm: Typed<AnyStruct> = task.follow(&TASK_MM);
    // Not a missing `mm`: a process that exits has none either.
    out.kernel_thread = u32::from(task.load::<u32>(&TASK_FLAGS) & PF_KTHREAD != 0);
    out.arg_start = if mm.is_null() { 0 } else { mm.load(&MM_ARG_START) };
    out.exe_len = copy_exe_name(task, &mut out.exe);
    if !mm.is_null() {
        let file: Typed<AnyStruct> = mm.follow(&MM_EXE_FILE);
        out.exe_inode = file.probed().follow::<AnyStruct>(&FILE_INODE).load(&INODE_NUMBER);
    }
}

/// The comm of the current process: that of its main thread.
#[inline(always)]
pub fn current_leader_comm() -> [u8; 16] {
    comm(current().follow(&TASK_GROUP_LEADER))
}

#[inline(always)]
fn comm(task: Typed<Task>) -> [u8; 16] {
    task.probed().load(&TASK_COMM)
}

/// Copies the basename of the task's executable and returns its length; 0 for a kernel thread. The name is
/// that of the directory entry of `mm->exe_file`; comm is only the name of a thread.
#[inline(always)]
pub fn copy_exe_name(task: Typed<Task>, out: &mut [u8; EXE_LEN]) -> u32 {
    let mm: Typed<AnyStruct> = task.follow(&TASK_MM);
    if mm.is_null() {
        return 0;
    }
    let file: Typed<AnyStruct> = mm.follow(&MM_EXE_FILE);
    let dentry: Typed<AnyStruct> = file.follow(&FILE_DENTRY);
    let name: u64 = dentry.load(&DENTRY_NAME);
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel_str_bytes(name as *const u8, out) }.map_or(0, |bytes| bytes.len() as u32)
}
